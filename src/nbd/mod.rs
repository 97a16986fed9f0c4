//! The face a client sees: NBD, from the first byte of the greeting to the last reply.
//!
//! The protocol is pure over bytes, without sockets, clocks or threads:
//!
//! - [`wire`]: the numbers and layouts of the protocol document;
//! - [`handshake`]: from greeting to transmission, with [`option`] for what an option carries;
//! - [`export`]: what the two agreed on;
//! - [`request`]: a request header becomes a checked command, or an error to answer;
//! - [`reply`]: a result becomes bytes;
//! - [`errno`]: the eight errors the protocol knows.
//!
//! "Spec" in this folder is `doc/proto.md` of the NetworkBlockDevice project, with the extended
//! headers of its `extension-ext-header` branch.

pub mod errno;
pub mod export;
pub mod handshake;
pub mod option;
pub mod reply;
pub mod request;
pub mod wire;
