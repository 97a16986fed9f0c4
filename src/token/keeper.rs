//! The thread that looks after a token: probes it, finds it again, destroys what nobody wants.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::link::Link;
use super::module::lock;
use super::object::{self, ID_BYTES};
use super::worker::{Access, Crew, Desk};
use crate::metrics;

/// How often a token in use is probed, so that its state is known where nobody asks it.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Pauses between attempts to find a token again: doubled from the first to the last.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// What the thread that looks after a token shares with it.
#[derive(Default)]
pub(super) struct Keeper {
    pub(super) duties: Mutex<Duties>,
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct Duties {
    pub(super) is_stopped: bool,
    /// The first attempt has ended.
    pub(super) has_looked: bool,
    /// Objects that nobody will ever ask for: what a call that was given up has made after all.
    pub(super) doomed: Vec<[u8; ID_BYTES]>,
}

impl Keeper {
    pub(super) fn look_after(&self, link: &Arc<Link>, crew: &Arc<Crew>, workers: usize) {
        let mut pause = RETRY_MIN;
        loop {
            let is_up = match link.footing() {
                Ok(_) => {
                    // Through the queue: a token that hangs shows there.
                    let work = |desk: &Desk<'_>| object::probe(desk.session);
                    let _ = crew.run(link.timeout, Access::Read, work);
                    self.destroy_doomed(link, crew);
                    link.footing().is_ok()
                }
                Err(_) => match link.try_again() {
                    Ok(footing) => {
                        let most = footing.sessions_max.map_or(workers, |sessions| {
                            // One is the anchor's.
                            usize::try_from(sessions).unwrap_or(workers).saturating_sub(1)
                        });
                        crew.allow(most.min(workers));
                        tracing::debug!(hsm = link.name, "the token is in use");
                        true
                    }
                    Err(error) => {
                        tracing::debug!(hsm = link.name, %error, "the token is not to be had yet");
                        false
                    }
                },
            };
            let (waiting, hung) = crew.load();
            metrics::hsm_load(&link.name, waiting, hung);
            let rest = if is_up {
                pause = RETRY_MIN;
                PROBE_INTERVAL
            } else {
                pause = (pause * 2).min(RETRY_MAX);
                jittered(pause, link)
            };
            let mut duties = lock(&self.duties);
            duties.has_looked = true;
            self.changed.notify_all();
            let known = duties.doomed.len();
            let idle = |duties: &mut Duties| {
                !duties.is_stopped && (!is_up || duties.doomed.len() <= known)
            };
            let waited = self.changed.wait_timeout_while(duties, rest, idle);
            let (duties, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if duties.is_stopped {
                return;
            }
        }
    }

    fn destroy_doomed(&self, link: &Link, crew: &Arc<Crew>) {
        let doomed = std::mem::take(&mut lock(&self.duties).doomed);
        for id in doomed {
            let work = move |desk: &Desk<'_>| object::destroy(desk.session, &id).map(drop);
            if crew.run(link.timeout, Access::Write, work).is_err() {
                lock(&self.duties).doomed.push(id);
            }
        }
    }
}

/// Between half of `pause` and all of it, so that hosts that lost one token do not come in step.
fn jittered(pause: Duration, link: &Link) -> Duration {
    let mut byte = [0];
    link.entropy.fill(&mut byte);
    pause / 2 + pause * u32::from(byte[0]) / 512
}
