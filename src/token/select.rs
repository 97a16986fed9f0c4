//! Finding the one token that is meant, by what stays: serial number and label, never a slot.

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;
use cryptoki::slot::{Limit, Slot, TokenInfo};

use super::failure::{FoundToken, TokenError};
use crate::config::TokenUri;

/// A token in its slot of the moment.
#[derive(Clone, Debug)]
pub(super) struct Selected {
    pub(super) slot: Slot,
    pub(super) found: FoundToken,
    /// Sessions that it has; `None`: it does not say, or has as many as one likes.
    pub(super) sessions_max: Option<u64>,
}

/// The token that `uri` names, among all that the library has.
///
/// # Errors
/// [`TokenError::NoToken`] and [`TokenError::ManyTokens`] list what is there.
pub(super) fn select(library: &Pkcs11, uri: &TokenUri) -> Result<Selected, TokenError> {
    let mut all = Vec::new();
    let mut fitting = Vec::new();
    for slot in library.get_slots_with_token()? {
        // A slot whose token was just taken out is none.
        let Ok(info) = library.get_token_info(slot) else { continue };
        if !info.token_initialized() {
            continue;
        }
        let found = describe(&info);
        all.push(found.clone());
        if is_meant(uri, &found) {
            let sessions_max = match info.max_session_count() {
                Limit::Max(sessions) => Some(sessions),
                Limit::Unavailable | Limit::Infinite => None,
            };
            fitting.push(Selected { slot, found, sessions_max });
        }
    }
    match fitting.len() {
        1 => fitting.pop().ok_or(TokenError::Output),
        0 => Err(TokenError::NoToken { wanted: uri.to_string(), found: all }),
        _ => Err(TokenError::ManyTokens {
            wanted: uri.to_string(),
            found: fitting.into_iter().map(|selected| selected.found).collect(),
        }),
    }
}

/// A session that only reads, closed when dropped; where a token has none such (AWS CloudHSM), one
/// that may write too.
pub(super) fn open_to_read(library: &Pkcs11, slot: Slot) -> Result<Session, Error> {
    or_to_write(library.open_ro_session(slot), || library.open_rw_session(slot))
}

/// As [`open_to_read`], closed by whoever has it.
pub(super) fn open_to_read_no_drop(library: &Pkcs11, slot: Slot) -> Result<Session, Error> {
    or_to_write(library.open_ro_session_no_drop(slot), || library.open_rw_session_no_drop(slot))
}

fn or_to_write(
    opened: Result<Session, Error>,
    to_write: impl FnOnce() -> Result<Session, Error>,
) -> Result<Session, Error> {
    match opened {
        Err(Error::Pkcs11(RvError::FunctionFailed, _)) => to_write(),
        opened => opened,
    }
}

fn describe(info: &TokenInfo) -> FoundToken {
    FoundToken {
        label: info.label().to_owned(),
        serial: info.serial_number().to_owned(),
        manufacturer: info.manufacturer_id().to_owned(),
        model: info.model().to_owned(),
    }
}

fn is_meant(uri: &TokenUri, found: &FoundToken) -> bool {
    let fits = |wanted: &Option<String>, is: &str| {
        wanted.as_ref().is_none_or(|wanted| wanted.trim_end() == is.trim_end())
    };
    fits(&uri.label, &found.label)
        && fits(&uri.serial, &found.serial)
        && fits(&uri.manufacturer, &found.manufacturer)
        && fits(&uri.model, &found.model)
}
