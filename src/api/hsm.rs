//! Tokens, under our own version: how they are, what is in them that nobody knows, rotation by
//! hand.

use serde_json::{Value, json};

use super::answer::Answer;
use super::dispatch::{Handler, authorise};
use super::error::ApiError;
use super::rpc::Parameters;
use super::{Api, OWN_SERVICE};
use crate::kms::{Orphan, TokenReport};
use crate::ram::Caller;
use crate::token::TokenState;
use crate::trail::{Event, Service};

type Answered = Result<Answer, ApiError>;

pub(super) fn handler(action: &str) -> Option<Handler> {
    Some(match action {
        "RotateKey" => rotate_key,
        "DescribeHsms" => describe_hsms,
        "ListHsmOrphans" => list_hsm_orphans,
        "DestroyHsmOrphans" => destroy_hsm_orphans,
        _ => return None,
    })
}

/// A new primary version of a symmetric key, at once.
fn rotate_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let version_id = api.kms.rotate_key(caller, parameters.required("KeyId")?)?;
    Ok(Answer::new().with("KeyVersionId", version_id))
}

fn describe_hsms(api: &Api, caller: &Caller, _: &Parameters) -> Answered {
    authorise(api, caller, (OWN_SERVICE, "DescribeHsms"), "hsm")?;
    let event = Event::new(Service::Kms, "DescribeHsms", api.kms.account().actor(caller));
    api.trail.record(&event.read_only())?;
    let hsms: Vec<Value> = api.kms.tokens().iter().map(hsm).collect();
    Ok(Answer::new().with("Hsms", json!({ "Hsm": hsms })))
}

fn hsm(report: &TokenReport) -> Value {
    let mut item = json!({
        "Name": report.name,
        "KmsInstanceId": report.instance_id,
        "WaitingCalls": report.load.waiting,
        "HungWorkers": report.load.hung,
        "ReplacedWorkers": report.load.replaced,
    });
    match &report.state {
        TokenState::Up { found, since } => {
            item["State"] = "Available".into();
            item["Since"] = since.to_string().into();
            item["Token"] = found.label.as_str().into();
            item["SerialNumber"] = found.serial.as_str().into();
            item["Model"] = format!("{} {}", found.manufacturer, found.model).into();
        }
        TokenState::Down { cause, since } => {
            item["State"] = "Unavailable".into();
            item["Since"] = since.map(|since| since.to_string()).into();
            item["Cause"] = cause.to_string().into();
        }
    }
    item
}

fn list_hsm_orphans(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    orphans(api, caller, parameters, false)
}

fn destroy_hsm_orphans(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    orphans(api, caller, parameters, true)
}

fn orphans(api: &Api, caller: &Caller, parameters: &Parameters, is_to_destroy: bool) -> Answered {
    let orphans = api.kms.orphans(caller, parameters.required("Name")?, is_to_destroy)?;
    let item = |orphan: &Orphan| {
        json!({
            "ObjectId": orphan.id,
            "Label": orphan.label,
            "IsOfKnownKey": orphan.is_of_known_key,
        })
    };
    let items: Vec<Value> = orphans.iter().map(item).collect();
    Ok(Answer::new().with("Orphans", json!({ "Orphan": items })))
}
