//! KMS 2016-01-20: the use of keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Api;
use super::answer::Answer;
use super::dispatch::Handler;
use super::error::ApiError;
use super::rpc::{Call, Parameters, Product};
use crate::kms::context::Context;
use crate::kms::{
    ENCRYPT_BYTES_MAX, Encrypted, Exported, KmsError, PAIR_BYTES_MAX, Pair, Recipient, Source, Use,
    data_key_bytes,
};
use crate::ram::Caller;

/// Longest ciphertext blob that is looked at, in bytes: the longest plaintext and its envelope.
const BLOB_BYTES_MAX: usize = 16 << 10;

/// Longest public key that is looked at, in bytes.
const PUBLIC_KEY_BYTES_MAX: usize = 2048;

/// Longest digest that is looked at, in bytes; the right length is KMS's to know.
const DIGEST_BYTES_MAX: usize = 64;

type Answered = Result<Answer, ApiError>;

pub(super) fn handler(action: &str) -> Option<Handler> {
    Some(match action {
        "Encrypt" => encrypt,
        "Decrypt" => decrypt,
        "GenerateDataKey" => generate_data_key,
        "GenerateDataKeyWithoutPlaintext" => generate_data_key_without_plaintext,
        "GenerateAndExportDataKey" => generate_and_export_data_key,
        "ExportDataKey" => export_data_key,
        "ReEncrypt" => re_encrypt,
        "AsymmetricSign" => asymmetric_sign,
        "AsymmetricVerify" => asymmetric_verify,
        "AsymmetricEncrypt" => asymmetric_encrypt,
        "AsymmetricDecrypt" => asymmetric_decrypt,
        "GetPublicKey" => get_public_key,
        _ => return None,
    })
}

/// A dry run never says more than how it would have gone: what cannot even be read is one kind of
/// invalid. What the KMS has answered, it has answered so itself.
pub(super) fn in_dry_run(call: &Call, refusal: ApiError) -> ApiError {
    let is_dry_run = call.product == Product::Kms
        && handler(&call.action).is_some()
        && matches!(call.parameters.boolean("DryRun"), Ok(Some(true)));
    if is_dry_run && !refusal.is_recorded && refusal.status < 500 {
        refusal.with(&KmsError::DryRunInvalid)
    } else {
        refusal
    }
}

fn encrypt(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let key_id = parameters.required("KeyId")?;
    let plaintext = parameters.base64("Plaintext", ENCRYPT_BYTES_MAX)?;
    let context = parameters.encryption_context()?;
    let using = using(parameters, &context)?;
    Ok(encrypted(api.kms.encrypt(caller, key_id, plaintext.expose(), using)?))
}

fn decrypt(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    parameters.refuse(&["Recipient"])?;
    let blob = parameters.base64("CiphertextBlob", BLOB_BYTES_MAX)?;
    let context = parameters.encryption_context()?;
    let opened = api.kms.decrypt(caller, blob.expose(), using(parameters, &context)?)?;
    Ok(Answer::new()
        .with("KeyId", opened.key_id)
        .with("KeyVersionId", opened.key_version)
        .with_secret("Plaintext", opened.plaintext))
}

fn generate_data_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (key_id, bytes) = data_key_request(parameters)?;
    let context = parameters.encryption_context()?;
    let using = using(parameters, &context)?;
    let made = api.kms.generate_data_key(caller, key_id, bytes, using)?;
    Ok(Answer::new()
        .with("CiphertextBlob", STANDARD.encode(&made.blob))
        .with("KeyId", made.key_id)
        .with("KeyVersionId", made.key_version)
        .with_secret("Plaintext", made.plaintext))
}

fn generate_data_key_without_plaintext(
    api: &Api,
    caller: &Caller,
    parameters: &Parameters,
) -> Answered {
    let (key_id, bytes) = data_key_request(parameters)?;
    let context = parameters.encryption_context()?;
    let using = using(parameters, &context)?;
    Ok(encrypted(api.kms.generate_data_key_without_plaintext(caller, key_id, bytes, using)?))
}

fn generate_and_export_data_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (key_id, bytes) = data_key_request(parameters)?;
    let public_key = parameters.base64("PublicKeyBlob", PUBLIC_KEY_BYTES_MAX)?;
    let recipient = recipient(parameters, public_key.expose())?;
    let context = parameters.encryption_context()?;
    let using = using(parameters, &context)?;
    Ok(exported(api.kms.generate_and_export_data_key(caller, (key_id, bytes), recipient, using)?))
}

fn export_data_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let blob = parameters.base64("CiphertextBlob", BLOB_BYTES_MAX)?;
    let public_key = parameters.base64("PublicKeyBlob", PUBLIC_KEY_BYTES_MAX)?;
    let recipient = recipient(parameters, public_key.expose())?;
    let context = parameters.encryption_context()?;
    let using = using(parameters, &context)?;
    Ok(exported(api.kms.export_data_key(caller, blob.expose(), recipient, using)?))
}

fn re_encrypt(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let blob = parameters.base64("CiphertextBlob", BLOB_BYTES_MAX)?;
    let destination = parameters.required("DestinationKeyId")?;
    let source_context = parameters.context("SourceEncryptionContext")?;
    let context = parameters.context("DestinationEncryptionContext")?;
    let source = match parameters.filled("SourceEncryptionAlgorithm") {
        None => Source::Blob { blob: blob.expose(), context: &source_context },
        Some(algorithm) => Source::Pair {
            ciphertext: blob.expose(),
            key: parameters.required("SourceKeyId")?,
            version_id: parameters.required("SourceKeyVersionId")?,
            algorithm,
        },
    };
    let using = using(parameters, &context)?;
    Ok(encrypted(api.kms.re_encrypt(caller, source, destination, using)?))
}

fn asymmetric_sign(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let pair = pair(parameters)?;
    let digest = parameters.base64("Digest", DIGEST_BYTES_MAX)?;
    let none = Context::new();
    let using = using(parameters, &none)?;
    let signed = api.kms.asymmetric_sign(caller, pair, digest.expose(), using)?;
    Ok(Answer::new()
        .with("Value", STANDARD.encode(&signed.signature))
        .with("KeyId", signed.key_id)
        .with("KeyVersionId", signed.key_version))
}

fn asymmetric_verify(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let pair = pair(parameters)?;
    let digest = parameters.base64("Digest", DIGEST_BYTES_MAX)?;
    let signature = parameters.base64("Value", PAIR_BYTES_MAX)?;
    let none = Context::new();
    let using = using(parameters, &none)?;
    let what = (digest.expose(), signature.expose());
    let verified = api.kms.asymmetric_verify(caller, pair, what, using)?;
    Ok(Answer::new()
        .with("Value", verified.is_valid)
        .with("KeyId", verified.key_id)
        .with("KeyVersionId", verified.key_version))
}

fn asymmetric_encrypt(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let pair = pair(parameters)?;
    let plaintext = parameters.base64("Plaintext", PAIR_BYTES_MAX)?;
    let none = Context::new();
    let using = using(parameters, &none)?;
    Ok(encrypted(api.kms.asymmetric_encrypt(caller, pair, plaintext.expose(), using)?))
}

fn asymmetric_decrypt(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let pair = pair(parameters)?;
    let ciphertext = parameters.base64("CiphertextBlob", PAIR_BYTES_MAX)?;
    let none = Context::new();
    let using = using(parameters, &none)?;
    let opened = api.kms.asymmetric_decrypt(caller, pair, ciphertext.expose(), using)?;
    Ok(Answer::new()
        .with("KeyId", opened.key_id)
        .with("KeyVersionId", opened.key_version)
        .with_secret("Plaintext", opened.plaintext))
}

fn get_public_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (key, version) = (parameters.required("KeyId")?, parameters.required("KeyVersionId")?);
    let none = Context::new();
    let public = api.kms.public_key(caller, (key, version), using(parameters, &none)?)?;
    Ok(Answer::new()
        .with("PublicKey", pem(&public.der))
        .with("KeyId", public.key_id)
        .with("KeyVersionId", public.key_version))
}

/// The key and how many bytes.
fn data_key_request(parameters: &Parameters) -> Result<(&str, usize), ApiError> {
    parameters.refuse(&["Recipient"])?;
    let bytes = data_key_bytes(parameters.filled("KeySpec"), parameters.filled("NumberOfBytes"));
    // No call of the KMS has seen it yet, and so none has recorded it.
    let bytes = bytes.map_err(|error| ApiError { is_recorded: false, ..ApiError::from(error) })?;
    Ok((parameters.required("KeyId")?, bytes))
}

fn using<'a>(parameters: &Parameters, context: &'a Context) -> Result<Use<'a>, ApiError> {
    let is_dry_run = parameters.boolean("DryRun")?.unwrap_or_default();
    Ok(Use { context, is_dry_run })
}

fn recipient<'a>(
    parameters: &'a Parameters,
    public_key: &'a [u8],
) -> Result<Recipient<'a>, ApiError> {
    let wrapping = parameters.required("WrappingAlgorithm")?;
    Ok(Recipient { public_key, wrapping, spec: parameters.required("WrappingKeySpec")? })
}

fn pair(parameters: &Parameters) -> Result<Pair<'_>, ApiError> {
    let (key, version_id) = (parameters.required("KeyId")?, parameters.required("KeyVersionId")?);
    Ok(Pair { key, version_id, algorithm: parameters.required("Algorithm")? })
}

fn encrypted(made: Encrypted) -> Answer {
    Answer::new()
        .with("CiphertextBlob", STANDARD.encode(&made.blob))
        .with("KeyId", made.key_id)
        .with("KeyVersionId", made.key_version)
}

fn exported(made: Exported) -> Answer {
    let answer = Answer::new()
        .with("ExportedDataKey", STANDARD.encode(&made.wrapped))
        .with("KeyId", made.key_id)
        .with("KeyVersionId", made.key_version);
    match made.blob {
        Some(blob) => answer.with("CiphertextBlob", STANDARD.encode(&blob)),
        None => answer,
    }
}

/// RFC 7468: base64 in lines of 64 characters.
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
    for (at, c) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(c);
    }
    pem.push_str("\n-----END PUBLIC KEY-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_lines_have_64_characters() {
        let lines = |bytes| pem(&vec![0; bytes]).lines().map(str::len).collect::<Vec<_>>();
        assert_eq!(lines(48), [26, 64, 24]);
        assert_eq!(lines(49), [26, 64, 4, 24]);
    }
}
