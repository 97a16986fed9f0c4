//! `sealdisk image …`

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::client::{self, Client, ECS, Interrupts, OWN, text};
use super::disk::{KeyNames, consented, or_dash, size_of};
use super::failure::Failure;
use super::find::{IMAGE, SNAPSHOT};
use super::job;
use super::leased_disk::LeasedDisk;
use super::output::{Cell, Output, Table, human_age, human_size, render_fields};
use super::qemu_img::{self, Conversion};
use super::snapshot::{region_of, tags_of, yes_or_no};
use super::stack_arguments::{ExportImage, FORMATS, ImageCommand, ImportImage};
use crate::api;
use crate::clock::{Clock, SystemClock};

/// Disks are whole data units: an image that is not is filled up with zeros.
const UNIT_BYTES: u64 = 4096;

pub(super) fn run(command: ImageCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        ImageCommand::Create { snapshot, name, description } => {
            let snapshot = SNAPSHOT.id_of(client, &snapshot.snapshot)?;
            let mut parameters = vec![("SnapshotId", snapshot.as_str()), ("ImageName", &name)];
            parameters.extend(description.iter().map(|text| ("Description", text.as_str())));
            let created = client.call(ECS, "CreateImage", &parameters)?;
            show(&IMAGE.find(client, text(&created, "ImageId"))?, client, output)
        }
        ImageCommand::Import(import) => {
            let id = import_file(&import, client, output)?;
            show(&IMAGE.find(client, &id)?, client, output)
        }
        ImageCommand::List => list(client, output),
        ImageCommand::Show(name) => show(&IMAGE.find(client, &name.image)?, client, output),
        ImageCommand::Export(export) => export_file(&export, client, output),
        ImageCommand::Copy { image, name, key_id, wait } => {
            let id = copy(&image.image, &name, key_id.as_deref(), client)?;
            if wait {
                job::wait_for_copy(&id, client, output)?;
            }
            show(&IMAGE.find(client, &id)?, client, output)
        }
        ImageCommand::Delete { image, force, erase, yes } => {
            let image = IMAGE.find(client, &image.image)?;
            let id = text(&image, "ImageId");
            if !yes {
                let name = text(&image, "ImageName");
                output.confirm(&format!("Delete image {id} {name}?"))?;
            }
            let force = force.to_string();
            let (version, action) = if erase { (OWN, "EraseImage") } else { (ECS, "DeleteImage") };
            client.call(version, action, &[("ImageId", id), ("Force", &force)])?;
            output.answer(&json!({"ImageId": id}), || format!("deleted {id}\n"))
        }
    }
}

/// The file becomes the content of a new disk, the disk becomes the image.
fn import_file(import: &ImportImage, client: &Client, output: &Output) -> Result<String, Failure> {
    api::check_image_name(&import.name).map_err(|error| {
        Failure::refused(&error.code, &error.message, error.recommend.as_deref())
    })?;
    let from = qemu_img::probe(&import.file, import.format.as_deref(), import.follow)?;
    let total = qemu_img::data_bytes(from.path.as_os_str(), &from.format)?;
    let size = from.size.next_multiple_of(UNIT_BYTES).to_string();
    let encrypted = (!import.unencrypted).to_string();
    let key_id = import.key_id.as_deref().map(|key| consented(client, key)).transpose()?;
    let description = format!("becomes the image {}", import.name);
    let mut parameters = vec![
        ("SizeBytes", size.as_str()),
        ("Encrypted", encrypted.as_str()),
        ("Description", description.as_str()),
    ];
    parameters.extend(key_id.iter().map(|key| ("KMSKeyId", key.as_str())));
    // First, so that no moment is left in which the disk is there and a signal ends us at once.
    let mut interrupts = Interrupts::listen(client)?;
    let mut disk = LeasedDisk::attach_new(client, &parameters)?;
    let arguments = qemu_img::import_arguments(&from, &disk.uri()?);
    let conversion = Conversion { what: "import", total, client, output };
    conversion.run(&arguments, &mut disk, &mut interrupts)?;
    let mut parameters = vec![("DiskId", disk.id()), ("ImageName", import.name.as_str())];
    parameters.extend(import.description.iter().map(|text| ("Description", text.as_str())));
    let made = client.call(OWN, "CreateImageOfDisk", &parameters)?;
    disk.given_away();
    Ok(text(&made, "ImageId").to_owned())
}

/// The image becomes a disk that is only read, its content goes to the file.
fn export_file(export: &ExportImage, client: &Client, output: &Output) -> Result<(), Failure> {
    let format = format_of(export)?;
    let image = IMAGE.find(client, &export.image.image)?;
    let id = text(&image, "ImageId");
    let mut interrupts = Interrupts::listen(client)?;
    // Before the disk, so that nothing is made for a name that cannot be.
    let mut file = NewFile::create(&export.to)?;
    let parameters = [("ImageId", id), ("ReadOnly", "true")];
    let mut disk = LeasedDisk::attach_new(client, &parameters)?;
    let uri = disk.uri()?;
    let total = qemu_img::data_bytes(uri.as_ref(), "raw")?;
    let arguments = qemu_img::export_arguments(&uri, format, file.part());
    let conversion = Conversion { what: "export", total, client, output };
    conversion.run(&arguments, &mut disk, &mut interrupts)?;
    file.keep()?;
    let json = json!({
        "ImageId": id,
        "File": export.to.to_string_lossy(),
        "Format": format,
        "DataBytes": total,
    });
    output.answer(&json, || {
        format!("{} holds {id}, in clear: {} of data\n", export.to.display(), human_size(total))
    })
}

/// As told, or as the file's name ends.
fn format_of(export: &ExportImage) -> Result<&str, Failure> {
    if let Some(format) = &export.format {
        return Ok(format);
    }
    let ending = export.to.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    match ending.as_deref() {
        Some("img") => Ok("raw"),
        ending => FORMATS.into_iter().find(|format| Some(*format) == ending).ok_or_else(|| {
            let message = format!("{}: the name does not tell the format", export.to.display());
            Failure::usage(message).hint(format!("say --format {}", FORMATS.join(" | ")))
        }),
    }
}

fn copy(image: &str, name: &str, key_id: Option<&str>, client: &Client) -> Result<String, Failure> {
    let id = IMAGE.id_of(client, image)?;
    let region = region_of(client)?;
    let key_id = key_id.map(|key| consented(client, key)).transpose()?;
    let mut parameters = vec![
        ("ImageId", id.as_str()),
        ("RegionId", region.as_str()),
        ("DestinationRegionId", region.as_str()),
        ("DestinationImageName", name),
    ];
    if let Some(key) = &key_id {
        parameters.extend([("Encrypted", "true"), ("KMSKeyId", key.as_str())]);
    }
    let copied = client.call(ECS, "CopyImage", &parameters)?;
    Ok(text(&copied, "ImageId").to_owned())
}

fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let images = IMAGE.list(client, &[])?;
    let names = KeyNames::for_people(client, output);
    let now = SystemClock::new().now();
    let mut table = Table::new(&["IMAGE ID", "NAME", "SIZE", "STATUS", "KEY", "CREATED"]);
    for image in &images {
        table.row([
            text(image, "ImageId").into(),
            or_dash(text(image, "ImageName")).into(),
            size_of(image).into(),
            Cell::status(text(image, "Status")),
            names.of(image).into(),
            human_age(text(image, "CreationTime"), now).into(),
        ]);
    }
    let when_empty = "no images; sealdisk image import FILE --name NAME makes one";
    output.list(&client::wrapped("Images", "Image", &images), &table, when_empty)
}

fn show(image: &Value, client: &Client, output: &Output) -> Result<(), Failure> {
    output.answer(image, || {
        render_fields(&[
            ("Image id", text(image, "ImageId").to_owned()),
            ("Name", text(image, "ImageName").to_owned()),
            ("Description", text(image, "Description").to_owned()),
            ("Size", size_of(image)),
            ("Status", format!("{} {}", text(image, "Status"), text(image, "Progress"))),
            ("Encrypted", yes_or_no(image)),
            ("KMS key", KeyNames::read(client).of(image)),
            ("Created", text(image, "CreationTime").to_owned()),
            ("Made of", text(image, "Source").to_owned()),
            ("Layer", text(image, "LayerId").to_owned()),
            ("Tags", tags_of(image)),
        ])
    })
}

/// A file that is there whole or not at all, readable by its owner alone.
pub(super) struct NewFile {
    part: PathBuf,
    to: PathBuf,
}

impl NewFile {
    /// Refuses a name that is taken.
    pub(super) fn create(to: &Path) -> Result<Self, Failure> {
        let named =
            |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", to.display()));
        if to.symlink_metadata().is_ok() {
            return Err(named(&"it is there already").hint("choose a file that is not there yet"));
        }
        let mut part = to.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        opened.map_err(|error| {
            let failure = Failure::new(format!("{}: {error}", part.display()));
            match error.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    failure.hint("it is left of an export that was killed, or another one runs")
                }
                _ => failure,
            }
        })?;
        Ok(Self { part, to: to.to_owned() })
    }

    /// Where its content goes meanwhile.
    pub(super) fn part(&self) -> &Path {
        &self.part
    }

    /// Its content is whole: from now on it has its name.
    pub(super) fn keep(&mut self) -> Result<(), Failure> {
        let failed =
            |error: std::io::Error| Failure::new(format!("{}: {error}", self.to.display()));
        File::open(&self.part).and_then(|file| file.sync_all()).map_err(failed)?;
        // A link never takes the place of another file; the first name goes with `self`.
        std::fs::hard_link(&self.part, &self.to).map_err(failed)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.part);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::stack_arguments::ImageName;

    fn to(path: &str, format: Option<&str>) -> ExportImage {
        let image = ImageName { image: "i".to_owned() };
        ExportImage { image, to: path.into(), format: format.map(str::to_owned) }
    }

    #[test]
    fn the_name_of_a_file_tells_its_format() {
        assert_eq!(format_of(&to("a.qcow2", None)), Ok("qcow2"));
        assert_eq!(format_of(&to("a.IMG", None)), Ok("raw"));
        assert_eq!(format_of(&to("a.qcow2", Some("raw"))), Ok("raw"));
        assert_eq!(format_of(&to("a", None)).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.img");
        drop(NewFile::create(&path).unwrap());
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        let mut file = NewFile::create(&path).unwrap();
        std::fs::write(file.part(), "content").unwrap();
        file.keep().unwrap();
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);
        let failure = NewFile::create(&path).err().unwrap();
        assert_eq!(failure.hint.as_deref(), Some("choose a file that is not there yet"));
    }
}
