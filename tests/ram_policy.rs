//! The policy language: held against an evaluator that is written for this test alone, plainly and
//! slowly, from the JSON of the document.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

use proptest::prelude::*;
use sealdisk::clock::Timestamp;
use sealdisk::ram::{Circumstances, Conditions, Decision, KeyPolicy, Policy, TrustPolicy};
use serde_json::{Value, json};

/// 2026-01-05T03:04:05Z.
const NOW: Timestamp = Timestamp::from_unix_millis(1_767_582_245_000);

// ---- the plain evaluator ----------------------------------------------------------------------

fn expected(document: &Value, action: &str, resource: &str, facts: &Conditions) -> Decision {
    let met = |effect: &str| {
        document["Statement"].as_array().unwrap().iter().any(|statement| {
            statement["Effect"] == effect
                && list(&statement["Action"])
                    .iter()
                    .any(|pattern| like(&pattern.to_lowercase(), &action.to_lowercase()))
                && list(&statement["Resource"]).iter().any(|pattern| like(pattern, resource))
                && conditions_hold(&statement["Condition"], facts)
        })
    };
    match (met("Deny"), met("Allow")) {
        (true, _) => Decision::ExplicitDeny,
        (false, true) => Decision::Allow,
        (false, false) => Decision::ImplicitDeny,
    }
}

fn list(value: &Value) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    value.as_array().map_or_else(|| vec![text(value)], |values| values.iter().map(text).collect())
}

/// By trying every split: exponential, and plainly right.
fn like(pattern: &str, text: &str) -> bool {
    let rest = |text: &str| text.chars().skip(1).collect::<String>();
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some('*'), None) => like(&rest(pattern), text),
        (Some('*'), Some(_)) => like(&rest(pattern), text) || like(pattern, &rest(text)),
        (Some('?'), Some(_)) => like(&rest(pattern), &rest(text)),
        (Some(a), Some(b)) => a == b && like(&rest(pattern), &rest(text)),
        (Some(_), None) => false,
    }
}

fn fact(key: &str, facts: &Conditions) -> Option<String> {
    match key {
        "acs:CurrentTime" => Some("2026-01-05T03:04:05Z".into()),
        "acs:SecureTransport" => Some(facts.secure_transport.to_string()),
        "acs:SourceIp" => facts.source.map(|address| address.to_string()),
        "acs:MFAPresent" => Some("false".into()),
        _ => facts
            .key_tags
            .iter()
            .find(|(name, _)| format!("kms:tag/{name}") == key)
            .map(|(_, value)| value.clone()),
    }
}

fn conditions_hold(conditions: &Value, facts: &Conditions) -> bool {
    let Some(operators) = conditions.as_object() else { return true };
    operators.iter().all(|(operator, keys)| {
        keys.as_object().unwrap().iter().all(|(key, values)| {
            let positive = operator.replace("Not", "");
            let is_negated = positive != *operator;
            match fact(key, facts) {
                None => is_negated,
                Some(value) => {
                    let any = list(values).iter().any(|wanted| compare(&positive, &value, wanted));
                    any != is_negated
                }
            }
        })
    })
}

fn compare(operator: &str, value: &str, wanted: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().ok();
    // All times of this test are in UTC and of one length: their order is that of the texts.
    let moment = |text: &str| (text.len() == 20).then(|| text.to_owned());
    match operator {
        "StringEquals" => value == wanted,
        "StringEqualsIgnoreCase" => value.eq_ignore_ascii_case(wanted),
        "StringLike" => like(wanted, value),
        "Bool" => value.eq_ignore_ascii_case(wanted) && (value == "true" || value == "false"),
        "IpAddress" => in_network(value, wanted),
        _ => match operator.strip_prefix("Numeric") {
            Some(order) => matches!((number(value), number(wanted)), (Some(a), Some(b)) if
                ordered(order, a.partial_cmp(&b).unwrap())),
            None => {
                let order = operator.strip_prefix("Date").unwrap();
                matches!((moment(value), moment(wanted)), (Some(a), Some(b)) if
                    ordered(order, a.cmp(&b)))
            }
        },
    }
}

fn ordered(order: &str, found: std::cmp::Ordering) -> bool {
    match order {
        "Equals" => found.is_eq(),
        "LessThan" => found.is_lt(),
        "LessThanEquals" => found.is_le(),
        "GreaterThan" => found.is_gt(),
        "GreaterThanEquals" => found.is_ge(),
        other => panic!("{other}"),
    }
}

/// Bit by bit, IPv4 alone.
fn in_network(address: &str, network: &str) -> bool {
    let bits = |text: &str| -> Vec<bool> {
        let octets = text.split('.').map(|octet| octet.parse::<u8>().unwrap());
        octets.flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
    };
    let (base, prefix) = network.split_once('/').unwrap_or((network, "32"));
    let prefix: usize = prefix.parse().unwrap();
    bits(address)[..prefix] == bits(base)[..prefix]
}

// ---- what is tried ----------------------------------------------------------------------------

fn one_or_many(element: impl Strategy<Value = String> + Clone) -> impl Strategy<Value = Value> {
    prop_oneof![
        element.clone().prop_map(Value::from),
        prop::collection::vec(element, 1..4).prop_map(Value::from),
    ]
}

fn action() -> impl Strategy<Value = String> + Clone {
    "(kms|k\\*|ecs|\\*|k\\?s):(Encrypt|De\\*|\\*|\\*crypt|Enc\\?ypt|ENCRYPT|decrypt)"
}

fn resource() -> impl Strategy<Value = String> + Clone {
    prop_oneof![
        Just("*".to_owned()),
        "acs:(kms|\\*):(r1|\\*):(1|\\*):(key/a|key/\\*|\\*|\\*/\\*|key/\\?|alias/\\*|\\*a\\*b\\*)",
    ]
}

fn text() -> impl Strategy<Value = String> + Clone {
    prop_oneof!["[aAbB*?]{0,4}", Just("true".to_owned())]
}

fn condition() -> impl Strategy<Value = (String, String, Value)> {
    let key = prop_oneof![
        Just("kms:tag/t"),
        Just("kms:tag/absent"),
        Just("acs:SecureTransport"),
        Just("acs:MFAPresent"),
        Just("acs:SourceIp"),
        Just("acs:CurrentTime"),
    ];
    let strings = ("String(Not)?(Equals|EqualsIgnoreCase|Like)", key.clone(), one_or_many(text()));
    let orders = "(Equals|NotEquals|LessThan|LessThanEquals|GreaterThan|GreaterThanEquals)";
    let numbers = (
        texts(&format!("Numeric{orders}")),
        prop_oneof![Just("kms:tag/n"), Just("kms:tag/t")],
        one_or_many("-?[0-3](\\.5)?"),
    );
    let dates = (
        texts(&format!("Date{orders}")),
        prop_oneof![Just("acs:CurrentTime"), Just("kms:tag/t")],
        one_or_many("202[567]-01-05T03:04:0[456]Z"),
    );
    let truths = (Just("Bool".to_owned()), key, one_or_many("(true|false|True|FALSE)"));
    let addresses = (
        "(Not)?IpAddress",
        Just("acs:SourceIp"),
        one_or_many("10\\.[01]\\.0\\.[0-3](/(0|8|15|16|30|31|32))?"),
    );
    prop_oneof![
        strings.prop_map(owned),
        numbers.prop_map(owned),
        dates.prop_map(owned),
        truths.prop_map(owned),
        addresses.prop_map(owned),
    ]
}

fn owned((operator, key, values): (String, &'static str, Value)) -> (String, String, Value) {
    // `StringNotEquals` and `NotIpAddress` are how the two families write their negations.
    (operator, key.to_owned(), values)
}

/// Texts of the form of a pattern that was put together.
fn texts(pattern: &str) -> impl Strategy<Value = String> + use<> {
    proptest::string::string_regex(pattern).unwrap()
}

fn statement() -> impl Strategy<Value = Value> {
    let effect = prop_oneof![2 => Just("Allow"), 1 => Just("Deny")];
    let conditions = prop::collection::vec(condition(), 0..3);
    (effect, one_or_many(action()), one_or_many(resource()), conditions).prop_map(
        |(effect, action, resource, conditions)| {
            let mut statement = json!({"Effect": effect, "Action": action, "Resource": resource});
            for (operator, key, values) in conditions {
                statement["Condition"][operator][key] = values;
            }
            statement
        },
    )
}

fn facts() -> impl Strategy<Value = Conditions> {
    let source = prop::option::of((0_u8..2, 0_u8..4).prop_map(|(b, d)| [10, b, 0, d].into()));
    let tags = (prop::option::of(text()), prop::option::of("-?[0-3](\\.5)?"));
    (source, any::<bool>(), tags).prop_map(|(source, secure_transport, (text, number))| {
        let text = text.map(|text| ("t".to_owned(), text));
        let number = number.map(|number| ("n".to_owned(), number));
        let key_tags = text.into_iter().chain(number).collect();
        Conditions { source, secure_transport, key_tags, ..Conditions::default() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_policy_says_what_the_plain_evaluator_says(
        statements in prop::collection::vec(statement(), 1..4),
        action in "(kms|ecs):(Encrypt|Decrypt|encrypt)",
        resource in "acs:kms:(r1|r2):1:(key/[ab]|alias/xaxbx|key)",
        facts in facts(),
    ) {
        let document = json!({"Version": "1", "Statement": statements});
        let policy = Policy::parse(&document.to_string()).unwrap();
        let at = Circumstances { now: NOW, conditions: &facts };
        prop_assert_eq!(
            policy.decide(&action, &resource, &at),
            expected(&document, &action, &resource, &facts)
        );
    }

    #[test]
    fn wildcards_match_as_every_split_does(pattern in "[ab*?]{0,7}", text in "[ab]{0,7}") {
        prop_assert_eq!(sealdisk::ram::wildcard::matches(&pattern, &text), like(&pattern, &text));
    }

    #[test]
    fn no_text_makes_a_parser_fall(text in "\\PC{0,200}") {
        let _ = Policy::parse(&text);
        let _ = KeyPolicy::parse(&text);
        let _ = TrustPolicy::parse(&text);
    }

    #[test]
    fn a_document_with_one_character_changed_is_read_or_refused(
        statement in statement(),
        at in any::<prop::sample::Index>(),
        other in any::<char>(),
    ) {
        let text = json!({"Version": "1", "Statement": [statement]}).to_string();
        let mut chars: Vec<char> = text.chars().collect();
        let at = at.index(chars.len());
        chars[at] = other;
        let _ = Policy::parse(&chars.into_iter().collect::<String>());
    }
}

#[test]
fn an_overlong_name_is_met_by_nothing() {
    let everything =
        r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
    let policy = Policy::parse(everything).unwrap();
    let facts = Conditions::default();
    let at = Circumstances { now: NOW, conditions: &facts };
    let decide = |length: usize| policy.decide("kms:Encrypt", &"x".repeat(length), &at);
    assert_eq!(decide(sealdisk::ram::NAME_BYTES_MAX), Decision::Allow);
    assert_eq!(decide(sealdisk::ram::NAME_BYTES_MAX + 1), Decision::ImplicitDeny);
}

#[test]
fn the_longest_policy_is_evaluated_in_no_time() {
    let stars = "*a".repeat(2900);
    let document = json!({"Version": "1", "Statement": [
        {"Effect": "Deny", "Action": "*", "Resource": format!("acs:k:r:1:{stars}b")},
    ]});
    let policy = Policy::parse(&document.to_string()).unwrap();
    let facts = Conditions::default();
    let at = Circumstances { now: NOW, conditions: &facts };
    let resource = format!("acs:k:r:1:{}", "a".repeat(2000));
    // Two to the power of thousands of steps would not end.
    assert_eq!(policy.decide("kms:Encrypt", &resource, &at), Decision::ImplicitDeny);
}
