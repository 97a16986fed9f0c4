//! What several test files share.

#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod daemon;
pub mod dice;
pub mod layers;
pub mod tools;
