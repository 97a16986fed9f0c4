//! What the daemon is told to do: validated once, never changed after.
//!
//! [`Config`] is the configuration as meant. It comes from [`Config::development`] (`--dev`) or
//! from a file (`--config`), whose form as written is `yaml.rs`. `config/sealdisk.yaml` shows every
//! option with its default and its danger.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::limits;
use crate::units::ByteCount;

mod hsm;
pub mod quantity;
mod remote_kms;
mod root_key;
mod token_uri;
mod yaml;

pub use hsm::{HSM_NAME_DEFAULT, HSM_TIMEOUT_DEFAULT, HSM_WORKERS, HSM_WORKERS_DEFAULT, Hsm};
pub use remote_kms::{KmsEndpoint, RemoteKms};
pub use token_uri::{
    PIN_CREDENTIAL_DEFAULT, PIN_VARIABLE_DEFAULT, PinSource, TokenUri, TokenUriError, without_pin,
};
pub use yaml::{ConfigError, Place, load, parse};

/// TCP port of NBD (IANA), on the local host alone unless told otherwise.
pub const NBD_TCP_DEFAULT: SocketAddr = local(10809);

/// Where the API is served over HTTP unless told otherwise.
pub const HTTP_DEFAULT: SocketAddr = local(8600);

/// Account that owns everything unless told otherwise; ids of the cloud have 16 digits.
pub const ACCOUNT_DEFAULT: &str = "1000000000000001";

/// Region the API answers for unless told otherwise.
pub const REGION_DEFAULT: &str = "cn-hangzhou";

/// File of the root key unless told otherwise.
pub const ROOT_KEY_FILE_DEFAULT: &str = "/etc/sealdisk/root.key";

/// Credential of the root key, or of its passphrase, unless told otherwise.
pub const ROOT_KEY_CREDENTIAL_DEFAULT: &str = "sealdisk-root-key";

/// Longest path of a unix socket, in bytes (`sun_path` less its final zero).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// What the daemon runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `--dev`: creates what it needs, keeps the root key beside the data, warns about it.
    Development,
    /// From a configuration file.
    Production,
}

/// Everything the daemon is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What it runs for.
    pub mode: Mode,
    /// Absolute path of the directory of catalog, layers and trail.
    pub data_dir: PathBuf,
    /// 16 digits: the account that owns keys and disks.
    pub account_id: String,
    /// Region in ARNs and answers.
    pub region: String,
    /// Where the key above all keys comes from.
    pub root_key: RootKey,
    /// Where it came from before, while it is being moved.
    pub previous_root_key: Option<RootKey>,
    /// The KMS of the disks, if it is not the one in the house.
    pub remote_kms: Option<RemoteKms>,
    /// Tokens that keep keys; the first takes those that name no instance.
    pub hsm: Vec<Hsm>,
    /// Where and how disks are served.
    pub nbd: Nbd,
    /// Where the control plane listens.
    pub api: Api,
    /// Bounds of the whole process.
    pub limits: Limits,
    /// What is logged, and how.
    pub log: Log,
}

/// Where the root key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootKey {
    /// A file of mode 0600 with one line.
    File {
        /// Its absolute path.
        path: PathBuf,
        /// Whether a missing one is made: right for the first start, wrong ever after.
        may_create: bool,
    },
    /// Made of a passphrase.
    Passphrase {
        /// Where that comes from.
        from: PassphraseFrom,
    },
    /// A credential of the service manager.
    Credential {
        /// Its name.
        name: String,
    },
    /// A key in a token, which never leaves it.
    Token {
        /// Which token; its `object` is the label of the key.
        uri: TokenUri,
    },
}

/// Where a passphrase comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassphraseFrom {
    /// A file of mode 0600.
    File(PathBuf),
    /// A credential of this name.
    Credential(String),
    /// Whoever starts the daemon.
    Prompt,
}

/// Where and how disks are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nbd {
    /// Unix socket; `None`: off.
    pub unix: Option<PathBuf>,
    /// TCP address; `None`: off.
    pub tcp: Option<SocketAddr>,
    /// Connections at a time.
    pub max_connections: usize,
    /// Time a client has for its handshake.
    pub handshake_timeout: Duration,
}

/// Where the control plane listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Unix socket of the API; it is always on, the command line needs it.
    pub unix: PathBuf,
    /// HTTP address of the API, for signed requests; `None`: off.
    pub http: Option<SocketAddr>,
    /// Whether that may be another address than one of the local host.
    pub allow_remote_http: bool,
    /// The same over TLS; `None`: off.
    pub https: Option<Https>,
    /// Requests an access key may make in a second.
    pub requests_per_second: u32,
}

/// Where the control plane listens with TLS, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Https {
    /// TCP address.
    pub address: SocketAddr,
    /// PEM file with the certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// PEM file with the private key, mode 0600.
    pub key: PathBuf,
}

/// Bounds of the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Data buffers of requests in flight, in bytes.
    pub request_buffers: ByteCount,
    /// Percent of the data directory's file system below which a warning is given; 0: never.
    pub low_space_percent: u8,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Form of a line.
    pub format: LogFormat,
    /// Least severe events shown.
    pub level: LogLevel,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Least severe events shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what failed.
    Error,
    /// And what is doubtful.
    Warn,
    /// And what happened.
    Info,
    /// And how.
    Debug,
    /// And every step.
    Trace,
}

impl Config {
    /// What `serve --dev` means: all state in `data_dir` (absolute), the root key beside it.
    pub fn development(data_dir: PathBuf) -> Result<Self, ConfigError> {
        let config = Self {
            mode: Mode::Development,
            root_key: RootKey::File { path: data_dir.join("root.key"), may_create: true },
            nbd: Nbd {
                unix: Some(data_dir.join("nbd.sock")),
                tcp: Some(NBD_TCP_DEFAULT),
                ..Nbd::default()
            },
            api: Api { unix: data_dir.join("api.sock"), ..Api::default() },
            data_dir,
            ..Self::default()
        };
        config.check_socket_paths()?;
        Ok(config)
    }

    /// Refuses plain HTTP where others could read it, unless it was allowed in so many words.
    ///
    /// # Errors
    /// [`ConfigError::RemoteHttp`].
    pub fn check_http(&self) -> Result<(), ConfigError> {
        match self.api.http {
            Some(address) if !address.ip().is_loopback() && !self.api.allow_remote_http => {
                Err(ConfigError::RemoteHttp { address })
            }
            _ => Ok(()),
        }
    }

    /// Refuses a data directory so deep that its sockets cannot have a name.
    fn check_socket_paths(&self) -> Result<(), ConfigError> {
        let paths = self.nbd.unix.iter().chain([&self.api.unix]);
        match paths.into_iter().find(|path| !fits_socket_name(path)) {
            Some(path) => Err(ConfigError::SocketPath { path: path.clone() }),
            None => Ok(()),
        }
    }
}

/// What a configuration file that says nothing means.
impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Production,
            data_dir: "/var/lib/sealdisk".into(),
            account_id: ACCOUNT_DEFAULT.to_owned(),
            region: REGION_DEFAULT.to_owned(),
            root_key: RootKey::File { path: ROOT_KEY_FILE_DEFAULT.into(), may_create: false },
            previous_root_key: None,
            remote_kms: None,
            hsm: Vec::new(),
            nbd: Nbd::default(),
            api: Api::default(),
            limits: Limits {
                request_buffers: ByteCount::new(limits::TOTAL_BUFFER_BYTES_MAX as u64),
                low_space_percent: limits::LOW_SPACE_PERCENT,
            },
            log: Log { format: LogFormat::Text, level: LogLevel::Info },
        }
    }
}

impl Default for Nbd {
    fn default() -> Self {
        Self {
            unix: Some("/run/sealdisk/nbd.sock".into()),
            tcp: None,
            max_connections: limits::CONNECTIONS_MAX,
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            unix: "/run/sealdisk/api.sock".into(),
            http: Some(HTTP_DEFAULT),
            allow_remote_http: false,
            https: None,
            requests_per_second: limits::API_REQUESTS_PER_SECOND,
        }
    }
}

impl LogLevel {
    /// The name in the file and for filters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

fn fits_socket_name(path: &Path) -> bool {
    path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX
}

/// Reads `127.0.0.1:10809`, `[::1]:0` or `off`.
pub fn parse_listen_address(text: &str) -> Result<Option<SocketAddr>, AddressError> {
    match text {
        "off" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| AddressError),
    }
}

/// A text is neither an address with port nor `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no address; allowed: IP:PORT such as 127.0.0.1:8600 or [::1]:8600, or off")]
pub struct AddressError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn development_keeps_everything_in_one_directory() {
        let config = Config::development("/srv/here".into()).unwrap();
        assert_eq!(config.nbd.unix, Some("/srv/here/nbd.sock".into()));
        assert_eq!(config.api.unix, PathBuf::from("/srv/here/api.sock"));
        let root_key = RootKey::File { path: "/srv/here/root.key".into(), may_create: true };
        assert_eq!(config.root_key, root_key);
        assert_eq!(config.nbd.tcp, Some(NBD_TCP_DEFAULT));
    }

    #[test]
    fn a_directory_too_deep_for_sockets_is_refused() {
        let deep = PathBuf::from(format!("/{}", "x".repeat(SOCKET_PATH_BYTES_MAX)));
        let error = Config::development(deep).unwrap_err();
        assert!(error.to_string().contains("107 bytes"), "{error}");
    }

    #[test]
    fn addresses_or_off() {
        assert_eq!(parse_listen_address("off"), Ok(None));
        assert_eq!(parse_listen_address("127.0.0.1:8600"), Ok(Some(HTTP_DEFAULT)));
        assert_eq!(parse_listen_address("localhost"), Err(AddressError));
        assert_eq!(parse_listen_address("OFF"), Err(AddressError));
    }
}
