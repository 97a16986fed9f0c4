//! Names, descriptions and tags of disks, snapshots and images, as parameters and in answers.

use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use super::rpc::Parameters;
use crate::catalog::TagRecord;

/// Longest name, in characters. The cloud wants two at least; one is enough here.
const NAME_CHARS_MAX: usize = 128;

/// Longest description, in characters.
const DESCRIPTION_CHARS_MAX: usize = 256;

/// Tags that one request may name.
const TAGS_MAX: usize = 20;

/// A parameter that is a name.
pub(super) struct NameOf {
    /// The parameter.
    pub(super) parameter: &'static str,
    /// The published code for one that cannot be.
    pub(super) code: &'static str,
    /// What the ids of the kind begin with: a thing is found by either, so a name must never stand
    /// before another thing's id.
    pub(super) prefix: &'static str,
}

/// The name of a disk.
pub(super) const DISK_NAME: NameOf =
    NameOf { parameter: "DiskName", code: "InvalidDiskName.Malformed", prefix: "d-" };

/// The name of a snapshot.
pub(super) const SNAPSHOT_NAME: NameOf =
    NameOf { parameter: "SnapshotName", code: "InvalidSnapshotName.Malformed", prefix: "s-" };

/// The name of an image.
pub(super) const IMAGE_NAME: NameOf =
    NameOf { parameter: "ImageName", code: "InvalidImageName.Malformed", prefix: "m-" };

/// A name begins with a letter and is no id.
pub(super) fn name(parameters: &Parameters, of: &NameOf) -> Result<String, ApiError> {
    name_in(parameters, of.parameter, of)
}

/// As [`name`], in a parameter of another name.
pub(super) fn name_in(
    parameters: &Parameters,
    parameter: &str,
    of: &NameOf,
) -> Result<String, ApiError> {
    let name = parameters.filled(parameter).unwrap_or_default();
    check_name(name, of)?;
    Ok(name.to_owned())
}

/// Whether an image may be called so, for who would else learn it at the end of a long import.
///
/// # Errors
/// The refusal of the action that makes the image.
pub fn check_image_name(name: &str) -> Result<(), ApiError> {
    check_name(name, &IMAGE_NAME)
}

fn check_name(name: &str, of: &NameOf) -> Result<(), ApiError> {
    let is_known = |c: char| c.is_alphanumeric() || matches!(c, ':' | '_' | '.' | '-');
    let is_wellformed = name.is_empty()
        || name.starts_with(char::is_alphabetic)
            && name.chars().count() <= NAME_CHARS_MAX
            && name.chars().all(is_known)
            && !name.starts_with(of.prefix);
    if is_wellformed {
        return Ok(());
    }
    let what = match of.prefix {
        "d-" => "disk",
        "s-" => "snapshot",
        _ => "image",
    };
    let message = format!("The specified {what} name is wrongly formed.");
    Err(ApiError::new(400, of.code, message).recommending(format!(
        "1 to 128 characters: a letter, then letters, digits and : _ . -; and it must not begin \
         with {} as {what} ids do",
        of.prefix
    )))
}

/// One line that is no address.
pub(super) fn description(parameters: &Parameters, parameter: &str) -> Result<String, ApiError> {
    let text = parameters.filled(parameter).unwrap_or_default();
    let is_url = text.starts_with("http://") || text.starts_with("https://");
    if text.chars().count() <= DESCRIPTION_CHARS_MAX && !is_url && !text.contains(char::is_control)
    {
        return Ok(text.to_owned());
    }
    let message = "The specified description is wrongly formed.";
    Err(ApiError::new(400, "InvalidDescription.Malformed", message)
        .recommending("at most 256 characters on one line, not beginning with http:// or https://"))
}

/// A name or description that shall change; absent stays as it is, empty empties.
pub(super) fn changed(
    parameters: &Parameters,
    parameter: &str,
    read: impl FnOnce() -> Result<String, ApiError>,
) -> Result<Option<String>, ApiError> {
    parameters.text(parameter).map(|_| read()).transpose()
}

/// `Tag.N.Key` and `Tag.N.Value` of a condition: without a value any will do.
pub(super) fn tag_conditions(
    parameters: &Parameters,
) -> Result<Vec<(String, Option<String>)>, ApiError> {
    let entry = |number: usize| {
        let key = parameters.filled(&format!("Tag.{number}.Key"))?;
        let value = parameters.text(&format!("Tag.{number}.Value"));
        Some((key.to_owned(), value.map(str::to_owned)))
    };
    let tags: Vec<_> = (1..=TAGS_MAX).map_while(entry).collect();
    if parameters.text(&format!("Tag.{}.Key", TAGS_MAX + 1)).is_some() {
        let message = "The specified number of tags exceeds the limit.";
        return Err(ApiError::new(400, "NumberExceed.Tags", message));
    }
    Ok(tags)
}

/// `Tag.N.Key` and `Tag.N.Value` to be put on something; without a value it is empty.
pub(super) fn tags(parameters: &Parameters) -> Result<Vec<(String, String)>, ApiError> {
    let named = tag_conditions(parameters)?.into_iter();
    Ok(named.map(|(key, value)| (key, value.unwrap_or_default())).collect())
}

/// Tags in an item.
pub(super) fn shown_tags(tags: Option<&Vec<TagRecord>>) -> Value {
    let tag = |tag: &TagRecord| json!({"TagKey": tag.key, "TagValue": tag.value});
    let tags: Vec<Value> = tags.map_or(&[][..], Vec::as_slice).iter().map(tag).collect();
    json!({"Tag": tags})
}

/// Refuses a region that is not ours.
pub(super) fn check_region(api: &Api, parameters: &Parameters) -> Result<(), ApiError> {
    is_region(api, parameters.filled("RegionId"))
}

/// As [`check_region`], for any parameter with a region.
pub(super) fn is_region(api: &Api, region: Option<&str>) -> Result<(), ApiError> {
    match region {
        Some(region) if region != api.region => {
            let message = "The specified RegionId does not exist.";
            Err(ApiError::new(404, "InvalidRegionId.NotFound", message)
                .recommending(format!("this daemon serves {}", api.region)))
        }
        _ => Ok(()),
    }
}
