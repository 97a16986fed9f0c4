//! `sealdisk job …`, and waiting for what goes on in the background.

use std::time::Duration;

use serde_json::Value;

use super::client::{Client, OWN, text, wrapped};
use super::failure::Failure;
use super::find::DISK;
use super::output::{Cell, Output, Table, human_age, human_size, render_fields};
use super::progress::Progress;
use super::stack_arguments::JobCommand;
use crate::clock::{Clock, SystemClock};

/// How often a job is asked how far it is.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

pub(super) fn run(command: JobCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        JobCommand::List { disk } => list(disk.as_deref(), client, output),
        JobCommand::Show(job) => show(&by_id(client, &job.job)?, output),
        JobCommand::Wait(job) => show(&wait(client, &job.job, output)?, output),
        JobCommand::Pause(job) => change("PauseJob", &job.job, client, output),
        JobCommand::Resume(job) => change("ResumeJob", &job.job, client, output),
        JobCommand::Cancel(job) => change("CancelJob", &job.job, client, output),
    }
}

fn list(disk: Option<&str>, client: &Client, output: &Output) -> Result<(), Failure> {
    let disk = disk.map(|disk| DISK.id_of(client, disk)).transpose()?;
    let parameters: Vec<(&str, &str)> = disk.iter().map(|id| ("DiskId", id.as_str())).collect();
    let jobs = client.list_all((OWN, "DescribeJobs"), &parameters, ("Jobs", "Job"))?;
    let now = SystemClock::new().now();
    let mut table = Table::new(&["JOB ID", "KIND", "ON", "STATE", "DONE", "CREATED", "WHY"]);
    for job in &jobs {
        let percent = progress(job, Duration::ZERO, 0).permille() / 10;
        table.row([
            text(job, "JobId").into(),
            text(job, "Kind").into(),
            subject(job).into(),
            Cell::status(text(job, "State")),
            format!("{percent}%").into(),
            human_age(text(job, "CreationTime"), now).into(),
            text(job, "Failure").into(),
        ]);
    }
    output.list(&wrapped("Jobs", "Job", &jobs), &table, "no jobs")
}

fn show(job: &Value, output: &Output) -> Result<(), Failure> {
    let percent = progress(job, Duration::ZERO, 0).permille() / 10;
    output.answer(job, || {
        render_fields(&[
            ("Job id", text(job, "JobId").to_owned()),
            ("Kind", text(job, "Kind").to_owned()),
            ("Works on", subject(job).to_owned()),
            ("State", text(job, "State").to_owned()),
            ("Why", text(job, "Failure").to_owned()),
            ("Done", format!("{percent}% of {}", human_size(number(job, "TotalBytes")))),
            ("Copied", human_size(number(job, "CopiedBytes"))),
            ("Created", text(job, "CreationTime").to_owned()),
            ("Changed", text(job, "LastModifiedTime").to_owned()),
        ])
    })
}

fn change(action: &str, id: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    client.call(OWN, action, &[("JobId", id)])?;
    show(&by_id(client, id)?, output)
}

/// What an action that began a job answered: the job, at its end if that is waited for.
pub(super) fn begun(
    answer: &Value,
    wait_for_it: bool,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let id = text(answer, "JobId");
    if wait_for_it {
        return show(&wait(client, id, output)?, output);
    }
    show(&by_id(client, id)?, output)?;
    if output.is_for_people() {
        output.note(&format!("\nsealdisk job wait {id}   waits until it is done"))?;
    }
    Ok(())
}

/// Waits until a job is done, with a bar for whom it may concern.
///
/// # Errors
/// The job failed or was cancelled; somebody paused it, for then it may take for ever.
pub(super) fn wait(client: &Client, id: &str, output: &Output) -> Result<Value, Failure> {
    let clock = SystemClock::new();
    let begun = clock.monotonic();
    let mut first_seen = None;
    loop {
        let job = by_id(client, id)?;
        let done = number(&job, "DoneBytes");
        let begun_at = *first_seen.get_or_insert(done);
        let elapsed = clock.monotonic().saturating_sub(begun);
        output.progress(&progress(&job, elapsed, begun_at).line(text(&job, "Kind")))?;
        match text(&job, "State") {
            "waiting" | "running" | "switching" => std::thread::sleep(POLL_INTERVAL),
            state => {
                output.end_progress()?;
                return if state == "done" { Ok(job) } else { Err(not_done(id, state, &job)) };
            }
        }
    }
}

/// Waits for the job that makes the snapshot or image with this id.
///
/// # Errors
/// As [`wait`].
pub(super) fn wait_for_copy(
    subject: &str,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let jobs = client.list_all((OWN, "DescribeJobs"), &[], ("Jobs", "Job"))?;
    match jobs.iter().find(|job| text(job, "Subject") == subject) {
        Some(job) => wait(client, text(job, "JobId"), output).map(drop),
        None => Ok(()),
    }
}

fn not_done(id: &str, state: &str, job: &Value) -> Failure {
    let why = text(job, "Failure");
    let failure = match why {
        "" => Failure::new(format!("job {id} is {state}")),
        why => Failure::new(format!("job {id} is {state}: {why}")),
    };
    match state {
        "paused" => failure.hint(format!("sealdisk job resume {id} lets it go on")),
        _ => failure,
    }
}

fn by_id(client: &Client, id: &str) -> Result<Value, Failure> {
    let mut answer = client.call(OWN, "DescribeJobs", &[("JobId", id)])?;
    match answer.pointer_mut("/Jobs/Job/0") {
        Some(job) => Ok(job.take()),
        None => {
            let message = format!("there is no job {id}");
            Err(Failure::refused("InvalidJobId.NotFound", &message, None))
        }
    }
}

fn progress(job: &Value, elapsed: Duration, begun_at: u64) -> Progress {
    let total = number(job, "TotalBytes");
    let done = if text(job, "State") == "done" { total } else { number(job, "DoneBytes") };
    Progress { done, total, elapsed, begun_at }
}

/// What the job makes, or else works on.
fn subject(job: &Value) -> &str {
    match (text(job, "Subject"), text(job, "DiskId")) {
        ("", disk) => disk,
        (subject, _) => subject,
    }
}

fn number(job: &Value, field: &str) -> u64 {
    job[field].as_u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_did_not_end_well_says_why() {
        let job = json!({"State": "failed", "Failure": "no space"});
        assert_eq!(not_done("j-1", "failed", &job).message, "job j-1 is failed: no space");
        let paused = not_done("j-1", "paused", &json!({}));
        assert_eq!(paused.hint.as_deref(), Some("sealdisk job resume j-1 lets it go on"));
    }

    #[test]
    fn a_job_that_is_done_is_wholly_done() {
        let job = json!({"State": "done", "DoneBytes": 4096, "TotalBytes": 8192});
        assert_eq!(progress(&job, Duration::ZERO, 0).permille(), 1000);
        let job = json!({"State": "running", "DoneBytes": 4096, "TotalBytes": 8192});
        assert_eq!(progress(&job, Duration::ZERO, 0).permille(), 500);
    }
}
