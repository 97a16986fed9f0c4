//! Versions that follow one another: rotation by the clock, and by hand where keys are pairs.
//!
//! The primary version is the one that encrypts. Old versions stay for ever, for what they
//! encrypted.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::spec::{KeySpec, is_symmetric};
use super::{Action, Kms, KmsError, Paging, is_service_key, state};
use crate::catalog::{KeyRecord, KeyState, KeyVersionRecord, Listed, Operation, Page};
use crate::clock::Timestamp;
use crate::ram::Caller;

const DAY_SECONDS: u64 = 24 * 3600;

/// Days a version stays primary under automatic rotation (7 to 730 until 2021).
const ROTATION_DAYS: RangeInclusive<u64> = 7..=365;

/// Days between two versions of a key pair.
const VERSION_AGE_DAYS: u64 = 7;

/// Versions of a key pair.
const VERSIONS_MAX: u64 = 50;

/// `AutomaticRotation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Off.
    Disabled,
    /// The next one is at this moment.
    Enabled(Timestamp),
    /// On, but the key is not enabled; it is resumed when it is. The next one is at this moment.
    Suspended(Timestamp),
}

impl Rotation {
    /// The rotation of `key`.
    pub const fn of(key: &KeyRecord) -> Self {
        match (key.rotation, key.state) {
            (None, _) => Self::Disabled,
            (Some(span), KeyState::Enabled) => Self::Enabled(key.rotated.plus(span)),
            (Some(span), _) => Self::Suspended(key.rotated.plus(span)),
        }
    }

    /// The published name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "Disabled",
            Self::Enabled(_) => "Enabled",
            Self::Suspended(_) => "Suspended",
        }
    }

    /// When the next one is, or would be.
    pub const fn next(self) -> Option<Timestamp> {
        match self {
            Self::Disabled => None,
            Self::Enabled(at) | Self::Suspended(at) => Some(at),
        }
    }
}

/// The interval that `EnableAutomaticRotation` and `RotationInterval` ask for.
///
/// # Errors
/// [`KmsError::MissingParameter`] without an interval, [`KmsError::InvalidParameter`] for one that
/// cannot be.
pub(super) fn wanted(is_on: bool, interval: Option<&str>) -> Result<Option<Duration>, KmsError> {
    const NAME: &str = "RotationInterval";
    if !is_on {
        return Ok(None);
    }
    let text = interval.ok_or(KmsError::MissingParameter(NAME))?;
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(end) => text.split_at(end),
        None => (text, "s"),
    };
    let unit = match unit {
        "d" => Some(DAY_SECONDS),
        "h" => Some(3600),
        "m" => Some(60),
        "s" => Some(1),
        _ => None,
    };
    let seconds = number.parse().ok().zip(unit).and_then(|(n, unit): (u64, _)| n.checked_mul(unit));
    let allowed = ROTATION_DAYS.start() * DAY_SECONDS..=ROTATION_DAYS.end() * DAY_SECONDS;
    let seconds = seconds.filter(|seconds| allowed.contains(seconds));
    Ok(Some(Duration::from_secs(seconds.ok_or(KmsError::InvalidParameter(NAME))?)))
}

impl Kms {
    /// UpdateRotationPolicy. If the next rotation has its date in the past, it happens at once.
    ///
    /// # Errors
    /// The published refusals.
    pub fn update_rotation_policy(
        &self,
        caller: &Caller,
        key_id: &str,
        is_on: bool,
        interval: Option<&str>,
    ) -> Result<(), KmsError> {
        self.call(caller, Action::UpdateRotationPolicy, |call| {
            call.request("EnableAutomaticRotation", is_on);
            if let Some(interval) = interval {
                call.request("RotationInterval", interval);
            }
            let _changes = self.lock_changes();
            let key = self.resolve(call, key_id)?;
            state::check(call.action, key.state)?;
            let rotation = wanted(is_on, interval)?;
            if !rotates(&key) {
                return Err(KmsError::UnsupportedOperation);
            }
            self.commit(call, &[Operation::UpdateKey(KeyRecord { rotation, ..key })])
        })?;
        self.rotate_if_due(key_id)
    }

    /// CreateKeyVersion, of a key pair. Signatures name the version that made them, so the first
    /// one stays what the key's metadata show.
    ///
    /// # Errors
    /// The published refusals.
    pub fn create_key_version(
        &self,
        caller: &Caller,
        key: &str,
    ) -> Result<KeyVersionRecord, KmsError> {
        self.call(caller, Action::CreateKeyVersion, |call| {
            let _changes = self.lock_changes();
            let key = self.resolve(call, key)?;
            state::check(call.action, key.state)?;
            let spec = KeySpec::of(&key.spec).filter(|spec| !spec.is_symmetric());
            let spec = spec.ok_or(KmsError::UnsupportedOperation)?;
            let versions = self.catalog.key_versions(&key.key_id, Page::ALL)?;
            let last = versions.items.iter().map(|version| version.created).max();
            let age = Duration::from_secs(VERSION_AGE_DAYS * DAY_SECONDS);
            let is_early = last.is_some_and(|last| self.clock.now() < last.plus(age));
            if is_early || versions.total >= VERSIONS_MAX {
                return Err(KmsError::UnsupportedOperation);
            }
            let version = self.next_version(&key, spec)?;
            call.response("KeyVersionId", version.version_id.as_str());
            let rotated = KeyRecord { rotated: version.created, ..key };
            self.commit(
                call,
                &[Operation::InsertKeyVersion(version.clone()), Operation::UpdateKey(rotated)],
            )?;
            Ok(version)
        })
    }

    /// ListKeyVersions: oldest first.
    ///
    /// # Errors
    /// The published refusals.
    pub fn list_key_versions(
        &self,
        caller: &Caller,
        key: &str,
        paging: Paging,
    ) -> Result<Listed<KeyVersionRecord>, KmsError> {
        self.call(caller, Action::ListKeyVersions, |call| {
            let key = self.resolve(call, key)?;
            Ok(self.catalog.key_versions(&key.key_id, paging.page()?)?)
        })
    }

    /// DescribeKeyVersion.
    ///
    /// # Errors
    /// The published refusals.
    pub fn describe_key_version(
        &self,
        caller: &Caller,
        key: &str,
        version_id: &str,
    ) -> Result<KeyVersionRecord, KmsError> {
        self.call(caller, Action::DescribeKeyVersion, |call| {
            call.request("KeyVersionId", version_id);
            let key = self.resolve(call, key)?;
            self.version_of(&key, version_id)
        })
    }

    /// The version of this id, if it is one of `key`.
    pub(super) fn version_of(
        &self,
        key: &KeyRecord,
        version_id: &str,
    ) -> Result<KeyVersionRecord, KmsError> {
        let version = self.catalog.key_version(version_id)?;
        let version = version.filter(|version| version.key_id == key.key_id);
        version.ok_or(KmsError::KeyVersionNotFound)
    }

    /// Gives a key a new primary version if its time has come; whether it had.
    pub(super) fn rotate(&self, key_id: &str) -> Result<bool, KmsError> {
        self.by_itself(Action::RotateKey, key_id, |call, key| {
            if !self.rotation_is_due(&key) {
                return Ok(None);
            }
            self.with_next_version(call, key).map(Some)
        })
    }

    /// Gives a symmetric key a new primary version now, whatever its schedule; the next scheduled
    /// one counts from here. The cloud has this for key pairs alone (CreateKeyVersion), whose
    /// permission it needs.
    ///
    /// # Errors
    /// [`KmsError::UnsupportedOperation`] for a key that cannot be rotated; those of its state and
    /// of its material's store.
    pub fn rotate_key(&self, caller: &Caller, key: &str) -> Result<String, KmsError> {
        self.call(caller, Action::RotateKey, |call| {
            call.ask_for("CreateKeyVersion");
            let _changes = self.lock_changes();
            let key = self.resolve(call, key)?;
            state::check(Action::CreateKeyVersion, key.state)?;
            if !rotates(&key) {
                return Err(KmsError::UnsupportedOperation);
            }
            let is_of_instance = key.instance.is_some();
            let operations = self
                .with_next_version(call, key)
                .map_err(|error| error.of_instance(is_of_instance))?;
            self.commit(call, &operations)?;
            let version = operations.iter().find_map(|operation| match operation {
                Operation::InsertKeyVersion(version) => Some(version.version_id.clone()),
                _ => None,
            });
            version.ok_or(KmsError::KeyVersionNotFound)
        })
    }

    fn with_next_version(
        &self,
        call: &mut super::call::Call<'_>,
        key: KeyRecord,
    ) -> Result<Vec<Operation>, KmsError> {
        let spec = KeySpec::of(&key.spec).ok_or(KmsError::UnsupportedOperation)?;
        let version = self.next_version(&key, spec)?;
        call.response("KeyVersionId", version.version_id.as_str());
        let rotated = KeyRecord {
            primary_version: version.version_id.clone(),
            rotated: version.created,
            ..key
        };
        Ok(vec![Operation::InsertKeyVersion(version), Operation::UpdateKey(rotated)])
    }

    /// A further version, in the store of the primary one.
    fn next_version(&self, key: &KeyRecord, spec: KeySpec) -> Result<KeyVersionRecord, KmsError> {
        let primary = self.version_of(key, &key.primary_version)?;
        let there = self.catalog.key_versions(&key.key_id, Page { offset: 0, limit: 1 })?.total;
        self.new_version(self.store(&primary)?, spec, (&key.key_id, there + 1))
    }

    pub(super) fn rotate_if_due(&self, key_id: &str) -> Result<(), KmsError> {
        let key = self.catalog.key(key_id)?;
        if key.is_some_and(|key| self.rotation_is_due(&key)) {
            self.rotate(key_id)?;
        }
        Ok(())
    }

    pub(super) fn rotation_is_due(&self, key: &KeyRecord) -> bool {
        matches!(Rotation::of(key), Rotation::Enabled(at) if at <= self.clock.now())
    }
}

/// Whether a key can be rotated at all.
fn rotates(key: &KeyRecord) -> bool {
    is_symmetric(key) && key.origin != super::create::EXTERNAL && !is_service_key(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units_and_bounds() {
        let seconds = |text| wanted(true, Some(text)).ok().flatten().map(|span| span.as_secs());
        for text in ["7d", "168h", "10080m", "604800s", "604800"] {
            assert_eq!(seconds(text), Some(604_800), "{text}");
        }
        assert_eq!(seconds("365d"), Some(31_536_000));
        for text in ["6d", "366d", "", "d", "-7d", "7w", "7 d", "18446744073709551615d"] {
            assert_eq!(seconds(text), None, "{text}");
        }
        assert!(matches!(wanted(true, None), Err(KmsError::MissingParameter("RotationInterval"))));
        assert!(matches!(wanted(false, Some("x")), Ok(None)));
    }
}
