//! Policies of users, keys and roles, and wildcards.
//!
//! Input: an action and a resource, each on a line, then a policy document.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sealdisk::clock::Timestamp;
use sealdisk::ram::{Circumstances, Conditions, Decision, KeyPolicy, Policy, TrustPolicy};
use sealdisk::ram::{NAME_BYTES_MAX, wildcard};

const WHO: &str = "acs:ram::1000000000000001:user/ann";

/// Characters the plain matcher is asked about: it takes time and memory by the square.
const PLAIN_CHARS_MAX: usize = 200;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.splitn(3, '\n');
    let mut part = || parts.next().unwrap_or_default();
    let (action, resource, document) = (part(), part(), part());
    check_wildcard(action, resource);

    let conditions = Conditions {
        source: Some([192, 0, 2, 7].into()),
        secure_transport: true,
        key_tags: vec![("team".to_owned(), "disks".to_owned())],
        is_service_key: false,
    };
    let now = Timestamp::from_unix_millis(1_767_582_245_000);
    let circumstances = Circumstances { now, conditions: &conditions };
    let decisions = [
        Policy::parse(document)
            .map(|policy| policy.decide(action, resource, &circumstances))
            .map_err(|error| error.to_string()),
        KeyPolicy::parse(document)
            .map(|policy| policy.decide(WHO, action, resource, &circumstances))
            .map_err(|error| error.to_string()),
    ];
    for decision in decisions {
        match decision {
            Ok(Decision::ImplicitDeny) => {}
            Ok(_) => assert!(action.len() <= NAME_BYTES_MAX && resource.len() <= NAME_BYTES_MAX),
            Err(message) => assert!(!message.is_empty()),
        }
    }
    if let Ok(policy) = TrustPolicy::parse(document) {
        policy.trusts_service("ecs.aliyuncs.com", now);
    }
});

fn check_wildcard(pattern: &str, text: &str) {
    let matches = wildcard::matches(pattern, text);
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    if pattern.len().max(text.len()) <= PLAIN_CHARS_MAX {
        assert_eq!(matches, plain(&pattern, &text));
    }
}

/// `ends[n]`: the pattern so far stands for the first `n` characters.
fn plain(pattern: &[char], text: &[char]) -> bool {
    let mut ends = vec![false; text.len() + 1];
    ends[0] = true;
    for wanted in pattern {
        let mut next = vec![false; text.len() + 1];
        match wanted {
            '*' => {
                let first = ends.iter().position(|end| *end).unwrap_or(ends.len());
                next[first..].fill(true);
            }
            wanted => {
                for (at, found) in text.iter().enumerate() {
                    next[at + 1] = ends[at] && (*wanted == '?' || wanted == found);
                }
            }
        }
        ends = next;
    }
    ends[text.len()]
}
