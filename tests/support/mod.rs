//! What several test files share.

#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod api;
pub mod clock;
pub mod daemon;
pub mod dice;
pub mod kms;
pub mod layers;
pub mod luks;
pub mod needles;
pub mod signer;
pub mod softhsm;
pub mod stacks;
pub mod stores;
pub mod tokens;
pub mod tools;
