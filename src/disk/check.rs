//! Holds the catalog and the layers against each other.
//!
//! Everything that is found is told with what to do. Repaired is only what loses nothing: a header
//! copy is written again from the other one, and a file that was never made to its end is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use uuid::Uuid;

use crate::catalog::{
    DiskFilter, ImageFilter, JobFilter, JobState, LayerRecord, LayerState, Page, SnapshotFilter,
};
use crate::layer::{self, LayerError, LayerHeader};
use crate::luks2::{Condition, HEADERS_BYTES};
use crate::ram::Caller;
use crate::storage::Storage;
use crate::storage::store::Stored;
use crate::units::ByteOffset;

use super::headers::{difference, is_whole};
use super::registry::Disks;
use super::{ControlError, audit};

/// What was held against each other, and what does not agree.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Layers in the catalog.
    pub layers: usize,
    /// Files in the directory of layers.
    pub files: usize,
    /// Disks in the catalog.
    pub disks: usize,
    /// What was found, by subject.
    pub findings: Vec<Finding>,
}

/// One thing that does not agree.
#[derive(Debug)]
pub struct Finding {
    /// The file, disk, snapshot, image or key that it is about.
    pub subject: String,
    /// What is wrong.
    pub problem: Problem,
    /// It was, and is repaired.
    pub is_repaired: bool,
}

/// What can be wrong.
#[derive(Debug)]
pub enum Problem {
    /// A sound layer that the catalog does not know.
    Unknown {
        /// The disk or image it was made for.
        owner: String,
    },
    /// A file that is no layer.
    Stray,
    /// The beginning of a layer, cut off before anything was in it.
    HalfMade,
    /// The catalog's layer has no file.
    Missing,
    /// The file is not a sound layer.
    Damaged(LayerError),
    /// The header says something else than the catalog.
    Differs {
        /// In what.
        field: &'static str,
    },
    /// One of the two header copies cannot be used, or is older.
    HeaderCopy(Condition),
    /// The layer stands on one that the catalog does not have.
    NoParent {
        /// Which.
        parent: String,
    },
    /// The layers stand on each other in a circle.
    Circle,
    /// The disk, snapshot or image refers to a layer that the catalog does not have.
    NoLayer {
        /// Which.
        layer_id: String,
    },
    /// The disk has another size than its top layer.
    Size,
    /// A layer that is being made, removed or changed: the daemon finishes it.
    UnderWay(&'static str),
    /// The KMS key that wraps its data key cannot be used.
    Key {
        /// Why not.
        why: String,
    },
}

impl Problem {
    /// A word for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "UnknownLayer",
            Self::Stray => "StrayFile",
            Self::HalfMade => "HalfMadeLayer",
            Self::Missing => "MissingFile",
            Self::Damaged(_) => "DamagedLayer",
            Self::Differs { .. } => "HeaderDiffers",
            Self::HeaderCopy(_) => "HeaderCopy",
            Self::NoParent { .. } => "MissingParent",
            Self::Circle => "Circle",
            Self::NoLayer { .. } => "MissingLayer",
            Self::Size => "SizeDiffers",
            Self::UnderWay(_) => "UnderWay",
            Self::Key { .. } => "UnusableKey",
        }
    }

    /// Whether it is but told: nothing has to be done.
    pub const fn is_note(&self) -> bool {
        matches!(self, Self::Stray | Self::UnderWay(_))
    }

    /// Whether a check that may repair mends it.
    pub const fn is_repairable(&self) -> bool {
        matches!(self, Self::HalfMade | Self::HeaderCopy(_))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { owner } => write!(
                f,
                "a layer of {owner} that the catalog does not know: `sealdisk catalog rebuild` \
                 takes it in, or move it away"
            ),
            Self::Stray => f.write_str("no layer: it does not belong here; move it away"),
            Self::HalfMade => f.write_str("a layer that was never finished: it holds nothing"),
            Self::Missing => f.write_str("the file is not there: put it back from a copy"),
            Self::Damaged(error) => write!(f, "{error}: put the file back from a copy"),
            Self::Differs { field } => write!(
                f,
                "its {field} differs from the catalog: put the right file back; if the catalog is \
                 an older one, `sealdisk catalog rebuild` brings it up to date"
            ),
            Self::HeaderCopy(Condition::OneBad { copy, why }) => {
                write!(f, "the {copy} header copy cannot be used: {why}")
            }
            Self::HeaderCopy(Condition::OneBehind { copy, seqid }) => {
                write!(f, "the {copy} header copy is older ({seqid}): an update was cut off")
            }
            Self::HeaderCopy(Condition::Sound) => f.write_str("both header copies are whole"),
            Self::NoParent { parent } => write!(
                f,
                "it stands on the layer {parent}, which the catalog does not know: put that back, \
                 then `sealdisk catalog rebuild`"
            ),
            Self::Circle => f.write_str("it stands on itself: restore the catalog from a backup"),
            Self::NoLayer { layer_id } => {
                write!(f, "its layer {layer_id} is not in the catalog: `sealdisk catalog rebuild`")
            }
            Self::Size => f.write_str("its size is not that of its layer"),
            Self::UnderWay(what) => write!(f, "{what}: the daemon finishes it"),
            Self::Key { why } => write!(f, "what is under this key cannot be opened: {why}"),
        }
    }
}

impl CheckReport {
    /// Findings that somebody has to see to.
    pub fn faults(&self) -> usize {
        let is_fault = |finding: &&Finding| !finding.is_repaired && !finding.problem.is_note();
        self.findings.iter().filter(is_fault).count()
    }

    fn add(&mut self, subject: &str, problem: Problem) {
        let subject = subject.to_owned();
        self.findings.push(Finding { subject, problem, is_repaired: false });
    }
}

impl Disks {
    /// Checks every layer, disk, snapshot and image; repairs what can be repaired without loss if
    /// `repair` is set. Disks may be served meanwhile.
    ///
    /// # Errors
    /// `Forbidden.RAM`; the catalog's, the directory's. What is wrong with a layer is in the
    /// report.
    pub fn check(&self, caller: &Caller, repair: bool) -> Result<CheckReport, ControlError> {
        let outcome = self
            .allow(caller, "sealdisk:CheckLayers", "*")
            .and_then(|()| self.try_check(caller, repair));
        let event = audit::layers_checked(self.actor(caller), repair);
        let event = match &outcome {
            Ok(report) => {
                let repaired = report.findings.iter().filter(|finding| finding.is_repaired);
                event.response("Faults", report.faults()).response("Repaired", repaired.count())
            }
            Err(error) => event.error(error.code(), &error.message()),
        };
        self.parts.trail.record(&event)?;
        outcome
    }

    fn try_check(&self, caller: &Caller, repair: bool) -> Result<CheckReport, ControlError> {
        let store = &self.parts.store;
        // Files first: what is made from here on is in the catalog that is read after.
        let files = store.list();
        let files =
            files.map_err(|error| ControlError::Storage { file: store.locate(""), error })?;
        let layers = self.parts.catalog.all_layers(None, Page::ALL)?.items;
        let mut report =
            CheckReport { layers: layers.len(), files: files.len(), ..CheckReport::default() };
        let by_id: BTreeMap<&str, &LayerRecord> =
            layers.iter().map(|layer| (layer.layer_id.as_str(), layer)).collect();
        let switching = self.switching()?;
        for layer in &layers {
            match self.check_layer(layer, &by_id, &switching) {
                None => {}
                // Whatever it was, it went on while it was looked at.
                Some(_) if is_whole(layer.state) && self.is_gone(layer) => {}
                Some(problem) => report.add(&layer.file_name, problem),
            }
        }
        let known: BTreeSet<&str> = layers.iter().map(|layer| layer.file_name.as_str()).collect();
        for file in files.iter().filter(|file| !known.contains(file.name.as_str())) {
            if let Some(problem) = self.check_unknown(file)? {
                report.add(&file.name, problem);
            }
        }
        self.check_references(&by_id, &mut report)?;
        self.check_keys_of(caller, &layers, &mut report);
        if repair {
            for finding in &mut report.findings {
                finding.is_repaired = self.repair(finding, &layers)?;
            }
        }
        report.findings.sort_by(|a, b| a.subject.cmp(&b.subject));
        Ok(report)
    }

    /// Layers whose header is a step ahead of the catalog at this moment.
    fn switching(&self) -> Result<BTreeSet<String>, ControlError> {
        let states = Some(vec![JobState::Switching]);
        let filter = JobFilter { states, ..JobFilter::default() };
        let jobs = self.parts.catalog.jobs(&filter, Page::ALL)?.items;
        Ok(jobs.into_iter().map(|job| job.target_layer).collect())
    }

    fn check_layer(
        &self,
        layer: &LayerRecord,
        by_id: &BTreeMap<&str, &LayerRecord>,
        switching: &BTreeSet<String>,
    ) -> Option<Problem> {
        match layer.state {
            LayerState::Live | LayerState::Condemned => {}
            LayerState::Making => return Some(Problem::UnderWay("it is being made")),
            LayerState::Going | LayerState::Erasing => {
                return Some(Problem::UnderWay("it is being removed"));
            }
        }
        let storage = match self.parts.store.open_reader(&layer.file_name) {
            Ok(storage) => storage,
            Err(error) if error.is_not_found() => return Some(Problem::Missing),
            Err(error) => return Some(Problem::Damaged(error.into())),
        };
        let header = match sound_header(&*storage) {
            Ok(header) => header,
            Err(error) => return Some(Problem::Damaged(error)),
        };
        if let Some(field) = difference(&header, layer) {
            return Some(match switching.contains(&layer.layer_id) {
                true => Problem::UnderWay("its header is being changed"),
                false => Problem::Differs { field },
            });
        }
        if let Some(problem) = check_parents(layer, by_id) {
            return Some(problem);
        }
        let is_sound = header.condition == Condition::Sound;
        (!is_sound).then_some(Problem::HeaderCopy(header.condition))
    }

    /// A file that the catalog does not know; `None` if it is gone by now.
    fn check_unknown(&self, file: &Stored) -> Result<Option<Problem>, ControlError> {
        let storage = match self.parts.store.open_reader(&file.name) {
            Ok(storage) => storage,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(_) => return Ok(Some(Problem::Stray)),
        };
        Ok(Some(match sound_header(&*storage) {
            Ok(header) => Problem::Unknown { owner: header.spec.disk_id },
            Err(LayerError::Truncated { .. } | LayerError::NotALayer)
                if is_layer_name(&file.name) && is_blank(&*storage) =>
            {
                Problem::HalfMade
            }
            Err(_) => Problem::Stray,
        }))
    }

    /// Disks, snapshots and images against the layers that they refer to.
    fn check_references(
        &self,
        by_id: &BTreeMap<&str, &LayerRecord>,
        report: &mut CheckReport,
    ) -> Result<(), ControlError> {
        let catalog = &self.parts.catalog;
        let disks = catalog.disks(&DiskFilter::default(), Page::ALL)?.items;
        report.disks = disks.len();
        for disk in disks {
            match by_id.get(disk.top_layer.as_str()) {
                None => report.add(&disk.disk_id, Problem::NoLayer { layer_id: disk.top_layer }),
                Some(top) if top.size != disk.size => report.add(&disk.disk_id, Problem::Size),
                Some(_) => {}
            }
        }
        let snapshots = catalog.snapshots(&SnapshotFilter::default(), Page::ALL)?.items;
        let snapshots = snapshots.into_iter().map(|found| (found.snapshot_id, found.layer_id));
        let images = catalog.images(&ImageFilter::default(), Page::ALL)?.items;
        let images = images.into_iter().map(|found| (found.image_id, found.layer_id));
        for (id, layer_id) in snapshots.chain(images) {
            if !by_id.contains_key(layer_id.as_str()) {
                report.add(&id, Problem::NoLayer { layer_id });
            }
        }
        Ok(())
    }

    /// Whether there are the keys that wrap the data keys. Asks the KMS once for each.
    fn check_keys_of(&self, caller: &Caller, layers: &[LayerRecord], report: &mut CheckReport) {
        let keys: BTreeSet<&String> =
            layers.iter().filter_map(|layer| layer.kms_key_id.as_ref()).collect();
        for key_id in keys {
            if let Err(error) = self.usable_key(caller, key_id) {
                report.add(key_id, Problem::Key { why: error.message() });
            }
        }
    }

    fn repair(&self, finding: &Finding, layers: &[LayerRecord]) -> Result<bool, ControlError> {
        let store = &self.parts.store;
        match finding.problem {
            Problem::HalfMade => {
                let removed = store.remove(&finding.subject).and_then(|()| store.sync_names());
                let file = store.locate(&finding.subject);
                removed.map(|()| true).map_err(|error| ControlError::Storage { file, error })
            }
            Problem::HeaderCopy(_) => {
                let layer = layers.iter().find(|layer| layer.file_name == finding.subject);
                layer.map_or(Ok(false), |layer| self.mend_header(layer).map(|_| true))
            }
            _ => Ok(false),
        }
    }
}

/// Whether `layer` stands on layers that are there, down to one that stands on nothing.
fn check_parents(layer: &LayerRecord, by_id: &BTreeMap<&str, &LayerRecord>) -> Option<Problem> {
    let parent = layer.parent.as_ref()?;
    // Only its own parent is told of: what is wrong further down is told there.
    if !by_id.contains_key(parent.as_str()) {
        return Some(Problem::NoParent { parent: parent.clone() });
    }
    let mut below = layer;
    for _ in 0..by_id.len() {
        below = by_id.get(below.parent.as_ref()?.as_str())?;
    }
    Some(Problem::Circle)
}

/// The header of a layer whose file is as long as it says.
pub(super) fn sound_header(storage: &dyn Storage) -> Result<LayerHeader, LayerError> {
    let header = layer::read_header(storage)?;
    let (have, need) = (storage.len()?, header.spec.file_len());
    if have < need {
        return Err(LayerError::Truncated { have, need });
    }
    Ok(header)
}

/// Whether a file is called as we call layers.
fn is_layer_name(name: &str) -> bool {
    let id = name.strip_suffix(".luks").and_then(|id| Uuid::try_parse(id).ok());
    id.is_some_and(|id| format!("{id}.luks") == name)
}

/// Whether nothing was ever written where the header copies are.
fn is_blank(storage: &dyn Storage) -> bool {
    let Ok(len) = storage.len() else { return false };
    let mut head = vec![0; HEADERS_BYTES.min(len.as_usize())];
    storage.read_at(ByteOffset::ZERO, &mut head).is_ok() && head.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::units::ByteCount;

    fn layer(id: &str, parent: Option<&str>) -> LayerRecord {
        LayerRecord {
            layer_id: id.to_owned(),
            owner: "d-1".to_owned(),
            parent: parent.map(str::to_owned),
            file_name: format!("{id}.luks"),
            kms_key_id: None,
            size: ByteCount::new(4096),
            created: Timestamp::default(),
            state: LayerState::Live,
            key_bytes: 0,
        }
    }

    #[test]
    fn parents_are_followed_down_and_never_in_a_circle() {
        let layers = [
            layer("a", None),
            layer("b", Some("a")),
            layer("c", Some("b")),
            layer("x", Some("gone")),
            layer("y", Some("z")),
            layer("z", Some("y")),
        ];
        let by_id = layers.iter().map(|layer| (layer.layer_id.as_str(), layer)).collect();
        let found = |index: usize| check_parents(&layers[index], &by_id);
        assert!((0..3).all(|index| found(index).is_none()));
        assert!(matches!(found(3), Some(Problem::NoParent { parent }) if parent == "gone"));
        assert!(matches!((found(4), found(5)), (Some(Problem::Circle), Some(Problem::Circle))));
    }

    #[test]
    fn only_our_own_names_are_ours() {
        assert!(is_layer_name("0b9c4c3e-0000-4000-8000-000000000001.luks"));
        for name in ["x.luks", "0B9C4C3E-0000-4000-8000-000000000001.luks", ".luks", "notes.txt"] {
            assert!(!is_layer_name(name), "{name}");
        }
    }
}
