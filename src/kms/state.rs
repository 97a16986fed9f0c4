//! What may be done to a key in which state: one table.

use super::KmsError;
use crate::catalog::KeyState;

/// An operation on keys, by its published name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is named as published, and means what its name says")]
pub enum Action {
    CreateKey,
    CreateServiceKey,
    DescribeKey,
    ListKeys,
    EnableKey,
    DisableKey,
    ScheduleKeyDeletion,
    CancelKeyDeletion,
    DeleteKey,
    UpdateKeyDescription,
    CreateAlias,
    UpdateAlias,
    DeleteAlias,
    ListAliases,
    ListAliasesByKeyId,
    ListKeyVersions,
    DescribeKeyVersion,
    Encrypt,
    Decrypt,
    GenerateDataKey,
    GenerateDataKeyWithoutPlaintext,
    ReEncrypt,
    ExportDataKey,
    GenerateAndExportDataKey,
    CreateKeyVersion,
    UpdateRotationPolicy,
    TagResource,
    UntagResource,
    TagResources,
    UntagResources,
    ListResourceTags,
    ListTagResources,
    GetParametersForImport,
    ImportKeyMaterial,
    DeleteKeyMaterial,
    ExpireKeyMaterial,
    RotateKey,
    ListOrphans,
    DestroyOrphans,
    SetDeletionProtection,
    GetKeyPolicy,
    SetKeyPolicy,
    AsymmetricSign,
    AsymmetricVerify,
    AsymmetricEncrypt,
    AsymmetricDecrypt,
    GetPublicKey,
    DescribeAccountKmsStatus,
    OpenKmsService,
    SetAccountStatus,
    ListKmsInstances,
}

/// What an operation does with a key: decides what of it is refused on a service key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Looks at it.
    Look,
    /// Changes it.
    Manage,
    /// Encrypts or decrypts with it.
    Use,
}

#[derive(Clone, Copy)]
enum Verdict {
    Ok,
    /// `Rejected.<the state>`.
    Rejected,
    /// `Rejected.StateModifiedFailed`.
    Fixed,
}

use Action as A;
use Verdict::{Fixed, Ok as Fine, Rejected};

/// Rows by operation; columns `Enabled`, `Disabled`, `PendingDeletion`, `PendingImport`. What is
/// not listed may be done in every state.
const TABLE: [(&[Action], [Verdict; 4]); 6] = [
    (
        &[
            A::Encrypt,
            A::Decrypt,
            A::GenerateDataKey,
            A::GenerateDataKeyWithoutPlaintext,
            A::ExportDataKey,
            A::GenerateAndExportDataKey,
            A::ReEncrypt,
            A::CreateKeyVersion,
            A::UpdateRotationPolicy,
            A::AsymmetricSign,
            A::AsymmetricVerify,
            A::AsymmetricEncrypt,
            A::AsymmetricDecrypt,
        ],
        [Fine, Rejected, Rejected, Rejected],
    ),
    (&[A::EnableKey, A::DisableKey], [Fine, Fine, Fixed, Fixed]),
    (&[A::ScheduleKeyDeletion, A::CreateAlias], [Fine, Fine, Fixed, Fine]),
    (&[A::CancelKeyDeletion], [Fixed, Fixed, Fine, Fixed]),
    (
        &[
            A::UpdateAlias,
            A::UpdateKeyDescription,
            A::TagResource,
            A::UntagResource,
            A::TagResources,
            A::UntagResources,
            A::SetDeletionProtection,
            A::SetKeyPolicy,
        ],
        [Fine, Fine, Rejected, Fine],
    ),
    (&[A::ImportKeyMaterial], [Fine, Fine, Fixed, Fine]),
];

/// Whether `action` may be done to a key in `state`.
///
/// # Errors
/// The published refusal.
pub fn check(action: Action, state: KeyState) -> Result<(), KmsError> {
    let row = TABLE.iter().find(|(actions, _)| actions.contains(&action));
    let Some((_, verdicts)) = row else { return Ok(()) };
    // No row says `Rejected` of an enabled key.
    let (verdict, rejected) = match state {
        KeyState::Enabled => (verdicts[0], KmsError::StateModifiedFailed),
        KeyState::Disabled => (verdicts[1], KmsError::Disabled),
        KeyState::PendingDeletion => (verdicts[2], KmsError::PendingDeletion),
        KeyState::PendingImport => (verdicts[3], KmsError::PendingImport),
    };
    match verdict {
        Fine => Ok(()),
        Rejected => Err(rejected),
        Fixed => Err(KmsError::StateModifiedFailed),
    }
}

impl Action {
    /// The published name, as events have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            // A service key is made by the service; its making is published as any key's.
            A::CreateKey | A::CreateServiceKey => "CreateKey",
            A::DescribeKey => "DescribeKey",
            A::ListKeys => "ListKeys",
            A::EnableKey => "EnableKey",
            A::DisableKey => "DisableKey",
            A::ScheduleKeyDeletion => "ScheduleKeyDeletion",
            A::CancelKeyDeletion => "CancelKeyDeletion",
            A::DeleteKey => "DeleteKey",
            A::UpdateKeyDescription => "UpdateKeyDescription",
            A::CreateAlias => "CreateAlias",
            A::UpdateAlias => "UpdateAlias",
            A::DeleteAlias => "DeleteAlias",
            A::ListAliases => "ListAliases",
            A::ListAliasesByKeyId => "ListAliasesByKeyId",
            A::ListKeyVersions => "ListKeyVersions",
            A::DescribeKeyVersion => "DescribeKeyVersion",
            A::Encrypt => "Encrypt",
            A::Decrypt => "Decrypt",
            A::GenerateDataKey => "GenerateDataKey",
            A::GenerateDataKeyWithoutPlaintext => "GenerateDataKeyWithoutPlaintext",
            A::ReEncrypt => "ReEncrypt",
            A::ExportDataKey => "ExportDataKey",
            A::GenerateAndExportDataKey => "GenerateAndExportDataKey",
            A::CreateKeyVersion => "CreateKeyVersion",
            A::UpdateRotationPolicy => "UpdateRotationPolicy",
            A::TagResource => "TagResource",
            A::UntagResource => "UntagResource",
            A::TagResources => "TagResources",
            A::UntagResources => "UntagResources",
            A::ListResourceTags => "ListResourceTags",
            A::ListTagResources => "ListTagResources",
            A::GetParametersForImport => "GetParametersForImport",
            A::ImportKeyMaterial => "ImportKeyMaterial",
            A::DeleteKeyMaterial => "DeleteKeyMaterial",
            A::ExpireKeyMaterial => "ExpireKeyMaterial",
            A::RotateKey => "RotateKey",
            A::ListOrphans => "ListHsmOrphans",
            A::DestroyOrphans => "DestroyHsmOrphans",
            A::SetDeletionProtection => "SetDeletionProtection",
            A::GetKeyPolicy => "GetKeyPolicy",
            A::SetKeyPolicy => "SetKeyPolicy",
            A::AsymmetricSign => "AsymmetricSign",
            A::AsymmetricVerify => "AsymmetricVerify",
            A::AsymmetricEncrypt => "AsymmetricEncrypt",
            A::AsymmetricDecrypt => "AsymmetricDecrypt",
            A::GetPublicKey => "GetPublicKey",
            A::DescribeAccountKmsStatus => "DescribeAccountKmsStatus",
            A::OpenKmsService => "OpenKmsService",
            A::SetAccountStatus => "SetAccountStatus",
            A::ListKmsInstances => "ListKmsInstances",
        }
    }

    /// Whether an alias may stand where the key id does.
    pub(super) const fn takes_aliases(self) -> bool {
        matches!(self.class(), Class::Use)
            || matches!(
                self,
                A::DescribeKey
                    | A::CreateKeyVersion
                    | A::RotateKey
                    | A::ListKeyVersions
                    | A::DescribeKeyVersion
                    | A::GetPublicKey
            )
    }

    /// Whether an ARN may stand where the key id does.
    pub(super) const fn takes_arns(self) -> bool {
        self.takes_aliases()
            || matches!(self, A::SetDeletionProtection | A::GetKeyPolicy | A::SetKeyPolicy)
    }

    pub(super) const fn class(self) -> Class {
        match self {
            A::DescribeKey
            | A::ListKeys
            | A::ListAliases
            | A::ListAliasesByKeyId
            | A::ListKeyVersions
            | A::DescribeKeyVersion
            | A::ListResourceTags
            | A::ListTagResources
            | A::GetKeyPolicy
            | A::GetPublicKey
            | A::DescribeAccountKmsStatus
            | A::ListKmsInstances
            | A::ListOrphans => Class::Look,
            A::Encrypt
            | A::Decrypt
            | A::GenerateDataKey
            | A::GenerateDataKeyWithoutPlaintext
            | A::ReEncrypt
            | A::ExportDataKey
            | A::GenerateAndExportDataKey
            | A::AsymmetricSign
            | A::AsymmetricVerify
            | A::AsymmetricEncrypt
            | A::AsymmetricDecrypt => Class::Use,
            _ => Class::Manage,
        }
    }
}
