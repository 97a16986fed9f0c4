//! ActionTrail 2020-07-06.

use super::Api;
use super::answer::Answer;
use super::dispatch::{Handler, authorise};
use super::error::ApiError;
use super::rpc::Parameters;
use crate::clock::Timestamp;
use crate::ram::Caller;
use crate::trail::{Attribute, Direction, Event, LOOKUP_RESULTS_MAX, Query, Service};

pub(super) fn handler(action: &str) -> Option<Handler> {
    match action {
        "LookupEvents" => Some(lookup_events),
        _ => None,
    }
}

fn lookup_events(api: &Api, caller: &Caller, parameters: &Parameters) -> Result<Answer, ApiError> {
    authorise(api, caller, ("actiontrail", "LookupEvents"), "event")?;
    let direction = match parameters.filled("Direction") {
        None | Some("BACKWARD") => Direction::Backward,
        Some("FORWARD") => Direction::Forward,
        Some(_) => return Err(ApiError::invalid("Direction")),
    };
    let query = Query {
        start: moment(parameters, "StartTime")?,
        end: moment(parameters, "EndTime")?,
        direction,
        max_results: parameters.integer("MaxResults", 0..=LOOKUP_RESULTS_MAX)?,
        next_token: parameters.filled("NextToken").map(str::to_owned),
        filter: condition(parameters)?,
    };
    let page = api.trail.lookup(&query)?;
    // After the looking, so that it does not find itself, and before the answer.
    api.trail.record(&looked(api, caller, parameters))?;
    let mut answer = Answer::new()
        .with("Events", page.events)
        .with("StartTime", page.start.to_string())
        .with("EndTime", page.end.to_string());
    if let Some(token) = page.next_token {
        answer = answer.with("NextToken", token);
    }
    Ok(answer)
}

/// Who looked, and for what: a page that follows another is a look of its own.
fn looked(api: &Api, caller: &Caller, parameters: &Parameters) -> Event {
    let actor = api.kms.account().actor(caller);
    let event = Event::new(Service::ActionTrail, "LookupEvents", actor).read_only();
    let asked = [
        "StartTime",
        "EndTime",
        "Direction",
        "MaxResults",
        "LookupAttribute.1.Key",
        "LookupAttribute.1.Value",
    ];
    asked.into_iter().fold(event, |event, name| match parameters.filled(name) {
        Some(value) => event.request(name, value),
        None => event,
    })
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
    let attribute = Attribute::parse(key).ok_or_else(|| ApiError::invalid(KEY))?;
    Ok(Some((attribute, parameters.required("LookupAttribute.1.Value")?.to_owned())))
}
