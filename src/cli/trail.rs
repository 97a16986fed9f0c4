//! `sealdisk trail …`

use serde_json::{Value, json};

use super::arguments::{TrailCommand, TrailFilter};
use super::client::{ACTIONTRAIL, Client, text};
use super::failure::Failure;
use super::output::{Output, Table};
use crate::clock::{Clock, SystemClock, Timestamp};

/// Events in one answer: the most the API gives.
const PAGE_SIZE: u32 = 50;

pub(super) fn run(command: &TrailCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    let TrailCommand::List(filter) = command;
    let events = lookup(filter, client)?;
    let mut table =
        Table::new(&["TIME", "EVENT", "SERVICE", "RESOURCE", "WHO", "SOURCE", "RESULT"]);
    for event in &events {
        table.row(row(event).map(Into::into));
    }
    output.list(&json!({"Events": events}), &table, "no events in this time")
}

fn lookup(filter: &TrailFilter, client: &Client) -> Result<Vec<Value>, Failure> {
    let now = SystemClock::new().now();
    let start = now.unix_millis().saturating_sub_unsigned(filter.since.as_millis() as u64);
    let start = Timestamp::from_unix_millis(start.max(0)).to_string();
    let mut fixed = vec![("StartTime", start.as_str())];
    let conditions = [
        ("EventName", &filter.event),
        ("ServiceName", &filter.service),
        ("ResourceName", &filter.resource),
    ];
    for (name, value) in conditions {
        if let Some(value) = value {
            fixed.push(("LookupAttribute.1.Key", name));
            fixed.push(("LookupAttribute.1.Value", value));
        }
    }
    let mut events = Vec::new();
    let mut token = String::new();
    loop {
        let wanted = filter.limit as usize - events.len();
        let count = wanted.min(PAGE_SIZE as usize).to_string();
        let mut parameters = fixed.clone();
        parameters.push(("MaxResults", &count));
        if !token.is_empty() {
            parameters.push(("NextToken", &token));
        }
        let mut answer = client.call(ACTIONTRAIL, "LookupEvents", &parameters)?;
        if let Value::Array(page) = answer["Events"].take() {
            events.extend(page);
        }
        token = text(&answer, "NextToken").to_owned();
        if token.is_empty() || events.len() >= filter.limit as usize {
            events.truncate(filter.limit as usize);
            return Ok(events);
        }
    }
}

fn row(event: &Value) -> [String; 7] {
    let field = |name: &str| match text(event, name) {
        "" => "-".to_owned(),
        said => said.to_owned(),
    };
    let result = match text(event, "errorCode") {
        "" => "ok",
        code => code,
    };
    [
        field("eventTime"),
        field("eventName"),
        field("serviceName"),
        field("resourceName"),
        text(&event["userIdentity"], "userName").to_owned(),
        field("sourceIpAddress"),
        result.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = json!({
            "eventTime": "2026-01-05T03:04:05Z", "eventName": "Decrypt", "serviceName": "Kms",
            "resourceName": "k1", "userIdentity": {"userName": "root"},
            "sourceIpAddress": "unix:uid=0", "errorCode": "Rejected.Disabled",
        });
        let mut table = Table::new(&["A", "B", "C", "D", "E", "F", "G"]);
        table.row(row(&event).map(Into::into));
        assert_eq!(
            table.render(false).lines().nth(1).unwrap(),
            "2026-01-05T03:04:05Z  Decrypt  Kms  k1  root  unix:uid=0  Rejected.Disabled"
        );
        assert_eq!(row(&json!({"errorCode": ""}))[6], "ok");
    }
}
