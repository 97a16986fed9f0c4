//! KMS 2016-01-20.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Api;
use super::answer::Answer;
use super::dispatch::Handler;
use super::error::ApiError;
use super::kms_tags;
use super::rpc::{Paging, Parameters};
use crate::catalog::{AliasRecord, KeyRecord, KeyVersionRecord, Listed};
use crate::kms::{CreateKey, DELETION_WINDOW_DAYS, ENCRYPT_BYTES_MAX, KeyFilter, data_key_bytes};
use crate::ram::Caller;

/// Longest ciphertext blob Decrypt looks at, in bytes: the longest plaintext and its envelope.
const BLOB_BYTES_MAX: usize = 16 << 10;

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
        "Encrypt" => encrypt,
        "Decrypt" => decrypt,
        "GenerateDataKey" => generate_data_key,
        "GenerateDataKeyWithoutPlaintext" => generate_data_key_without_plaintext,
        _ => return kms_tags::handler(action),
    })
}

fn create_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    parameters.refuse(&["DKMSInstanceId", "KeyStorageMechanism", "RotationInterval"])?;
    parameters.refuse(&["Tags", "Policy"])?;
    parameters.refuse_true(&["EnableAutomaticRotation"])?;
    let owned = |name| parameters.filled(name).map(str::to_owned);
    let request = CreateKey {
        description: parameters.text("Description").unwrap_or_default().to_owned(),
        spec: owned("KeySpec"),
        usage: owned("KeyUsage"),
        origin: owned("Origin"),
        protection: owned("ProtectionLevel"),
    };
    let key = api.kms.create_key(caller, &request)?;
    Ok(Answer::new().with("KeyMetadata", metadata(api, &key)))
}

fn describe_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let key = api.kms.describe_key(caller, parameters.required("KeyId")?)?;
    let mut metadata = metadata(api, &key);
    metadata["DeletionProtection"] = "Disabled".into();
    metadata["DeletionProtectionDescription"] = "".into();
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

fn encrypt(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    parameters.refuse_true(&["DryRun"])?;
    let key_id = parameters.required("KeyId")?;
    let plaintext = parameters.base64("Plaintext", ENCRYPT_BYTES_MAX)?;
    let context = parameters.encryption_context()?;
    let sealed = api.kms.encrypt(caller, key_id, plaintext.expose(), &context)?;
    Ok(Answer::new()
        .with("CiphertextBlob", STANDARD.encode(&sealed.blob))
        .with("KeyId", sealed.key_id)
        .with("KeyVersionId", sealed.key_version))
}

fn decrypt(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    parameters.refuse_true(&["DryRun"])?;
    parameters.refuse(&["Recipient"])?;
    let blob = parameters.base64("CiphertextBlob", BLOB_BYTES_MAX)?;
    let context = parameters.encryption_context()?;
    let opened = api.kms.decrypt(caller, blob.expose(), &context)?;
    Ok(Answer::new()
        .with("KeyId", opened.key_id)
        .with("KeyVersionId", opened.key_version)
        .with_secret("Plaintext", opened.plaintext))
}

fn generate_data_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (key_id, bytes) = data_key_request(parameters)?;
    let context = parameters.encryption_context()?;
    let made = api.kms.generate_data_key(caller, key_id, bytes, &context)?;
    Ok(Answer::new()
        .with("CiphertextBlob", STANDARD.encode(&made.blob))
        .with("KeyId", made.key_id)
        .with("KeyVersionId", made.key_version)
        .with_secret("Plaintext", made.plaintext))
}

fn generate_data_key_without_plaintext(
    api: &Api,
    caller: &Caller,
    parameters: &Parameters,
) -> Answered {
    let (key_id, bytes) = data_key_request(parameters)?;
    let context = parameters.encryption_context()?;
    let made = api.kms.generate_data_key_without_plaintext(caller, key_id, bytes, &context)?;
    Ok(Answer::new()
        .with("CiphertextBlob", STANDARD.encode(&made.blob))
        .with("KeyId", made.key_id)
        .with("KeyVersionId", made.key_version))
}

/// The key and how many bytes.
fn data_key_request(parameters: &Parameters) -> Result<(&str, usize), ApiError> {
    parameters.refuse_true(&["DryRun"])?;
    parameters.refuse(&["Recipient"])?;
    let bytes = data_key_bytes(parameters.filled("KeySpec"), parameters.filled("NumberOfBytes"))?;
    Ok((parameters.required("KeyId")?, bytes))
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

fn page_of<T>(
    paging: Paging,
    listed: &Listed<T>,
    item: impl Fn(&T) -> Value,
) -> (Paging, u64, Vec<Value>) {
    (paging, listed.total, listed.items.iter().map(item).collect())
}

fn metadata(api: &Api, key: &KeyRecord) -> Value {
    json!({
        "Arn": key_arn(api, &key.key_id),
        "AutomaticRotation": "Disabled",
        "CreationDate": key.created.to_string(),
        "Creator": key.creator,
        // Empty, not absent, where there is none: clients rely on it.
        "DeleteDate": key.deletes.map(|at| at.to_string()).unwrap_or_default(),
        "Description": key.description,
        "KeyId": key.key_id,
        "KeySpec": key.spec,
        "KeyState": key.state.as_str(),
        "KeyUsage": "ENCRYPT/DECRYPT",
        "LastRotationDate": key.created.to_string(),
        "MaterialExpireTime": "",
        "Origin": key.origin,
        "PrimaryKeyVersion": key.primary_version,
        "ProtectionLevel": key.protection,
    })
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
