//! The conditions of a statement: operator, key, values.
//!
//! Several values are alternatives. A key that the call has no value for meets no operator but the
//! negated ones: `NotIpAddress` holds for a call that came from no address.

use std::borrow::Cow;
use std::net::IpAddr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Caller, wildcard};
use crate::clock::Timestamp;

/// The circumstances of a call that its caller does not choose.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// `acs:SourceIp`; none if the call never left this host.
    pub source: Option<IpAddr>,
    /// `acs:SecureTransport`: nobody on the way could listen.
    pub secure_transport: bool,
    /// The tags of the key: `kms:tag/<key>`.
    pub key_tags: Vec<(String, String)>,
    /// The resource is a service key, used by the service it belongs to.
    pub is_service_key: bool,
}

impl Conditions {
    /// Those that come with the call itself.
    pub fn of(caller: &Caller) -> Self {
        Self {
            source: caller.route.address,
            secure_transport: caller.route.is_secure,
            ..Self::default()
        }
    }
}

/// The circumstances and the moment at which they are judged.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// `acs:CurrentTime`.
    pub now: Timestamp,
    /// Everything else.
    pub conditions: &'a Conditions,
}

impl<'a> Circumstances<'a> {
    /// The value of a condition key; `None` if this call has none.
    fn value(&self, key: &str) -> Option<Cow<'a, str>> {
        let truth = |truth: bool| Some(Cow::Borrowed(if truth { "true" } else { "false" }));
        match key {
            "acs:CurrentTime" => Some(self.now.to_string().into()),
            "acs:SecureTransport" => truth(self.conditions.secure_transport),
            "acs:SourceIp" => self.conditions.source.map(|at| at.to_canonical().to_string().into()),
            // An access key is the only way to be known here, and no second factor goes with it.
            "acs:MFAPresent" => truth(false),
            _ => {
                let wanted = key.strip_prefix("kms:tag/")?;
                let tags = &self.conditions.key_tags;
                let (_, value) = tags.iter().find(|(name, _)| name == wanted)?;
                Some(value.as_str().into())
            }
        }
    }
}

/// One operator on one key.
#[derive(Debug)]
pub(super) struct Condition {
    key: String,
    is_negated: bool,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Equals(Vec<String>),
    EqualsIgnoreCase(Vec<String>),
    Like(Vec<String>),
    Number(Order, Vec<f64>),
    Date(Order, Vec<i128>),
    Bool(Vec<bool>),
    Address(Vec<Network>),
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Bits before the IPv4 address in an IPv6 one that stands for it.
const MAPPED_BITS: u8 = 96;

/// Addresses that share their first bits.
#[derive(Clone, Copy, Debug)]
struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why a condition is none.
pub(super) enum Fault {
    /// No operator of this name.
    Operator,
    /// The value is none of the operator's type.
    Value(String),
}

impl Condition {
    pub(super) fn read(operator: &str, key: &str, values: Vec<String>) -> Result<Self, Fault> {
        let (is_negated, test) = match operator {
            "StringEquals" => (false, Test::Equals(values)),
            "StringNotEquals" => (true, Test::Equals(values)),
            "StringEqualsIgnoreCase" => (false, Test::EqualsIgnoreCase(lowered(&values))),
            "StringNotEqualsIgnoreCase" => (true, Test::EqualsIgnoreCase(lowered(&values))),
            "StringLike" => (false, Test::Like(values)),
            "StringNotLike" => (true, Test::Like(values)),
            "Bool" => (false, Test::Bool(each(&values, truth)?)),
            "IpAddress" => (false, Test::Address(each(&values, Network::read)?)),
            "NotIpAddress" => (true, Test::Address(each(&values, Network::read)?)),
            _ => {
                let typed = |rest: &'static str| operator.strip_prefix(rest);
                if let Some(order) = typed("Numeric") {
                    let (is_negated, order) = Order::read(order).ok_or(Fault::Operator)?;
                    (is_negated, Test::Number(order, each(&values, number)?))
                } else {
                    let order = typed("Date").and_then(Order::read);
                    let (is_negated, order) = order.ok_or(Fault::Operator)?;
                    (is_negated, Test::Date(order, each(&values, moment)?))
                }
            }
        };
        Ok(Self { key: key.to_owned(), is_negated, test })
    }

    pub(super) fn holds(&self, circumstances: &Circumstances<'_>) -> bool {
        let Some(value) = circumstances.value(&self.key) else { return self.is_negated };
        self.test.holds(&value) != self.is_negated
    }
}

impl Test {
    /// Whether `value` meets one of the alternatives. A value of another type meets none.
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Equals(wanted) => wanted.iter().any(|wanted| wanted == value),
            Self::EqualsIgnoreCase(wanted) => {
                let value = value.to_lowercase();
                wanted.contains(&value)
            }
            Self::Like(patterns) => {
                patterns.iter().any(|pattern| wildcard::matches(pattern, value))
            }
            Self::Number(order, wanted) => number(value)
                .is_some_and(|value| wanted.iter().any(|wanted| order.holds(&value, wanted))),
            Self::Date(order, wanted) => moment(value)
                .is_some_and(|value| wanted.iter().any(|wanted| order.holds(&value, wanted))),
            Self::Bool(wanted) => truth(value).is_some_and(|value| wanted.contains(&value)),
            Self::Address(networks) => value.parse().is_ok_and(|address: IpAddr| {
                networks.iter().any(|network| network.contains(address))
            }),
        }
    }
}

impl Order {
    /// What follows `Numeric` or `Date`; and whether it is the negation.
    fn read(name: &str) -> Option<(bool, Self)> {
        Some(match name {
            "Equals" => (false, Self::Equal),
            "NotEquals" => (true, Self::Equal),
            "LessThan" => (false, Self::Less),
            "LessThanEquals" => (false, Self::LessOrEqual),
            "GreaterThan" => (false, Self::Greater),
            "GreaterThanEquals" => (false, Self::GreaterOrEqual),
            _ => return None,
        })
    }

    fn holds<T: PartialOrd>(self, value: &T, wanted: &T) -> bool {
        match self {
            Self::Equal => value == wanted,
            Self::Less => value < wanted,
            Self::LessOrEqual => value <= wanted,
            Self::Greater => value > wanted,
            Self::GreaterOrEqual => value >= wanted,
        }
    }
}

impl Network {
    /// `10.0.0.0/8`, `2001:db8::/32`, or one address.
    fn read(text: &str) -> Option<Self> {
        let Some((address, prefix)) = text.split_once('/') else {
            let address = text.parse::<IpAddr>().ok()?.to_canonical();
            return Some(Self { address, prefix: bits_of(address) });
        };
        let address: IpAddr = address.parse().ok()?;
        let is_plain = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u8 = is_plain.then(|| prefix.parse().ok())??;
        // Callers' addresses are compared in IPv4 form where they have one.
        let (address, prefix) = match (address.to_canonical(), prefix.checked_sub(MAPPED_BITS)) {
            (mapped @ IpAddr::V4(_), Some(rest)) if address.is_ipv6() => (mapped, rest),
            _ => (address, prefix),
        };
        (prefix <= bits_of(address)).then_some(Self { address, prefix })
    }

    fn contains(self, other: IpAddr) -> bool {
        let differ = match (self.address, other.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(other)) => {
                u128::from((ours.to_bits() ^ other.to_bits()).leading_zeros())
            }
            (IpAddr::V6(ours), IpAddr::V6(other)) => {
                u128::from((ours.to_bits() ^ other.to_bits()).leading_zeros())
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        differ >= u128::from(self.prefix)
    }
}

const fn bits_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn each<T>(values: &[String], read: fn(&str) -> Option<T>) -> Result<Vec<T>, Fault> {
    values.iter().map(|text| read(text).ok_or_else(|| Fault::Value(text.clone()))).collect()
}

fn lowered(values: &[String]) -> Vec<String> {
    values.iter().map(|value| value.to_lowercase()).collect()
}

fn truth(text: &str) -> Option<bool> {
    let is = |word| text.eq_ignore_ascii_case(word);
    is("true").then_some(true).or_else(|| is("false").then_some(false))
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Nanoseconds since 1970 of `2026-01-05T03:04:05Z`, also with another offset.
fn moment(text: &str) -> Option<i128> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses() {
        let within = |network: &str, address: &str| {
            Network::read(network).unwrap().contains(address.parse().unwrap())
        };
        assert!(within("10.0.0.0/8", "10.255.1.2"));
        assert!(!within("10.0.0.0/8", "11.0.0.0"));
        assert!(within("0.0.0.0/0", "1.2.3.4"));
        assert!(!within("0.0.0.0/0", "::1"));
        assert!(within("10.1.2.3", "10.1.2.3") && !within("10.1.2.3", "10.1.2.2"));
        assert!(within("10.0.0.0/8", "::ffff:10.1.1.1"), "a mapped address is the IPv4 one");
        assert!(within("::ffff:10.0.0.0/104", "10.1.1.1"), "a mapped network is the IPv4 one");
        assert!(!within("::ffff:10.0.0.0/104", "11.0.0.0"));
        assert!(within("2001:db8::/32", "2001:db8:1::1"));
        for text in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.0.0/8", "::/129", "x"] {
            assert!(Network::read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn values_have_one_form() {
        assert_eq!(truth("TRUE"), Some(true));
        assert_eq!(truth("1"), None);
        assert_eq!(number("-2.5"), Some(-2.5));
        assert_eq!((number("inf"), number("nan"), number("")), (None, None, None));
        assert_eq!(moment("2026-01-05T04:04:05+01:00"), moment("2026-01-05T03:04:05Z"));
        assert_eq!(moment("2026-01-05"), None);
    }
}
