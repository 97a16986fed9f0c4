//! Which function answers which action.

use super::answer::Answer;
use super::error::ApiError;
use super::rpc::{Call, Parameters, Product};
use super::{Api, actiontrail, ecs, kms, own, ram};
use crate::ram::{Caller, Conditions, Denial};

/// One action: parses its parameters, calls the domain, words the answer. Blocking.
pub(super) type Handler = fn(&Api, &Caller, &Parameters) -> Result<Answer, ApiError>;

/// The handler of an action; names are case-sensitive, as the cloud's are.
pub(super) fn find(call: &Call) -> Result<Handler, ApiError> {
    let handler = match call.product {
        Product::Kms => kms::handler(&call.action),
        Product::Ecs => ecs::handler(&call.action),
        Product::ActionTrail => actiontrail::handler(&call.action),
        Product::Ram => ram::handler(&call.action),
        Product::Own => own::handler(&call.action),
    };
    handler.ok_or_else(|| {
        let message = "Specified api is not found, please check your url and method.";
        ApiError::new(404, "InvalidAction.NotFound", message)
    })
}

/// Asks the policy, for the few actions that end in this rank; KMS and disks ask for themselves.
/// `relative` names the resource within the account, as in `disk/d-…`.
pub(super) fn authorise(
    api: &Api,
    caller: &Caller,
    (service, action): (&str, &str),
    relative: &str,
) -> Result<(), ApiError> {
    // Users and policies are of no region.
    let region = if service == "ram" { "" } else { api.region.as_str() };
    let resource = format!("acs:{service}:{region}:{}:{relative}", api.account_id);
    authorise_on(api, caller, (service, action), &resource)
}

/// As [`authorise`], for a resource by its whole name.
pub(super) fn authorise_on(
    api: &Api,
    caller: &Caller,
    (service, action): (&str, &str),
    resource: &str,
) -> Result<(), ApiError> {
    let action = format!("{service}:{action}");
    let conditions = Conditions::of(caller);
    let decision = api.ram.decide(&caller.principal, &action, resource, &conditions)?;
    let Some(denial) = Denial::of(&caller.principal, &action, decision) else { return Ok(()) };
    let refusal = match service {
        "ram" => ApiError::new(403, "NoPermission", "You are not authorized to do this action."),
        _ => {
            let message = "This operation is forbidden by permission system.";
            ApiError::new(403, "Forbidden.NoPermission", message)
        }
    };
    Err(ApiError { denial: Some(Box::new(denial)), ..refusal })
}
