//! The RPC form of the cloud's API: query, form and headers made into one checked [`Call`].
//!
//! Pure: bytes in, values out. Parameters may come from the query or a form body, and `Action` and
//! `Version` from `x-acs-*` headers as well (the second generation of SDKs sends them so). A name
//! that comes twice is refused: which one counts must not depend on who reads.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, Visitor};
use zeroize::{Zeroize, Zeroizing};

use super::error::ApiError;
use super::percent;
use super::{OWN_SERVICE, OWN_VERSION};
use crate::catalog::Page;
use crate::kms;
use crate::limits;
use crate::secret::Secret;

/// Entries of one list parameter (`DiskIds`, `Name.N`); the cloud takes 100.
const LIST_ENTRIES_MAX: usize = 100;

/// Whose action it is; told apart by `Version`, for action names are not unique among products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Key management, 2016-01-20.
    Kms,
    /// Disks, 2014-05-26.
    Ecs,
    /// Audit trail, 2020-07-06.
    ActionTrail,
    /// Users and policies, 2015-05-01.
    Ram,
    /// What the cloud does not have, [`OWN_VERSION`].
    Own,
}

impl Product {
    /// Its name in the credentials of ACS4.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Kms => "Kms",
            Self::Ecs => "Ecs",
            Self::ActionTrail => "Actiontrail",
            Self::Ram => "Ram",
            Self::Own => OWN_SERVICE,
        }
    }

    /// The product that publishes this version.
    pub fn of_version(version: &str) -> Option<Self> {
        match version {
            "2016-01-20" => Some(Self::Kms),
            "2014-05-26" => Some(Self::Ecs),
            "2020-07-06" => Some(Self::ActionTrail),
            "2015-05-01" => Some(Self::Ram),
            OWN_VERSION => Some(Self::Own),
            _ => None,
        }
    }
}

/// One request to do something, not yet known to be possible.
#[derive(Debug)]
pub struct Call {
    /// Whose action.
    pub product: Product,
    /// Its name, as sent.
    pub action: String,
    /// Everything else.
    pub parameters: Parameters,
}

/// The texts a call can stand in, as they came off the wire.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire<'a> {
    /// Header `x-acs-action`.
    pub action: Option<&'a str>,
    /// Header `x-acs-version`.
    pub version: Option<&'a str>,
    /// What follows `?`.
    pub query: &'a str,
    /// Body of a form.
    pub form: &'a [u8],
}

impl Call {
    /// Reads a call. Refusals are the gateway's codes, the client's fault.
    pub fn read(wire: &Wire<'_>) -> Result<Self, ApiError> {
        let mut values = Values(BTreeMap::new());
        let form =
            std::str::from_utf8(wire.form).map_err(|_| unreadable("the body is no UTF-8"))?;
        read_pairs(wire.query, &mut values)?;
        read_pairs(form, &mut values)?;
        let action = one_of(wire.action, values.0.remove("Action"), "Action")?;
        let version = one_of(wire.version, values.0.remove("Version"), "Version")?;
        let product = Product::of_version(&version).ok_or_else(|| {
            ApiError::new(400, "InvalidVersion", "Specified parameter Version is not valid.")
        })?;
        Ok(Self { product, action, parameters: Parameters { product, values } })
    }
}

fn one_of(
    header: Option<&str>,
    parameter: Option<String>,
    name: &'static str,
) -> Result<String, ApiError> {
    match (header, parameter) {
        (Some(header), Some(parameter)) if header != parameter => {
            Err(ApiError::invalid(name).recommending("header and parameter differ; send one"))
        }
        (Some(value), _) if !value.is_empty() => Ok(value.to_owned()),
        (_, Some(value)) if !value.is_empty() => Ok(value),
        _ => Err(ApiError::missing(Product::Ecs, name)),
    }
}

fn unreadable(what: &str) -> ApiError {
    let message = format!("The request parameters cannot be read: {what}.");
    ApiError::new(400, "ParseRequestParameterException", message)
}

fn read_pairs(text: &str, values: &mut Values) -> Result<(), ApiError> {
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name)?;
        if values.0.len() == limits::API_PARAMETERS_MAX {
            return Err(unreadable("there are too many"));
        }
        if values.0.contains_key(&name) {
            return Err(ApiError::invalid(&name).recommending("it is there twice; send it once"));
        }
        values.0.insert(name, decoded(value)?);
    }
    Ok(())
}

fn decoded(text: &str) -> Result<String, ApiError> {
    percent::decode(text).map_err(|error| unreadable(&error.to_string()))
}

/// The parameters of a call. Values may be secret (`Plaintext`): wiped on drop, not in `Debug`. The
/// text they were decoded from is out of our reach: the HTTP library frees its read buffer unwiped.
pub struct Parameters {
    product: Product,
    values: Values,
}

struct Values(BTreeMap<String, String>);

impl Drop for Values {
    fn drop(&mut self) {
        self.0.values_mut().for_each(Zeroize::zeroize);
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.0.keys()).finish()
    }
}

impl Parameters {
    /// The value as sent, the empty text included.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.0.get(name).map(String::as_str)
    }

    /// The value unless absent or empty: SDKs send unset parameters as empty ones.
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.text(name).filter(|value| !value.is_empty())
    }

    /// A value that must be there and say something.
    pub fn required(&self, name: &str) -> Result<&str, ApiError> {
        self.filled(name).ok_or_else(|| ApiError::missing(self.product, name))
    }

    /// `true` or `false` in any case: Python sends `True`.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.filled(name) {
            None => Ok(None),
            Some(text) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(text) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(_) => Err(ApiError::invalid(name)),
        }
    }

    /// A whole number in `allowed`.
    pub fn integer<T: FromStr + PartialOrd>(
        &self,
        name: &str,
        allowed: RangeInclusive<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.filled(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| allowed.contains(number));
        number.map(Some).ok_or_else(|| ApiError::invalid(name))
    }

    /// `Name.1`, `Name.2`, … up to the first that is absent.
    pub fn list(&self, name: &str) -> Vec<&str> {
        let entry = |number| self.filled(&format!("{name}.{number}"));
        (1..=LIST_ENTRIES_MAX).map_while(entry).collect()
    }

    /// A JSON array of strings, such as `DiskIds=["d-1","d-2"]`.
    pub fn json_list(&self, name: &str) -> Result<Option<Vec<String>>, ApiError> {
        let entries: Option<Vec<String>> = self.json(name)?;
        match entries {
            Some(entries) if entries.len() > LIST_ENTRIES_MAX => Err(ApiError::invalid(name)),
            entries => Ok(entries),
        }
    }

    /// A JSON object of strings to strings, each name once; absent is empty. KMS bounds its length.
    pub fn encryption_context(&self) -> Result<BTreeMap<String, String>, ApiError> {
        self.context("EncryptionContext")
    }

    /// As [`Parameters::encryption_context`], under another name. An old official client sends
    /// `EncryptionContext.disk=d-1` instead of JSON: to overlook that would be to bind to nothing.
    pub fn context(&self, name: &str) -> Result<BTreeMap<String, String>, ApiError> {
        let json = self.json::<Context>(name)?.map(|context| context.0);
        let flat = self.values.0.iter().filter_map(|(known, value)| {
            let member = known.strip_prefix(name)?.strip_prefix('.')?;
            Some((member.to_owned(), value.clone()))
        });
        let flat: BTreeMap<String, String> = flat.collect();
        match json {
            Some(_) if !flat.is_empty() => Err(ApiError::invalid(name)),
            Some(context) => Ok(context),
            None => Ok(flat),
        }
    }

    /// A value that is JSON text.
    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.filled(name) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|_| ApiError::invalid(name))
    }

    /// Base64 of at most `bytes_max` bytes, decoded into the arena: what it holds may be secret.
    pub fn base64(&self, name: &str, bytes_max: usize) -> Result<Secret, ApiError> {
        let text = self.required(name)?;
        if text.len() > bytes_max.div_ceil(3) * 4 {
            return Err(ApiError::invalid(name));
        }
        let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
        let len = STANDARD.decode_slice(text, &mut bytes).map_err(|_| ApiError::invalid(name))?;
        if len > bytes_max {
            return Err(ApiError::invalid(name));
        }
        Ok(Secret::take(&mut bytes[..len]))
    }

    /// `PageNumber` (from 1) and `PageSize` (1 to 100, 10 unless told).
    pub fn paging(&self) -> Result<Paging, ApiError> {
        let number = self.integer("PageNumber", 1..=1 << 31)?.unwrap_or(1);
        let size = self.integer("PageSize", 1..=100)?.unwrap_or(10);
        Ok(Paging { number, size })
    }

    /// Refuses the first of `names` that is there: see [`ApiError::unsupported`].
    pub(super) fn refuse(&self, names: &[&str]) -> Result<(), ApiError> {
        let found = names.iter().find(|name| self.filled(name).is_some());
        found.map_or(Ok(()), |name| Err(ApiError::unsupported(name)))
    }
}

/// Which page of a list, in the API's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// Counted from 1.
    pub number: u64,
    /// Entries on a page.
    pub size: u64,
}

impl Paging {
    /// The same in the KMS's words.
    pub fn for_kms(self) -> kms::Paging {
        let narrow = |wide: u64| u32::try_from(wide).unwrap_or(u32::MAX);
        kms::Paging { number: narrow(self.number), size: narrow(self.size) }
    }

    /// The same in the catalog's words.
    pub const fn page(self) -> Page {
        Page { offset: (self.number - 1) * self.size, limit: self.size }
    }
}

struct Context(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Context {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ContextVisitor)
    }
}

struct ContextVisitor;

impl<'de> Visitor<'de> for ContextVisitor {
    type Value = Context;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Context, A::Error> {
        let mut context = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, String>()? {
            if context.insert(name, value).is_some() {
                return Err(A::Error::custom("a name comes twice"));
            }
        }
        Ok(Context(context))
    }
}
