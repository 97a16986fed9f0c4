//! Rebuild: what the catalog has lost, brought back from the layers.
//!
//! For a catalog that is gone (then a backup, or a KMS on another host, must have the keys) and for
//! one that is older than the layers. Nothing that the catalog has is taken away; a layer is taken
//! in only when the KMS unwraps its data key for what its header says, so that nobody can slip in a
//! header. No daemon may run meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::catalog::{
    CacheMode, DiskFilter, DiskLimits, DiskRecord, DiskStatus, ImageRecord, ImageStatus,
    LayerRecord, LayerState, Operation, Page, SnapshotRecord, SnapshotStatus, StackOperation,
};
use crate::layer::LayerHeader;
use crate::ram::Caller;
use crate::storage::store::Stored;

use super::check::sound_header;
use super::headers::{difference, is_whole};
use super::rebuild_plan::{Known, Plan, plan};
use super::registry::Disks;
use super::{ControlError, audit};

/// What a rebuild brought back.
#[derive(Debug, Default)]
pub struct RebuildReport {
    /// Layers that the catalog knew, and knows.
    pub known: usize,
    /// Layers that were taken in.
    pub layers: usize,
    /// Layers of which the catalog had older words.
    pub refreshed: usize,
    /// Disks that are there again.
    pub disks: Vec<DiskRecord>,
    /// Disks that have a younger top layer than the catalog had, or a larger one.
    pub moved: Vec<String>,
    /// Snapshots that are there again.
    pub snapshots: Vec<SnapshotRecord>,
    /// Images that are there again.
    pub images: Vec<ImageRecord>,
    /// Files that were left alone, and why.
    pub left_out: Vec<(String, String)>,
}

/// A layer in the directory, whose header the KMS has vouched for if it is encrypted.
struct Found {
    file: Stored,
    header: LayerHeader,
}

type Layers = BTreeMap<Uuid, Found>;

impl Disks {
    /// Takes in what the catalog does not know; changes nothing if `is_dry_run` is set.
    ///
    /// # Errors
    /// `Forbidden.RAM`; the catalog's, the directory's, the trail's. What is wrong with a file is
    /// in the report.
    pub fn rebuild(
        &self,
        caller: &Caller,
        is_dry_run: bool,
    ) -> Result<RebuildReport, ControlError> {
        let outcome = self
            .allow(caller, "sealdisk:RebuildCatalog", "*")
            .and_then(|()| self.try_rebuild(caller, is_dry_run));
        if let Err(error) = &outcome {
            let event = audit::catalog_rebuilt(self.actor(caller), None);
            self.parts.trail.record(&event.error(error.code(), &error.message()))?;
        }
        outcome
    }

    fn try_rebuild(
        &self,
        caller: &Caller,
        is_dry_run: bool,
    ) -> Result<RebuildReport, ControlError> {
        let mut report = RebuildReport::default();
        let recorded = self.parts.catalog.all_layers(None, Page::ALL)?.items;
        let recorded: BTreeMap<Uuid, LayerRecord> = recorded
            .into_iter()
            .filter_map(|layer| Some((Uuid::try_parse(&layer.layer_id).ok()?, layer)))
            .collect();
        let found = self.gather(caller, &recorded, &mut report)?;
        let mut operations = self.layer_operations(&found, &recorded, &mut report);
        let layers: Vec<Known> = found.values().map(known).collect();
        let (referred, settled) = self.referred(&found)?;
        let plan = plan(&layers, &referred, &settled);
        self.plan_operations(&plan, &found, (&mut operations, &mut report))?;
        if !is_dry_run && !operations.is_empty() {
            let event = audit::catalog_rebuilt(self.actor(caller), Some(&report));
            let trail = &self.parts.trail;
            self.parts.catalog.apply(&operations, &mut || Ok(trail.record(&event)?))?;
        }
        Ok(report)
    }

    /// Every layer in the directory that is whole, vouched for, and stands on such.
    fn gather(
        &self,
        caller: &Caller,
        recorded: &BTreeMap<Uuid, LayerRecord>,
        report: &mut RebuildReport,
    ) -> Result<Layers, ControlError> {
        let store = &self.parts.store;
        let files = store.list();
        let files =
            files.map_err(|error| ControlError::Storage { file: store.locate(""), error })?;
        let mut found = Layers::new();
        for file in files {
            let name = file.name.clone();
            let header = match store.open_reader(&name) {
                Err(error) if error.is_not_found() => continue,
                Err(error) => Err(error.into()),
                Ok(storage) => sound_header(&*storage),
            };
            let outcome = match header {
                Err(error) => Err(error.to_string()),
                Ok(header) => self.vouched(caller, &header, recorded, &file).map(|()| header),
            };
            match outcome {
                Err(why) => report.left_out.push((name, why)),
                Ok(header) => {
                    let id = header.spec.layer_id;
                    if let Some(other) = found.insert(id, Found { file, header }) {
                        let why = format!("holds the same layer as {name}: move one of them away");
                        report.left_out.push((other.file.name, why));
                    }
                }
            }
        }
        leave_out_floating(&mut found, report);
        Ok(found)
    }

    /// Whether a header is what the KMS wrapped its data key for.
    fn vouched(
        &self,
        caller: &Caller,
        header: &LayerHeader,
        recorded: &BTreeMap<Uuid, LayerRecord>,
        file: &Stored,
    ) -> Result<(), String> {
        if let Some(record) = recorded.get(&header.spec.layer_id) {
            if !is_whole(record.state) {
                return Err("it was being made or removed: the daemon finishes that".to_owned());
            }
            if record.file_name != file.name {
                return Err(format!("a copy of {}, which the catalog knows", record.file_name));
            }
            if difference(header, record).is_none() {
                return Ok(());
            }
        }
        if let Some(envelope) = &header.envelope {
            // Asked for by name: of a blob under an unknown key the KMS says only that it is none.
            self.usable_key(caller, &envelope.key_id).map_err(|error| {
                format!("{} Without its key it is not taken in.", error.message())
            })?;
        }
        let path = self.parts.store.locate(&file.name);
        let key = self.unwrap_data_key(caller, header, &path).map_err(|error| error.message())?;
        header.check_key(key.as_ref()).map_err(|error| error.to_string())
    }

    fn layer_operations(
        &self,
        found: &Layers,
        recorded: &BTreeMap<Uuid, LayerRecord>,
        report: &mut RebuildReport,
    ) -> Vec<Operation> {
        let mut operations = Vec::new();
        // Whoever stands on another comes after it.
        let mut ids: Vec<&Uuid> = found.keys().collect();
        ids.sort_by_key(|id| (depth(found, **id), **id));
        for id in ids {
            let Found { file, header } = &found[id];
            let record = record_of(header, file);
            match recorded.get(id) {
                None => {
                    report.layers += 1;
                    operations.push(StackOperation::InsertLayer(record).into());
                }
                Some(known) if difference(header, known).is_some() => {
                    report.refreshed += 1;
                    let key_bytes = known.key_bytes.max(record.key_bytes);
                    let record = LayerRecord { key_bytes, state: known.state, ..record };
                    operations.push(StackOperation::UpdateLayer(record).into());
                }
                Some(_) => report.known += 1,
            }
        }
        operations
    }

    /// Layers that the catalog has a use for, and the disks that have their top among them. The
    /// top of a disk is none of them, if another layer has come on top of it since, or if its file
    /// is gone.
    fn referred(&self, found: &Layers) -> Result<(BTreeSet<Uuid>, BTreeSet<String>), ControlError> {
        let parents: BTreeSet<Uuid> =
            found.values().filter_map(|layer| layer.header.spec.parent).collect();
        let (mut referred, mut settled) = (BTreeSet::new(), BTreeSet::new());
        for id in found.keys() {
            let uses = self.parts.catalog.layer_uses(&id.to_string())?;
            let is_named = !uses.snapshots.is_empty() || !uses.images.is_empty();
            let is_top = !uses.disks.is_empty() && !parents.contains(id);
            if is_named || is_top || !uses.jobs.is_empty() {
                referred.insert(*id);
            }
            if is_top {
                settled.extend(uses.disks);
            }
        }
        Ok((referred, settled))
    }

    fn plan_operations(
        &self,
        plan: &Plan,
        found: &Layers,
        (operations, report): (&mut Vec<Operation>, &mut RebuildReport),
    ) -> Result<(), ControlError> {
        let catalog = &self.parts.catalog;
        for (disk_id, name, top) in &plan.disks {
            let header = &found[top].header;
            match catalog.disk(disk_id)? {
                None => {
                    let disk = self.disk_of(disk_id, name, header, found);
                    operations.push(Operation::InsertDisk(disk.clone(), Vec::new()));
                    report.disks.push(disk);
                }
                Some(disk) => {
                    operations.extend(moved(&disk, header, found));
                    report.moved.push(disk_id.clone());
                }
            }
        }
        self.resized_operations(found, (operations, report))?;
        for (id, name, layer) in &plan.snapshots {
            if catalog.snapshot(id)?.is_none() {
                let snapshot = self.snapshot_of(id, name, &found[layer].header);
                operations.push(StackOperation::InsertSnapshot(snapshot.clone()).into());
                report.snapshots.push(snapshot);
            }
        }
        for (id, name, layer) in &plan.images {
            if catalog.image(id)?.is_none() {
                let image = self.image_of(id, name, &found[layer].header);
                operations.push(StackOperation::InsertImage(image.clone()).into());
                report.images.push(image);
            }
        }
        Ok(())
    }

    /// Disks that have the top that the catalog knows, but grew since.
    fn resized_operations(
        &self,
        found: &Layers,
        (operations, report): (&mut Vec<Operation>, &mut RebuildReport),
    ) -> Result<(), ControlError> {
        for disk in self.parts.catalog.disks(&DiskFilter::default(), Page::ALL)?.items {
            let top = Uuid::parse_str(&disk.top_layer).ok().and_then(|id| found.get(&id));
            let Some(Found { header, .. }) = top else { continue };
            if disk.size != header.spec.size && !report.moved.contains(&disk.disk_id) {
                operations.push(data_of(&disk, header, found));
                report.moved.push(disk.disk_id);
            }
        }
        Ok(())
    }

    fn disk_of(&self, disk_id: &str, name: &str, top: &LayerHeader, found: &Layers) -> DiskRecord {
        let own = found.values().map(|layer| &layer.header.spec);
        let own = own.filter(|spec| spec.disk_id == disk_id);
        let created = own.map(|spec| spec.created).min().unwrap_or(top.spec.created);
        DiskRecord {
            disk_id: disk_id.to_owned(),
            name: name.to_owned(),
            description: "rebuilt from its layers".to_owned(),
            size: top.spec.size,
            encrypted: top.envelope.is_some() && !stands_on_plain(found, top),
            kms_key_id: key_of(top),
            status: DiskStatus::Available,
            category: "cloud_essd".to_owned(),
            created,
            attached: None,
            detached: None,
            instance_id: None,
            read_only: false,
            cache: CacheMode::default(),
            limits: DiskLimits::default(),
            // Larger than any count of attaches before.
            epoch: self.parts.clock.now().unix_millis().unsigned_abs(),
            top_layer: top.spec.layer_id.to_string(),
            source_snapshot: None,
            source_image: None,
            multi_attach: false,
            more_instances: Vec::new(),
            lease_ends: None,
        }
    }

    fn snapshot_of(&self, id: &str, name: &str, header: &LayerHeader) -> SnapshotRecord {
        SnapshotRecord {
            snapshot_id: id.to_owned(),
            name: name.to_owned(),
            description: "rebuilt from its layer".to_owned(),
            disk_id: header.spec.disk_id.clone(),
            layer_id: header.spec.layer_id.to_string(),
            size: header.spec.size,
            encrypted: header.envelope.is_some(),
            kms_key_id: key_of(header),
            status: SnapshotStatus::Accomplished,
            created: header.spec.created,
            retention_days: None,
            expires: None,
            source_snapshot: None,
        }
    }

    fn image_of(&self, id: &str, name: &str, header: &LayerHeader) -> ImageRecord {
        ImageRecord {
            image_id: id.to_owned(),
            name: name.to_owned(),
            description: "rebuilt from its layer".to_owned(),
            layer_id: header.spec.layer_id.to_string(),
            size: header.spec.size,
            encrypted: header.envelope.is_some(),
            kms_key_id: key_of(header),
            status: ImageStatus::Available,
            created: header.spec.created,
            source: header.spec.disk_id.clone(),
        }
    }
}

/// Layers that stand on none that is there, and those on them, are left out.
fn leave_out_floating(found: &mut Layers, report: &mut RebuildReport) {
    loop {
        let floating = found.values().find_map(|layer| {
            let parent = layer.header.spec.parent?;
            let is_there = found.contains_key(&parent) && !is_circular(found, &layer.header);
            (!is_there).then_some((layer.header.spec.layer_id, parent))
        });
        let Some((id, parent)) = floating else { return };
        if let Some(layer) = found.remove(&id) {
            let why = format!("the layer {parent}, on which it stands, is not there or left out");
            report.left_out.push((layer.file.name, why));
        }
    }
}

fn is_circular(found: &Layers, header: &LayerHeader) -> bool {
    depth(found, header.spec.layer_id) > found.len()
}

/// How many layers a layer stands on; more than there are if it stands on itself.
fn depth(found: &Layers, id: Uuid) -> usize {
    let parent = |id: &Uuid| found.get(id).and_then(|layer| layer.header.spec.parent);
    std::iter::successors(Some(id), parent).take(found.len() + 2).count() - 1
}

fn stands_on_plain(found: &Layers, top: &LayerHeader) -> bool {
    let below = |header: &&LayerHeader| Some(&found.get(&header.spec.parent?)?.header);
    std::iter::successors(Some(top), below).any(|header| header.envelope.is_none())
}

/// A disk whose youngest layer the catalog did not know.
fn moved(disk: &DiskRecord, top: &LayerHeader, found: &Layers) -> [Operation; 2] {
    let set = StackOperation::SetTop {
        disk_id: disk.disk_id.clone(),
        top_layer: top.spec.layer_id.to_string(),
        seen_top: disk.top_layer.clone(),
    };
    [set.into(), data_of(disk, top, found)]
}

/// What a disk is by its top.
fn data_of(disk: &DiskRecord, top: &LayerHeader, found: &Layers) -> Operation {
    let encrypted = top.envelope.is_some() && !stands_on_plain(found, top);
    StackOperation::SetDiskData {
        disk_id: disk.disk_id.clone(),
        size: top.spec.size,
        encrypted,
        kms_key_id: if encrypted { key_of(top) } else { disk.kms_key_id.clone() },
    }
    .into()
}

fn record_of(header: &LayerHeader, file: &Stored) -> LayerRecord {
    let spec = &header.spec;
    LayerRecord {
        layer_id: spec.layer_id.to_string(),
        owner: spec.disk_id.clone(),
        parent: spec.parent.map(|id| id.to_string()),
        file_name: file.name.clone(),
        kms_key_id: key_of(header),
        size: spec.size,
        created: spec.created,
        state: LayerState::Live,
        // What was overwritten since nobody can tell any more.
        key_bytes: file.allocated.get(),
    }
}

fn key_of(header: &LayerHeader) -> Option<String> {
    header.envelope.as_ref().map(|envelope| envelope.key_id.clone())
}

fn known(layer: &Found) -> Known {
    let spec = &layer.header.spec;
    Known {
        layer_id: spec.layer_id,
        owner: spec.disk_id.clone(),
        parent: spec.parent,
        created: spec.created,
        names: layer.header.names(),
    }
}
