//! KMS 2016-01-20: the account's regions, standing and instances, and the policies of keys.

use serde_json::{Value, json};

use super::Api;
use super::answer::Answer;
use super::dispatch::Handler;
use super::error::ApiError;
use super::kms::page_of;
use super::rpc::{Paging, Parameters};
use crate::ram::Caller;

/// `PageSize` of ListKmsInstances unless told, as published.
const INSTANCES_ON_A_PAGE: u64 = 20;

type Answered = Result<Answer, ApiError>;

pub(super) fn handler(action: &str) -> Option<Handler> {
    Some(match action {
        "DescribeRegions" => describe_regions,
        "DescribeAccountKmsStatus" => describe_account_kms_status,
        "OpenKmsService" => open_kms_service,
        "ListKmsInstances" => list_kms_instances,
        "GetKeyPolicy" => get_key_policy,
        "SetKeyPolicy" => set_key_policy,
        _ => return None,
    })
}

fn describe_regions(api: &Api, _: &Caller, _: &Parameters) -> Answered {
    let regions: Vec<Value> =
        api.kms.regions().into_iter().map(|id| json!({"RegionId": id})).collect();
    Ok(Answer::new().with("Regions", json!({"Region": regions})))
}

fn describe_account_kms_status(api: &Api, caller: &Caller, _: &Parameters) -> Answered {
    let status = api.kms.account_status(caller)?;
    Ok(Answer::new().with("AccountStatus", status.as_str()))
}

fn open_kms_service(api: &Api, caller: &Caller, _: &Parameters) -> Answered {
    let status = api.kms.open_service(caller)?;
    Ok(Answer::new().with("AccountStatus", status.as_str()))
}

fn list_kms_instances(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let Paging { number, size } = parameters.paging()?;
    let size = if parameters.filled("PageSize").is_some() { size } else { INSTANCES_ON_A_PAGE };
    let paging = Paging { number, size };
    let listed = api.kms.list_instances(caller, paging.for_kms())?;
    let item = |id: &String| {
        let arn = api.kms.account().instance_arn(id);
        json!({"KmsInstanceId": id, "KmsInstanceArn": arn})
    };
    Ok(Answer::new().with_page("KmsInstances", "KmsInstance", page_of(paging, &listed, item)))
}

fn get_key_policy(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (key, name) = (parameters.required("KeyId")?, parameters.filled("PolicyName"));
    Ok(Answer::new().with("Policy", api.kms.key_policy(caller, key, name)?))
}

fn set_key_policy(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (key, name) = (parameters.required("KeyId")?, parameters.filled("PolicyName"));
    api.kms.set_key_policy(caller, key, name, parameters.required("Policy")?)?;
    Ok(Answer::new())
}
