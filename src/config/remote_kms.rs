//! The section `kms.remote`: another KMS for the disks, as meant and as written.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::yaml::{AbsolutePath, KeyText, RemoteTimeout, ServiceEndpoint};

/// Time for one try of a call unless told otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// A KMS on another host, whose keys protect the disks of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteKms {
    /// Where it is.
    pub endpoint: KmsEndpoint,
    /// File of mode 0600 with `AccessKeyId` and `AccessKeySecret`, as JSON.
    pub access_key_file: PathBuf,
    /// Certificates of who may vouch for it; `None`: those this host trusts.
    pub ca_file: Option<PathBuf>,
    /// Id or alias of the key of disks that name none.
    pub default_key: Option<String>,
    /// Time for one try of a call.
    pub timeout: Duration,
}

/// `https://HOST[:PORT]`; `http://` on this host alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsEndpoint {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Over TLS.
    pub is_tls: bool,
}

impl KmsEndpoint {
    /// Reads an endpoint.
    ///
    /// # Errors
    /// What is wrong with it, and what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "is no endpoint; allowed: https://HOST or https://HOST:PORT".to_owned();
        let (is_tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(wrong()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (rest, if is_tls { 443 } else { 80 }),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:".contains(&byte);
        if bare.is_empty() || !bare.bytes().all(is_plain) {
            return Err(wrong());
        }
        let is_here =
            bare == "localhost" || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        if !is_tls && !is_here {
            return Err(
                "would send data keys in clear; allowed: https://, or http:// on this host"
                    .to_owned(),
            );
        }
        Ok(Self { host: bare.to_owned(), port, is_tls })
    }

    /// As the header `Host` has it.
    pub fn authority(&self) -> String {
        let host = &self.host;
        if host.contains(':') {
            format!("[{host}]:{}", self.port)
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl fmt::Display for KmsEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "https" } else { "http" }, self.authority())
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenKms {
    pub(super) remote: Option<WrittenRemote>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenRemote {
    endpoint: ServiceEndpoint,
    access_key_file: AbsolutePath,
    ca_file: Option<AbsolutePath>,
    default_key: Option<KeyText>,
    timeout: Option<RemoteTimeout>,
}

impl WrittenRemote {
    pub(super) fn meant(self) -> RemoteKms {
        RemoteKms {
            endpoint: self.endpoint.0,
            access_key_file: self.access_key_file.0,
            ca_file: self.ca_file.map(|path| path.0),
            default_key: self.default_key.map(|key| key.0),
            timeout: self.timeout.map_or(TIMEOUT_DEFAULT, |timeout| timeout.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_encrypted_unless_they_are_here() {
        for (text, shown) in [
            ("https://kms.cn-hangzhou.aliyuncs.com", "https://kms.cn-hangzhou.aliyuncs.com:443"),
            ("https://10.0.0.1:8643/", "https://10.0.0.1:8643"),
            ("https://[fd00::1]:8643", "https://[fd00::1]:8643"),
            ("https://[fd00::1]", "https://[fd00::1]:443"),
            ("http://127.0.0.1:8600", "http://127.0.0.1:8600"),
            ("http://localhost", "http://localhost:80"),
        ] {
            assert_eq!(KmsEndpoint::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for text in
            ["", "kms", "ftp://h", "https://", "https://h:x", "https://h/path", "https://a b"]
        {
            assert!(KmsEndpoint::parse(text).is_err(), "{text}");
        }
        assert!(KmsEndpoint::parse("http://10.0.0.1").unwrap_err().contains("in clear"));
    }
}
