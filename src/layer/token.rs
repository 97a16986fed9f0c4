//! Our token in the LUKS2 header: what LUKS2 itself has no field for.
//!
//! ```json
//! {"type": "sealdisk", "keyslots": [], "format": 1, "layer_id": "…", "disk_id": "d-…",
//!  "parent": null, "size": "4194304", "created": "2026-01-05T03:04:05Z",
//!  "kms_key_id": "…", "kms_key_version": "…", "wrapped_key": "base64"}
//! ```
//!
//! The last three are there all or none; none means not encrypted. Numbers of 64 bits are texts,
//! as everywhere in LUKS2. Unknown fields are refused: a newer format says so by its number.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Envelope, LayerError, LayerSpec};
use crate::clock::Timestamp;
use crate::crypto::xts::Cipher;
use crate::luks2::Segment;
use crate::units::{ByteCount, DataUnitSize};

/// Format of a layer that this code writes and reads.
pub(super) const FORMAT_VERSION: u64 = 1;

/// The token's type. The prefix `luks2-` is reserved for LUKS2 itself.
const TYPE: &str = "sealdisk";

/// Longest name of a KMS key or version that is read, in bytes.
const KEY_NAME_BYTES_MAX: usize = 512;

const FIELDS: [&str; 11] = [
    "type",
    "keyslots",
    "format",
    "layer_id",
    "disk_id",
    "parent",
    "size",
    "created",
    "kms_key_id",
    "kms_key_version",
    "wrapped_key",
];

/// The token that describes `spec`, with its wrapped key.
pub(super) fn encode(spec: &LayerSpec, envelope: Option<&Envelope>) -> Value {
    let mut token = json!({
        "type": TYPE,
        "keyslots": [],
        "format": FORMAT_VERSION,
        "layer_id": spec.layer_id.to_string(),
        "disk_id": spec.disk_id,
        "parent": spec.parent.map(|id| id.to_string()),
        "size": spec.size.get().to_string(),
        "created": spec.created.to_string(),
    });
    if let Some(envelope) = envelope {
        token["kms_key_id"] = json!(envelope.key_id);
        token["kms_key_version"] = json!(envelope.key_version);
        token["wrapped_key"] = json!(STANDARD.encode(&envelope.wrapped));
    }
    token
}

/// Puts `token` where ours is, or under the lowest free number.
pub(super) fn put(tokens: &mut Map<String, Value>, token: Value) {
    let ours = tokens.iter().find(|(_, token)| is_ours(token)).map(|(number, _)| number.clone());
    let free = || (0_u32..).map(|number| number.to_string()).find(|id| !tokens.contains_key(id));
    let number = ours.or_else(free).expect("there are more numbers than tokens");
    tokens.insert(number, token);
}

/// The one token that is ours.
pub(super) fn find(tokens: &Map<String, Value>) -> Result<&Map<String, Value>, LayerError> {
    let mut ours = tokens.values().filter(|token| is_ours(token)).filter_map(Value::as_object);
    match (ours.next(), ours.count()) {
        (None, _) => Err(LayerError::NoToken),
        (Some(token), 0) => Ok(token),
        (Some(_), others) => Err(LayerError::TokenCount { found: others + 1 }),
    }
}

fn is_ours(token: &Value) -> bool {
    token["type"] == TYPE
}

/// What `token` and `segment` together say.
pub(super) fn decode(
    token: &Map<String, Value>,
    segment: &Segment,
) -> Result<(LayerSpec, Option<Envelope>), LayerError> {
    let format = token.get("format").and_then(Value::as_u64).ok_or(unusable("format"))?;
    if format != FORMAT_VERSION {
        return Err(LayerError::UnsupportedFormat { found: format });
    }
    if token.keys().any(|field| !FIELDS.contains(&field.as_str())) {
        return Err(unusable("unknown field"));
    }
    if token.get("keyslots") != Some(&json!([])) {
        return Err(unusable("keyslots"));
    }
    let unit = DataUnitSize::new(segment.sector_size);
    let spec = LayerSpec {
        layer_id: uuid(text(token, "layer_id")?).ok_or(unusable("layer_id"))?,
        disk_id: text(token, "disk_id")?.to_owned(),
        parent: parent(token)?,
        size: size(text(token, "size")?).ok_or(unusable("size"))?,
        unit: unit.ok_or(LayerError::HeaderMismatch { field: "sector size" })?,
        cipher: cipher(&segment.encryption)?,
        created: created(text(token, "created")?).ok_or(unusable("created"))?,
    };
    Ok((spec, envelope(token)?))
}

fn envelope(token: &Map<String, Value>) -> Result<Option<Envelope>, LayerError> {
    let has = |field| token.contains_key(field);
    if !has("kms_key_id") && !has("kms_key_version") && !has("wrapped_key") {
        return Ok(None);
    }
    let name = |field| {
        let text = text(token, field)?;
        let is_usable = !text.is_empty() && text.len() <= KEY_NAME_BYTES_MAX;
        if is_usable { Ok(text.to_owned()) } else { Err(unusable(field)) }
    };
    let (key_id, key_version) = (name("kms_key_id")?, name("kms_key_version")?);
    let wrapped = STANDARD.decode(text(token, "wrapped_key")?);
    let wrapped = wrapped.map_err(|_| unusable("wrapped_key"))?;
    if wrapped.is_empty() {
        return Err(unusable("wrapped_key"));
    }
    Ok(Some(Envelope { key_id, key_version, wrapped }))
}

fn cipher(name: &str) -> Result<Cipher, LayerError> {
    Cipher::from_name(name)
        .ok_or_else(|| LayerError::UnknownCipher { name: name.chars().take(64).collect() })
}

fn parent(token: &Map<String, Value>) -> Result<Option<Uuid>, LayerError> {
    match token.get("parent") {
        Some(Value::Null) => Ok(None),
        Some(Value::String(id)) => uuid(id).map(Some).ok_or(unusable("parent")),
        _ => Err(unusable("parent")),
    }
}

// Each value has one text form only, so that two headers that say the same are the same.

fn uuid(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    (id.to_string() == text).then_some(id)
}

fn size(text: &str) -> Option<ByteCount> {
    let bytes: u64 = text.parse().ok()?;
    (bytes.to_string() == text).then_some(ByteCount::new(bytes))
}

fn created(text: &str) -> Option<Timestamp> {
    let moment = Timestamp::parse(text)?;
    (moment.to_string() == text).then_some(moment)
}

fn text<'a>(token: &'a Map<String, Value>, field: &'static str) -> Result<&'a str, LayerError> {
    token.get(field).and_then(Value::as_str).ok_or(unusable(field))
}

const fn unusable(field: &'static str) -> LayerError {
    LayerError::TokenField { field }
}
