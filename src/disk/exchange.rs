//! The layers of a disk are exchanged while it is in use, and no request waits for it.
//!
//! ```text
//! swap     who loads the stack from here on gets the new one
//! grace    those who loaded the old one end: `Exchange` waits for them, nobody for it
//! then     what was below the old stack's top or was its top is still; the map is filled again
//! ```
//!
//! Every piece of a request loads the stack while it holds the locks of its units, and holds what
//! it loaded until it is done with storage. Pieces that loaded the old stack and are not done when
//! it is swapped are *stragglers*. From this follows:
//!
//! - **Pieces on the same units see each other's writes**, whatever stacks they go through. Their
//!   locks order them. The one that comes later loads later, so it has the same stack or a newer
//!   one, and whatever the earlier one wrote is in a layer of that.
//! - **A push is a point in time.** In the snapshot is what pieces wrote that loaded before the
//!   swap. A write that was answered before the push began loaded all its pieces before the swap:
//!   it is in. One that was sent after the push returned loaded after: it is not. Stragglers were
//!   not answered at the swap and may be either. If X is in it and Y was answered before X was
//!   sent, then Y loaded before X, X before the swap, and so Y is in it: a consistent cut across
//!   all connections, which some crash at the moment of the swap could have left.
//! - **Nobody waits for a push**: not for its swap, which is an atomic exchange, and not for its
//!   grace period, which takes no lock of any unit.
//!
//! Until the grace period ends stragglers write to the old top, so until then
//! - a flush of it does not settle it (`is_still` of [`Mark`](super::stack::Mark)): FLUSH goes on
//!   to cover it, and with it what stragglers write and answer;
//! - nobody pulls from it: a pull looks at the layers below its target without locks;
//! - nothing is put on the [`unit map`](super::unit_map): who fills it looks at units that others
//!   have locked, and would not find what is written through another stack than its own;
//! - the command is not answered, nothing is shared with other disks, and no other exchange of
//!   this disk begins: there are two stacks in use at most.
//!
//! The same holds for the other exchanges, which exclude nobody either. A *switch* leaves out
//! layers whose content is in one above, so both stacks read alike, and both write to the same
//! top; the layers left out are let go of after the grace period. A *resize* changes the bound
//! alone: who sends a request beyond the old size saw the new one, so it loads the new stack. Both
//! begin a new map, for the old one may be filled through the old stack until the end.
//!
//! What a layer was marked with belongs to the layer and not to a stack, so that a hole that is
//! made through one stack heeds space that is given back through the other.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, MutexGuard};

use super::stack::{Member, Stack, StackError};
use super::unit_map::UnitMap;
use super::{Disk, DiskError};
use crate::layer::{Frozen, Layer, LayerHeader, Writable};

/// Nobody else exchanges the layers of a disk. Whoever takes it waits for the stragglers of the
/// exchange before, so nothing that other disks need may be held meanwhile: it comes before the
/// structure.
#[derive(Debug)]
pub(super) struct Changes<'a> {
    disk: &'a Disk,
    one: MutexGuard<'a, ()>,
}

/// A stack took the place of another one, which stragglers may still go through. When it is
/// dropped it waits for them. Its holder must not hold anything that a request may wait for, nor
/// a stack.
#[derive(Debug)]
#[must_use = "dropping it waits"]
pub(super) struct Exchange<'a> {
    disk: &'a Disk,
    _one: MutexGuard<'a, ()>,
    /// Closed when nobody has the old stack any more.
    stragglers: Receiver<Infallible>,
    /// The old top, if it is below another one now.
    frozen: Option<Arc<Member>>,
    /// What only the old stack had: a request that ends must not be the one to take it down.
    _old: (Vec<Arc<Member>>, Option<Arc<UnitMap>>),
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        // Nothing is ever sent: this ends when the sender is gone, and with it the old stack.
        let Err(mpsc::RecvError) = self.stragglers.recv();
        if let Some(member) = &self.frozen {
            member.mark.is_still.store(true, Ordering::Release);
        }
        if let Some(map) = &self.disk.stack.load().map {
            map.set_open(true);
        }
    }
}

impl Disk {
    /// Freezes the top and puts `top`, an empty layer that stands on it, in its place: what was
    /// answered before is below, what is sent later above. No request waits; this call waits for
    /// the requests that were under way. Returns the old top; [`Disk::flush_layer`] it, then it is
    /// a snapshot.
    ///
    /// # Errors
    /// [`DiskError::Stack`]; nothing was changed then.
    pub fn push(&self, top: Layer<Writable>) -> Result<Arc<Layer<Frozen>>, DiskError> {
        let exchange = self.changes().push(top)?;
        let frozen = exchange.frozen.as_ref().map(|member| Arc::clone(&member.layer));
        drop(exchange);
        Ok(frozen.expect("a push freezes a layer"))
    }

    /// Takes over the rewritten header of one of the disk's layers: layers between it and its new
    /// parent are left out. Everything they held must have been pulled into it and flushed. No
    /// request goes through them any more when this returns.
    ///
    /// # Errors
    /// [`DiskError::Stack`] or [`DiskError::Layer`]; nothing was changed then.
    pub fn switch(&self, header: LayerHeader) -> Result<(), DiskError> {
        self.changes().switch(header).map(drop)
    }

    /// Takes over the rewritten header of the top: the disk has its size from here on. The file
    /// has its length already.
    ///
    /// # Errors
    /// As [`Disk::switch`]; a smaller size is one.
    pub fn resize(&self, header: LayerHeader) -> Result<(), DiskError> {
        self.changes().resize(header).map(drop)
    }

    /// Waits until the layers can be exchanged.
    pub(super) fn changes(&self) -> Changes<'_> {
        Changes { disk: self, one: self.lock_changes() }
    }

    /// The stack, at a moment when it is not being exchanged: nobody writes to a layer below its
    /// top through another one.
    pub(super) fn still_stack(&self) -> Arc<Stack> {
        let _one = self.lock_changes();
        self.stack.load_full()
    }
}

impl<'a> Changes<'a> {
    /// As [`Disk::push`]; the old top is not still before the exchange is dropped.
    pub(super) fn push(self, top: Layer<Writable>) -> Result<Exchange<'a>, DiskError> {
        let old = self.disk.stack.load_full();
        let frozen = Member::written(Arc::new(old.top.as_frozen()));
        let below = std::iter::once(&frozen).chain(&old.below).cloned().collect();
        // The new top is empty, so what the map says holds on.
        let stack = Stack::new(top, below, old.map.clone())?;
        drop(old);
        Ok(self.exchange(stack, Some(frozen)))
    }

    /// As [`Disk::switch`]; requests may go through the layers left out before the exchange is
    /// dropped.
    pub(super) fn switch(self, header: LayerHeader) -> Result<Exchange<'a>, DiskError> {
        let old = self.disk.stack.load_full();
        let at = old.position(header.spec.layer_id)?;
        let floor = old.floor(header.spec.parent, at)?;
        let place = |position: usize| old.depth() - position;
        // Members are below the top: `below[n]` is at `depth - 1 - n`.
        let tail = &old.below[place(floor) - 1..];
        let stack = if at == old.depth() {
            Stack::new(old.top.with_header(header)?, tail.to_vec(), None)?
        } else {
            let (kept, member) = (&old.below[..place(at) - 1], &old.below[place(at) - 1]);
            let member = Arc::new(member.under(header)?);
            let below = kept.iter().chain([&member]).chain(tail).cloned().collect();
            Stack::new(old.top.clone(), below, None)?
        };
        drop(old);
        Ok(self.exchange(stack, None))
    }

    /// As [`Disk::resize`].
    pub(super) fn resize(self, header: LayerHeader) -> Result<Exchange<'a>, DiskError> {
        let old = self.disk.stack.load_full();
        if header.spec.layer_id != old.top.id() {
            return Err(StackError::NotInStack { layer_id: header.spec.layer_id }.into());
        }
        // What was found on the map beyond the old end is nothing: it begins anew.
        let stack = Stack::new(old.top.with_header(header)?, old.below.clone(), None)?;
        drop(old);
        Ok(self.exchange(stack, None))
    }

    fn exchange(self, stack: Stack, frozen: Option<Arc<Member>>) -> Exchange<'a> {
        let Self { disk, one } = self;
        if let Some(map) = &stack.map {
            // Before anybody has the new stack: see `UnitMap::fill`.
            map.set_open(false);
        }
        let (farewell, stragglers) = mpsc::channel();
        // From here on the old stack is held by those who loaded it, and by nobody else.
        let old = disk.stack.swap(Arc::new(stack));
        let only_old = (old.below.clone(), old.map.clone());
        // Only who has the changes to itself sets it, once in the life of a stack.
        let _ = old.farewell.set(farewell);
        Exchange { disk, _one: one, stragglers, frozen, _old: only_old }
    }
}
