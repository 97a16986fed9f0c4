//! Wipes what library calls leave on the stack.
//!
//! A value that holds key material and is returned by move leaves its old bytes in frames that are
//! gone. They are below us when the call has returned, so they can be overwritten. This is best
//! effort: it cannot reach registers spilled elsewhere, nor frames deeper than [`WIPED_BYTES`].

use zeroize::Zeroize;

/// How far below the caller's frame is wiped, in bytes. `tests/key_residue.rs` finds 13 copies of a
/// key after the portable engine without this, none with it.
const WIPED_BYTES: usize = 8 << 10;

/// Runs `work` in a frame of its own, then overwrites the stack that it used.
pub(super) fn with_wiped_stack<T>(work: impl FnOnce() -> T) -> T {
    let result = apart(work);
    wipe();
    result
}

#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn wipe() {
    let mut frame = [0xff_u8; WIPED_BYTES];
    std::hint::black_box(&mut frame).zeroize();
}
