//! What a layer is called by those who refer to it: hints in a LUKS2 token of their own, for
//! whoever has to rebuild the catalog from layers alone.
//!
//! ```json
//! {"type": "sealdisk-names", "keyslots": [],
//!  "names": [{"kind": "snapshot", "id": "s-…", "name": "before the upgrade"}]}
//! ```
//!
//! They are bound to nothing: nobody may conclude more from them than what to call a thing. What is
//! not readable is no hint.

use serde_json::{Map, Value, json};

use super::format::write_again;
use super::{LayerError, LayerHeader};
use crate::clock::Entropy;
use crate::storage::Storage;

/// The token's type.
const TYPE: &str = "sealdisk-names";

/// Names in one header at most: what is left of 12 KiB holds that many of the longest.
const NAMES_MAX: usize = 4;

/// Longest id or name that is read, in bytes.
const TEXT_BYTES_MAX: usize = 640;

/// Who refers to a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// A disk, whose top it is.
    Disk,
    /// A snapshot.
    Snapshot,
    /// An image.
    Image,
}

/// What one of those who refer to a layer is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerName {
    /// Who that is.
    pub kind: NameKind,
    /// Its id.
    pub id: String,
    /// Its name; may be empty.
    pub name: String,
}

impl NameKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Snapshot => "snapshot",
            Self::Image => "image",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Disk, Self::Snapshot, Self::Image].into_iter().find(|kind| kind.as_str() == text)
    }
}

impl LayerHeader {
    /// What those who refer to the layer are called, as far as the header tells.
    pub fn names(&self) -> Vec<LayerName> {
        let tokens = self.luks.metadata.tokens.values();
        let names = tokens.filter(|token| is_ours(token)).filter_map(|t| t["names"].as_array());
        names.flatten().filter_map(decode).take(NAMES_MAX).collect()
    }
}

/// Writes other names into the header: the first few of `names`, where there are more than a header
/// takes. Nothing happens if it says so already.
///
/// # Errors
/// A header that has no room, [`LayerError::HeaderChanged`] if storage holds another header than
/// `header` by now, or storage that fails. After an error `header` may or may not be what storage
/// holds: read it again.
pub fn rename(
    storage: &dyn Storage,
    header: &LayerHeader,
    names: &[LayerName],
    entropy: &dyn Entropy,
) -> Result<LayerHeader, LayerError> {
    let names = &names[..names.len().min(NAMES_MAX)];
    if header.names() == names {
        return Ok(header.clone());
    }
    let mut luks = header.luks.clone();
    put(&mut luks.metadata.tokens, names);
    write_again(storage, header, luks, entropy)
}

/// Puts `names` where ours are, or under the lowest free number; takes them away if there are none.
pub(super) fn put(tokens: &mut Map<String, Value>, names: &[LayerName]) {
    tokens.retain(|_, token| !is_ours(token));
    if names.is_empty() {
        return;
    }
    let names: Vec<Value> = names.iter().take(NAMES_MAX).map(encode).collect();
    let free = (0_u32..).map(|number| number.to_string()).find(|id| !tokens.contains_key(id));
    let number = free.expect("there are more numbers than tokens");
    tokens.insert(number, json!({"type": TYPE, "keyslots": [], "names": names}));
}

fn is_ours(token: &Value) -> bool {
    token["type"] == TYPE
}

fn encode(name: &LayerName) -> Value {
    json!({"kind": name.kind.as_str(), "id": name.id, "name": name.name})
}

fn decode(value: &Value) -> Option<LayerName> {
    let text = |field: &str| value[field].as_str().filter(|text| text.len() <= TEXT_BYTES_MAX);
    let kind = NameKind::parse(text("kind")?)?;
    Some(LayerName { kind, id: text("id")?.to_owned(), name: text("name")?.to_owned() })
}
