//! The configuration as written, and every way in which it can be wrong.
//!
//! Each value is checked while the parser stands on it, so that a refusal names its line. A file is
//! read whole and is small ([`FILE_BYTES_MAX`]).

use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::hsm::{HSM_WORKERS, WrittenHsm};
use super::quantity::{parse_size, parse_span};
use super::remote_kms::{KmsEndpoint, WrittenKms, WrittenRemote};
use super::root_key::{ProviderName, WrittenRootKey};
use super::{
    Api, Config, Hsm, Https, Limits, LogFormat, LogLevel, TokenUri, fits_socket_name, without_pin,
};
use crate::limits;
use crate::units::ByteCount;

/// Largest configuration file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why a configuration cannot be used. Always its writer's fault, or the file system's.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no configuration: larger than 1 MiB.
    #[error("{}: larger than 1 MiB, so this is no configuration file", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// An option or value is wrong.
    #[error("{place}: {reason}")]
    Refused {
        /// Where it stands.
        place: Place,
        /// What is wrong with it, and what is allowed.
        reason: String,
    },
    /// Plain HTTP on an address that others reach: data keys would cross the network in clear.
    #[error(
        "api.http: {address} is not of the local host, and plain HTTP carries keys in clear; use \
         api.https, or say api.allow_remote_http: true"
    )]
    RemoteHttp {
        /// The address.
        address: SocketAddr,
    },
    /// A unix socket cannot have so long a name.
    #[error("{}: a socket's path has at most 107 bytes; use a shorter directory", path.display())]
    SocketPath {
        /// The path.
        path: PathBuf,
    },
}

/// A position in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line and column, counted from 1, where the parser knows them.
    pub line_column: Option<(usize, usize)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match self.line_column {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

/// Reads and checks a configuration file.
pub fn load(file: &Path) -> Result<Config, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    let mut text = String::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge { file: file.to_owned() });
    }
    parse(file, &text)
}

/// Checks the text of a configuration file; `file` only names it in refusals.
pub fn parse(file: &Path, text: &str) -> Result<Config, ConfigError> {
    // A file of comments alone is a valid way to ask for the defaults.
    let written: Option<Written> =
        serde_yaml::from_str(text).map_err(|error| refusal(file, &error))?;
    let config = written.unwrap_or_default().meant().map_err(|reason| {
        let place = Place { file: file.to_owned(), line_column: None };
        ConfigError::Refused { place, reason: reason.to_owned() }
    })?;
    config.check_http()?;
    Ok(config)
}

fn refusal(file: &Path, error: &serde_yaml::Error) -> ConfigError {
    let line_column = error.location().map(|at| (at.line(), at.column()));
    let mut reason = error.to_string();
    if let Some((line, column)) = line_column {
        let tail = format!(" at line {line} column {column}");
        reason.truncate(reason.rfind(&tail).unwrap_or(reason.len()));
    }
    let reason =
        reason.replace("unknown field", "unknown option").replace("expected one of", "allowed:");
    ConfigError::Refused { place: Place { file: file.to_owned(), line_column }, reason }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    data_dir: Option<AbsolutePath>,
    account_id: Option<AccountId>,
    region: Option<Region>,
    root_key: WrittenRootKey,
    kms: WrittenKms,
    hsm: Hsms,
    nbd: WrittenNbd,
    api: WrittenApi,
    limits: WrittenLimits,
    log: WrittenLog,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenNbd {
    unix: Option<SocketPathOrOff>,
    tcp: Option<Address>,
    max_connections: Option<Connections>,
    handshake_timeout: Option<HandshakeTimeout>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenApi {
    unix: Option<SocketPath>,
    http: Option<Address>,
    allow_remote_http: Option<bool>,
    https: Option<HttpsOrOff>,
    requests_per_second: Option<RequestsPerSecond>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenHttps {
    address: ListenAddress,
    certificate: AbsolutePath,
    key: AbsolutePath,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenLimits {
    request_buffers: Option<BufferBytes>,
    low_space: Option<LowSpace>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenLog {
    format: Option<Format>,
    level: Option<Level>,
}

impl Written {
    fn meant(self) -> Result<Config, &'static str> {
        let mut config = Config::default();
        replace(&mut config.data_dir, self.data_dir.map(|value| value.0));
        replace(&mut config.account_id, self.account_id.map(|value| value.0));
        replace(&mut config.region, self.region.map(|value| value.0));
        (config.root_key, config.previous_root_key) = self.root_key.meant()?;
        config.remote_kms = self.kms.remote.map(WrittenRemote::meant);
        config.hsm = self.hsm.0;
        replace(&mut config.nbd.unix, self.nbd.unix.map(|value| value.0));
        replace(&mut config.nbd.tcp, self.nbd.tcp.map(|value| value.0));
        replace(&mut config.nbd.max_connections, self.nbd.max_connections.map(|value| value.0));
        replace(&mut config.nbd.handshake_timeout, self.nbd.handshake_timeout.map(|value| value.0));
        self.api.meant(&mut config.api);
        let Limits { request_buffers, low_space_percent } = &mut config.limits;
        replace(request_buffers, self.limits.request_buffers.map(|value| value.0));
        replace(low_space_percent, self.limits.low_space.map(|value| value.0));
        replace(&mut config.log.format, self.log.format.map(|value| value.0));
        replace(&mut config.log.level, self.log.level.map(|value| value.0));
        Ok(config)
    }
}

impl WrittenApi {
    fn meant(self, api: &mut Api) {
        replace(&mut api.unix, self.unix.map(|value| value.0));
        replace(&mut api.http, self.http.map(|value| value.0));
        replace(&mut api.allow_remote_http, self.allow_remote_http);
        replace(&mut api.https, self.https.map(|value| value.0));
        replace(&mut api.requests_per_second, self.requests_per_second.map(|value| value.0));
    }
}

fn replace<T>(default: &mut T, written: Option<T>) {
    if let Some(value) = written {
        *default = value;
    }
}

pub(super) struct AbsolutePath(pub(super) PathBuf);
pub(super) struct PassphrasePath(pub(super) Option<PathBuf>);
pub(super) struct CredentialName(pub(super) String);
pub(super) struct ServiceEndpoint(pub(super) KmsEndpoint);
pub(super) struct KeyText(pub(super) String);
pub(super) struct RemoteTimeout(pub(super) Duration);
pub(super) struct TokenAddress(pub(super) TokenUri);
pub(super) struct HsmName(pub(super) String);
pub(super) struct HsmWorkers(pub(super) usize);
struct SocketPath(PathBuf);
struct SocketPathOrOff(Option<PathBuf>);
struct Address(Option<SocketAddr>);
struct ListenAddress(SocketAddr);
struct HttpsOrOff(Option<Https>);
struct RequestsPerSecond(u32);
struct AccountId(String);
struct Region(String);
pub(super) struct Provider(pub(super) ProviderName);
struct Connections(usize);
struct HandshakeTimeout(Duration);
struct BufferBytes(ByteCount);
struct LowSpace(u8);
struct Format(LogFormat);
struct Level(LogLevel);

/// Reads a type from the text of a scalar; the refusal names the value and what is allowed.
macro_rules! from_scalar {
    ($($name:ident <- |$text:ident| $read:expr;)*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Scalar(|$text: &str| $read))
            }
        }
    )*};
}

from_scalar! {
    AbsolutePath <- |text| absolute_path(text).map(Self);
    SocketPath <- |text| socket_path(text).map(Self);
    SocketPathOrOff <- |text| match text {
        "off" => Ok(Self(None)),
        path => socket_path(path).map(|path| Self(Some(path))),
    };
    Address <- |text| {
        super::parse_listen_address(text).map(Self).map_err(|error| error.to_string())
    };
    ListenAddress <- |text| text.parse().map(Self).map_err(|_| {
        "is no address; allowed: IP:PORT such as 0.0.0.0:8643".to_owned()
    });
    RequestsPerSecond <- |text| requests_per_second(text).map(Self);
    AccountId <- |text| account_id(text).map(Self);
    Region <- |text| region(text).map(Self);
    PassphrasePath <- |text| match text {
        "prompt" => Ok(Self(None)),
        path => absolute_path(path).map(|path| Self(Some(path))),
    };
    ServiceEndpoint <- |text| KmsEndpoint::parse(text).map(Self);
    KeyText <- |text| match text {
        "" => Err("is no key; allowed: an id, or alias/NAME".to_owned()),
        key => Ok(Self(key.to_owned())),
    };
    RemoteTimeout <- |text| span(text, TIMEOUTS).map(Self);
    TokenAddress <- |text| {
        TokenUri::parse(text).map(Self).map_err(|error| error.to_string())
    };
    HsmName <- |text| hsm_name(text).map(Self);
    HsmWorkers <- |text| hsm_workers(text).map(Self);
    CredentialName <- |text| credential_name(text).map(Self);
    Provider <- |text| {
        use ProviderName::{Credential, File, Passphrase, Pkcs11};
        let names = [File, Passphrase, Credential, Pkcs11].map(|name| (name.as_str(), name));
        choice(text, &names).map(Self)
    };
    Connections <- |text| connections(text).map(Self);
    HandshakeTimeout <- |text| span(text, TIMEOUTS).map(Self);
    BufferBytes <- |text| buffer_bytes(text).map(Self);
    LowSpace <- |text| low_space(text).map(Self);
    Format <- |text| {
        choice(text, &[("text", LogFormat::Text), ("json", LogFormat::Json)]).map(Self)
    };
    Level <- |text| {
        use LogLevel::{Debug, Error, Info, Trace, Warn};
        let levels = [Error, Warn, Info, Debug, Trace].map(|level| (level.as_str(), level));
        choice(text, &levels).map(Self)
    };
}

/// `off`, or a section.
impl<'de> Deserialize<'de> for HttpsOrOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HttpsVisitor)
    }
}

struct HttpsVisitor;

impl<'de> de::Visitor<'de> for HttpsVisitor {
    type Value = HttpsOrOff;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("off, or address, certificate and key")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<HttpsOrOff, E> {
        let only = choice(text, &[("off", ())]);
        only.map(|()| HttpsOrOff(None))
            .map_err(|reason| E::custom(format_args!("`{text}` {reason}, or a section")))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<HttpsOrOff, A::Error> {
        let written = WrittenHttps::deserialize(de::value::MapAccessDeserializer::new(map))?;
        let WrittenHttps { address, certificate, key } = written;
        let meant = Https { address: address.0, certificate: certificate.0, key: key.0 };
        Ok(HttpsOrOff(Some(meant)))
    }
}

/// The tokens. Their names tell them apart in the catalog.
#[derive(Default)]
struct Hsms(Vec<Hsm>);

impl<'de> Deserialize<'de> for Hsms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Option::<Vec<WrittenHsm>>::deserialize(deserializer)?.unwrap_or_default();
        let hsms: Vec<Hsm> = written.into_iter().map(WrittenHsm::meant).collect();
        for (at, hsm) in hsms.iter().enumerate() {
            if hsms[..at].iter().any(|other| other.name == hsm.name) {
                let twice = format!("two tokens have the name `{}`; give each its own", hsm.name);
                return Err(de::Error::custom(twice));
            }
        }
        Ok(Self(hsms))
    }
}

struct Scalar<F>(F);

impl<T, F: Fn(&str) -> Result<T, String>> de::Visitor<'_> for Scalar<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a single value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        let shown = without_pin(text);
        (self.0)(text).map_err(|reason| E::custom(format_args!("`{shown}` {reason}")))
    }
}

fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("is no absolute path; begin it with /".into()) }
}

fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = absolute_path(text)?;
    if fits_socket_name(&path) {
        return Ok(path);
    }
    Err(format!("is too long for a unix socket; allowed: {} bytes", super::SOCKET_PATH_BYTES_MAX))
}

fn account_id(text: &str) -> Result<String, String> {
    if text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    Err("is no account id; allowed: 16 digits".into())
}

fn region(text: &str) -> Result<String, String> {
    let is_known_form =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (2..=32).contains(&text.len()) && text.bytes().all(is_known_form) {
        return Ok(text.to_owned());
    }
    Err("is no region; allowed: 2 to 32 of a-z, 0-9 and -, such as cn-hangzhou".into())
}

fn credential_name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=255).contains(&text.len()) && text.bytes().all(is_plain) && !text.starts_with('.') {
        return Ok(text.to_owned());
    }
    Err("is no credential; allowed: letters, digits, -, _ and ., not beginning with .".into())
}

fn connections(text: &str) -> Result<usize, String> {
    const ALLOWED: RangeInclusive<usize> = 1..=65_536;
    match text.parse() {
        Ok(count) if ALLOWED.contains(&count) => Ok(count),
        _ => Err("is out of range; allowed: 1 to 65536".into()),
    }
}

fn hsm_name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let begins_well = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    if (1..=32).contains(&text.len()) && begins_well && text.bytes().all(is_plain) {
        return Ok(text.to_owned());
    }
    Err("is no name; allowed: 1 to 32 of a-z, 0-9 and -, beginning with a letter".into())
}

fn hsm_workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if HSM_WORKERS.contains(&count) => Ok(count),
        _ => Err(format!(
            "is out of range; allowed: {} to {}",
            HSM_WORKERS.start(),
            HSM_WORKERS.end()
        )),
    }
}

fn requests_per_second(text: &str) -> Result<u32, String> {
    const ALLOWED: RangeInclusive<u32> = 1..=1_000_000;
    match text.parse() {
        Ok(count) if ALLOWED.contains(&count) => Ok(count),
        _ => Err("is out of range; allowed: 1 to 1000000".into()),
    }
}

/// Time that one handshake, or one try of a call, may be given.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(300);

fn span(text: &str, allowed: RangeInclusive<Duration>) -> Result<Duration, String> {
    let span = parse_span(text).map_err(|error| error.to_string())?;
    if allowed.contains(&span) {
        Ok(span)
    } else {
        Err("is out of range; allowed: 100ms to 5m".into())
    }
}

/// The least that lets one connection use what limits.rs grants it.
fn buffer_bytes(text: &str) -> Result<ByteCount, String> {
    const LEAST: u64 = limits::CONNECTION_BUFFER_BYTES_MAX as u64;
    let size = parse_size(text).map_err(|error| error.to_string())?;
    if (LEAST..=1 << 40).contains(&size.get()) {
        return Ok(size);
    }
    Err(format!("is out of range; allowed: {}MiB to 1TiB", LEAST >> 20))
}

fn low_space(text: &str) -> Result<u8, String> {
    if text == "off" {
        return Ok(0);
    }
    let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
    let allowed = || "is no share; allowed: 1% to 99%, or off".to_owned();
    percent.filter(|percent| (1..=99).contains(percent)).ok_or_else(allowed)
}

fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("is not known; allowed: {}", names.join(", "))
    })
}
