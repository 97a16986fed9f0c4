//! KMS 2016-01-20: keys, their versions, aliases.

use serde_json::{Value, json};

use super::answer::Answer;
use super::dispatch::Handler;
use super::error::ApiError;
use super::rpc::{Paging, Parameters};
use super::{Api, kms_account, kms_import, kms_tags, kms_use};
use crate::catalog::{AliasRecord, KeyRecord, KeyVersionRecord, Listed};
use crate::clock::Timestamp;
use crate::kms::{CreateKey, DELETION_WINDOW_DAYS, KeyFilter, Rotation};
use crate::ram::Caller;

type Answered = Result<Answer, ApiError>;

pub(super) fn handler(action: &str) -> Option<Handler> {
    Some(match action {
        "CreateKey" => create_key,
        "DescribeKey" => describe_key,
        "ListKeys" => list_keys,
        "EnableKey" => enable_key,
        "DisableKey" => disable_key,
        "ScheduleKeyDeletion" => schedule_key_deletion,
        "CancelKeyDeletion" => cancel_key_deletion,
        "UpdateKeyDescription" => update_key_description,
        "CreateAlias" => create_alias,
        "UpdateAlias" => update_alias,
        "DeleteAlias" => delete_alias,
        "ListAliases" => list_aliases,
        "ListAliasesByKeyId" => list_aliases_by_key_id,
        "ListKeyVersions" => list_key_versions,
        "DescribeKeyVersion" => describe_key_version,
        "CreateKeyVersion" => create_key_version,
        "UpdateRotationPolicy" => update_rotation_policy,
        "SetDeletionProtection" => set_deletion_protection,
        _ => {
            return kms_use::handler(action)
                .or_else(|| kms_import::handler(action))
                .or_else(|| kms_tags::handler(action))
                .or_else(|| kms_account::handler(action));
        }
    })
}

fn create_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    parameters.refuse(&["KeyStorageMechanism"])?;
    let owned = |name| parameters.filled(name).map(str::to_owned);
    let request = CreateKey {
        description: parameters.text("Description").unwrap_or_default().to_owned(),
        spec: owned("KeySpec"),
        usage: owned("KeyUsage"),
        origin: owned("Origin"),
        protection: owned("ProtectionLevel"),
        instance: owned("DKMSInstanceId"),
        rotates: parameters.boolean("EnableAutomaticRotation")?.unwrap_or_default(),
        rotation_interval: owned("RotationInterval"),
        tags: kms_tags::tags_in_json(parameters)?,
        policy: owned("Policy"),
    };
    let key = api.kms.create_key(caller, &request)?;
    Ok(Answer::new().with("KeyMetadata", metadata(api, &key)))
}

fn describe_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let key = api.kms.describe_key(caller, parameters.required("KeyId")?)?;
    let mut metadata = metadata(api, &key);
    let protection = if key.deletion_protected { "Enabled" } else { "Disabled" };
    metadata["DeletionProtection"] = protection.into();
    metadata["DeletionProtectionDescription"] = key.deletion_protected_why.into();
    Ok(Answer::new().with("KeyMetadata", metadata))
}

fn list_keys(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (filters, paging) = (filters(parameters)?, parameters.paging()?);
    let listed = api.kms.list_keys(caller, &filters, paging.for_kms())?;
    let item = |key: &KeyRecord| json!({"KeyId": key.key_id, "KeyArn": key_arn(api, &key.key_id)});
    Ok(Answer::new().with_page("Keys", "Key", page_of(paging, &listed, item)))
}

fn enable_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    api.kms.enable_key(caller, parameters.required("KeyId")?)?;
    Ok(Answer::new())
}

fn disable_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    api.kms.disable_key(caller, parameters.required("KeyId")?)?;
    Ok(Answer::new())
}

fn schedule_key_deletion(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    const DAYS: &str = "PendingWindowInDays";
    let key_id = parameters.required("KeyId")?;
    parameters.required(DAYS)?;
    let days =
        parameters.integer(DAYS, DELETION_WINDOW_DAYS)?.ok_or_else(|| ApiError::invalid(DAYS))?;
    api.kms.schedule_key_deletion(caller, key_id, days)?;
    Ok(Answer::new())
}

fn cancel_key_deletion(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    api.kms.cancel_key_deletion(caller, parameters.required("KeyId")?)?;
    Ok(Answer::new())
}

fn set_deletion_protection(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    const SWITCH: &str = "EnableDeletionProtection";
    let key = match parameters.filled("ProtectedResourceArn") {
        Some(arn) => arn,
        None => parameters.required("KeyId")?,
    };
    parameters.required(SWITCH)?;
    let is_on = parameters.boolean(SWITCH)?.unwrap_or_default();
    let why = parameters.text("DeletionProtectionDescription");
    api.kms.set_deletion_protection(caller, key, is_on, why)?;
    Ok(Answer::new())
}

fn update_key_description(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let key_id = parameters.required("KeyId")?;
    // An empty description is one: it takes the old one away.
    let text = match parameters.text("Description") {
        Some(text) => text,
        None => parameters.required("Description")?,
    };
    api.kms.update_key_description(caller, key_id, text)?;
    Ok(Answer::new())
}

fn create_alias(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (alias, key_id) = (parameters.required("AliasName")?, parameters.required("KeyId")?);
    api.kms.create_alias(caller, alias, key_id)?;
    Ok(Answer::new())
}

fn update_alias(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (alias, key_id) = (parameters.required("AliasName")?, parameters.required("KeyId")?);
    api.kms.update_alias(caller, alias, key_id)?;
    Ok(Answer::new())
}

fn delete_alias(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    api.kms.delete_alias(caller, parameters.required("AliasName")?)?;
    Ok(Answer::new())
}

fn list_aliases(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let paging = parameters.paging()?;
    let listed = api.kms.list_aliases(caller, paging.for_kms())?;
    let page = page_of(paging, &listed, |alias| alias_item(api, alias));
    Ok(Answer::new().with_page("Aliases", "Alias", page))
}

fn list_aliases_by_key_id(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (key_id, paging) = (parameters.required("KeyId")?, parameters.paging()?);
    let listed = api.kms.list_aliases_by_key_id(caller, key_id, paging.for_kms())?;
    let page = page_of(paging, &listed, |alias| alias_item(api, alias));
    Ok(Answer::new().with_page("Aliases", "Alias", page))
}

fn create_key_version(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let version = api.kms.create_key_version(caller, parameters.required("KeyId")?)?;
    Ok(Answer::new().with("KeyVersion", version_item(&version)))
}

fn update_rotation_policy(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    const SWITCH: &str = "EnableAutomaticRotation";
    let key_id = parameters.required("KeyId")?;
    parameters.required(SWITCH)?;
    let is_on = parameters.boolean(SWITCH)?.unwrap_or_default();
    let interval = parameters.filled("RotationInterval");
    api.kms.update_rotation_policy(caller, key_id, is_on, interval)?;
    Ok(Answer::new())
}

fn list_key_versions(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (key_id, paging) = (parameters.required("KeyId")?, parameters.paging()?);
    let listed = api.kms.list_key_versions(caller, key_id, paging.for_kms())?;
    let page = page_of(paging, &listed, version_item);
    Ok(Answer::new().with_page("KeyVersions", "KeyVersion", page))
}

fn describe_key_version(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (key_id, version) = (parameters.required("KeyId")?, parameters.required("KeyVersionId")?);
    let version = api.kms.describe_key_version(caller, key_id, version)?;
    Ok(Answer::new().with("KeyVersion", version_item(&version)))
}

/// `Filters`: a JSON array of `{"Key":…,"Values":[…]}`. Which keys there are, KMS knows.
fn filters(parameters: &Parameters) -> Result<Vec<KeyFilter>, ApiError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase", deny_unknown_fields)]
    struct Entry {
        key: String,
        values: Vec<String>,
    }
    let entries: Vec<Entry> = parameters.json("Filters")?.unwrap_or_default();
    Ok(entries.into_iter().map(|Entry { key, values }| KeyFilter { key, values }).collect())
}

pub(super) fn page_of<T>(
    paging: Paging,
    listed: &Listed<T>,
    item: impl Fn(&T) -> Value,
) -> (Paging, u64, Vec<Value>) {
    (paging, listed.total, listed.items.iter().map(item).collect())
}

fn metadata(api: &Api, key: &KeyRecord) -> Value {
    let date = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    let rotation = Rotation::of(key);
    let mut metadata = json!({
        "Arn": key_arn(api, &key.key_id),
        "AutomaticRotation": rotation.as_str(),
        "CreationDate": key.created.to_string(),
        "Creator": key.creator,
        // Empty, not absent, where there is none: clients rely on it.
        "DeleteDate": date(key.deletes),
        "Description": key.description,
        "KeyId": key.key_id,
        "KeySpec": key.spec,
        "KeyState": key.state.as_str(),
        "KeyUsage": key.usage,
        "LastRotationDate": key.rotated.to_string(),
        "MaterialExpireTime": date(key.material_expires.filter(|_| key.has_material)),
        "Origin": key.origin,
        "PrimaryKeyVersion": key.primary_version,
        "ProtectionLevel": key.protection,
    });
    if let Some(instance) = &key.instance {
        metadata["DKMSInstanceId"] = instance.as_str().into();
    }
    if let (Some(span), Some(next)) = (key.rotation, rotation.next()) {
        metadata["RotationInterval"] = format!("{}s", span.as_secs()).into();
        metadata["NextRotationDate"] = next.to_string().into();
    }
    metadata
}

fn alias_item(api: &Api, alias: &AliasRecord) -> Value {
    let arn = api.kms.account().alias_arn(&alias.name);
    json!({"AliasName": alias.name, "AliasArn": arn, "KeyId": alias.key_id})
}

fn version_item(version: &KeyVersionRecord) -> Value {
    json!({
        "KeyId": version.key_id,
        "KeyVersionId": version.version_id,
        "CreationDate": version.created.to_string(),
    })
}

fn key_arn(api: &Api, key_id: &str) -> String {
    api.kms.account().key_arn(key_id)
}
