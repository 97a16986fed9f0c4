//! A layer that gets another parent or another size: one update of its header.
//!
//! Parent and size are bound into the wrapped data key, so the key comes along wrapped anew, by the
//! KMS, without having been seen. Each copy of the header holds a size, a parent and the wrapped
//! key that belongs to them; so whichever copy counts after a crash, the layer opens.

use super::format::{update, write_again};
use super::token;
use super::{Envelope, Layer, LayerError, LayerHeader, LayerSpec, State};
use crate::clock::Entropy;
use crate::storage::Storage;

/// Makes `header` say `spec`, which may differ in parent and (greater) size alone, and hold
/// `envelope`, whose key was wrapped for the encryption context of `spec`. The file is made as long
/// as the new size needs before any header says so. Cut off at any point, one copy is whole, old or
/// new.
///
/// # Errors
/// [`LayerError::FixedField`] for any other difference, [`LayerError::Shrinks`],
/// [`LayerError::HeaderChanged`] if storage holds another header than `header` by now; an envelope
/// where there must be none, or none where there must be one; storage that fails. After an error
/// `header` may or may not be what storage holds: read it again.
pub fn reheader(
    storage: &dyn Storage,
    header: &LayerHeader,
    spec: &LayerSpec,
    envelope: Option<&Envelope>,
    entropy: &dyn Entropy,
) -> Result<LayerHeader, LayerError> {
    check_change(&header.spec, spec)?;
    spec.check()?;
    match (&header.envelope, envelope) {
        (None, Some(_)) => return Err(LayerError::NullCipherRefused),
        (Some(_), None) => return Err(LayerError::MissingKey),
        _ => {}
    }
    let mut luks = header.luks.clone();
    luks.metadata.segment = spec.segment();
    luks.metadata.requirements = spec.requirements();
    token::put(&mut luks.metadata.tokens, token::encode(spec, envelope));
    // Refused before the file is changed in any way.
    update(header, luks.clone())?;
    if storage.len()? < spec.file_len() {
        storage.set_len(spec.file_len())?;
        storage.flush()?;
    }
    write_again(storage, header, luks, entropy)
}

fn check_change(old: &LayerSpec, new: &LayerSpec) -> Result<(), LayerError> {
    let LayerSpec { layer_id, disk_id, parent: _, size, unit, cipher, created } = old;
    let fixed = [
        ("layer id", *layer_id == new.layer_id),
        ("disk id", *disk_id == new.disk_id),
        ("data unit", *unit == new.unit),
        ("cipher", *cipher == new.cipher),
        ("time of birth", *created == new.created),
    ];
    if let Some((field, _)) = fixed.iter().find(|(_, is_same)| !is_same) {
        return Err(LayerError::FixedField { field });
    }
    if new.size < *size {
        return Err(LayerError::Shrinks { have: *size, asked: new.size });
    }
    Ok(())
}

/// Headers of layers that are open: what is on storage, through the one descriptor that may write.
/// The open layer itself goes on as it was opened.
impl<S: State> Layer<S> {
    /// The header as storage holds it at this moment.
    ///
    /// # Errors
    /// As [`super::read_header`].
    pub fn stored_header(&self) -> Result<LayerHeader, LayerError> {
        super::read_header(&*self.storage)
    }

    /// As [`reheader`].
    ///
    /// # Errors
    /// As [`reheader`].
    pub fn reheader(
        &self,
        header: &LayerHeader,
        spec: &LayerSpec,
        envelope: Option<&Envelope>,
        entropy: &dyn Entropy,
    ) -> Result<LayerHeader, LayerError> {
        reheader(&*self.storage, header, spec, envelope, entropy)
    }

    /// As [`super::repair_header`].
    ///
    /// # Errors
    /// As [`super::repair_header`].
    pub fn repair_header(
        &self,
        header: &LayerHeader,
        entropy: &dyn Entropy,
    ) -> Result<LayerHeader, LayerError> {
        super::repair_header(&*self.storage, header, entropy)
    }
}
