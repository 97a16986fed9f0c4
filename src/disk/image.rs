//! Images: frozen layers with a name, of which disks are made.

use crate::catalog::{ImageFilter, ImageRecord, Listed, Page};
use crate::ram::Caller;

use super::ControlError;
use super::registry::Disks;
use super::snapshot::Deletion;

/// What a new image shall be.
#[derive(Clone, Debug, Default)]
pub struct CreateImage {
    /// The snapshot whose data it has.
    pub snapshot_id: String,
    /// May be empty; else 1 to 128 characters, a letter first.
    pub name: String,
    /// At most 256 characters.
    pub description: String,
    /// Tags to begin with.
    pub tags: Vec<(String, String)>,
}

/// What shall change of an image; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct ImageChange {
    /// Its name.
    pub name: Option<String>,
    /// What its owner says of it.
    pub description: Option<String>,
}

impl Disks {
    /// Makes an image of a snapshot, at once. The snapshot may go, the image stays.
    ///
    /// # Errors
    /// `InvalidSnapshotId.NotFound`, `InvalidSnapshotId.NotReady`.
    pub fn create_image(
        &self,
        caller: &Caller,
        request: &CreateImage,
    ) -> Result<ImageRecord, ControlError> {
        let _ = (caller, request);
        Err(ControlError::unsupported("CreateImage"))
    }

    /// Images that meet `filter`, newest first.
    ///
    /// # Errors
    /// `Forbidden.RAM`, or the catalog's.
    pub fn describe_images(
        &self,
        caller: &Caller,
        filter: &ImageFilter,
        page: Page,
    ) -> Result<Listed<ImageRecord>, ControlError> {
        let _ = caller;
        Ok(self.parts.catalog.images(filter, page)?)
    }

    /// Changes name or description of an image.
    ///
    /// # Errors
    /// `InvalidImageId.NotFound`.
    pub fn modify_image(
        &self,
        caller: &Caller,
        image_id: &str,
        change: &ImageChange,
    ) -> Result<ImageRecord, ControlError> {
        let _ = (caller, image_id, change);
        Err(ControlError::unsupported("ModifyImageAttribute"))
    }

    /// Deletes an image. Disks made of it keep what they need of its data.
    ///
    /// # Errors
    /// `InvalidImageId.NotFound`; `IncorrectImageStatus` for one that disks were made of, unless
    /// forced.
    pub fn delete_image(
        &self,
        caller: &Caller,
        image_id: &str,
        deletion: Deletion,
    ) -> Result<(), ControlError> {
        let _ = (caller, image_id, deletion);
        Err(ControlError::unsupported("DeleteImage"))
    }
}
