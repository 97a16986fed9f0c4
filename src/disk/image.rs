//! Images: frozen layers with a name, of which disks are made.

use crate::catalog::{
    DiskFilter, ImageFilter, ImageRecord, ImageStatus, Listed, Page, StackOperation, TaggedType,
};
use crate::ram::Caller;
use crate::trail::ResourceType;

use super::create::Base;
use super::layers::condemned;
use super::registry::Disks;
use super::snapshot::Deletion;
use super::tags::{check_tags, put_tags};
use super::words::{check_description, check_image_name, new_id};
use super::{ControlError, audit};

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
        let snapshot_id = &request.snapshot_id;
        let thing = (ResourceType::Snapshot, snapshot_id.as_str());
        self.recorded(caller, "CreateImage", thing, || {
            self.allow_on(caller, "ecs:CreateImage", &format!("snapshot/{snapshot_id}"))?;
            check_image_name(&request.name)?;
            check_description(&request.description)?;
            check_tags(&request.tags)?;
            let _structure = self.lock_structure();
            let snapshot = self.ready_snapshot(snapshot_id)?;
            let image = ImageRecord {
                image_id: new_id("m-", &*self.parts.entropy),
                name: request.name.clone(),
                description: request.description.clone(),
                layer_id: snapshot.layer_id,
                size: snapshot.size,
                encrypted: snapshot.encrypted,
                kms_key_id: snapshot.kms_key_id,
                status: ImageStatus::Available,
                created: self.parts.clock.now(),
                source: snapshot.snapshot_id,
            };
            let event = audit::image_created(self.actor(caller), "CreateImage", &image);
            let mut change = vec![StackOperation::InsertImage(image.clone()).into()];
            change.extend(put_tags(TaggedType::Image, &image.image_id, &request.tags));
            self.apply_recorded(&change, &event)?;
            self.note_names(&image.layer_id);
            Ok(image)
        })
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
        let ids = filter.ids.as_ref();
        self.may_list(caller, "ecs:DescribeImages", ("image/*", "ImageId"), ids)?;
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
        let thing = (ResourceType::Image, image_id);
        self.recorded(caller, "ModifyImageAttribute", thing, || {
            self.allow_on(caller, "ecs:ModifyImageAttribute", &format!("image/{image_id}"))?;
            change.name.as_deref().map_or(Ok(()), check_image_name)?;
            change.description.as_deref().map_or(Ok(()), check_description)?;
            let _structure = self.lock_structure();
            let mut image = self.image(image_id)?;
            image.name = change.name.clone().unwrap_or(image.name);
            image.description = change.description.clone().unwrap_or(image.description);
            let event = audit::thing_event(self.actor(caller), "ModifyImageAttribute", thing);
            let update = StackOperation::UpdateImage(image.clone());
            self.apply_recorded(&[update.into()], &event)?;
            self.note_names(&image.layer_id);
            Ok(image)
        })
    }

    /// Deletes an image. Disks made of it keep what they need of its data.
    ///
    /// # Errors
    /// `InvalidImageId.NotFound`; `IncorrectImageStatus` while it is copied; `ImageUsedByDisk` for
    /// one that disks were made of, unless forced.
    pub fn delete_image(
        &self,
        caller: &Caller,
        image_id: &str,
        deletion: Deletion,
    ) -> Result<(), ControlError> {
        let thing = (ResourceType::Image, image_id);
        self.recorded(caller, "DeleteImage", thing, || {
            self.allow_on(caller, "ecs:DeleteImage", &format!("image/{image_id}"))?;
            let _structure = self.lock_structure();
            let image = self.image(image_id)?;
            if image.status == ImageStatus::Creating {
                return Err(not_available(image_id));
            }
            let source_image = Some(image_id.to_owned());
            let made = DiskFilter { source_image, ..DiskFilter::default() };
            let count = self.parts.catalog.disks(&made, Page { offset: 0, limit: 0 })?.total;
            if count > 0 && !deletion.force {
                let message =
                    format!("{count} disks were made of the image {image_id}; force its deletion.");
                return Err(ControlError::refused("ImageUsedByDisk", 403, message));
            }
            let event = audit::thing_event(self.actor(caller), "DeleteImage", thing)
                .request("Force", deletion.force)
                .request("Erase", deletion.erase);
            let mut change = vec![StackOperation::DeleteImage(image_id.to_owned()).into()];
            if deletion.erase {
                change.push(condemned(self.layer_record(&image.layer_id)?).into());
            }
            self.apply_recorded(&change, &event)?;
            self.note_names(&image.layer_id);
            Ok(())
        })?;
        self.sweep(caller);
        self.plan_merges();
        Ok(())
    }

    /// The record of an image.
    pub(super) fn image(&self, image_id: &str) -> Result<ImageRecord, ControlError> {
        self.parts.catalog.image(image_id)?.ok_or_else(|| {
            let message = format!("The specified image does not exist: {image_id}");
            ControlError::refused("InvalidImageId.NotFound", 404, message)
        })
    }

    /// The record of an image that can be used.
    pub(super) fn ready_image(&self, image_id: &str) -> Result<ImageRecord, ControlError> {
        let image = self.image(image_id)?;
        match image.status {
            ImageStatus::Available => Ok(image),
            _ => Err(not_available(image_id)),
        }
    }
}

impl From<ImageRecord> for Base {
    fn from(image: ImageRecord) -> Self {
        let ImageRecord { layer_id, size, encrypted, kms_key_id, .. } = image;
        Self { layer_id, size, encrypted, kms_key_id }
    }
}

fn not_available(image_id: &str) -> ControlError {
    let message = format!("The image {image_id} is not available.");
    ControlError::refused("IncorrectImageStatus", 403, message)
}
