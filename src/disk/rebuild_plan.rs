//! What a directory of layers alone tells of disks, snapshots and images. Pure.
//!
//! A layer says for whom it was made, on what it stands, when it was made, and (as a hint) what
//! those who referred to it were called. From that follows:
//! - The *top* of a disk is that layer of it on which nothing stands. Where several are left (the
//!   disk was reset to a snapshot, or the disk is gone and a snapshot is left), hints decide, then
//!   age: the youngest that is not called a snapshot or an image.
//! - What is called a snapshot or an image is one.
//! - What nothing stands on and nobody is known to refer to becomes a snapshot, so that it is not
//!   swept.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::clock::Timestamp;
use crate::layer::{LayerName, NameKind};

/// A layer, as far as the plan needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) layer_id: Uuid,
    pub(super) owner: String,
    pub(super) parent: Option<Uuid>,
    pub(super) created: Timestamp,
    pub(super) names: Vec<LayerName>,
}

/// What refers to which layer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Disk id, name, top layer.
    pub(super) disks: Vec<(String, String, Uuid)>,
    /// Snapshot id, name, layer.
    pub(super) snapshots: Vec<(String, String, Uuid)>,
    /// Image id, name, layer.
    pub(super) images: Vec<(String, String, Uuid)>,
}

/// Reads `layers`, all that there are. `referred` are those to which something refers already;
/// the disks in `settled` have their top layer among them.
pub(super) fn plan(
    layers: &[Known],
    referred: &BTreeSet<Uuid>,
    settled: &BTreeSet<String>,
) -> Plan {
    let parents: BTreeSet<Uuid> = layers.iter().filter_map(|layer| layer.parent).collect();
    let mut plan = Plan::default();
    let mut done = referred.clone();
    for layer in layers {
        let (snapshots, images) = (&mut plan.snapshots, &mut plan.images);
        for (kind, id, name) in frozen_names(layer) {
            let list = if kind == NameKind::Snapshot { &mut *snapshots } else { &mut *images };
            // Ids are hints, too: one that is taken belongs to whoever came first.
            if !list.iter().any(|(taken, ..)| *taken == id) {
                list.push((id, name, layer.layer_id));
                done.insert(layer.layer_id);
            }
        }
    }
    let leaves = |layer: &&Known| !parents.contains(&layer.layer_id);
    let mut by_disk: BTreeMap<&str, Vec<&Known>> = BTreeMap::new();
    let is_open = |layer: &&Known| is_id(&layer.owner, "d-") && !settled.contains(&layer.owner);
    for layer in layers.iter().filter(leaves).filter(is_open) {
        by_disk.entry(&layer.owner).or_default().push(layer);
    }
    for (disk_id, leaves) in by_disk {
        let free = leaves.into_iter().filter(|layer| !done.contains(&layer.layer_id));
        let Some(top) =
            free.max_by_key(|layer| (disk_name(layer).is_some(), layer.created, layer.layer_id))
        else {
            continue;
        };
        let name = disk_name(top).unwrap_or_default();
        plan.disks.push((disk_id.to_owned(), name, top.layer_id));
        done.insert(top.layer_id);
    }
    for layer in layers.iter().filter(leaves).filter(|layer| !done.contains(&layer.layer_id)) {
        let name = "recovered".to_owned();
        plan.snapshots.push((recovered_id(layer.layer_id), name, layer.layer_id));
    }
    plan
}

/// The snapshots and images that a layer is said to be: by its hints, else by whom it was made for.
fn frozen_names(layer: &Known) -> Vec<(NameKind, String, String)> {
    let is_frozen = |name: &&LayerName| match name.kind {
        NameKind::Snapshot => is_id(&name.id, "s-"),
        NameKind::Image => is_id(&name.id, "m-"),
        NameKind::Disk => false,
    };
    let hints = layer.names.iter().filter(is_frozen);
    let mut found: Vec<_> =
        hints.map(|name| (name.kind, name.id.clone(), name.name.clone())).collect();
    let owner = layer.owner.clone();
    if found.is_empty() && is_id(&owner, "s-") {
        found.push((NameKind::Snapshot, owner, String::new()));
    } else if found.is_empty() && is_id(&owner, "m-") {
        found.push((NameKind::Image, owner, String::new()));
    }
    found
}

fn disk_name(layer: &Known) -> Option<String> {
    let is_ours = |name: &&LayerName| name.kind == NameKind::Disk && name.id == layer.owner;
    layer.names.iter().find(is_ours).map(|name| name.name.clone())
}

/// `d-`, `s-` or `m-` and 20 lower-case letters or digits.
fn is_id(text: &str, prefix: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.strip_prefix(prefix).is_some_and(|rest| rest.len() == 20 && rest.bytes().all(is_known))
}

/// The id of a snapshot of which only the layer is left: the same each time.
fn recovered_id(layer_id: Uuid) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut rest = layer_id.as_u128();
    let mut id = String::from("s-");
    for _ in 0..20 {
        id.push(char::from(DIGITS[(rest % 36) as usize]));
        rest /= 36;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: &str = "d-aaaaaaaaaaaaaaaaaaaa";
    const CLONE: &str = "d-bbbbbbbbbbbbbbbbbbbb";
    const SNAPSHOT: &str = "s-aaaaaaaaaaaaaaaaaaaa";
    const IMAGE: &str = "m-aaaaaaaaaaaaaaaaaaaa";

    fn layer(number: u128, owner: &str, parent: Option<u128>) -> Known {
        Known {
            layer_id: Uuid::from_u128(number),
            owner: owner.to_owned(),
            parent: parent.map(Uuid::from_u128),
            created: Timestamp::from_unix_millis(1_767_582_245_000 + number as i64 * 1000),
            names: Vec::new(),
        }
    }

    fn named(mut layer: Known, kind: NameKind, id: &str, name: &str) -> Known {
        layer.names.push(LayerName { kind, id: id.to_owned(), name: name.to_owned() });
        layer
    }

    fn of(layers: &[Known]) -> Plan {
        plan(layers, &BTreeSet::new(), &BTreeSet::new())
    }

    fn entry(id: &str, name: &str, number: u128) -> (String, String, Uuid) {
        (id.to_owned(), name.to_owned(), Uuid::from_u128(number))
    }

    #[test]
    fn a_disk_with_a_snapshot_and_a_clone() {
        let layers = [
            named(layer(1, DISK, None), NameKind::Snapshot, SNAPSHOT, "monday"),
            named(layer(2, DISK, Some(1)), NameKind::Disk, DISK, "db"),
            layer(3, CLONE, Some(1)),
        ];
        let found = of(&layers);
        assert_eq!(found.disks, [entry(DISK, "db", 2), entry(CLONE, "", 3)]);
        assert_eq!(found.snapshots, [entry(SNAPSHOT, "monday", 1)]);
        assert!(found.images.is_empty());
    }

    #[test]
    fn without_hints_the_youngest_leaf_is_the_top_and_nothing_is_lost() {
        // Reset to layer 1: layer 2 was the top before, 3 is.
        let layers = [layer(1, DISK, None), layer(2, DISK, Some(1)), layer(3, DISK, Some(1))];
        let found = of(&layers);
        assert_eq!(found.disks, [entry(DISK, "", 3)]);
        assert_eq!(found.snapshots.len(), 1);
        assert_eq!(found.snapshots[0].2, Uuid::from_u128(2));
        assert!(is_id(&found.snapshots[0].0, "s-"));
        assert_eq!(of(&layers), found, "the same each time");
    }

    #[test]
    fn a_snapshot_that_outlived_its_disk_makes_no_disk() {
        let layers = [named(layer(1, DISK, None), NameKind::Snapshot, SNAPSHOT, "")];
        let found = of(&layers);
        assert!(found.disks.is_empty());
        assert_eq!(found.snapshots, [entry(SNAPSHOT, "", 1)]);
    }

    #[test]
    fn copies_are_what_they_were_made_for() {
        let found = of(&[layer(1, IMAGE, None), layer(2, SNAPSHOT, None)]);
        assert_eq!(found.images, [entry(IMAGE, "", 1)]);
        assert_eq!(found.snapshots, [entry(SNAPSHOT, "", 2)]);
        assert!(found.disks.is_empty());
    }

    #[test]
    fn what_is_referred_to_already_is_left_alone() {
        let (referred, settled) =
            (BTreeSet::from([Uuid::from_u128(1)]), BTreeSet::from([DISK.to_owned()]));
        let top = layer(1, DISK, None);
        assert_eq!(plan(std::slice::from_ref(&top), &referred, &settled), Plan::default());
        // Another leaf of that disk does not push its top aside.
        let found = plan(&[top, layer(2, DISK, None)], &referred, &settled);
        assert!(found.disks.is_empty());
        assert_eq!(found.snapshots[0].2, Uuid::from_u128(2));
    }

    #[test]
    fn hints_that_cannot_be_are_none() {
        let odd = named(layer(1, DISK, None), NameKind::Snapshot, "../s-1", "x");
        assert_eq!(of(&[odd]).disks, [entry(DISK, "", 1)]);
        let twice = [
            named(layer(1, DISK, None), NameKind::Snapshot, SNAPSHOT, "first"),
            named(layer(2, CLONE, None), NameKind::Snapshot, SNAPSHOT, "second"),
        ];
        let found = of(&twice);
        assert_eq!(found.snapshots, [entry(SNAPSHOT, "first", 1)]);
        assert_eq!(found.disks, [entry(CLONE, "", 2)]);
    }
}
