//! `sealdisk key import`: asks for a public key, wraps the material under it here, sends it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::client::{Client, KMS, text};
use super::failure::Failure;
use super::key::describe;
use super::output::Output;
use crate::clock::Timestamp;
use crate::crypto::asymmetric::{Padding, encrypt};
use crate::secret::Secret;

/// Bytes of an AES-256 key.
const MATERIAL_BYTES: usize = 32;
/// Permissions that others should not have.
const OTHERS: u32 = 0o077;

pub(super) fn run(
    key_id: &str,
    material: &Path,
    expires: Option<Timestamp>,
    (client, output): (&Client, &Output),
) -> Result<(), Failure> {
    let material = read(material, output)?;
    let described = describe(client, key_id)?;
    // The published size; a token's pair can be larger.
    let spec = if text(&described, "ProtectionLevel") == "HSM" { "RSA_3072" } else { "RSA_2048" };
    let ask = |algorithm| {
        let wanted =
            [("KeyId", key_id), ("WrappingAlgorithm", algorithm), ("WrappingKeySpec", spec)];
        client.call(KMS, "GetParametersForImport", &wanted)
    };
    let (given, padding) = match ask("RSAES_OAEP_SHA_256") {
        // A token that has nothing else says so.
        Err(failure) if failure.message.contains("RSAES_OAEP_SHA_1") => {
            (ask("RSAES_OAEP_SHA_1")?, Padding::OaepSha1)
        }
        given => (given?, Padding::OaepSha256),
    };
    let unreadable = || Failure::new("the daemon's answer cannot be read");
    let public_key = STANDARD.decode(text(&given, "PublicKey")).map_err(|_| unreadable())?;
    let wrapped = encrypt(&public_key, padding, material.expose());
    let wrapped = STANDARD.encode(wrapped.map_err(|_| unreadable())?);
    let expires = expires.map_or(0, Timestamp::unix_seconds).to_string();
    let import = [
        ("KeyId", key_id),
        ("EncryptedKeyMaterial", wrapped.as_str()),
        ("ImportToken", text(&given, "ImportToken")),
        ("KeyMaterialExpireUnix", expires.as_str()),
    ];
    client.call(KMS, "ImportKeyMaterial", &import)?;
    Ok(())
}

/// The material, straight into the arena. A file that others can read is used, and said so.
fn read(path: &Path, output: &Output) -> Result<Secret, Failure> {
    let at = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let mut file = File::open(path).map_err(at)?;
    let metadata = file.metadata().map_err(at)?;
    if metadata.mode() & OTHERS != 0 {
        let mode = metadata.mode() & 0o777;
        let what = format!("{}: others can read it (mode {mode:04o})", path.display());
        output.note(&format!("{}; chmod 600 it", output.warning(&what)))?;
    }
    let length = || {
        Failure::new(format!("{}: material has {MATERIAL_BYTES} bytes", path.display()))
            .hint("head -c 32 /dev/urandom makes some; raw bytes, no text")
    };
    let mut material = Secret::zeroed(MATERIAL_BYTES);
    file.read_exact(material.expose_mut()).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => length(),
        _ => at(error),
    })?;
    match file.read(&mut [0]).map_err(at)? {
        0 => Ok(material),
        _ => Err(length()),
    }
}
