//! Wipes what library calls leave on the stack and in vector registers.
//!
//! A value that holds key material and is returned by move leaves its old bytes in frames that are
//! gone. They are below us when the call has returned, so they can be overwritten. The registers
//! that AES ran in keep its last blocks until something else needs them: on a thread that waits for
//! work, for as long as it waits, and a core dump has them. This is best effort: it cannot reach
//! registers spilled elsewhere, nor frames deeper than [`WIPED_BYTES`].

#![allow(unsafe_code)]

use zeroize::Zeroize;

/// How far below the caller's frame is wiped, in bytes. `tests/key_residue.rs` finds 13 copies of a
/// key after the portable engine without this, none with it.
const WIPED_BYTES: usize = 8 << 10;

/// Runs `work` in a frame of its own, then overwrites the stack that it used.
pub(super) fn with_wiped_stack<T>(work: impl FnOnce() -> T) -> T {
    let result = apart(work);
    wipe();
    clear_vector_registers();
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

/// Zeroes every vector register, on x86-64.
#[inline(never)]
fn clear_vector_registers() {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::{asm, is_x86_feature_detected};
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512. Only registers change, and all that change are
            // declared: the ABI's list has every vector register.
            unsafe {
                asm!(
                    ".irp n,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
                    "vpxord zmm\\n, zmm\\n, zmm\\n",
                    ".endr",
                    clobber_abi("sysv64"),
                    options(nomem, nostack, preserves_flags)
                );
            }
        }
        if is_x86_feature_detected!("avx") {
            // SAFETY: the processor has AVX; otherwise as above.
            unsafe {
                asm!("vzeroall", clobber_abi("sysv64"), options(nomem, nostack, preserves_flags));
            }
        }
    }
}
