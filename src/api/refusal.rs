//! Refusals that no operation has seen, for the trail.
//!
//! What an operation of KMS or disks refuses, it records itself. What is refused on the way there
//! (a parameter is missing or cannot be, the policy says no) would leave no trace. Only calls of
//! somebody who may call at all come here, so that strangers cannot fill the trail.

use super::Api;
use super::error::ApiError;
use super::rpc::{Call, Product};
use crate::ram::{Caller, ServiceActsAs};
use crate::trail::{Actor, Event, Service};

/// Records `error` unless that has been done; gives back what to answer.
pub(super) fn record(api: &Api, call: &Call, caller: &Caller, error: ApiError) -> ApiError {
    if error.is_recorded {
        return error;
    }
    let service = match call.product {
        Product::Kms => Service::Kms,
        Product::Ecs | Product::Own => Service::Ecs,
        Product::ActionTrail => Service::ActionTrail,
        Product::Ram => Service::Ram,
    };
    let actor = Actor {
        request_id: caller.request_id,
        account_id: api.account_id.clone(),
        region: api.region.clone(),
        source: caller.source.clone(),
        user_agent: caller.user_agent.clone(),
        user_identity: caller.user_identity(&api.account_id, &ServiceActsAs::Itself),
    };
    let event = Event::new(service, call.action.clone(), actor);
    let is_read =
        ["Describe", "List", "Lookup", "Get"].iter().any(|verb| call.action.starts_with(verb));
    let event = if is_read { event.read_only() } else { event };
    match api.trail.record(&event.error(&error.code, &error.message)) {
        Ok(()) => error,
        Err(failure) => {
            let message = format!("nothing was done: {failure}");
            ApiError::new(503, "ServiceUnavailableTemporary", message)
        }
    }
}
