//! The JSON of a policy, read strictly: no unknown member, no member twice, no other type.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

/// A whole document: of a policy, a key policy or a trust policy.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Document {
    pub(super) version: String,
    pub(super) statement: Vec<RawStatement>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct RawStatement {
    pub(super) sid: Option<String>,
    pub(super) effect: String,
    pub(super) action: Texts,
    pub(super) resource: Option<Texts>,
    pub(super) principal: Option<RawPrincipal>,
    pub(super) condition: Option<Unique<Unique<Scalars>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPrincipal {
    #[serde(rename = "RAM")]
    pub(super) ram: Option<Texts>,
    #[serde(rename = "Service")]
    pub(super) service: Option<Texts>,
}

/// A text or an array of texts.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a text or an array of texts")]
pub(super) enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// A value of a condition, or an array of them.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a text, a number, a truth value or an array of them")]
pub(super) enum Scalars {
    One(Scalar),
    Many(Vec<Scalar>),
}

impl Scalars {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(value) => vec![value.into_text()],
            Self::Many(values) => values.into_iter().map(Scalar::into_text).collect(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Scalar {
    Text(String),
    Truth(bool),
    Number(serde_json::Number),
}

impl Scalar {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Truth(truth) => truth.to_string(),
            Self::Number(number) => number.to_string(),
        }
    }
}

/// The members of an object, none of them twice.
#[derive(Debug)]
pub(super) struct Unique<T>(pub(super) Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct UniqueVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for UniqueVisitor<T> {
    type Value = Unique<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique<T>, A::Error> {
        let mut seen = std::collections::BTreeSet::new();
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, T>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("{name} comes twice")));
            }
            members.push((name, value));
        }
        Ok(Unique(members))
    }
}
