//! How many connections each peer has: nobody alone can keep the others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::http::Peer;

/// Bits of an IPv6 address that one customer commonly has all of.
const IPV6_HOST_BITS: u32 = 64;

/// The peers that have connections, and how many.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    each: usize,
    counts: Arc<Mutex<HashMap<String, usize>>>,
}

/// One connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    name: String,
    counts: Arc<Mutex<HashMap<String, usize>>>,
}

impl Peers {
    /// Nobody yet; at most `each` connections of one peer.
    pub(super) fn new(each: usize) -> Self {
        Self { each, counts: Arc::default() }
    }

    /// Counts a connection of `peer`; `None` if it is one too many.
    pub(super) fn enter(&self, peer: &Peer) -> Option<Counted> {
        let name = name_of(peer);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(name.clone()).or_default();
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Counted { name, counts: Arc::clone(&self.counts) })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.name);
            }
        }
    }
}

fn name_of(peer: &Peer) -> String {
    match peer.address {
        Some(IpAddr::V6(address)) => format!("{:x}", address.to_bits() >> IPV6_HOST_BITS),
        Some(IpAddr::V4(_)) | None => peer.source.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::http::Access;
    use super::*;

    fn at(address: &str) -> Peer {
        Peer {
            source: address.to_owned(),
            access: Access::Signed,
            address: Some(address.parse().expect("an address")),
            is_secure: false,
        }
    }

    #[test]
    fn each_peer_has_its_own_count_and_gets_it_back() {
        let peers = Peers::new(2);
        let one = peers.enter(&at("192.0.2.1"));
        let two = peers.enter(&at("192.0.2.1"));
        assert!(one.is_some() && two.is_some());
        assert!(peers.enter(&at("192.0.2.1")).is_none());
        let other = peers.enter(&at("192.0.2.2"));
        assert!(other.is_some());
        drop(one);
        assert!(peers.enter(&at("192.0.2.1")).is_some());
        drop((two, other));
        assert!(peers.counts.lock().expect("a lock").is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_peer() {
        let peers = Peers::new(1);
        let one = peers.enter(&at("2001:db8:0:1::1"));
        assert!(one.is_some());
        assert!(peers.enter(&at("2001:db8:0:1:ffff::2")).is_none());
        assert!(peers.enter(&at("2001:db8:0:2::1")).is_some());
    }
}
