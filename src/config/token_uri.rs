//! `pkcs11:` URIs (RFC 7512): which library, which token in it, where its PIN is.
//!
//! A token is named by what stays: its serial number or its label, never by the number of its slot,
//! which changes when tokens come and go. The PIN itself never stands in a URI.

use std::fmt;
use std::path::PathBuf;

/// Credential and environment variable of the PIN where the URI names no place.
pub const PIN_CREDENTIAL_DEFAULT: &str = "sealdisk-hsm-pin";
/// As [`PIN_CREDENTIAL_DEFAULT`].
pub const PIN_VARIABLE_DEFAULT: &str = "SEALDISK_HSM_PIN";

/// A token, and how to get at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUri {
    /// `module-path`: the vendor's library, an absolute path.
    pub module: PathBuf,
    /// `token`: its label.
    pub label: Option<String>,
    /// `serial`: its serial number.
    pub serial: Option<String>,
    /// `manufacturer`.
    pub manufacturer: Option<String>,
    /// `model`.
    pub model: Option<String>,
    /// `object`: label of the one key that is meant; the root key's.
    pub object: Option<String>,
    /// `pin-source`.
    pub pin: PinSource,
}

/// Where the PIN of a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinSource {
    /// `file:/PATH`, mode 0600.
    File(PathBuf),
    /// `credential:NAME`, of systemd.
    Credential(String),
    /// `env:NAME`.
    Environment(String),
    /// No `pin-source`: the credential [`PIN_CREDENTIAL_DEFAULT`] if there is one, else the
    /// variable [`PIN_VARIABLE_DEFAULT`].
    Usual,
}

/// Why a text is no URI of a token. Its writer's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenUriError {
    /// It does not begin with `pkcs11:`.
    #[error(
        "is no token; allowed: pkcs11:token=LABEL?module-path=/LIBRARY&pin-source=file:/PIN-FILE"
    )]
    Scheme,
    /// A part is no `name=value`, or its percent encoding is broken.
    #[error("has a part that cannot be read: `{part}`; write name=value, and % as %25")]
    Part {
        /// The part.
        part: String,
    },
    /// An attribute that we do not know.
    #[error(
        "has the unknown attribute `{name}`; allowed: token, serial, manufacturer, model, object, \
         then ? and module-path, pin-source joined by &"
    )]
    Attribute {
        /// Its name.
        name: String,
    },
    /// An attribute stands there twice.
    #[error("says `{name}` twice")]
    Twice {
        /// Its name.
        name: String,
    },
    /// The slot's number says nothing about which token is in it.
    #[error("names a slot; slots change: name the token by serial= or token=")]
    Slot,
    /// A PIN in a URI is seen by everybody.
    #[error("holds the PIN itself; put it into a file of mode 0600 and say pin-source=file:/PATH")]
    PinValue,
    /// Neither serial nor label.
    #[error("names no token; say token=LABEL or serial=NUMBER")]
    NoToken,
    /// The library is not named, or not by its whole path.
    #[error("names no library; say module-path=/PATH/OF/LIBRARY.so after the ?")]
    NoModule,
    /// The place of the PIN is none that we know.
    #[error("has an unknown pin-source; allowed: file:/PATH, credential:NAME, env:NAME")]
    PinSource,
}

impl TokenUri {
    /// Reads a URI.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TokenUriError> {
        let rest = text.strip_prefix("pkcs11:").ok_or(TokenUriError::Scheme)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self {
            module: PathBuf::new(),
            label: None,
            serial: None,
            manufacturer: None,
            model: None,
            object: None,
            pin: PinSource::Usual,
        };
        let (mut module, mut pin) = (None, None);
        for part in path.split(';').filter(|part| !part.is_empty()) {
            let (name, value) = attribute(part)?;
            let place = match name {
                "token" => &mut uri.label,
                "serial" => &mut uri.serial,
                "manufacturer" => &mut uri.manufacturer,
                "model" => &mut uri.model,
                "object" => &mut uri.object,
                "slot-id" | "slot-description" | "slot-manufacturer" => {
                    return Err(TokenUriError::Slot);
                }
                _ => return Err(TokenUriError::Attribute { name: name.to_owned() }),
            };
            put(place, name, value)?;
        }
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = attribute(part)?;
            let place = match name {
                "module-path" => &mut module,
                "pin-source" => &mut pin,
                "pin-value" => return Err(TokenUriError::PinValue),
                _ => return Err(TokenUriError::Attribute { name: name.to_owned() }),
            };
            put(place, name, value)?;
        }
        if uri.label.is_none() && uri.serial.is_none() {
            return Err(TokenUriError::NoToken);
        }
        // A bare file name would be looked for wherever the loader looks.
        let module = module.map(PathBuf::from).filter(|path| path.is_absolute());
        uri.module = module.ok_or(TokenUriError::NoModule)?;
        if let Some(source) = pin {
            uri.pin = PinSource::parse(&source).ok_or(TokenUriError::PinSource)?;
        }
        Ok(uri)
    }
}

/// What of a text that should be a URI may be shown or logged: all, or what is before a PIN in it.
pub fn without_pin(text: &str) -> &str {
    const NAME: &[u8] = b"pin-value";
    let is_it = |bytes: &[u8]| bytes.eq_ignore_ascii_case(NAME);
    let at = text.as_bytes().windows(NAME.len()).position(is_it);
    // What is before and in an ASCII name ends between characters.
    at.map_or(text, |at| &text[..at + NAME.len()])
}

impl PinSource {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once(':')?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_name = !rest.is_empty() && rest.bytes().all(is_plain) && !rest.starts_with('.');
        match scheme {
            "file" => {
                // `file:///PATH`, as in other URIs, is meant as well.
                let path = rest.strip_prefix("//").unwrap_or(rest);
                path.starts_with('/').then(|| Self::File(path.into()))
            }
            "credential" if is_name => Some(Self::Credential(rest.to_owned())),
            "env" if is_name => Some(Self::Environment(rest.to_owned())),
            _ => None,
        }
    }
}

/// For people: where the PIN is, never the PIN.
impl fmt::Display for PinSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Credential(name) => write!(f, "credential {name}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Usual => write!(
                f,
                "credential {PIN_CREDENTIAL_DEFAULT} or environment variable {PIN_VARIABLE_DEFAULT}"
            ),
        }
    }
}

/// For people: what names the token.
impl fmt::Display for TokenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            ("token", &self.label),
            ("serial", &self.serial),
            ("manufacturer", &self.manufacturer),
            ("model", &self.model),
        ];
        let mut is_first = true;
        for (name, value) in named {
            if let Some(value) = value {
                write!(f, "{}{name} `{value}`", if is_first { "" } else { ", " })?;
                is_first = false;
            }
        }
        Ok(())
    }
}

fn put(place: &mut Option<String>, name: &str, value: String) -> Result<(), TokenUriError> {
    if place.replace(value).is_some() {
        return Err(TokenUriError::Twice { name: name.to_owned() });
    }
    Ok(())
}

fn attribute(part: &str) -> Result<(&str, String), TokenUriError> {
    let unreadable = || TokenUriError::Part { part: part.to_owned() };
    let (name, value) = part.split_once('=').ok_or_else(unreadable)?;
    if name == "pin-value" {
        // Before anything of it can come into a message.
        return Err(TokenUriError::PinValue);
    }
    Ok((name, decoded(value).ok_or_else(unreadable)?))
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        rest = tail;
        let nibble = |digit: u8| char::from(digit).to_digit(16);
        bytes.push((nibble(digits[0])? << 4 | nibble(digits[1])?) as u8);
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.is_empty() && !text.contains('\0')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = "module-path=/usr/lib/softhsm/libsofthsm2.so";

    fn parsed(text: &str) -> Result<TokenUri, TokenUriError> {
        TokenUri::parse(text)
    }

    #[test]
    fn a_token_is_named_by_label_or_serial() {
        let uri = parsed(&format!("pkcs11:token=My%20HSM;serial=0a1?{MODULE}")).unwrap();
        assert_eq!(uri.label.as_deref(), Some("My HSM"));
        assert_eq!(uri.serial.as_deref(), Some("0a1"));
        assert_eq!(uri.pin, PinSource::Usual);
        assert_eq!(uri.to_string(), "token `My HSM`, serial `0a1`");
        for (source, meant) in [
            ("file:/etc/pin", PinSource::File("/etc/pin".into())),
            ("file:///etc/pin", PinSource::File("/etc/pin".into())),
            ("credential:pin", PinSource::Credential("pin".into())),
            ("env:HSM_PIN", PinSource::Environment("HSM_PIN".into())),
        ] {
            let uri = parsed(&format!("pkcs11:token=a?{MODULE}&pin-source={source}")).unwrap();
            assert_eq!(uri.pin, meant);
        }
    }

    #[test]
    fn what_is_wrong_with_a_uri_is_said() {
        use TokenUriError as E;
        let twice = || E::Twice { name: "token".into() };
        for (text, error) in [
            (format!("token=a?{MODULE}"), E::Scheme),
            (format!("pkcs11:slot-id=1?{MODULE}"), E::Slot),
            (format!("pkcs11:token=a;token=b?{MODULE}"), twice()),
            (format!("pkcs11:?{MODULE}"), E::NoToken),
            ("pkcs11:token=a".into(), E::NoModule),
            ("pkcs11:token=a?module-path=libsofthsm2.so".into(), E::NoModule),
            (format!("pkcs11:token=a?{MODULE}&pin-value=1234"), E::PinValue),
            (format!("pkcs11:token=a?{MODULE}&pin-value=%zz"), E::PinValue),
            (format!("pkcs11:token=a?{MODULE}&pin-source=/etc/pin"), E::PinSource),
            (format!("pkcs11:token=a?{MODULE}&pin-source=env:"), E::PinSource),
            (format!("pkcs11:token=%4?{MODULE}"), E::Part { part: "token=%4".into() }),
            (format!("pkcs11:token?{MODULE}"), E::Part { part: "token".into() }),
            (format!("pkcs11:color=red?{MODULE}"), E::Attribute { name: "color".into() }),
        ] {
            assert_eq!(parsed(&text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_pin_is_not_shown() {
        for (text, shown) in [
            ("pkcs11:token=a?pin-value=1234&module-path=/m", "pkcs11:token=a?pin-value"),
            ("pkcs11:PIN-Value=1234", "pkcs11:PIN-Value"),
            ("pkcs11:token=pin?pin-source=file:/pin", "pkcs11:token=pin?pin-source=file:/pin"),
            ("ü", "ü"),
            ("", ""),
        ] {
            assert_eq!(without_pin(text), shown);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in "pkcs11:[ -~]{0,60}") {
            let _ = parsed(&text);
        }

        #[test]
        fn of_any_text_what_is_shown_is_its_beginning(text in ".{0,9}(pin-value)?.{0,9}") {
            proptest::prop_assert!(text.starts_with(without_pin(&text)));
        }
    }
}
