//! The rounds of AES-256 and the tweaks of XTS, in AVX-512 with VAES and VPCLMULQDQ.
//!
//! ```text
//! zmm0  to zmm7    data: eight vectors of four blocks
//! zmm8  to zmm15   their tweaks
//! zmm16 to zmm30   the round keys, each in all four lanes
//! zmm31            the reduction
//! ```
//!
//! The tweak of block `j` in a unit is that of block 0 times `x^j` in GF(2^128), little-endian,
//! modulo `x^128 + x^7 + x^2 + x + 1` (IEEE 1619-2018, 5.2). It is assembler so that no key and no
//! data is ever spilled to a stack: all registers are zero at the end.

#![allow(unsafe_code)]

use std::arch::asm;

use super::tweak::Tweak;
use super::xts_awslc::ROUND_KEY_BYTES;

/// Data units whose tweaks are encrypted together: eight vectors of four.
pub(super) const BATCH: usize = 32;

/// Bytes under way at a time: eight vectors of four blocks. Any data unit is a multiple.
pub(super) const GROUP_BYTES: usize = 512;

/// The tweaks of a batch.
#[repr(C, align(64))]
pub(super) struct Tweaks(pub(super) [Tweak; BATCH]);

/// By how many bits the tweak of a unit is shifted for each of its first 32 blocks.
#[repr(C, align(64))]
struct Shifts {
    left: [[u64; 2]; BLOCKS],
    /// For what comes out on the other side of 64 bits.
    right: [[u64; 2]; BLOCKS],
}

const BLOCKS: usize = GROUP_BYTES / 16;

static SHIFTS: Shifts = {
    let mut shifts = Shifts { left: [[0; 2]; BLOCKS], right: [[0; 2]; BLOCKS] };
    let mut block = 0;
    while block < BLOCKS {
        shifts.left[block] = [block as u64; 2];
        shifts.right[block] = [64 - block as u64; 2];
        block += 1;
    }
    shifts
};

/// What `x^128` is replaced by: `x^7 + x^2 + x + 1`.
static REDUCTION: [u64; 2] = [0x87, 0];

/// What `$lines` makes of the number of each vector of data and of the vector of its tweaks.
macro_rules! eight {
    ($lines:ident) => {
        concat!(
            $lines!("0", "8"),
            $lines!("1", "9"),
            $lines!("2", "10"),
            $lines!("3", "11"),
            $lines!("4", "12"),
            $lines!("5", "13"),
            $lines!("6", "14"),
            $lines!("7", "15"),
        )
    };
}

/// The round keys at `rax`.
macro_rules! load_keys {
    () => {
        concat!(
            "vbroadcasti32x4 zmm16, [rax]\n",
            "vbroadcasti32x4 zmm17, [rax + 16]\n",
            "vbroadcasti32x4 zmm18, [rax + 32]\n",
            "vbroadcasti32x4 zmm19, [rax + 48]\n",
            "vbroadcasti32x4 zmm20, [rax + 64]\n",
            "vbroadcasti32x4 zmm21, [rax + 80]\n",
            "vbroadcasti32x4 zmm22, [rax + 96]\n",
            "vbroadcasti32x4 zmm23, [rax + 112]\n",
            "vbroadcasti32x4 zmm24, [rax + 128]\n",
            "vbroadcasti32x4 zmm25, [rax + 144]\n",
            "vbroadcasti32x4 zmm26, [rax + 160]\n",
            "vbroadcasti32x4 zmm27, [rax + 176]\n",
            "vbroadcasti32x4 zmm28, [rax + 192]\n",
            "vbroadcasti32x4 zmm29, [rax + 208]\n",
            "vbroadcasti32x4 zmm30, [rax + 224]\n",
        )
    };
}

/// Tweaks of four blocks: the unit's in `zmm0` times `x^j`, which is a shift by `j` bits within
/// each half, what came out of the lower half into the upper, and of the upper, reduced.
macro_rules! first_tweaks {
    ($data:literal, $tweaks:literal) => {
        concat!(
            "vpsrlvq zmm1, zmm0, [r10 + 512 + 64 * ",
            $data,
            "]\n",
            "vpslldq zmm2, zmm1, 8\n",
            "vpclmulqdq zmm1, zmm1, zmm31, 0x01\n",
            "vpsllvq zmm",
            $tweaks,
            ", zmm0, [r10 + 64 * ",
            $data,
            "]\n",
            "vpternlogq zmm",
            $tweaks,
            ", zmm2, zmm1, 0x96\n",
        )
    };
}

/// The tweaks of 32 blocks on: times `x^32`, a shift by four bytes.
macro_rules! next_tweaks {
    ($data:literal, $tweaks:literal) => {
        concat!(
            "vpsrldq zmm",
            $data,
            ", zmm",
            $tweaks,
            ", 12\n",
            "vpslldq zmm",
            $tweaks,
            ", zmm",
            $tweaks,
            ", 4\n",
            "vpclmulqdq zmm",
            $data,
            ", zmm",
            $data,
            ", zmm31, 0x00\n",
            "vpxorq zmm",
            $tweaks,
            ", zmm",
            $tweaks,
            ", zmm",
            $data,
            "\n",
        )
    };
}

/// Input, its tweaks and round key 0 in one. The line a page ahead is asked for, since hardware
/// prefetch ends with the page: out of memory 38 µs a MiB instead of 48. Past the end of the input
/// it does nothing, for a prefetch does not fault.
macro_rules! take_in {
    ($data:literal, $tweaks:literal) => {
        concat!(
            "prefetcht0 [rsi + 4096 + 64 * ",
            $data,
            "]\n",
            "vmovdqu64 zmm",
            $data,
            ", [rsi + 64 * ",
            $data,
            "]\n",
            "vpternlogq zmm",
            $data,
            ", zmm",
            $tweaks,
            ", zmm16, 0x96\n",
        )
    };
}

macro_rules! give_out {
    ($data:literal, $tweaks:literal) => {
        concat!(
            "vpxorq zmm",
            $data,
            ", zmm",
            $data,
            ", zmm",
            $tweaks,
            "\n",
            "vmovdqu64 [rdi + 64 * ",
            $data,
            "], zmm",
            $data,
            "\n",
        )
    };
}

/// Rounds 1 to 14 of all data.
macro_rules! rounds {
    ($round:literal) => {
        concat!(
            ".irp key,17,18,19,20,21,22,23,24,25,26,27,28,29\n",
            ".irp data,0,1,2,3,4,5,6,7\n",
            $round,
            " zmm\\data, zmm\\data, zmm\\key\n",
            ".endr\n",
            ".endr\n",
            ".irp data,0,1,2,3,4,5,6,7\n",
            $round,
            "last zmm\\data, zmm\\data, zmm30\n",
            ".endr\n",
        )
    };
}

/// Nothing stays in a vector register.
macro_rules! clear {
    () => {
        concat!(
            ".irp n,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n",
            "vpxord zmm\\n, zmm\\n, zmm\\n\n",
            ".endr\n",
            "vzeroall\n",
        )
    };
}

/// Encrypts tweaks under the tweak key: all of [`BATCH`], which takes no longer than one.
///
/// # Safety
/// The processor has AVX-512 F and BW, VAES and VPCLMULQDQ.
pub(super) unsafe fn encrypt_tweaks(keys: &[u8; ROUND_KEY_BYTES], tweaks: &mut Tweaks) {
    macro_rules! take_tweaks {
        ($data:literal, $tweaks:literal) => {
            concat!("vpxorq zmm", $data, ", zmm16, [rdi + 64 * ", $data, "]\n")
        };
    }
    macro_rules! give_tweaks {
        ($data:literal, $tweaks:literal) => {
            concat!("vmovdqa64 [rdi + 64 * ", $data, "], zmm", $data, "\n")
        };
    }
    // SAFETY: the keys are as long as what is read, the tweaks 512 bytes, aligned to 64; the ABI's
    // list of clobbers has every vector register.
    unsafe {
        asm!(
            load_keys!(),
            eight!(take_tweaks),
            rounds!("vaesenc"),
            eight!(give_tweaks),
            clear!(),
            in("rax") keys.as_ptr(),
            in("rdi") tweaks,
            clobber_abi("sysv64"),
            options(nostack)
        );
    }
}

macro_rules! pass {
    ($(#[$doc:meta])* $name:ident, $round:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The processor has AVX-512 F and BW, VAES and VPCLMULQDQ. There are 1 to [`BATCH`] units
        /// of one or more groups of [`GROUP_BYTES`]; input and output hold all of them and are
        /// equal or disjoint.
        pub(super) unsafe fn $name(
            keys: &[u8; ROUND_KEY_BYTES],
            tweaks: &Tweaks,
            (input, output): (*const u8, *mut u8),
            (units, groups): (usize, usize),
        ) {
            // SAFETY: the caller's promise, for input and output; keys, shifts and tweaks are read
            // within their bounds. The ABI's list of clobbers has every vector register.
            unsafe {
                asm!(
                    load_keys!(),
                    "vbroadcasti32x4 zmm31, [r11]",
                    "2:",
                    "vbroadcasti32x4 zmm0, [rdx]",
                    eight!(first_tweaks),
                    "mov r9, r8",
                    "3:",
                    eight!(take_in),
                    rounds!($round),
                    eight!(give_out),
                    eight!(next_tweaks),
                    "add rsi, 512",
                    "add rdi, 512",
                    "dec r9",
                    "jnz 3b",
                    "add rdx, 16",
                    "dec rcx",
                    "jnz 2b",
                    clear!(),
                    in("rax") keys.as_ptr(),
                    inout("rcx") units => _,
                    inout("rdx") tweaks => _,
                    inout("rsi") input => _,
                    inout("rdi") output => _,
                    in("r8") groups,
                    out("r9") _,
                    in("r10") &raw const SHIFTS,
                    in("r11") &raw const REDUCTION,
                    clobber_abi("sysv64"),
                    options(nostack)
                );
            }
        }
    };
}

pass!(
    /// Encrypts data units whose encrypted tweaks are given.
    encrypt,
    "vaesenc"
);
pass!(
    /// Decrypts data units whose encrypted tweaks are given; `keys` as VAESDEC wants them.
    decrypt,
    "vaesdec"
);
