//! Tells a client that sends one request at a time from others.
//!
//! A request that waits for a device is handed to a thread of its own so that nothing behind it is
//! held up. Where nothing comes behind it that hand-over costs more than the request. Nobody can
//! know what a client will send, so its past speaks for it.

/// Requests in a row that came alone, before the next is taken to do so too.
const ALONE_MIN: u8 = 16;

/// What a connection's latest requests tell of its client.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Requests in a row that came alone, up to [`ALONE_MIN`].
    alone: u8,
}

impl Turns {
    /// A request came. *Alone*: each reply before it has left, and nothing came behind it yet.
    pub(super) const fn came(&mut self, is_alone: bool) {
        self.alone = match is_alone {
            true if self.alone < ALONE_MIN => self.alone + 1,
            true => ALONE_MIN,
            false => 0,
        };
    }

    /// Something came before the reply to the latest request had left.
    pub(super) const fn overtaken(&mut self) {
        self.alone = 0;
    }

    /// Whether the client is taken to send nothing until it has the reply to its latest request. If
    /// that is wrong, and [`Turns::overtaken`] told of it, it is not wrong again for the next 15
    /// requests.
    pub(super) const fn are_kept(&self) -> bool {
        self.alone == ALONE_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(requests: impl IntoIterator<Item = bool>) -> Turns {
        let mut turns = Turns::default();
        requests.into_iter().for_each(|is_alone| turns.came(is_alone));
        turns
    }

    #[test]
    fn sixteen_requests_alone_make_a_client_that_keeps_its_turns() {
        for count in 0..16 {
            assert!(!after(vec![true; count]).are_kept(), "{count}");
        }
        for count in [16, 17, 255, 256, 257, 10_000] {
            assert!(after(vec![true; count]).are_kept(), "{count}");
        }
    }

    #[test]
    fn one_request_that_is_not_alone_begins_the_count_again() {
        for place in 0..32 {
            let mut requests = vec![true; 32];
            requests[place] = false;
            let follow = 31 - place;
            assert_eq!(after(requests).are_kept(), follow >= 16, "{follow} behind it");
        }
        assert!(!after((0..1000).map(|number| number % 16 != 15)).are_kept());
    }

    #[test]
    fn who_was_overtaken_is_so_at_most_once_in_sixteen_requests() {
        let mut turns = Turns::default();
        let mut overtaken = 0;
        for _ in 0..1600 {
            turns.came(true);
            if turns.are_kept() {
                overtaken += 1;
                turns.overtaken();
            }
        }
        assert_eq!(overtaken, 100);
    }
}
