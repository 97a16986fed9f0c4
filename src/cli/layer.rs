//! `sealdisk layer …`: reads files, asks no daemon.

use std::path::Path;

use serde_json::{Value, json};

use super::arguments::LayerCommand;
use super::failure::Failure;
use super::output::{Output, human_size, render_fields};
use crate::layer::{self, LayerHeader};
use crate::luks2::Condition;
use crate::storage::file::FileStorage;

pub(super) fn run(command: &LayerCommand, output: &Output) -> Result<(), Failure> {
    let LayerCommand::Inspect { file } = command;
    let header = read(file)?;
    output.answer(&as_json(file, &header), || as_text(file, &header))
}

pub(super) fn read(file: &Path) -> Result<LayerHeader, Failure> {
    let named =
        |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", file.display()));
    let storage = FileStorage::open_reader(file).map_err(|error| named(&error))?;
    layer::read_header(&storage).map_err(|error| named(&error))
}

/// In each of these the layer can be used.
fn condition(header: &LayerHeader) -> String {
    match header.condition {
        Condition::Sound => "both whole".to_owned(),
        Condition::OneBad { copy, why } => format!("the {copy} one cannot be used: {why}"),
        Condition::OneBehind { copy, seqid } => {
            format!("the {copy} one is older (sequence id {seqid}): an update was cut off")
        }
    }
}

fn as_json(file: &Path, header: &LayerHeader) -> Value {
    let spec = &header.spec;
    let envelope = header.envelope.as_ref().map(|envelope| {
        json!({
            "KMSKeyId": envelope.key_id,
            "KeyVersionId": envelope.key_version,
            "WrappedKeyBytes": envelope.wrapped.len(),
            "EncryptionContext": spec.encryption_context(),
        })
    });
    json!({
        "LayerFile": file.to_string_lossy(),
        "Format": "LUKS2",
        "LayerId": spec.layer_id.to_string(),
        "DiskId": spec.disk_id,
        "ParentLayerId": spec.parent.map(|parent| parent.to_string()),
        "Cipher": spec.cipher.name(),
        "KeyBits": spec.cipher.key_bits(),
        "SectorSize": spec.unit.bytes(),
        "DataOffset": layer::DATA_OFFSET.get(),
        "SizeBytes": spec.size.get(),
        "CreationTime": spec.created.to_string(),
        "SequenceId": header.seqid,
        "HeaderCopies": condition(header),
        "Keyslots": header.keyslots,
        "Envelope": envelope,
    })
}

fn as_text(file: &Path, header: &LayerHeader) -> String {
    let spec = &header.spec;
    let mut fields = vec![
        ("File", file.display().to_string()),
        ("Format", format!("LUKS2, sequence id {}", header.seqid)),
        ("Headers", condition(header)),
        ("Keyslots", header.keyslots.to_string()),
        ("Layer id", spec.layer_id.to_string()),
        ("Disk id", spec.disk_id.clone()),
        ("Parent", spec.parent.map_or("none: bottom layer".into(), |parent| parent.to_string())),
        ("Cipher", format!("{}, {}-bit key", spec.cipher.name(), spec.cipher.key_bits())),
        ("Data unit", format!("{} bytes", spec.unit.bytes())),
        ("Data offset", human_size(layer::DATA_OFFSET.get())),
        ("Size", format!("{} ({} bytes)", human_size(spec.size.get()), spec.size.get())),
        ("Created", spec.created.to_string()),
    ];
    match &header.envelope {
        None => fields.push(("Envelope", "none: NOT ENCRYPTED".into())),
        Some(envelope) => {
            fields.push(("KMS key", envelope.key_id.clone()));
            fields.push(("Key version", envelope.key_version.clone()));
            fields.push(("Wrapped key", format!("{} bytes", envelope.wrapped.len())));
            let context = spec.encryption_context();
            let bound: Vec<String> =
                context.iter().map(|(name, value)| format!("{name}={value}")).collect();
            // As wide as the names above, so that it reads as one column.
            fields.push(("Bound to it", bound.join("\n             ")));
        }
    }
    render_fields(&fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_layer_is_refused_by_name() {
        let failure = read(Path::new("/no/such/layer")).err().unwrap();
        assert!(failure.message.starts_with("/no/such/layer: "), "{failure}");
    }
}
