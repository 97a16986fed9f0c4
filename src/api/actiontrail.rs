//! ActionTrail 2020-07-06.

use std::time::Duration;

use super::Api;
use super::answer::Answer;
use super::dispatch::{Handler, authorise};
use super::error::ApiError;
use super::rpc::Parameters;
use crate::clock::Timestamp;
use crate::ram::Caller;
use crate::trail::{Attribute, Direction, LOOKUP_RESULTS_MAX, Query};

/// How far back events are looked for unless told otherwise.
const DEFAULT_SPAN: Duration = Duration::from_secs(7 * 24 * 3600);

pub(super) fn handler(action: &str) -> Option<Handler> {
    match action {
        "LookupEvents" => Some(lookup_events),
        _ => None,
    }
}

fn lookup_events(api: &Api, caller: &Caller, parameters: &Parameters) -> Result<Answer, ApiError> {
    authorise(api, caller, ("actiontrail", "LookupEvents"), "*")?;
    let end = moment(parameters, "EndTime")?.unwrap_or_else(|| api.clock.now());
    let week_before = end.unix_millis() - DEFAULT_SPAN.as_millis() as i64;
    let start = moment(parameters, "StartTime")?
        .unwrap_or_else(|| Timestamp::from_unix_millis(week_before));
    let direction = match parameters.filled("Direction") {
        None | Some("BACKWARD") => Direction::Backward,
        Some("FORWARD") => Direction::Forward,
        Some(_) => return Err(ApiError::invalid("Direction")),
    };
    let query = Query {
        start: Some(start),
        end: Some(end),
        direction,
        max_results: parameters.integer("MaxResults", 0..=LOOKUP_RESULTS_MAX)?,
        next_token: parameters.filled("NextToken").map(str::to_owned),
        filter: condition(parameters)?,
    };
    let page = api.trail.lookup(&query)?;
    let mut answer = Answer::new()
        .with("Events", page.events)
        .with("StartTime", start.to_string())
        .with("EndTime", end.to_string());
    if let Some(token) = page.next_token {
        answer = answer.with("NextToken", token);
    }
    Ok(answer)
}

fn moment(parameters: &Parameters, name: &str) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = parameters.filled(name) else { return Ok(None) };
    Timestamp::parse(text).map(Some).ok_or_else(|| ApiError::invalid(name))
}

/// One condition at most, as the cloud has it.
fn condition(parameters: &Parameters) -> Result<Option<(Attribute, String)>, ApiError> {
    const KEY: &str = "LookupAttribute.1.Key";
    parameters.refuse(&["LookupAttribute.2.Key"])?;
    let Some(key) = parameters.filled(KEY) else { return Ok(None) };
    let attribute = match key {
        "ServiceName" => Attribute::ServiceName,
        "EventName" => Attribute::EventName,
        "User" => Attribute::User,
        "EventId" => Attribute::EventId,
        "ResourceType" => Attribute::ResourceType,
        "ResourceName" => Attribute::ResourceName,
        "EventRW" => Attribute::EventRw,
        "EventAccessKeyId" => Attribute::EventAccessKeyId,
        _ => return Err(ApiError::invalid(KEY)),
    };
    Ok(Some((attribute, parameters.required("LookupAttribute.1.Value")?.to_owned())))
}
