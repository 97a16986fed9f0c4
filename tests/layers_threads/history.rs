//! What clients asked of a part of a disk and when, and what the part may hold at one moment.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stamps of all that happens, in one order. They are the marks of writes, too.
#[derive(Debug, Default)]
pub struct Stamps(AtomicU64);

impl Stamps {
    pub fn next(&self) -> u64 {
        1 + self.0.fetch_add(1, Ordering::SeqCst)
    }
}

#[derive(Clone, Debug)]
pub enum Effect {
    Mark(u64),
    /// What each sector was found to hold afterwards; `None` before that.
    Trim(Option<Vec<u64>>),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub sectors: Range<usize>,
    pub effect: Effect,
    /// The stamp after its answer; `None` before that. The mark of a write is the stamp before it.
    pub ended: Option<u64>,
}

impl Request {
    /// Whether `sector` may hold `mark` because of this.
    pub fn may_leave(&self, sector: usize, mark: u64) -> bool {
        self.sectors.contains(&sector)
            && match &self.effect {
                Effect::Mark(written) => mark == *written,
                Effect::Trim(None) => mark == 0,
                Effect::Trim(Some(found)) => mark == found[sector - self.sectors.start],
            }
    }

    fn apply(&self, held: &mut [u64]) {
        match &self.effect {
            Effect::Mark(mark) => held[self.sectors.clone()].fill(*mark),
            Effect::Trim(Some(found)) => held[self.sectors.clone()].copy_from_slice(found),
            Effect::Trim(None) => {}
        }
    }
}

/// The requests of one client, one after another, on sectors that nobody else writes.
#[derive(Clone, Debug)]
pub struct History {
    base: Vec<u64>,
    pub requests: Vec<Request>,
    /// By the requests that were answered.
    pub now: Vec<u64>,
    pub answered: usize,
}

impl History {
    pub fn from(base: Vec<u64>) -> Self {
        Self { now: base.clone(), base, requests: Vec::new(), answered: 0 }
    }

    pub fn begin(&mut self, sectors: Range<usize>, effect: Effect) {
        self.requests.push(Request { sectors, effect, ended: None });
    }

    /// The request under way is answered; `found` is what was read after a trim.
    pub fn end(&mut self, found: Option<Vec<u64>>, ended: u64) {
        let request = self.requests.last_mut().unwrap();
        if found.is_some() {
            request.effect = Effect::Trim(found);
        }
        request.ended = Some(ended);
        request.apply(&mut self.now);
        self.answered += 1;
    }

    pub fn grow(&mut self, sectors: usize) {
        self.base.resize(sectors, 0);
        self.now.resize(sectors, 0);
    }

    /// How many requests were answered before the stamp `by`.
    fn answered_before(&self, by: u64) -> usize {
        self.requests.iter().take_while(|request| request.ended.is_some_and(|at| at < by)).count()
    }

    /// Whether `held` is the state after one of `counts` requests, with the next one done in part.
    pub fn explains(&self, held: &[u64], counts: Range<usize>) -> bool {
        let mut state = self.base.clone();
        for count in 0..=counts.end {
            if count >= counts.start {
                let next = self.requests.get(count).filter(|_| count < counts.end);
                let is_explained = |sector: usize| {
                    held[sector] == state[sector]
                        || next.is_some_and(|next| next.may_leave(sector, held[sector]))
                };
                if (0..held.len()).all(is_explained) {
                    return true;
                }
            }
            if let Some(request) = self.requests.get(count) {
                request.apply(&mut state);
            }
        }
        false
    }
}

/// Refuses `held`, the parts of a snapshot, unless it is a consistent cut: each part holds what was
/// answered before the snapshot was asked for and nothing sent after its answer (`bounds`), and
/// everything that was answered before something in it was sent.
pub fn check_cut(parts: &[(&History, Range<usize>, &[u64])], place: &str) {
    let newest = parts.iter().flat_map(|(_, _, held)| held.iter()).max().copied().unwrap_or(0);
    for (number, (history, bounds, held)) in parts.iter().enumerate() {
        let least = bounds.start.max(history.answered_before(newest));
        assert!(
            history.explains(held, least..bounds.end),
            "{place}: part {number} is of no moment between {least} ({} by its bounds) and {}: \
             {held:?}, last requests {:?}",
            bounds.start,
            bounds.end,
            &history.requests[bounds.start.saturating_sub(2)..bounds.end]
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(marks: &[u64]) -> History {
        let mut history = History::from(vec![0; 2]);
        for mark in marks {
            history.begin(0..2, Effect::Mark(*mark));
            history.end(None, mark + 1);
        }
        history
    }

    #[test]
    fn a_cut_through_a_request_is_one_and_a_skipped_request_is_none() {
        let one = history(&[10, 20, 30]);
        assert!(one.explains(&[20, 20], 0..3));
        assert!(one.explains(&[30, 20], 0..3));
        assert!(!one.explains(&[30, 10], 0..3));
        assert!(!one.explains(&[10, 10], 2..3));
        assert!(!one.explains(&[30, 30], 0..2));
    }

    #[test]
    #[should_panic(expected = "part 1 is of no moment")]
    fn what_was_answered_before_something_in_it_was_sent_must_be_in_it() {
        let (one, other) = (history(&[10, 20]), history(&[12, 16]));
        check_cut(&[(&one, 0..2, &[20, 20]), (&other, 0..2, &[12, 12])], "here");
    }
}
