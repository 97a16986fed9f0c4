//! ECS 2014-05-26: tags of disks, snapshots and images.

use serde_json::{Value, json};

use super::Api;
use super::answer::Answer;
use super::dispatch::Handler;
use super::ecs_words::{check_region, tag_conditions, tags};
use super::error::ApiError;
use super::kms_tags::{read_token, write_token};
use super::rpc::{Parameters, Product};
use crate::catalog::{TagFilter, TagRecord, TaggedType};
use crate::ram::Caller;

/// Things that one request may name.
const RESOURCES_MAX: usize = 50;

/// Tags in one answer.
const LISTED_MAX: usize = 50;

type Answered = Result<Answer, ApiError>;

pub(super) fn handler(action: &str) -> Option<Handler> {
    Some(match action {
        "TagResources" => tag_resources,
        "UntagResources" => untag_resources,
        "ListTagResources" => list_tag_resources,
        _ => return None,
    })
}

fn tag_resources(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    check_region(api, parameters)?;
    let kind = kind(parameters)?;
    parameters.required("ResourceId.1")?;
    parameters.required("Tag.1.Key")?;
    api.disks.tag(caller, (kind, &ids(parameters)?), &tags(parameters)?)?;
    Ok(Answer::new())
}

fn untag_resources(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    check_region(api, parameters)?;
    let kind = kind(parameters)?;
    parameters.required("ResourceId.1")?;
    let names: Vec<String> = parameters.list("TagKey").into_iter().map(str::to_owned).collect();
    let names = match (names.is_empty(), parameters.boolean("All")?) {
        (false, _) => Some(names),
        (true, Some(true)) => None,
        (true, _) => return Err(ApiError::missing(Product::Ecs, "TagKey.1")),
    };
    api.disks.untag(caller, (kind, &ids(parameters)?), names.as_deref())?;
    Ok(Answer::new())
}

fn list_tag_resources(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    check_region(api, parameters)?;
    parameters.refuse(&["TagFilter.1.TagKey"])?;
    let filter = TagFilter {
        resource_type: kind(parameters)?,
        ids: ids(parameters)?,
        tags: tag_conditions(parameters)?,
        after: parameters.filled("NextToken").map(read_token).transpose()?,
    };
    if filter.ids.is_empty() && filter.tags.is_empty() {
        return Err(ApiError::missing(Product::Ecs, "ResourceId.1"));
    }
    // One more than is shown tells whether there is more.
    let mut found = api.disks.list_tags(caller, &filter, LISTED_MAX as u64 + 1)?;
    let has_more = found.len() > LISTED_MAX;
    found.truncate(LISTED_MAX);
    let last = found.last().filter(|_| has_more);
    let token = last.map(|tag| write_token(&tag.resource_id, &tag.key)).unwrap_or_default();
    let item = |tag: &TagRecord| {
        json!({
            "ResourceId": tag.resource_id,
            "ResourceType": tag.resource_type.as_str(),
            "TagKey": tag.key,
            "TagValue": tag.value,
        })
    };
    let items: Vec<Value> = found.iter().map(item).collect();
    Ok(Answer::new().with("TagResources", json!({"TagResource": items})).with("NextToken", token))
}

fn ids(parameters: &Parameters) -> Result<Vec<String>, ApiError> {
    let ids: Vec<String> = parameters.list("ResourceId").into_iter().map(str::to_owned).collect();
    if ids.len() > RESOURCES_MAX {
        let message = "The maximum number of ResourceIds is exceeded.";
        return Err(ApiError::new(400, "NumberExceed.ResourceIds", message));
    }
    Ok(ids)
}

fn kind(parameters: &Parameters) -> Result<TaggedType, ApiError> {
    let text = parameters.required("ResourceType")?;
    match TaggedType::parse(text) {
        Some(kind @ (TaggedType::Disk | TaggedType::Snapshot | TaggedType::Image)) => Ok(kind),
        _ => {
            let message = "The ResourceType provided does not exist in our records.";
            Err(ApiError::new(404, "InvalidResourceType.NotFound", message)
                .recommending("disk, snapshot and image have tags here"))
        }
    }
}
