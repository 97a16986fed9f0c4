//! What can go wrong with a token, and what that means: the return codes of PKCS #11, in classes.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

use super::pin::PinError;

/// Why a token did not do what it was asked.
#[derive(Clone, Debug)]
pub enum TokenError {
    /// The library cannot be loaded.
    Library {
        /// The file.
        path: PathBuf,
        /// The loader's word.
        reason: String,
    },
    /// The library is loaded, and does not start.
    Start(Code),
    /// No token is the one that is meant.
    NoToken {
        /// What names it.
        wanted: String,
        /// Those that there are.
        found: Vec<FoundToken>,
    },
    /// Several tokens could be the one that is meant.
    ManyTokens {
        /// What names it.
        wanted: String,
        /// Those that it names.
        found: Vec<FoundToken>,
    },
    /// The PIN cannot be read.
    Pin(PinError),
    /// The token refused the PIN.
    PinRefused,
    /// The PIN is still the one that the token has refused: it was not tried again.
    PinRefusedBefore,
    /// The token would lock itself after one more wrong PIN, so none was tried.
    PinFinalTry,
    /// The PIN is locked.
    PinLocked,
    /// The PIN has expired.
    PinExpired,
    /// The token has no user PIN yet.
    PinUnset,
    /// The token cannot do this at all.
    Unsupported {
        /// What.
        what: &'static str,
    },
    /// The token is not in use now: the last attempt failed so.
    Away {
        /// Why.
        cause: Arc<Self>,
    },
    /// More calls wait than may, or the token has no session left; later it will do.
    Busy,
    /// The token does not answer in time.
    Silent,
    /// The object is not in the token.
    Missing {
        /// Its label.
        label: String,
    },
    /// What is there under the object's id is another key.
    Changed {
        /// Its label.
        label: String,
    },
    /// The key came out weaker than it was asked for.
    Weak {
        /// Its label.
        label: String,
        /// What it has, or lacks.
        attribute: &'static str,
    },
    /// What the token gave is not of the form that the standard asks for.
    Output,
    /// A call was refused or failed.
    Code(Code),
    /// The same, twice, while the token does its work: what it was given is at fault.
    Settled(Code),
    /// The check value of an object could not be asked for.
    Unverified {
        /// Its label.
        label: String,
        /// What the token said.
        code: Code,
    },
}

/// A return code, and who gave it.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// The code.
    pub code: RvError,
    /// The function.
    pub function: Function,
}

/// A token that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundToken {
    /// Its label.
    pub label: String,
    /// Its serial number.
    pub serial: String,
    /// Who made it.
    pub manufacturer: String,
    /// What it is.
    pub model: String,
}

/// CKR_AEAD_DECRYPT_FAILED of PKCS #11 3.0; the binding has no name for it.
const AEAD_DECRYPT_FAILED: u64 = 0x42;

/// What a failure means for the way to the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Session, login, slot or library are not what they were: connect anew and ask again.
    Reconnect,
    /// A broken way or a bad input, the code does not tell: the probe does.
    Ambiguous,
    /// Later it will do.
    Busy,
    /// The same again would end the same.
    Lasting,
}

impl Code {
    pub(super) const fn class(self) -> Class {
        use RvError as R;
        match self.code {
            R::SessionHandleInvalid
            | R::SessionClosed
            | R::UserNotLoggedIn
            | R::ObjectHandleInvalid
            // What the standard has for an object that is gone where a key is meant.
            | R::KeyHandleInvalid
            | R::UnwrappingKeyHandleInvalid
            | R::TokenNotPresent
            | R::TokenNotRecognized
            | R::SlotIdInvalid
            | R::DeviceRemoved
            // Left open by whoever used the session before.
            | R::OperationActive
            | R::CryptokiNotInitialized => Class::Reconnect,
            R::GeneralError | R::FunctionFailed | R::DeviceError => Class::Ambiguous,
            R::SessionCount => Class::Busy,
            _ => Class::Lasting,
        }
    }

    /// Whether it says that a ciphertext is none under this key.
    pub(super) const fn is_bad_ciphertext(self) -> bool {
        matches!(
            self.code,
            RvError::UnknownErrorCode(AEAD_DECRYPT_FAILED)
                | RvError::EncryptedDataInvalid
                | RvError::EncryptedDataLenRange
                | RvError::DataInvalid
                | RvError::DataLenRange
                | RvError::SignatureInvalid
        )
    }

    /// Whether it says that wrapped key material is none under this key.
    pub(super) const fn is_bad_material(self) -> bool {
        self.is_bad_ciphertext()
            || matches!(
                self.code,
                // Kryoptic's, of a length that AES has no keys of.
                RvError::KeySizeRange | RvError::WrappedKeyInvalid | RvError::WrappedKeyLenRange
            )
    }

    /// Whether it says that a parameter of a mechanism is not for this token.
    pub(super) const fn is_bad_parameter(self) -> bool {
        matches!(self.code, RvError::MechanismParamInvalid | RvError::ArgumentsBad)
    }

    /// Whether it says that the token does not do what was asked for, with any input.
    pub(super) const fn is_unsupported(self) -> bool {
        self.is_bad_parameter()
            || matches!(self.code, RvError::MechanismInvalid | RvError::FunctionNotSupported)
    }

    /// Whether it says that a template or a parameter is not for this token.
    pub(super) const fn is_bad_template(self) -> bool {
        matches!(
            self.code,
            RvError::AttributeTypeInvalid
                | RvError::AttributeValueInvalid
                | RvError::AttributeReadOnly
                | RvError::TemplateInconsistent
        )
    }
}

impl TokenError {
    pub(super) fn class(&self) -> Class {
        match self {
            Self::Code(code) | Self::Unverified { code, .. } => code.class(),
            // Whoever mends the way finds out why, and says so to all.
            Self::Start(_) => Class::Reconnect,
            // Another one is in its slot.
            Self::NoToken { .. } => Class::Reconnect,
            // A token whose storage is gone finds nothing and says that all is well.
            Self::Missing { .. } => Class::Ambiguous,
            Self::Busy | Self::Silent => Class::Busy,
            _ => Class::Lasting,
        }
    }

    /// Whether the token has no session left for who asked.
    pub(super) const fn is_no_session(&self) -> bool {
        matches!(self, Self::Code(Code { code: RvError::SessionCount, .. }))
    }

    /// Whether later it will do.
    pub const fn is_busy(&self) -> bool {
        self.is_no_session() || matches!(self, Self::Busy | Self::Silent)
    }

    /// Whether the PIN is the matter: nothing but its keeper can mend that.
    pub(super) const fn is_of_pin(&self) -> bool {
        matches!(
            self,
            Self::Pin(_)
                | Self::PinRefused
                | Self::PinRefusedBefore
                | Self::PinFinalTry
                | Self::PinLocked
                | Self::PinExpired
                | Self::PinUnset
        )
    }

    /// What a client of the API may know: the cause, not what else is in the library.
    pub fn brief(&self) -> String {
        match self {
            Self::Library { .. } => "its library cannot be loaded".into(),
            Self::Start(code) => format!("its library does not start ({code})"),
            Self::NoToken { .. } => "the token is not there".into(),
            Self::ManyTokens { .. } => "several tokens could be meant".into(),
            Self::Pin(_) => "its PIN cannot be read".into(),
            Self::Away { cause } => cause.brief(),
            other => other.to_string(),
        }
    }

    /// The same failure, once the probe has told that the way to the token is sound.
    pub(super) fn settled(self) -> Self {
        match self {
            Self::Unverified { label, .. } => Self::Changed { label },
            Self::Code(code) => Self::Settled(code),
            other => other,
        }
    }
}

impl From<Error> for TokenError {
    fn from(error: Error) -> Self {
        match error {
            Error::Pkcs11(code, function) => Self::Code(Code { code, function }),
            Error::NullFunctionPointer | Error::NotSupported | Error::MissingSymbol(_) => {
                Self::Unsupported { what: "a function of PKCS #11 that is needed" }
            }
            _ => Self::Output,
        }
    }
}

/// As the standard writes them: `C_EncryptInit: CKR_DEVICE_ERROR`.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let RvError::UnknownErrorCode(code) = self.code {
            return write!(f, "C_{:?}: CKR {code:#x}", self.function);
        }
        write!(f, "C_{:?}: CKR", self.function)?;
        for letter in format!("{:?}", self.code).chars() {
            if letter.is_ascii_uppercase() {
                f.write_str("_")?;
            }
            write!(f, "{}", letter.to_ascii_uppercase())?;
        }
        Ok(())
    }
}

impl fmt::Display for FoundToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, serial, manufacturer, model } = self;
        write!(f, "token `{label}`, serial `{serial}` ({manufacturer} {model})")
    }
}

struct Listed<'a>(&'a [FoundToken]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (at, token) in self.0.iter().enumerate() {
            write!(f, "{}{token}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library { path, reason } => write!(
                f,
                "the library {} cannot be loaded ({reason}); check module-path",
                path.display()
            ),
            Self::Start(code) => write!(
                f,
                "the library does not start ({code}); check its own configuration, and the store \
                 or device that it has its tokens in"
            ),
            Self::NoToken { wanted, found } => {
                write!(f, "there is no {wanted}; tokens that are there: {}", Listed(found))
            }
            Self::ManyTokens { wanted, found } => {
                write!(f, "{wanted} names several tokens, add serial=: {}", Listed(found))
            }
            Self::Pin(error) => write!(f, "{error}"),
            Self::PinRefused => f.write_str(
                "the token refused the PIN (CKR_PIN_INCORRECT); it is not tried again: correct it \
                 where it is kept",
            ),
            Self::PinRefusedBefore => f.write_str(
                "the PIN is still the one that the token refused, so it was not tried again; \
                 correct it where it is kept",
            ),
            Self::PinFinalTry => f.write_str(
                "one more wrong PIN would lock the token, so none was tried; log in with the right \
                 one by the vendor's tool, then all goes on",
            ),
            Self::PinLocked => f.write_str(
                "the PIN of the token is locked; let its security officer set a new one",
            ),
            Self::PinExpired => f.write_str(
                "the PIN of the token has expired (CKR_PIN_EXPIRED); set a new one by the vendor's \
                 tool, then put it where it is kept",
            ),
            Self::PinUnset => f.write_str("the token has no user PIN yet; initialise it"),
            Self::Unsupported { what } => write!(f, "the token cannot do this: {what}"),
            Self::Away { cause } => write!(f, "the token is not available: {cause}"),
            Self::Busy => f.write_str("the token has more to do than it can; try again"),
            Self::Silent => f.write_str("the token does not answer in time; try again"),
            Self::Missing { label } => write!(
                f,
                "the object `{label}` is not in the token; if this is the right token, restore the \
                 token's backup"
            ),
            Self::Changed { label } => write!(
                f,
                "the object `{label}` in the token is another key than the recorded one; restore \
                 the token's backup"
            ),
            Self::Weak { label, attribute } => {
                write!(f, "the key `{label}` in the token is {attribute}, so it is not used")
            }
            Self::Output => f.write_str("the token gave an answer that cannot be"),
            Self::Code(code) | Self::Settled(code) | Self::Unverified { code, .. } => {
                write!(f, "{code}")
            }
        }
    }
}

impl std::error::Error for TokenError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(code: RvError) -> Code {
        Code { code, function: Function::EncryptInit }
    }

    #[test]
    fn codes_are_named_as_the_standard_does() {
        assert_eq!(
            code(RvError::SessionHandleInvalid).to_string(),
            "C_EncryptInit: CKR_SESSION_HANDLE_INVALID"
        );
        assert_eq!(code(RvError::DeviceError).to_string(), "C_EncryptInit: CKR_DEVICE_ERROR");
    }

    #[test]
    fn each_code_has_one_class() {
        assert_eq!(code(RvError::SessionClosed).class(), Class::Reconnect);
        assert_eq!(code(RvError::GeneralError).class(), Class::Ambiguous);
        assert_eq!(code(RvError::SessionCount).class(), Class::Busy);
        assert_eq!(code(RvError::PinIncorrect).class(), Class::Lasting);
        assert_eq!(TokenError::Start(code(RvError::GeneralError)).class(), Class::Reconnect);
        assert_eq!(TokenError::Missing { label: String::new() }.class(), Class::Ambiguous);
    }
}
