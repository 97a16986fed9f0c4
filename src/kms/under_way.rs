//! The uses of keys that are under way, so that who takes a key away can wait for them.
//!
//! A use reads the state of its key, and is done with the key a little later. What changes the
//! state does not hold it up: it makes the change, after which every new use is refused, and then
//! waits for the uses that began before. So nobody waits but who took the key away, and what was
//! taken away is so when that call returns.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// All uses that are under way.
#[derive(Clone, Debug, Default)]
pub(super) struct UsesUnderWay {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    uses: Mutex<Uses>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Uses {
    next: u64,
    /// By the order in which they began: the keys they are known to use, none if not yet known.
    under_way: BTreeMap<u64, Vec<String>>,
    waiting: usize,
}

/// One use, under way until dropped.
#[derive(Debug)]
pub(super) struct UseUnderWay {
    number: u64,
    inner: Arc<Inner>,
}

impl UsesUnderWay {
    /// A use begins; before the state of any key is read for it.
    pub(super) fn begin(&self) -> UseUnderWay {
        let mut uses = self.inner.lock();
        let number = uses.next;
        uses.next += 1;
        uses.under_way.insert(number, Vec::new());
        UseUnderWay { number, inner: Arc::clone(&self.inner) }
    }

    /// Waits for the uses of `key_id` that have begun. Not from within one.
    pub(super) fn wait_for(&self, key_id: &str) {
        let mut uses = self.inner.lock();
        let end = uses.next;
        uses.waiting += 1;
        let is_one = |keys: &Vec<String>| keys.is_empty() || keys.iter().any(|key| key == key_id);
        while uses.under_way.range(..end).any(|(_, keys)| is_one(keys)) {
            uses = self.inner.ended.wait(uses).unwrap_or_else(PoisonError::into_inner);
        }
        uses.waiting -= 1;
    }
}

impl UseUnderWay {
    /// It is of this key (too).
    pub(super) fn is_of(&self, key_id: &str) {
        let mut uses = self.inner.lock();
        if let Some(keys) = uses.under_way.get_mut(&self.number) {
            keys.push(key_id.to_owned());
        }
    }
}

impl Drop for UseUnderWay {
    fn drop(&mut self) {
        let mut uses = self.inner.lock();
        uses.under_way.remove(&self.number);
        if uses.waiting > 0 {
            self.inner.ended.notify_all();
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Uses> {
        // Each change under it is whole: a panic leaves nothing half done.
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Waits in another thread; what tells when it is through.
    fn waiting(uses: &UsesUnderWay, key_id: &'static str) -> mpsc::Receiver<()> {
        let (done, told) = mpsc::channel();
        let theirs = uses.clone();
        std::thread::spawn(move || {
            theirs.wait_for(key_id);
            let _ = done.send(());
        });
        while uses.inner.lock().waiting == 0 {
            std::thread::yield_now();
        }
        told
    }

    #[test]
    fn who_takes_a_key_away_waits_for_its_uses() {
        let uses = UsesUnderWay::default();
        uses.wait_for("one");
        let of_two = uses.begin();
        of_two.is_of("two");
        uses.wait_for("one");
        let of_one = uses.begin();
        of_one.is_of("one");
        let told = waiting(&uses, "one");
        assert!(told.try_recv().is_err());
        // What begins later is not waited for: it sees the key as it is.
        let later = uses.begin();
        later.is_of("one");
        drop(of_one);
        assert_eq!(told.recv(), Ok(()));
        drop((of_two, later));
    }

    #[test]
    fn a_use_whose_key_is_not_known_yet_may_be_of_any() {
        let uses = UsesUnderWay::default();
        let unknown = uses.begin();
        let told = waiting(&uses, "one");
        assert!(told.try_recv().is_err());
        drop(unknown);
        assert_eq!(told.recv(), Ok(()));
        assert!(uses.inner.lock().under_way.is_empty());
    }
}
