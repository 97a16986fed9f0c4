//! KMS 2016-01-20: tags.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Api;
use super::answer::Answer;
use super::dispatch::Handler;
use super::error::ApiError;
use super::rpc::Parameters;
use crate::catalog::TagRecord;
use crate::kms::{Action, KmsError, TagQuery, Untag};
use crate::ram::Caller;

/// Entries of `Tag.N` and `TagKey.N` that are read; KMS knows how many there may be.
const ENTRIES_READ_MAX: usize = 100;

type Answered = Result<Answer, ApiError>;

pub(super) fn handler(action: &str) -> Option<Handler> {
    Some(match action {
        "TagResource" => tag_resource,
        "UntagResource" => untag_resource,
        "ListResourceTags" => list_resource_tags,
        "TagResources" => tag_resources,
        "UntagResources" => untag_resources,
        "ListTagResources" => list_tag_resources,
        _ => return None,
    })
}

fn tag_resource(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let key_id = one_key(api, caller, parameters, Action::TagResource)?;
    parameters.required("Tags")?;
    let tags = tags_in_json(parameters)?;
    api.kms.tag(caller, Action::TagResource, &[key_id], &tags)?;
    Ok(Answer::new())
}

fn untag_resource(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let key_id = one_key(api, caller, parameters, Action::UntagResource)?;
    parameters.required("TagKeys")?;
    let names = parameters.json_list("TagKeys")?.unwrap_or_default();
    api.kms.untag(caller, Action::UntagResource, &[key_id], &Untag::Names(names))?;
    Ok(Answer::new())
}

fn list_resource_tags(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let key_id = one_key(api, caller, parameters, Action::ListResourceTags)?;
    let tags = api.kms.list_resource_tags(caller, key_id)?;
    let item = |tag: &TagRecord| {
        let (id, key, value) = (&tag.resource_id, &tag.key, &tag.value);
        json!({"KeyId": id, "TagKey": key, "TagValue": value})
    };
    let items: Vec<Value> = tags.iter().map(item).collect();
    Ok(Answer::new().with("Tags", json!({"Tag": items})))
}

fn tag_resources(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let key_ids = some_keys(api, caller, parameters, Action::TagResources)?;
    let tags = numbered_tags(parameters);
    if tags.is_empty() {
        parameters.required("Tag.1.Key")?;
    }
    let tags: Vec<(String, String)> =
        tags.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect();
    api.kms.tag(caller, Action::TagResources, &key_ids, &tags)?;
    Ok(Answer::new())
}

fn untag_resources(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let key_ids = some_keys(api, caller, parameters, Action::UntagResources)?;
    let names: Vec<String> = parameters.list("TagKey").into_iter().map(str::to_owned).collect();
    let what = match (names.is_empty(), parameters.boolean("All")?) {
        (false, _) => Untag::Names(names),
        (true, Some(true)) => Untag::All,
        (true, _) => return Err(ApiError::missing(super::rpc::Product::Kms, "TagKey.1")),
    };
    api.kms.untag(caller, Action::UntagResources, &key_ids, &what)?;
    Ok(Answer::new())
}

fn list_tag_resources(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    key_type(api, caller, parameters, Action::ListTagResources)?;
    let query = TagQuery {
        key_ids: parameters.list("ResourceId").into_iter().map(str::to_owned).collect(),
        tags: numbered_tags(parameters),
        after: parameters.filled("NextToken").map(read_token).transpose()?,
    };
    let page = api.kms.list_tag_resources(caller, &query)?;
    let item = |tag: &TagRecord| {
        json!({
            "ResourceId": tag.resource_id,
            "ResourceType": tag.resource_type.as_str(),
            "TagKey": tag.key,
            "TagValue": tag.value,
        })
    };
    let items: Vec<Value> = page.tags.iter().map(item).collect();
    let token = page.next.map(|(id, key)| write_token(&id, &key));
    Ok(Answer::new()
        .with("TagResources", json!({"TagResource": items}))
        .with("NextToken", token.unwrap_or_default()))
}

/// The key of a call that could name a secret or a certificate instead: we have neither.
fn one_key<'a>(
    api: &Api,
    caller: &Caller,
    parameters: &'a Parameters,
    action: Action,
) -> Result<&'a str, ApiError> {
    let is_elsewhere =
        ["SecretName", "CertificateId"].iter().any(|name| parameters.filled(name).is_some());
    if parameters.filled("KeyId").is_none() && is_elsewhere {
        return Err(api.kms.refuse(caller, action, KmsError::ResourceNotFound).into());
    }
    parameters.required("KeyId")
}

fn some_keys<'a>(
    api: &Api,
    caller: &Caller,
    parameters: &'a Parameters,
    action: Action,
) -> Result<Vec<&'a str>, ApiError> {
    key_type(api, caller, parameters, action)?;
    parameters.required("ResourceId.1")?;
    Ok(parameters.list("ResourceId"))
}

/// Lets `ResourceType=key` through.
fn key_type(
    api: &Api,
    caller: &Caller,
    parameters: &Parameters,
    action: Action,
) -> Result<(), ApiError> {
    match parameters.required("ResourceType")? {
        "key" => Ok(()),
        "secret" => Err(api.kms.refuse(caller, action, KmsError::ResourceNotFound).into()),
        _ => Err(ApiError::invalid("ResourceType")),
    }
}

/// `Tags`: a JSON array of `{"TagKey":…,"TagValue":…}`.
pub(super) fn tags_in_json(parameters: &Parameters) -> Result<Vec<(String, String)>, ApiError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase", deny_unknown_fields)]
    struct Entry {
        tag_key: String,
        #[serde(default)]
        tag_value: String,
    }
    let entries: Vec<Entry> = parameters.json("Tags")?.unwrap_or_default();
    Ok(entries.into_iter().map(|Entry { tag_key, tag_value }| (tag_key, tag_value)).collect())
}

/// `Tag.N.Key` and `Tag.N.Value`, up to the first number without a key.
fn numbered_tags(parameters: &Parameters) -> Vec<(String, Option<String>)> {
    let entry = |number: usize| {
        let key = parameters.filled(&format!("Tag.{number}.Key"))?;
        let value = parameters.text(&format!("Tag.{number}.Value"));
        Some((key.to_owned(), value.map(str::to_owned)))
    };
    (1..=ENTRIES_READ_MAX).map_while(entry).collect()
}

/// Where a list of tags goes on: behind this tag of this thing.
pub(super) fn write_token(id: &str, key: &str) -> String {
    STANDARD.encode(json!([id, key]).to_string())
}

/// What [`write_token`] wrote.
pub(super) fn read_token(token: &str) -> Result<(String, String), ApiError> {
    let text = STANDARD.decode(token).map_err(|_| ApiError::invalid("NextToken"))?;
    serde_json::from_slice(&text).map_err(|_| ApiError::invalid("NextToken"))
}
