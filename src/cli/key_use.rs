//! `sealdisk key …`: what uses keys. Ciphertexts and signatures are base64, plaintexts raw bytes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::arguments::{Input, KeyCommand, Pairs, SignKey};
use super::client::{Client, KMS, text};
use super::failure::Failure;
use super::key::describe;
use super::output::Output;
use crate::crypto::mac::sha256;

/// Most that is read: more than any ciphertext or plaintext that a key takes.
const INPUT_BYTES_MAX: u64 = 64 << 10;
/// How key pairs encrypt here.
const PAIR_ALGORITHM: (&str, &str) = ("Algorithm", "RSAES_OAEP_SHA_256");

pub(super) fn run(command: KeyCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    use KeyCommand as K;
    match command {
        K::Encrypt { key, input, context } => encrypt(client, output, &key.key, (&input, &context)),
        K::Decrypt { input, context, key, version_id } => {
            decrypt((client, output), (&input, &context), (key.as_deref(), version_id))
        }
        K::ReEncrypt { to, input, context } => {
            let (blob, context) = (read_text(&input)?, in_json(&context));
            let parameters = [
                ("CiphertextBlob", blob.as_str()),
                ("DestinationKeyId", to.as_str()),
                ("SourceEncryptionContext", context.as_str()),
                ("DestinationEncryptionContext", context.as_str()),
            ];
            let answer = client.call(KMS, "ReEncrypt", &parameters)?;
            output.answer(&answer, || format!("{}\n", text(&answer, "CiphertextBlob")))
        }
        K::Sign(sign) => {
            let answer = with_pair(client, "AsymmetricSign", &sign, &[])?;
            output.answer(&answer, || format!("{}\n", text(&answer, "Value")))
        }
        K::Verify { sign, signature } => {
            let signature = read_text(&Input { file: Some(signature) })?;
            let value = [("Value", signature.as_str())];
            let answer = with_pair(client, "AsymmetricVerify", &sign, &value)?;
            if answer["Value"] == Value::Bool(true) {
                output.answer(&answer, || "the signature is valid\n".to_owned())
            } else {
                Err(Failure::new("this is not a signature of that file by that key version"))
            }
        }
        K::PublicKey { key, version_id } => {
            let version = version_or_newest(client, &key.key, version_id)?;
            let parameters = [("KeyId", key.key.as_str()), ("KeyVersionId", &version)];
            let answer = client.call(KMS, "GetPublicKey", &parameters)?;
            output.answer(&answer, || text(&answer, "PublicKey").to_owned())
        }
        _ => Err(Failure::usage("this command is not one that uses a key")),
    }
}

fn encrypt(
    client: &Client,
    output: &Output,
    key: &str,
    (input, context): (&Input, &Pairs),
) -> Result<(), Failure> {
    let plain = read(input)?;
    let mut encoded = Zeroizing::new(String::with_capacity(plain.len().div_ceil(3) * 4));
    STANDARD.encode_string(&plain, &mut encoded);
    let context = in_json(context);
    let plaintext = ("Plaintext", encoded.as_str());
    let answer = if is_pair(client, key)? {
        let version = version_or_newest(client, key, None)?;
        let parameters = [("KeyId", key), ("KeyVersionId", &version), PAIR_ALGORITHM, plaintext];
        client.call(KMS, "AsymmetricEncrypt", &parameters)?
    } else {
        let parameters = [("KeyId", key), plaintext, ("EncryptionContext", &context)];
        client.call(KMS, "Encrypt", &parameters)?
    };
    output.answer(&answer, || format!("{}\n", text(&answer, "CiphertextBlob")))
}

/// Read in place: base64 has nothing to unescape, so the plaintext is not copied out of the body.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Opened<'a> {
    plaintext: &'a str,
}

fn decrypt(
    (client, output): (&Client, &Output),
    (input, context): (&Input, &Pairs),
    (key, version_id): (Option<&str>, Option<String>),
) -> Result<(), Failure> {
    let (blob, context) = (read_text(input)?, in_json(context));
    let blob = ("CiphertextBlob", blob.as_str());
    let body = match key {
        None => client.call_secret(KMS, "Decrypt", &[blob, ("EncryptionContext", &context)])?,
        Some(key) => {
            let version = version_or_newest(client, key, version_id)?;
            let parameters = [("KeyId", key), ("KeyVersionId", &version), PAIR_ALGORITHM, blob];
            client.call_secret(KMS, "AsymmetricDecrypt", &parameters)?
        }
    };
    let unreadable = |_| Failure::new("the daemon's answer cannot be read");
    let opened: Opened<'_> =
        serde_json::from_slice(&body).map_err(|_| Failure::new("the answer cannot be read"))?;
    let room = base64::decoded_len_estimate(opened.plaintext.len());
    let mut plain = Zeroizing::new(vec![0; room]);
    let length = STANDARD.decode_slice(opened.plaintext, &mut plain).map_err(unreadable)?;
    output.print_bytes(&plain[..length])
}

/// Does `action` to the digest of a file with a key pair.
fn with_pair(
    client: &Client,
    action: &str,
    sign: &SignKey,
    more: &[(&str, &str)],
) -> Result<Value, Failure> {
    let key = sign.key.key.as_str();
    let version = version_or_newest(client, key, sign.version_id.clone())?;
    let algorithm = match &sign.algorithm {
        Some(algorithm) => algorithm.clone(),
        None if text(&describe(client, key)?, "KeySpec") == "EC_P256" => "ECDSA_SHA_256".into(),
        None => "RSA_PSS_SHA_256".into(),
    };
    let digest = STANDARD.encode(digest_of(&sign.file)?);
    let parameters = [
        ("KeyId", key),
        ("KeyVersionId", &version),
        ("Algorithm", &algorithm),
        ("Digest", &digest),
    ];
    client.call(KMS, action, &[&parameters, more].concat())
}

fn digest_of(path: &Path) -> Result<[u8; 32], Failure> {
    let bytes = std::fs::read(path);
    let bytes = bytes.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    Ok(sha256(&[&bytes]))
}

fn is_pair(client: &Client, key: &str) -> Result<bool, Failure> {
    Ok(!text(&describe(client, key)?, "KeySpec").starts_with("Aliyun_"))
}

fn version_or_newest(
    client: &Client,
    key: &str,
    version_id: Option<String>,
) -> Result<String, Failure> {
    if let Some(version_id) = version_id {
        return Ok(version_id);
    }
    let listed = (KMS, "ListKeyVersions");
    let versions = client.list_all(listed, &[("KeyId", key)], ("KeyVersions", "KeyVersion"))?;
    let newest = versions.last().map(|version| text(version, "KeyVersionId").to_owned());
    newest.ok_or_else(|| Failure::new("the key has no version"))
}

fn in_json(context: &Pairs) -> String {
    let pairs = context.pairs.iter().map(|(name, value)| (name.clone(), json!(value)));
    Value::Object(pairs.collect()).to_string()
}

fn read(input: &Input) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let source: Box<dyn Read> = match &input.file {
        None => Box::new(io::stdin().lock()),
        Some(path) => Box::new(
            File::open(path)
                .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?,
        ),
    };
    // Room for all of it at once: growing would leave a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(INPUT_BYTES_MAX as usize + 1));
    source.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::new("this is more than a key takes")
            .hint("encrypt a data key with it, and the data with that"));
    }
    Ok(bytes)
}

/// Base64, with whatever blanks and line ends.
fn read_text(input: &Input) -> Result<String, Failure> {
    let bytes = read(input)?;
    let text = bytes.iter().filter(|byte| !byte.is_ascii_whitespace());
    Ok(text.map(|byte| char::from(*byte)).collect())
}
