//! A root key in a token: it never leaves it, and is asked once a start.
//!
//! The root record names the key by its id in the token and by a check value, so that another key
//! in its place is told from it. A rotation makes a new one beside it; the one before stays, for
//! older backups need it.

use std::sync::Arc;
use std::time::Duration;

use super::key::{KEY_BYTES, RootKey};
use super::{Loaded, Provider, RootError};
use crate::catalog::RootRecord;
use crate::clock::{Entropy, SystemClock, SystemEntropy};
use crate::config::{Hsm, TokenUri};
use crate::secret::Secret;
use crate::token::{CHECK_BYTES, Check, ID_BYTES, IV_BYTES, Object, Token, TokenParts, TokenState};

/// Label of a root key whose URI names none.
const LABEL_DEFAULT: &str = "sealdisk-root";

const SEAL_LABEL: &[u8] = b"sealdisk/root-seal/v1";

/// Time that a start waits for the token.
const PATIENCE: Duration = Duration::from_secs(20);

/// The provider `pkcs11`.
#[derive(Clone, Debug)]
pub struct TokenKey {
    uri: TokenUri,
}

/// A root key in its token.
struct InToken {
    token: Token,
    object: Object,
    id: String,
}

impl TokenKey {
    /// The key in the token that `uri` names; its `object` is the label.
    pub const fn new(uri: TokenUri) -> Self {
        Self { uri }
    }

    fn label(&self) -> &str {
        self.uri.object.as_deref().unwrap_or(LABEL_DEFAULT)
    }

    fn connect(&self) -> Result<Token, RootError> {
        let settings = Hsm { name: "root".into(), workers: 1, ..Hsm::new(self.uri.clone()) };
        let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
        let parts = TokenParts { settings, clock, entropy, on_change: Box::new(|_| {}) };
        let token = Token::open(parts).map_err(RootError::NoThread)?;
        match token.settle(PATIENCE) {
            TokenState::Up { .. } => Ok(token),
            TokenState::Down { cause, .. } => Err(RootError::Token((*cause).clone())),
        }
    }

    fn make(&self) -> Result<Loaded, RootError> {
        let token = self.connect()?;
        let object = token.generate(self.label()).map_err(RootError::Token)?;
        let parameters = written(&object);
        Ok(Loaded { key: Box::new(InToken::new(token, object)), parameters })
    }
}

impl InToken {
    fn new(token: Token, object: Object) -> Self {
        let id = hex(&object.id);
        Self { token, object, id }
    }
}

impl Provider for TokenKey {
    fn name(&self) -> &'static str {
        "pkcs11"
    }

    fn place(&self) -> String {
        format!("key `{}` in {}", self.label(), self.uri)
    }

    fn load(&self, known: Option<&RootRecord>, _: &dyn Entropy) -> Result<Loaded, RootError> {
        let Some(known) = known.filter(|known| known.provider == self.name()) else {
            return self.make();
        };
        let object = read(&known.parameters).ok_or(RootError::Corrupt)?;
        let token = self.connect()?;
        token.verify(&object).map_err(RootError::Token)?;
        let parameters = known.parameters.clone();
        Ok(Loaded { key: Box::new(InToken::new(token, object)), parameters })
    }

    fn prepare(
        &self,
        _: &RootRecord,
        given: Option<&Secret>,
        _: &dyn Entropy,
    ) -> Result<Loaded, RootError> {
        if given.is_some() {
            return Err(RootError::SecretUnneeded { provider: self.name() });
        }
        self.make()
    }

    fn promote(&self) -> Result<(), RootError> {
        // The record names the key by its id; there is no usual place to put it in.
        Ok(())
    }
}

impl RootKey for InToken {
    fn id(&self) -> &str {
        &self.id
    }

    fn seal(&self, sealing_key: &Secret, _: &dyn Entropy) -> Result<Vec<u8>, RootError> {
        let sealed = self.token.seal(&self.object, SEAL_LABEL, sealing_key.expose());
        let sealed = sealed.map_err(RootError::Token)?;
        Ok([&sealed.iv[..], &sealed.bytes].concat())
    }

    fn open(&self, sealed: &[u8]) -> Result<Secret, RootError> {
        let (iv, sealed) = sealed.split_first_chunk::<IV_BYTES>().ok_or(RootError::Corrupt)?;
        let opened = self.token.open_sealed(&self.object, *iv, SEAL_LABEL, sealed);
        let opened = opened.map_err(RootError::Token)?.ok_or(RootError::Corrupt)?;
        if opened.len() == KEY_BYTES { Ok(opened) } else { Err(RootError::Corrupt) }
    }
}

/// `label=…,id=…,check=…`, each in hexadecimal digits.
fn written(object: &Object) -> String {
    let (label, id) = (hex(object.label.as_bytes()), hex(&object.id));
    format!("label={label},id={id},check={}", hex(&object.check.0))
}

fn read(text: &str) -> Option<Object> {
    let mut fields = text.split(',');
    let mut field = |name: &str| bytes(fields.next()?.strip_prefix(name)?);
    let (label, id, check) = (field("label=")?, field("id=")?, field("check=")?);
    if fields.next().is_some() {
        return None;
    }
    Some(Object {
        id: <[u8; ID_BYTES]>::try_from(id).ok()?,
        label: String::from_utf8(label).ok()?,
        check: Check(<[u8; CHECK_BYTES]>::try_from(check).ok()?),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return None;
    }
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_others_do_not() {
        let object =
            Object { id: [7; ID_BYTES], label: "a,b=c".into(), check: Check([9; CHECK_BYTES]) };
        let text = written(&object);
        assert_eq!(read(&text), Some(object));
        for bad in ["", "label=,id=,check=", &text[1..], &text[..text.len() - 1]] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(read(&format!("{text},x")), None);
    }
}
