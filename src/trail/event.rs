//! One event, in the form ActionTrail publishes (2020-07-06).
//!
//! Parameters are named one by one by the operation that records: nothing is copied wholesale from
//! a request, and a name that stands for a secret is refused here once more.

use serde_json::{Map, Value, json};
use std::borrow::Cow;
use uuid::Uuid;

use super::chain::LINE_BYTES_MAX;
use crate::clock::Timestamp;

/// Names whose values are secrets, or as good as: never recorded, whoever asks.
const SECRET_NAMES: [&str; 14] = [
    "Plaintext",
    "CiphertextBlob",
    "CiphertextForRecipient",
    "PublicKeyBlob",
    "EncryptedKeyMaterial",
    "KeyMaterial",
    "ImportToken",
    "ExportedDataKey",
    "DataKey",
    "VolumeKey",
    "AccessKeySecret",
    "SecurityToken",
    "Signature",
    "Password",
];

/// Longest text of one value, in characters; the rest is left out.
const VALUE_CHARS_MAX: usize = 8192;

/// Room in a line beside the event: numbers and MACs.
const LINE_FRAME_BYTES_MAX: usize = 512;

/// Which product an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Key management.
    Kms,
    /// Disks.
    Ecs,
    /// Users and policies.
    Ram,
    /// The trail itself.
    ActionTrail,
}

/// What caused an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Somebody called.
    ApiCall,
    /// The service acted by itself: rotation, expiry, deletion.
    ServiceEvent,
}

/// What kind of thing an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceType {
    /// A KMS key.
    Key,
    /// An alias of a KMS key.
    Alias,
    /// A disk.
    Disk,
    /// A snapshot.
    Snapshot,
    /// An image.
    Image,
    /// A RAM user.
    User,
    /// A RAM role.
    Role,
    /// A RAM policy.
    Policy,
    /// An access key.
    AccessKey,
}

/// Who did it, from where, in which account.
#[derive(Clone, Debug)]
pub struct Actor {
    /// Shared with the answer.
    pub request_id: Uuid,
    /// 16 digits: whose trail this is.
    pub account_id: String,
    /// Region of the service.
    pub region: String,
    /// Address, or `unix:uid=0`.
    pub source: String,
    /// What the client says of itself.
    pub user_agent: String,
    /// `userIdentity` as `ram` gives it.
    pub user_identity: Map<String, Value>,
}

/// One event, to be recorded.
#[derive(Clone, Debug)]
pub struct Event {
    service: Service,
    name: Cow<'static, str>,
    kind: EventKind,
    is_read: bool,
    actor: Actor,
    resources: Vec<(ResourceType, String)>,
    request: Map<String, Value>,
    response: Map<String, Value>,
    error: Option<(String, String)>,
}

impl Event {
    /// An event called `name` (`Encrypt`) by `actor`, a write until [`Event::read_only`] says else.
    pub fn new(service: Service, name: impl Into<Cow<'static, str>>, actor: Actor) -> Self {
        Self {
            service,
            name: name.into(),
            kind: EventKind::ApiCall,
            is_read: false,
            actor,
            resources: Vec::new(),
            request: Map::new(),
            response: Map::new(),
            error: None,
        }
    }

    /// It changes nothing.
    #[must_use]
    pub const fn read_only(mut self) -> Self {
        self.is_read = true;
        self
    }

    /// What caused it.
    #[must_use]
    pub const fn kind(mut self, kind: EventKind) -> Self {
        self.kind = kind;
        self
    }

    /// It is about this thing; the first one named is the main one.
    #[must_use]
    pub fn resource(mut self, kind: ResourceType, name: &str) -> Self {
        self.resources.push((kind, bounded(name)));
        self
    }

    /// A parameter of the request. One that stands for a secret is left out.
    #[must_use]
    pub fn request(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        insert(&mut self.request, name, value.into());
        self
    }

    /// An element of the answer. One that stands for a secret is left out.
    #[must_use]
    pub fn response(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        insert(&mut self.response, name, value.into());
        self
    }

    /// It was refused, or failed.
    #[must_use]
    pub fn error(mut self, code: &str, message: &str) -> Self {
        self.error = Some((bounded(code), bounded(message)));
        self
    }

    /// The published JSON, on one line.
    pub(super) fn render(&self, id: Uuid, now: Timestamp) -> String {
        let text = self.to_json(id, now, true).to_string();
        if text.len() + LINE_FRAME_BYTES_MAX <= LINE_BYTES_MAX {
            return text;
        }
        self.to_json(id, now, false).to_string()
    }

    fn to_json(&self, id: Uuid, now: Timestamp, with_parameters: bool) -> Value {
        let actor = &self.actor;
        let omitted = || json!({ "omitted": "too long" });
        let kept = |map: &Map<String, Value>| {
            if with_parameters { Value::Object(map.clone()) } else { omitted() }
        };
        let mut event = json!({
            "eventId": id.to_string(),
            "eventVersion": 1,
            "eventCategory": "Management",
            "eventName": self.name,
            "eventRW": if self.is_read { "Read" } else { "Write" },
            "eventType": self.kind.as_str(),
            "eventSource": format!("{}.{}.aliyuncs.com", self.service.endpoint(), actor.region),
            "eventTime": now.to_string(),
            "serviceName": self.service.as_str(),
            "apiVersion": self.service.api_version(),
            "acsRegion": actor.region,
            "requestId": actor.request_id.to_string(),
            "sourceIpAddress": bounded(&actor.source),
            "userAgent": bounded(&actor.user_agent),
            "isGlobal": false,
            "recipientAccountId": actor.account_id,
            "userIdentity": actor.user_identity,
            "requestParameters": kept(&self.request),
            "responseElements": kept(&self.response),
            "additionalEventData": {},
        });
        if let Some((kind, name)) = self.resources.first() {
            event["resourceType"] = kind.as_str().into();
            event["resourceName"] = name.as_str().into();
            event["referencedResources"] = self.referenced();
        }
        if let Some((code, message)) = &self.error {
            event["errorCode"] = code.as_str().into();
            event["errorMessage"] = message.as_str().into();
        }
        event
    }

    fn referenced(&self) -> Value {
        let mut by_type: Map<String, Value> = Map::new();
        for (kind, name) in &self.resources {
            let names = by_type.entry(kind.as_str()).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(names) = names {
                names.push(name.as_str().into());
            }
        }
        by_type.into()
    }
}

impl Service {
    /// `serviceName` in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kms => "Kms",
            Self::Ecs => "Ecs",
            Self::Ram => "Ram",
            Self::ActionTrail => "Actiontrail",
        }
    }

    /// Version of its published API.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Kms => "2016-01-20",
            Self::Ecs => "2014-05-26",
            Self::Ram => "2015-05-01",
            Self::ActionTrail => "2020-07-06",
        }
    }

    const fn endpoint(self) -> &'static str {
        match self {
            Self::Kms => "kms",
            Self::Ecs => "ecs",
            Self::Ram => "ram",
            Self::ActionTrail => "actiontrail",
        }
    }
}

impl EventKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::ApiCall => "ApiCall",
            Self::ServiceEvent => "AliyunServiceEvent",
        }
    }
}

impl ResourceType {
    /// `resourceType` in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "ACS::KMS::Key",
            Self::Alias => "ACS::KMS::Alias",
            Self::Disk => "ACS::ECS::Disk",
            Self::Snapshot => "ACS::ECS::Snapshot",
            Self::Image => "ACS::ECS::Image",
            Self::User => "ACS::RAM::User",
            Self::Role => "ACS::RAM::Role",
            Self::Policy => "ACS::RAM::Policy",
            Self::AccessKey => "ACS::RAM::AccessKey",
        }
    }
}

fn insert(map: &mut Map<String, Value>, name: &str, value: Value) {
    if SECRET_NAMES.iter().any(|secret| secret.eq_ignore_ascii_case(name)) {
        return;
    }
    let value = match value {
        Value::String(text) => bounded(&text).into(),
        other => other,
    };
    map.insert(name.to_owned(), value);
}

fn bounded(text: &str) -> String {
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor() -> Actor {
        Actor {
            request_id: Uuid::nil(),
            account_id: "1000000000000001".into(),
            region: "cn-hangzhou".into(),
            source: "unix:uid=0".into(),
            user_agent: "test".into(),
            user_identity: Map::new(),
        }
    }

    #[test]
    fn no_secret_gets_in_by_name() {
        let mut event = Event::new(Service::Kms, "Encrypt", actor());
        for name in SECRET_NAMES {
            event = event.request(name, "hunter2").response(name, "hunter2");
        }
        event = event.request("ciphertextblob", "hunter2").request("KeyId", "k");
        let text = event.render(Uuid::nil(), Timestamp::default());
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains(r#""requestParameters":{"KeyId":"k"}"#), "{text}");
    }

    #[test]
    fn the_longest_event_fits_a_line() {
        let long = "\u{1}".repeat(100_000);
        let mut event =
            Event::new(Service::Kms, "Encrypt", actor()).resource(ResourceType::Key, &long);
        for name in ["A", "B", "C", "D", "E", "F"] {
            event = event.request(name, long.as_str());
        }
        let text = event.error("X", "Y").render(Uuid::nil(), Timestamp::default());
        assert!(text.len() + LINE_FRAME_BYTES_MAX <= LINE_BYTES_MAX, "{}", text.len());
        assert!(text.contains("too long"));
    }
}
