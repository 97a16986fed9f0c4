//! Logging in without ever locking the token: one wrong PIN is tried once.

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;

use super::failure::TokenError;
use super::pin;
use crate::config::PinSource;
use crate::secret::Secret;

/// The PIN of a token, and what became of it before.
pub(super) struct Pin<'a> {
    /// The token's name in the configuration.
    pub(super) of: &'a str,
    pub(super) source: &'a PinSource,
    /// Was refused, so is not tried again.
    pub(super) refused: &'a mut Option<Secret>,
}

/// Logs in, unless the PIN was refused before or the token is near to being locked.
pub(super) fn present(
    own: Pin<'_>,
    library: &Pkcs11,
    (anchor, slot): (&Session, Slot),
) -> Result<(), TokenError> {
    let info = library.get_token_info(slot)?;
    if !info.login_required() {
        return Ok(());
    }
    if info.user_pin_locked() {
        // Once that is no more, somebody has set a PIN: perhaps this one.
        *own.refused = None;
        return Err(TokenError::PinLocked);
    }
    if info.user_pin_final_try() {
        return Err(TokenError::PinFinalTry);
    }
    if !info.user_pin_initialized() {
        return Err(TokenError::PinUnset);
    }
    if info.user_pin_count_low() {
        tracing::warn!(hsm = own.of, "a wrong PIN was tried at the token since the last login");
    }
    let (pin, answer) = if info.protected_authentication_path() {
        (None, anchor.login(UserType::User, None))
    } else {
        let pin = pin::read(own.source).map_err(TokenError::Pin)?;
        if own.refused.as_ref() == Some(&pin) {
            return Err(TokenError::PinRefusedBefore);
        }
        let answer = anchor.login_with_raw(UserType::User, &pin::for_library(&pin));
        (Some(pin), answer)
    };
    let error = match answer {
        Ok(()) => {
            *own.refused = None;
            return Ok(());
        }
        // By another user of the library in this process; it is one login for all.
        Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => return Ok(()),
        Err(error) => refusal(error),
    };
    // Some count a wrong PIN and say another thing of it.
    let is_counted = || {
        let now = library.get_token_info(slot);
        now.is_ok_and(|now| now.user_pin_count_low() && !info.user_pin_count_low())
    };
    if error.is_of_pin() {
        *own.refused = pin;
    } else if is_counted() {
        *own.refused = pin;
        return Err(TokenError::PinRefused);
    }
    Err(error)
}

fn refusal(error: Error) -> TokenError {
    match error {
        Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _) => {
            TokenError::PinRefused
        }
        Error::Pkcs11(RvError::PinLocked, _) => TokenError::PinLocked,
        Error::Pkcs11(RvError::PinExpired, _) => TokenError::PinExpired,
        error => error.into(),
    }
}
