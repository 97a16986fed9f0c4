//! Domain errors as published codes: the one table between them.

use std::borrow::Cow;

use serde_json::{Value, json};
use uuid::Uuid;

use super::rpc::Product;
use crate::disk::ControlError;
use crate::kms::KmsError;
use crate::ram::{Denial, RamError};
use crate::trail::TrailError;

/// A refusal in the form the cloud publishes: HTTP status, code, message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// Published code, such as `InvalidDiskId.NotFound`.
    pub code: Cow<'static, str>,
    /// What is wrong, for people.
    pub message: String,
    /// What to do about it, where that is not plain.
    pub recommend: Option<Cow<'static, str>>,
    /// Which permission was missing, where that is told.
    pub denial: Option<Box<Denial>>,
    /// The trail has it already: the operation that refused put it there.
    pub(super) is_recorded: bool,
}

impl ApiError {
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            recommend: None,
            denial: None,
            is_recorded: false,
        }
    }

    #[must_use]
    pub(super) fn recommending(mut self, what: impl Into<Cow<'static, str>>) -> Self {
        self.recommend = Some(what.into());
        self
    }

    /// A parameter that must be there is not. The gateway of ECS and that of KMS word it apart.
    pub(super) fn missing(product: Product, name: &str) -> Self {
        let message = match product {
            Product::Kms => format!("The parameter \"{name}\" is needed but not provided."),
            Product::Ecs | Product::ActionTrail | Product::Ram | Product::Own => format!(
                "The input parameter \"{name}\" that is mandatory for processing this request is \
                 not supplied."
            ),
        };
        Self::new(400, "MissingParameter", message)
    }

    /// A parameter has a value it cannot have.
    pub(super) fn invalid(name: &str) -> Self {
        let message = format!("The specified parameter \"{name}\" is not valid.");
        Self::new(400, "InvalidParameter", message)
    }

    /// A published parameter that this release does not implement: refused, for to ignore it would
    /// be to do something else than was asked.
    pub(super) fn unsupported(name: &str) -> Self {
        let message = format!("The parameter \"{name}\" is not supported by this release.");
        Self::new(400, "UnsupportedOperation", message).recommending("leave it out")
    }

    /// The same refusal in the words of `other`; what to do about it stays.
    pub(super) fn with(self, other: &KmsError) -> Self {
        let (status, code, message) = (other.status(), other.code(), other.message());
        let why = format!("{}: {}", self.code, self.message);
        Self { status, code: code.into(), message, recommend: Some(why.into()), ..self }
    }

    /// The body of the answer.
    pub(super) fn body(&self, request_id: Uuid, host_id: &str) -> Value {
        let mut body = json!({
            "RequestId": request_id.to_string(),
            "HostId": host_id,
            "Code": self.code,
            "Message": self.message,
        });
        if let Some(denial) = &self.denial {
            body["AccessDeniedDetail"] = json!({
                "AuthAction": denial.action,
                "AuthPrincipalDisplayName": denial.principal,
                "AuthPrincipalOwnerId": denial.owner,
                "AuthPrincipalType": denial.principal_type,
                "NoPermissionType": denial.no_permission_type,
                "PolicyType": "AccountLevelIdentityBasedPolicy",
            });
        }
        if let Some(recommend) = &self.recommend {
            body["Recommend"] = json!(recommend);
        }
        body
    }
}

impl From<KmsError> for ApiError {
    fn from(error: KmsError) -> Self {
        Self { is_recorded: true, ..Self::new(error.status(), error.code(), error.message()) }
    }
}

impl From<RamError> for ApiError {
    fn from(error: RamError) -> Self {
        Self { code: error.code().into(), ..Self::new(error.status(), "", error.message()) }
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        let (status, code) = (error.status(), error.code().to_owned().into());
        let message = error.message();
        let denial = match error {
            ControlError::Denied { denial, .. } => Some(denial),
            _ => None,
        };
        Self { status, code, message, recommend: None, denial, is_recorded: true }
    }
}

impl From<TrailError> for ApiError {
    fn from(error: TrailError) -> Self {
        match error {
            TrailError::InvalidToken => Self::invalid("NextToken"),
            // The trail is shut: nothing is answered until it can record again.
            TrailError::Poisoned { .. }
            | TrailError::NoSegment { .. }
            | TrailError::Full { .. } => {
                Self::new(503, "ServiceUnavailableTemporary", error.to_string())
            }
            TrailError::Io { .. }
            | TrailError::InUse { .. }
            | TrailError::NoHead { .. }
            | TrailError::Damaged(_) => Self::new(500, "InternalFailure", error.to_string()),
        }
    }
}
