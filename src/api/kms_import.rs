//! KMS 2016-01-20: bring your own key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Api;
use super::answer::Answer;
use super::dispatch::Handler;
use super::error::ApiError;
use super::rpc::Parameters;
use crate::kms::Import;
use crate::ram::Caller;

/// Longest wrapped material that is looked at, in bytes.
const WRAPPED_BYTES_MAX: usize = 1024;

/// Longest import token that is looked at, in bytes: a private key of RSA-2048 and its envelope.
const TOKEN_BYTES_MAX: usize = 4096;

type Answered = Result<Answer, ApiError>;

pub(super) fn handler(action: &str) -> Option<Handler> {
    Some(match action {
        "GetParametersForImport" => get_parameters_for_import,
        "ImportKeyMaterial" => import_key_material,
        "DeleteKeyMaterial" => delete_key_material,
        _ => return None,
    })
}

fn get_parameters_for_import(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let key_id = parameters.required("KeyId")?;
    let wrapping = parameters.required("WrappingAlgorithm")?;
    let spec = parameters.required("WrappingKeySpec")?;
    let given = api.kms.parameters_for_import(caller, key_id, wrapping, spec)?;
    Ok(Answer::new()
        .with("KeyId", given.key_id)
        .with("ImportToken", STANDARD.encode(&given.token))
        .with("PublicKey", STANDARD.encode(&given.public_key))
        .with("TokenExpireTime", given.expires.to_string()))
}

fn import_key_material(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    const EXPIRES: &str = "KeyMaterialExpireUnix";
    let key_id = parameters.required("KeyId")?;
    let wrapped = parameters.base64("EncryptedKeyMaterial", WRAPPED_BYTES_MAX)?;
    let token = parameters.base64("ImportToken", TOKEN_BYTES_MAX)?;
    parameters.required(EXPIRES)?;
    let expires = parameters.integer(EXPIRES, i64::MIN..=i64::MAX)?.unwrap_or_default();
    let import = Import { wrapped: wrapped.expose(), token: token.expose(), expires };
    api.kms.import_key_material(caller, key_id, import)?;
    Ok(Answer::new())
}

fn delete_key_material(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    api.kms.delete_key_material(caller, parameters.required("KeyId")?)?;
    Ok(Answer::new())
}
