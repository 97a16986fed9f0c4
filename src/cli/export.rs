//! `sealdisk disk export-key`: the one command that lets a data key out.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::client::{Client, OWN, text};
use super::disk::shell_word;
use super::failure::Failure;
use super::output::Output;
use crate::secret::Secret;

/// Read in place: base64 has nothing to unescape, so the key is not copied out of the body.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Exported<'a> {
    layer_id: String,
    layer_file: String,
    data_key: &'a str,
}

pub(super) fn run(
    disk: &Value,
    (to, yes): (&Path, bool),
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let id = text(disk, "DiskId");
    if !yes {
        output.confirm(&format!(
            "Write the data key of {id} {} to {}? Whoever has this file can read the disk's layer \
             for ever; disabling the KMS key does not help against it.",
            text(disk, "DiskName"),
            to.display()
        ))?;
    }
    // The file comes first: an export that is audited shall not fail for a name.
    let file = create(to)?;
    let exported = export(id, file, client).inspect_err(|_| {
        // Only ours can be there: it was made by O_EXCL above.
        let _ = std::fs::remove_file(to);
    });
    let (layer_id, layer_file) = exported.map_err(|failure| Failure {
        message: format!("{}: {}", to.display(), failure.message),
        ..failure
    })?;
    let line = cryptsetup_line(to, &layer_file, id);
    let json = json!({
        "DiskId": id,
        "LayerId": layer_id,
        "LayerFile": layer_file,
        "KeyFile": to.to_string_lossy(),
        "Cryptsetup": line,
    });
    output.answer(&json, || {
        format!(
            "{} holds the data key of layer {layer_id}. Detach the disk, then:\n  {line}\n",
            to.display()
        )
    })
}

fn create(to: &Path) -> Result<File, Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    opened.map_err(|error| {
        let failure = Failure::new(format!("{}: {error}", to.display()));
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                failure.hint("choose a file that is not there yet")
            }
            _ => failure,
        }
    })
}

fn export(id: &str, mut file: File, client: &Client) -> Result<(String, String), Failure> {
    let body = client.call_secret(OWN, "ExportDiskKey", &[("DiskId", id)])?;
    let exported: Exported<'_> = serde_json::from_slice(&body)
        .map_err(|_| Failure::new("the daemon's answer cannot be read"))?;
    let key = decode(exported.data_key)?;
    file.write_all(key.expose())
        .and_then(|()| file.sync_all())
        .map_err(|error| Failure::new(error.to_string()))?;
    Ok((exported.layer_id, exported.layer_file))
}

fn decode(text: &str) -> Result<Secret, Failure> {
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let len = STANDARD
        .decode_slice(text, &mut bytes)
        .map_err(|_| Failure::new("the daemon's answer cannot be read"))?;
    Ok(Secret::take(&mut bytes[..len]))
}

/// Stock cryptsetup needs the key's size said, for our layers have no keyslot.
fn cryptsetup_line(key: &Path, layer: &str, id: &str) -> String {
    format!(
        "sudo cryptsetup open --type luks2 --readonly --volume-key-file {} --key-size 512 {} {}",
        shell_word(&key.to_string_lossy()),
        shell_word(layer),
        id
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_is_new_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db.key");
        let file = create(&path).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let failure = create(&path).unwrap_err();
        assert_eq!(failure.hint.as_deref(), Some("choose a file that is not there yet"));
    }

    #[test]
    fn a_key_is_read_in_place() {
        let body = br#"{"DataKey":"a2V5","LayerId":"l","LayerFile":"/f","RequestId":"r"}"#;
        let exported: Exported<'_> = serde_json::from_slice(body).unwrap();
        assert_eq!(decode(exported.data_key).unwrap().expose(), b"key");
        assert!(decode("a2V").is_err());
    }

    #[test]
    fn the_line_for_cryptsetup_is_one_to_paste() {
        assert_eq!(
            cryptsetup_line(Path::new("my key"), "/d/l.luks", "d-1"),
            "sudo cryptsetup open --type luks2 --readonly --volume-key-file 'my key' \
             --key-size 512 /d/l.luks d-1"
        );
    }
}
