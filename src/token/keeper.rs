//! The thread that looks for a token until it is there, and looks after it then.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::crew::{Crew, Load};
use super::failure::TokenError;
use super::link::Link;
use super::module::lock;
use super::object::{self, ID_BYTES};
use super::worker::{Access, Desk};
use crate::clock::Entropy;
use crate::metrics;

/// How often a token in use is probed, so that its state is known where nobody asks it.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Pauses between attempts to find a token again: doubled from the first to the last.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// What the thread shares with the token's users.
#[derive(Default)]
pub(super) struct Keeper {
    duties: Mutex<Duties>,
    changed: Condvar,
}

#[derive(Default)]
struct Duties {
    is_stopped: bool,
    /// The thread runs.
    is_at_work: bool,
    /// There is something to look at, before the time.
    is_rung: bool,
    /// The first attempt has ended.
    has_looked: bool,
    /// Objects that nobody will ever ask for: what a call that was given up has made after all.
    doomed: Vec<[u8; ID_BYTES]>,
}

impl Keeper {
    /// There is something to look at.
    pub(super) fn wake(&self) {
        lock(&self.duties).is_rung = true;
        self.changed.notify_all();
    }

    /// Waits until the first attempt has ended, at most `timeout`.
    pub(super) fn settle(&self, timeout: Duration) {
        let duties = lock(&self.duties);
        let waiting = |duties: &mut Duties| !duties.has_looked;
        drop(self.changed.wait_timeout_while(duties, timeout, waiting));
    }

    /// As [`super::Token::doom`].
    pub(super) fn doom(&self, id: [u8; ID_BYTES]) {
        lock(&self.duties).doomed.push(id);
        self.changed.notify_all();
    }

    /// Ends the thread; waits for it, at most `timeout`: a library that is taken down with the
    /// process must not be in the midst of its call.
    pub(super) fn stop(&self, timeout: Duration) {
        let mut duties = lock(&self.duties);
        duties.is_stopped = true;
        self.changed.notify_all();
        let at_work = |duties: &mut Duties| duties.is_at_work;
        drop(self.changed.wait_timeout_while(duties, timeout, at_work));
    }

    /// The thread.
    pub(super) fn serve(&self, link: &Arc<Link>, crew: &Arc<Crew>, workers: usize) {
        {
            let mut duties = lock(&self.duties);
            if duties.is_stopped {
                return;
            }
            duties.is_at_work = true;
        }
        self.look_after(link, crew, workers);
        lock(&self.duties).is_at_work = false;
        self.changed.notify_all();
    }

    fn look_after(&self, link: &Arc<Link>, crew: &Arc<Crew>, workers: usize) {
        let mut pause = RETRY_MIN;
        loop {
            crew.relieve(link, link.timeout);
            let is_up = match link.footing() {
                // Its worker would be the next one to be lost.
                _ if crew.is_hung() => {
                    link.take_down(TokenError::Silent);
                    false
                }
                Ok(_) => {
                    // Through the queue: a token that hangs shows there.
                    let work = |desk: &Desk<'_>| desk.probe();
                    let _ = crew.run(link, Access::Read, work);
                    if crew.is_hung() {
                        link.take_down(TokenError::Silent);
                    }
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
            let Load { waiting, hung, replaced } = crew.load();
            metrics::hsm_load(&link.name, waiting, hung, replaced);
            let mut rest = if is_up {
                pause = RETRY_MIN;
                PROBE_INTERVAL
            } else {
                pause = longer(pause);
                jittered(pause, &*link.entropy)
            };
            if hung > replaced {
                rest = rest.min(link.timeout / 2);
            }
            let mut duties = lock(&self.duties);
            duties.has_looked = true;
            self.changed.notify_all();
            let known = duties.doomed.len();
            let idle = |duties: &mut Duties| {
                !duties.is_stopped && !duties.is_rung && (!is_up || duties.doomed.len() <= known)
            };
            let waited = self.changed.wait_timeout_while(duties, rest, idle);
            let (mut duties, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if duties.is_stopped {
                return;
            }
            if std::mem::take(&mut duties.is_rung) {
                pause = RETRY_MIN;
            }
        }
    }

    fn destroy_doomed(&self, link: &Link, crew: &Arc<Crew>) {
        let doomed = std::mem::take(&mut lock(&self.duties).doomed);
        for id in doomed {
            let work = move |desk: &Desk<'_>| object::destroy(desk.session, &id).map(drop);
            if crew.run(link, Access::Write, work).is_err() {
                lock(&self.duties).doomed.push(id);
            }
        }
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(RETRY_MAX)
}

/// Between half of `pause` and all of it, so that hosts that lost one token do not come in step.
fn jittered(pause: Duration, entropy: &dyn Entropy) -> Duration {
    let mut byte = [0];
    entropy.fill(&mut byte);
    pause / 2 + pause * u32::from(byte[0]) / 512
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Always(u8);

    impl Entropy for Always {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(self.0);
        }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let pauses: Vec<Duration> =
            std::iter::successors(Some(RETRY_MIN), |pause| Some(longer(*pause))).take(9).collect();
        assert!(pauses.is_sorted() && pauses[1] == RETRY_MIN * 2);
        assert_eq!(pauses[7..], [RETRY_MAX, RETRY_MAX]);
        for pause in pauses {
            let (least, most) = (jittered(pause, &Always(0)), jittered(pause, &Always(255)));
            assert_eq!(least, pause / 2);
            assert!(least < most && most < pause);
        }
    }
}
