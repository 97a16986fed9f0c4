//! The JSON metadata of a header, typed (specification, section 3).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::JSON_BYTES;
use super::fields::{Fields, decimal, texts};
use super::json::parse_object;

/// Most keyslots or tokens there may be (specification, section 3).
const OBJECTS_MAX: usize = 32;

/// The mandatory requirement that keeps stock tools from opening a layer whose data is not the
/// whole disk because it stands on other layers.
pub const REQUIREMENT_CHAIN: &str = "sealdisk-chain";

/// What a header says of its data, and what others keep in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The one run of data.
    pub segment: Segment,
    /// The check value of the data key.
    pub digest: Option<Digest>,
    /// Tokens by number. Those of a type that is not ours belong to other tools.
    pub tokens: Map<String, Value>,
    /// Keyslots that a stock tool added; kept as they are.
    pub keyslots: Map<String, Value>,
    /// Bytes from the end of the headers that keyslots may use.
    pub keyslots_size: u64,
    /// Activation flags that a stock tool set; kept as they are.
    pub flags: Vec<String>,
    /// What a reader must know to be allowed to touch the data.
    pub requirements: Vec<String>,
}

/// Where the data lies and how it is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte in the file.
    pub offset: u64,
    /// How long it is.
    pub size: SegmentSize,
    /// Tweak of the first sector.
    pub iv_tweak: u64,
    /// Cipher in dm-crypt's notation.
    pub encryption: String,
    /// Bytes of a data unit.
    pub sector_size: u32,
}

/// How long a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentSize {
    /// As long as the file happens to be.
    Dynamic,
    /// That many bytes.
    Exact(u64),
}

/// PBKDF2-HMAC-SHA-256 of the data key: tells a wrong key from the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Keyslots that hold this key.
    pub keyslots: Vec<String>,
    /// Rounds of PBKDF2.
    pub iterations: u32,
    /// Salt of PBKDF2.
    pub salt: [u8; 32],
    /// What PBKDF2 gives for the right key.
    pub digest: [u8; 32],
}

/// What in the metadata is not acceptable.
#[derive(Debug, Error)]
pub enum MetadataError {
    /// Not JSON, a key twice, a fraction, too deep.
    #[error("the JSON cannot be read: {0}")]
    Json(#[source] serde_json::Error),
    /// Bytes other than zeros behind the JSON text.
    #[error("the JSON area does not end in zeros")]
    StrayBytes,
    /// An object is something else.
    #[error("{object} is not an object")]
    NotAnObject {
        /// Which.
        object: &'static str,
    },
    /// A field that must be there is not.
    #[error("{object} has no {field}")]
    MissingField {
        /// In which object.
        object: &'static str,
        /// Which.
        field: &'static str,
    },
    /// A field has another type or a value out of bounds.
    #[error("{object} has an unusable {field}")]
    WrongValue {
        /// In which object.
        object: &'static str,
        /// Which.
        field: &'static str,
    },
    /// A field that we do not know, in an object that decides how data is read.
    #[error("{object} has an unknown field {field:?}")]
    UnknownField {
        /// In which object.
        object: &'static str,
        /// Its name, cut to 64 characters.
        field: String,
    },
    /// Some tool demands that readers know this, and we do not: a re-encryption under way, say.
    #[error("unknown mandatory requirement {name:?}")]
    UnknownRequirement {
        /// Its name, cut to 64 characters.
        name: String,
    },
    /// More or fewer segments than one: in the middle of a re-encryption, or not ours.
    #[error("{found} segments instead of one")]
    SegmentCount {
        /// How many.
        found: usize,
    },
    /// More digests than one.
    #[error("{found} digests, at most one is expected")]
    DigestCount {
        /// How many.
        found: usize,
    },
}

impl Metadata {
    /// Reads a whole JSON area: text, then zeros to its end.
    pub(super) fn decode(area: &[u8]) -> Result<Self, MetadataError> {
        let end = area.iter().position(|byte| *byte == 0).ok_or(MetadataError::StrayBytes)?;
        let (text, rest) = area.split_at(end);
        if rest.iter().any(|byte| *byte != 0) {
            return Err(MetadataError::StrayBytes);
        }
        let root = parse_object(text).map_err(MetadataError::Json)?;
        let known = ["keyslots", "tokens", "segments", "digests", "config"];
        let root = Fields::new("the metadata", &root).only(&known)?;
        // First: whoever lacks a requirement need not understand the rest.
        let config = Config::decode(Fields::new("config", root.object("config")?))?;
        Ok(Self {
            segment: decode_segments(root.object("segments")?)?,
            digest: decode_digests(root.object("digests")?)?,
            tokens: decode_numbered("a token", root.object("tokens")?)?,
            keyslots: decode_numbered("a keyslot", root.object("keyslots")?)?,
            keyslots_size: config.keyslots_size,
            flags: config.flags,
            requirements: config.requirements,
        })
    }

    /// The metadata as the JSON object that goes into the area.
    pub(super) fn to_json(&self) -> Value {
        let digests = self.digest.iter().map(Digest::to_json).enumerate();
        let digests: Map<String, Value> =
            digests.map(|(number, digest)| (number.to_string(), digest)).collect();
        let mut config = json!({
            "json_size": JSON_BYTES.to_string(),
            "keyslots_size": self.keyslots_size.to_string(),
        });
        if !self.flags.is_empty() {
            config["flags"] = json!(self.flags);
        }
        if !self.requirements.is_empty() {
            config["requirements"] = json!({ "mandatory": self.requirements });
        }
        json!({
            "keyslots": self.keyslots,
            "tokens": self.tokens,
            "segments": { "0": self.segment.to_json() },
            "digests": digests,
            "config": config,
        })
    }
}

impl Segment {
    fn decode(fields: Fields<'_>) -> Result<Self, MetadataError> {
        let known = ["type", "offset", "size", "iv_tweak", "encryption", "sector_size"];
        let fields = fields.only(&known)?;
        if fields.text("type")? != "crypt" {
            return Err(fields.wrong("type"));
        }
        let size = match fields.text("size")? {
            "dynamic" => SegmentSize::Dynamic,
            text => SegmentSize::Exact(decimal(text).ok_or(fields.wrong("size"))?),
        };
        Ok(Self {
            offset: fields.long("offset")?,
            size,
            iv_tweak: fields.long("iv_tweak")?,
            encryption: fields.text("encryption")?.to_owned(),
            sector_size: fields.int("sector_size")?,
        })
    }

    fn to_json(&self) -> Value {
        let size = match self.size {
            SegmentSize::Dynamic => "dynamic".to_owned(),
            SegmentSize::Exact(bytes) => bytes.to_string(),
        };
        json!({
            "type": "crypt",
            "offset": self.offset.to_string(),
            "size": size,
            "iv_tweak": self.iv_tweak.to_string(),
            "encryption": self.encryption,
            "sector_size": self.sector_size,
        })
    }
}

impl Digest {
    fn decode(fields: Fields<'_>) -> Result<Self, MetadataError> {
        let known = ["type", "keyslots", "segments", "hash", "iterations", "salt", "digest"];
        let fields = fields.only(&known)?;
        if fields.text("type")? != "pbkdf2" {
            return Err(fields.wrong("type"));
        }
        if fields.text("hash")? != "sha256" {
            return Err(fields.wrong("hash"));
        }
        if fields.texts("segments")? != ["0"] {
            return Err(fields.wrong("segments"));
        }
        Ok(Self {
            keyslots: fields.texts("keyslots")?,
            iterations: fields.int("iterations")?,
            salt: fields.bytes("salt")?,
            digest: fields.bytes("digest")?,
        })
    }

    fn to_json(&self) -> Value {
        json!({
            "type": "pbkdf2",
            "keyslots": self.keyslots,
            "segments": ["0"],
            "hash": "sha256",
            "iterations": self.iterations,
            "salt": STANDARD.encode(self.salt),
            "digest": STANDARD.encode(self.digest),
        })
    }
}

struct Config {
    keyslots_size: u64,
    flags: Vec<String>,
    requirements: Vec<String>,
}

impl Config {
    fn decode(fields: Fields<'_>) -> Result<Self, MetadataError> {
        let fields = fields.only(&["json_size", "keyslots_size", "flags", "requirements"])?;
        if fields.long("json_size")? != JSON_BYTES as u64 {
            return Err(fields.wrong("json_size"));
        }
        let flags = match fields.optional("flags") {
            None => Vec::new(),
            Some(value) => texts(value).ok_or(fields.wrong("flags"))?,
        };
        let requirements = match fields.optional("requirements") {
            None => Vec::new(),
            Some(value) => Self::decode_requirements(value)?,
        };
        if let Some(name) = requirements.iter().find(|name| *name != REQUIREMENT_CHAIN) {
            return Err(MetadataError::UnknownRequirement {
                name: name.chars().take(64).collect(),
            });
        }
        Ok(Self { keyslots_size: fields.long("keyslots_size")?, flags, requirements })
    }

    /// The specification's text shows a list; cryptsetup writes and wants an object with one.
    fn decode_requirements(value: &Value) -> Result<Vec<String>, MetadataError> {
        let fields = Fields::of("config.requirements", value)?.only(&["mandatory"])?;
        match fields.optional("mandatory") {
            None => Ok(Vec::new()),
            Some(_) => fields.texts("mandatory"),
        }
    }
}

fn decode_segments(segments: &Map<String, Value>) -> Result<Segment, MetadataError> {
    match segments.get("0") {
        Some(segment) if segments.len() == 1 => {
            Segment::decode(Fields::of("the segment", segment)?)
        }
        _ => Err(MetadataError::SegmentCount { found: segments.len() }),
    }
}

fn decode_digests(digests: &Map<String, Value>) -> Result<Option<Digest>, MetadataError> {
    match (digests.len(), digests.get("0")) {
        (0, _) => Ok(None),
        (1, Some(digest)) => Digest::decode(Fields::of("the digest", digest)?).map(Some),
        (found, _) => Err(MetadataError::DigestCount { found }),
    }
}

/// Keyslots or tokens: objects under the numbers 0 to 31.
fn decode_numbered(
    object: &'static str,
    map: &Map<String, Value>,
) -> Result<Map<String, Value>, MetadataError> {
    for (key, value) in map {
        let is_number = decimal(key).is_some_and(|number| number < OBJECTS_MAX as u64);
        if !is_number {
            return Err(MetadataError::WrongValue { object, field: "number" });
        }
        Fields::of(object, value)?.text("type")?;
    }
    Ok(map.clone())
}
