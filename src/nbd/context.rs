//! Metadata contexts: what a client can ask of the parts of an export (spec, "Metadata querying").
//!
//! `base:allocation` says where data is. `sealdisk:changed-since=<snapshot id>`, on an export whose
//! chain of layers holds that snapshot, says what may differ from it: [`NBD_STATE_CHANGED`] is set
//! where a layer above the snapshot holds something. A bitmap of changes, read as `qemu` and
//! `nbdinfo` read dirty bitmaps.

use uuid::Uuid;

use super::export::{ExportDirectory, ExportInfo, Negotiated};
use super::option::{ContextRequest, OptionReply};
use super::wire;

/// Namespace of our own contexts; as a query of LIST, all of them.
pub const OWN_WILDCARD: &str = "sealdisk:";

/// What a snapshot's id follows in the name of its context; as a query of LIST, all of them.
pub const CHANGED_SINCE: &str = "sealdisk:changed-since=";

/// The id under which `base:allocation` is selected; clients treat it as opaque.
const BASE_ALLOCATION_ID: u32 = 1;

/// Contexts of changes that one client can select; one more is answered by
/// `NBD_REP_ERR_TOO_BIG`.
pub const CHANGES_MAX: usize = 8;

/// Contexts of changes that one LIST names; a chain of layers is not that long.
const CHANGES_LISTED_MAX: usize = 256;

/// Status flag of a `changed-since` context: the extent may differ from the snapshot.
pub const NBD_STATE_CHANGED: u32 = 1 << 0;

/// A selected context of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeContext {
    /// Under which replies name it.
    pub id: u32,
    /// The snapshot it compares with.
    pub snapshot_id: String,
    /// The frozen layer that the snapshot is.
    pub layer_id: Uuid,
}

/// Some of the contexts a client has selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen(u16);

/// The bit of `base:allocation`; the contexts of changes follow in their order.
const ALLOCATION: u16 = 1;

impl Chosen {
    /// All that were negotiated: what a request without a payload asks about.
    pub fn all(negotiated: &Negotiated) -> Self {
        let changes = (0..negotiated.changes.len().min(CHANGES_MAX)).map(bit);
        let allocation = negotiated.base_allocation.map_or(0, |_| ALLOCATION);
        Self(changes.fold(allocation, |all, one| all | one))
    }

    /// Those with these ids, big-endian; `None` for an id that is unknown or comes twice, as the
    /// spec wants it.
    pub fn of_ids(ids: &[u8], negotiated: &Negotiated) -> Option<Self> {
        let mut chosen = 0;
        for id in ids.chunks(4) {
            let id = u32::from_be_bytes(id.try_into().ok()?);
            let one = if negotiated.base_allocation == Some(id) {
                ALLOCATION
            } else {
                bit(negotiated.changes.iter().position(|context| context.id == id)?)
            };
            if chosen & one != 0 {
                return None;
            }
            chosen |= one;
        }
        Some(Self(chosen))
    }

    /// There is nothing to answer with.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// `base:allocation` is among them.
    pub const fn has_allocation(self) -> bool {
        self.0 & ALLOCATION != 0
    }

    /// Those of `changes`, the negotiated ones, that are among them.
    pub fn changes(self, changes: &[ChangeContext]) -> impl Iterator<Item = &ChangeContext> {
        let is_chosen = move |(index, _): &(usize, &ChangeContext)| self.0 & bit(*index) != 0;
        changes.iter().take(CHANGES_MAX).enumerate().filter(is_chosen).map(|(_, context)| context)
    }
}

const fn bit(index: usize) -> u16 {
    ALLOCATION << (index + 1)
}

/// What a client has selected, and for which export.
#[derive(Debug)]
pub(super) struct Selected {
    /// Under the name the client used.
    pub(super) export: String,
    has_allocation: bool,
    pub(super) changes: Vec<ChangeContext>,
}

impl Selected {
    /// Answers SET_META_CONTEXT; `None` if the last answer is an error.
    pub(super) fn answer(
        request: &ContextRequest<'_>,
        export: &ExportInfo,
        reply: &mut OptionReply<'_>,
        exports: &dyn ExportDirectory,
    ) -> Option<Self> {
        if request.changed_since.len() > CHANGES_MAX {
            reply.error(wire::NBD_REP_ERR_TOO_BIG, "too many contexts at a time");
            return None;
        }
        let has_allocation = request.selects_allocation();
        if has_allocation {
            reply.base_allocation(BASE_ALLOCATION_ID);
        }
        let changes = select(request, export, exports);
        for change in &changes {
            reply.changed_since(change.id, &change.snapshot_id);
        }
        reply.ack();
        Some(Self { export: request.export.to_owned(), has_allocation, changes })
    }

    /// The id of `base:allocation`.
    pub(super) fn allocation(&self) -> Option<u32> {
        self.has_allocation.then_some(BASE_ALLOCATION_ID)
    }
}

/// Answers LIST_META_CONTEXT. The id is reserved in a list.
pub(super) fn list(
    request: &ContextRequest<'_>,
    export: &ExportInfo,
    reply: &mut OptionReply<'_>,
    exports: &dyn ExportDirectory,
) {
    if request.lists_allocation() {
        reply.base_allocation(0);
    }
    if request.lists_all_changes() {
        for snapshot in exports.snapshots(&export.name, CHANGES_LISTED_MAX) {
            reply.changed_since(0, &snapshot);
        }
    } else {
        for context in select(request, export, exports) {
            reply.changed_since(0, &context.snapshot_id);
        }
    }
    reply.ack();
}

/// The contexts of changes that are asked for by name and that there are.
fn select(
    request: &ContextRequest<'_>,
    export: &ExportInfo,
    exports: &dyn ExportDirectory,
) -> Vec<ChangeContext> {
    let context = |(id, snapshot): (u32, &&str)| {
        let layer_id = exports.layer_of_snapshot(&export.name, snapshot)?;
        Some(ChangeContext { id, snapshot_id: (*snapshot).to_owned(), layer_id })
    };
    (BASE_ALLOCATION_ID + 1..).zip(&request.changed_since).filter_map(context).collect()
}
