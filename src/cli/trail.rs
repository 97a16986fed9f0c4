//! `sealdisk trail …`

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{ACTIONTRAIL, Client, text};
use super::failure::Failure;
use super::find::DISK;
use super::output::{Output, Table};
use super::root_source::RootSource;
use super::{key, trail_check};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::quantity::parse_span;
use crate::crypto::ed25519::PublicKey;

/// Events in one answer: the most the API gives.
const PAGE_SIZE: u32 = 50;

/// The action behind all of this.
const LOOK: &str = "LookupEvents";

/// How often new events are looked for.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// Events of the last moments that are known again, so that none is shown twice.
const FOLLOW_KNOWN_MAX: usize = 10_000;

/// Events are dated a moment before they can be found.
const FOLLOW_OVERLAP: Duration = Duration::from_secs(10);

const HEADINGS: [&str; 7] = ["TIME", "EVENT", "SERVICE", "RESOURCE", "WHO", "SOURCE", "RESULT"];

/// Commands on the audit trail.
#[derive(Debug, Subcommand)]
pub enum TrailCommand {
    /// List audit events, newest first
    #[command(after_help = "Examples:\n  sealdisk trail list\n  \
        sealdisk trail list --event Decrypt --since 24h\n  \
        sealdisk trail list --key alias/byok --since 2026-01-05T03:04:05Z\n  \
        sealdisk trail list --disk db -o json")]
    List(TrailFilter),
    /// Show audit events as they happen, until interrupted
    #[command(after_help = "Examples:\n  sealdisk trail follow\n  \
        sealdisk trail follow --disk db -o json")]
    Follow(Condition),
    /// Check every record of the trail, without a daemon; name the first bad one
    #[command(after_help = "Examples:\n  sealdisk trail verify\n  \
        sealdisk trail verify --data-dir /var/lib/sealdisk --config /etc/sealdisk/sealdisk.yaml\n  \
        sealdisk trail verify --trail-dir copy/trail --public-key ed25519:…\n\n\
        It works beside a running daemon, too. With the public key alone, which is no secret and \
        which a check prints, the signed checkpoints are checked: a changed record is found at the \
        checkpoint after it.")]
    Verify(Verify),
}

/// Which events, one condition at most.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("condition")
    .args(["event", "service", "resource", "key", "disk", "user", "access_key", "id"]))]
pub struct Condition {
    /// Only events of this name (CreateDisk, Decrypt, …)
    #[arg(long)]
    pub event: Option<String>,
    /// Only events of this service (Ecs, Kms, Ram)
    #[arg(long)]
    pub service: Option<String>,
    /// Only events about this resource: an id
    #[arg(long)]
    pub resource: Option<String>,
    /// Only events about this key: id or alias
    #[arg(long)]
    pub key: Option<String>,
    /// Only events about this disk: id or name
    #[arg(long)]
    pub disk: Option<String>,
    /// Only events by this user
    #[arg(long)]
    pub user: Option<String>,
    /// Only events by this access key id
    #[arg(long)]
    pub access_key: Option<String>,
    /// Only the event of this id
    #[arg(long)]
    pub id: Option<String>,
}

/// Which events, and how many.
#[derive(Args, Debug)]
pub struct TrailFilter {
    /// Which.
    #[command(flatten)]
    pub condition: Condition,
    /// How far back: 30m, 24h, or a time such as 2026-01-05T03:04:05Z
    #[arg(long, default_value = "168h", value_parser = moment)]
    pub since: Moment,
    /// Until when: as for --since; now without it
    #[arg(long, value_parser = moment)]
    pub until: Option<Moment>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
}

/// What to check, and by what.
#[derive(Args, Debug)]
pub struct Verify {
    /// The daemon's data directory, or a copy of it
    #[arg(long, value_name = "DIR", default_value = "sealdisk-data")]
    pub data_dir: PathBuf,
    /// The trail itself, where it is not in the data directory
    #[arg(long, value_name = "DIR")]
    pub trail_dir: Option<PathBuf>,
    /// Only from this record on: earlier ones may have been moved elsewhere
    #[arg(long, value_name = "RECORD", default_value_t = 1)]
    pub from: u64,
    /// There must be records up to this one: a number kept elsewhere, from an earlier check
    #[arg(long, value_name = "RECORD")]
    pub until: Option<u64>,
    /// Check by signatures alone: this public key, or a file with it
    #[arg(long, value_name = "KEY|FILE", value_parser = public_key,
          conflicts_with_all = ["root_key", "passphrase_file", "config"])]
    pub public_key: Option<PublicKey>,
    /// Where the root key is.
    #[command(flatten)]
    pub root: RootSource,
}

/// A time, or how long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So long ago.
    Ago(Duration),
    /// Then.
    At(Timestamp),
}

impl Moment {
    fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(span) => {
                let millis = now.unix_millis().saturating_sub_unsigned(span.as_millis() as u64);
                Timestamp::from_unix_millis(millis.max(0))
            }
        }
    }
}

fn moment(text: &str) -> Result<Moment, String> {
    if let Some(time) = Timestamp::parse(text) {
        return Ok(Moment::At(time));
    }
    parse_span(text)
        .map(Moment::Ago)
        .map_err(|error| format!("{error}, or a time such as 2026-01-05T03:04:05Z"))
}

fn public_key(text: &str) -> Result<PublicKey, String> {
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let read = std::fs::read_to_string(text).map_err(|error| error.to_string())?;
    read.parse().map_err(|error| format!("{text}: {error}"))
}

pub(super) fn run(
    command: &TrailCommand,
    client: impl Fn() -> Result<Client, Failure>,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        TrailCommand::List(filter) => list(filter, &client()?, output),
        TrailCommand::Follow(condition) => follow(condition, &client()?, output),
        TrailCommand::Verify(verify) => trail_check::run(verify, output),
    }
}

fn list(filter: &TrailFilter, client: &Client, output: &Output) -> Result<(), Failure> {
    let now = SystemClock::new().now();
    let condition = filter.condition.resolve(client)?;
    let span = (filter.since.before(now), filter.until.map(|until| until.before(now)));
    let events = lookup(condition.as_ref(), span, ("BACKWARD", filter.limit as usize), client)?;
    let mut table = Table::new(&HEADINGS);
    for event in &events {
        table.row(row(event).map(Into::into));
    }
    output.list(&json!({"Events": events}), &table, "no events in this time")
}

/// Shows events from now on. Ends when the reader goes away, or the daemon. Each look is an event
/// too: shown, they would make it look without end.
fn follow(condition: &Condition, client: &Client, output: &Output) -> Result<(), Failure> {
    let clock = SystemClock::new();
    let asks_for_looks = condition.event.as_deref() == Some(LOOK);
    let condition = condition.resolve(client)?;
    let started = clock.now();
    let mut known = VecDeque::new();
    let mut since = started;
    loop {
        let limit = ("FORWARD", FOLLOW_KNOWN_MAX);
        let events = lookup(condition.as_ref(), (since, None), limit, client)?;
        for event in &events {
            let id = text(event, "eventId").to_owned();
            if known.contains(&id) {
                continue;
            }
            known.push_back(id);
            if asks_for_looks || text(event, "eventName") != LOOK {
                show(event, output)?;
            }
        }
        while known.len() > FOLLOW_KNOWN_MAX {
            known.pop_front();
        }
        let overlap = Moment::Ago(FOLLOW_OVERLAP).before(clock.now());
        since = overlap.max(started);
        std::thread::sleep(FOLLOW_INTERVAL);
    }
}

fn show(event: &Value, output: &Output) -> Result<(), Failure> {
    if !output.is_for_people() {
        return output.print(&format!("{event}\n"));
    }
    let [time, name, service, resource, who, source, result] = row(event);
    let line = format!(
        "{time}  {name:<24}  {service:<5}  {resource:<38}  {who:<16}  {source:<16}  {result}"
    );
    output.print(&format!("{}\n", line.trim_end()))
}

impl Condition {
    /// As the API has it: name and value of one attribute.
    fn resolve(&self, client: &Client) -> Result<Option<(&'static str, String)>, Failure> {
        if let Some(name) = &self.key {
            return Ok(Some(("ResourceName", key::resolve(client, name)?)));
        }
        if let Some(name) = &self.disk {
            return Ok(Some(("ResourceName", DISK.id_of(client, name)?)));
        }
        let plain = [
            ("EventName", &self.event),
            ("ServiceName", &self.service),
            ("ResourceName", &self.resource),
            ("User", &self.user),
            ("EventAccessKeyId", &self.access_key),
            ("EventId", &self.id),
        ];
        let told = plain.into_iter().find_map(|(name, value)| Some((name, value.clone()?)));
        Ok(told)
    }
}

fn lookup(
    condition: Option<&(&'static str, String)>,
    (start, end): (Timestamp, Option<Timestamp>),
    (direction, limit): (&str, usize),
    client: &Client,
) -> Result<Vec<Value>, Failure> {
    let start = start.to_string();
    let end = end.map(|end| end.to_string());
    let mut fixed = vec![("StartTime", start.as_str()), ("Direction", direction)];
    fixed.extend(end.as_deref().map(|end| ("EndTime", end)));
    if let Some((name, value)) = condition {
        fixed.push(("LookupAttribute.1.Key", name));
        fixed.push(("LookupAttribute.1.Value", value));
    }
    let mut events = Vec::new();
    let mut token = String::new();
    loop {
        let count = (limit - events.len()).min(PAGE_SIZE as usize).to_string();
        let mut parameters = fixed.clone();
        parameters.push(("MaxResults", &count));
        if !token.is_empty() {
            parameters.push(("NextToken", &token));
        }
        let mut answer = client.call(ACTIONTRAIL, LOOK, &parameters)?;
        if let Value::Array(page) = answer["Events"].take() {
            events.extend(page);
        }
        token = text(&answer, "NextToken").to_owned();
        if token.is_empty() || events.len() >= limit {
            events.truncate(limit);
            return Ok(events);
        }
    }
}

fn row(event: &Value) -> [String; 7] {
    let field = |name: &str| match text(event, name) {
        "" => "-".to_owned(),
        said => said.to_owned(),
    };
    let result = match text(event, "errorCode") {
        "" => "ok",
        code => code,
    };
    [
        field("eventTime"),
        field("eventName"),
        field("serviceName"),
        field("resourceName"),
        text(&event["userIdentity"], "userName").to_owned(),
        field("sourceIpAddress"),
        result.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = json!({
            "eventTime": "2026-01-05T03:04:05Z", "eventName": "Decrypt", "serviceName": "Kms",
            "resourceName": "k1", "userIdentity": {"userName": "root"},
            "sourceIpAddress": "unix:uid=0", "errorCode": "Rejected.Disabled",
        });
        let mut table = Table::new(&["A", "B", "C", "D", "E", "F", "G"]);
        table.row(row(&event).map(Into::into));
        assert_eq!(
            table.render(false).lines().nth(1).unwrap(),
            "2026-01-05T03:04:05Z  Decrypt  Kms  k1  root  unix:uid=0  Rejected.Disabled"
        );
        assert_eq!(row(&json!({"errorCode": ""}))[6], "ok");
    }

    #[test]
    fn moments_are_spans_or_times() {
        let now = Timestamp::parse("2026-01-05T03:04:05Z").unwrap();
        let of = |text| moment(text).map(|moment| moment.before(now).to_string());
        assert_eq!(of("1h").unwrap(), "2026-01-05T02:04:05Z");
        assert_eq!(of("2025-12-31T00:00:00Z").unwrap(), "2025-12-31T00:00:00Z");
        assert!(moment("yesterday").unwrap_err().contains("2026-01-05T03:04:05Z"));
    }
}
