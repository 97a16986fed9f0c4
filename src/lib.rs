//! sealdisk: encrypted virtual disks over NBD, with the key management of a cloud built in.
//!
//! The modules have ranks; a module imports from lower ranks or from its own folder, never
//! sideways or up (`tests/tidy.rs` holds us to it):
//!
//! | rank | modules | what they are |
//! |---|---|---|
//! | 0 | [`units`] [`secret`] [`limits`] [`clock`] [`metrics`] | words; import nothing of ours |
//! | 1 | [`crypto`] [`storage`] [`catalog`] [`config`] | means |
//! | 2 | [`luks2`] [`ram`] [`token`] [`trail`] | format; who may; keys in hardware; what happened |
//! | 3 | [`layer`] [`kms`] | one image; one key |
//! | 4 | [`disk`] | one disk, and all of them |
//! | 5 | [`nbd`] [`api`] | faces |
//! | 6 | [`daemon`] | composition root |
//! | 7 | [`cli`] | commands |
//!
//! The route of a write, one file after another: `nbd/connection.rs` takes bytes from the socket,
//! `nbd/request.rs` makes a checked request of them, `disk/write.rs` aligns it under a range lock,
//! encrypts it through `crypto/xts.rs` and hands it to `layer/data.rs`, which knows the position in
//! the image and calls the `storage/` engine; the result comes back through `nbd/reply.rs`.

#![deny(unsafe_code, clippy::disallowed_methods)]
#![warn(clippy::unwrap_used, clippy::print_stdout)]

pub mod api;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod daemon;
pub mod disk;
pub mod kms;
pub mod layer;
pub mod limits;
pub mod luks2;
pub mod metrics;
pub mod nbd;
pub mod ram;
pub mod secret;
pub mod storage;
pub mod token;
pub mod trail;
pub mod units;
