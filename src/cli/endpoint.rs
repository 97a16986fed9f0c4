//! Where the daemon is: as told, or where one usually is.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::failure::Failure;

/// Where a daemon is looked for when nobody says where, in this order.
const USUAL: [&str; 2] = ["./sealdisk-data/api.sock", "/run/sealdisk/api.sock"];

/// An address of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// `HOST:PORT` over plain HTTP.
    Http(String),
}

/// A text is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed: unix:PATH or http://HOST:PORT")]
pub struct EndpointError;

impl Endpoint {
    /// Reads `unix:PATH` or `http://HOST:PORT`.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.strip_prefix("//").unwrap_or(path).into()));
        }
        let rest = text.strip_prefix("http://").ok_or(EndpointError)?;
        let host = rest.strip_suffix('/').unwrap_or(rest);
        let (name, port) = host.rsplit_once(':').ok_or(EndpointError)?;
        let is_address = !name.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok();
        if is_address { Ok(Self::Http(host.to_owned())) } else { Err(EndpointError) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Http(host) => write!(f, "http://{host}"),
        }
    }
}

/// The endpoints to try: the one told, or the usual ones.
pub fn candidates(told: Option<Endpoint>) -> Vec<Endpoint> {
    match told {
        Some(endpoint) => vec![endpoint],
        None => USUAL.map(|path| Endpoint::Unix(path.into())).to_vec(),
    }
}

/// The first of `candidates` where a daemon listens.
///
/// # Errors
/// What was tried, what came of it, and what to run.
pub fn first_alive(candidates: Vec<Endpoint>) -> Result<Endpoint, Failure> {
    let mut tried = Vec::new();
    for endpoint in candidates {
        match knock(&endpoint) {
            Ok(()) => return Ok(endpoint),
            Err(error) => tried.push(format!("{endpoint} ({})", reason(&error))),
        }
    }
    let message = format!("no sealdisk daemon answers; tried {}", tried.join(", "));
    Err(Failure::new(message).hint(
        "start one with `sealdisk serve --dev`, or say where it is with --endpoint unix:PATH",
    ))
}

fn knock(endpoint: &Endpoint) -> io::Result<()> {
    match endpoint {
        Endpoint::Unix(path) => UnixStream::connect(path).map(drop),
        Endpoint::Http(host) => std::net::TcpStream::connect(host.as_str()).map(drop),
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "not there".to_owned(),
        io::ErrorKind::ConnectionRefused => "nobody listens".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied: run as the daemon's user or root".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn endpoints_read_back_what_they_print() {
        for text in ["unix:/run/sealdisk/api.sock", "unix:./a.sock", "http://127.0.0.1:8600"] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Endpoint::parse("unix:///a"), Ok(Endpoint::Unix("/a".into())));
        assert_eq!(Endpoint::parse("http://h:1/"), Ok(Endpoint::Http("h:1".into())));
        for text in ["", "unix:", "/a", "https://h:1", "http://h", "http://:1", "http://h:1/x"] {
            assert_eq!(Endpoint::parse(text), Err(EndpointError), "{text}");
        }
    }

    #[test]
    fn without_a_word_the_usual_places_are_tried_in_order() {
        let usual: Vec<String> = candidates(None).iter().map(ToString::to_string).collect();
        assert_eq!(usual, ["unix:./sealdisk-data/api.sock", "unix:/run/sealdisk/api.sock"]);
        let told = Endpoint::Http("h:1".into());
        assert_eq!(candidates(Some(told.clone())), [told]);
    }

    #[test]
    fn a_socket_nobody_listens_on_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| Endpoint::Unix(dir.path().join(name));
        drop(UnixListener::bind(dir.path().join("stale")).unwrap());
        let _listener = UnixListener::bind(dir.path().join("alive")).unwrap();
        let found = first_alive(vec![path("none"), path("stale"), path("alive")]);
        assert_eq!(found, Ok(path("alive")));

        let failure = first_alive(vec![path("none"), path("stale")]).unwrap_err();
        assert!(failure.message.contains("none (not there)"), "{failure}");
        assert!(failure.message.contains("stale (nobody listens)"), "{failure}");
        assert!(failure.to_string().contains("hint: start one with `sealdisk serve --dev`"));
        assert_eq!(failure.exit_code(), 1);
    }
}
