//! The face a client sees: NBD, from the first byte of the greeting to the last reply.
//!
//! The protocol is pure over bytes, without sockets, clocks or threads:
//!
//! - [`wire`]: the numbers and layouts of the protocol document;
//! - [`handshake`]: from greeting to transmission, with [`option`] for what an option carries;
//! - [`export`]: what the two agreed on, [`context`] what parts of it can be asked about;
//! - [`request`]: a request header becomes a checked command, or an error to answer;
//! - [`reply`]: a result becomes bytes;
//! - [`errno`]: the eight errors the protocol knows.
//!
//! Around it, what moves the bytes:
//!
//! - [`server`], [`listener`]: who may connect, and how all connections end;
//! - `connection`: one client, on a thread of its own, from greeting to goodbye;
//! - `transmission`, `execute`: requests read, run, answered, with `workers` for those that wait,
//!   `crew` for the threads of a connection and `turns` for who needs none;
//! - `intake`, `outbound`, `socket`: bytes in, replies out in batches, system calls.
//!
//! TLS will stand between `socket` and the rest; the handshake has its place for it.
//!
//! "Spec" in this folder is `doc/proto.md` of the NetworkBlockDevice project, with the extended
//! headers of its `extension-ext-header` branch.

mod connection;
pub mod context;
mod crew;
mod directory;
pub mod errno;
mod execute;
pub mod export;
pub mod handshake;
mod intake;
pub mod listener;
pub mod option;
mod outbound;
pub mod reply;
pub mod request;
pub mod server;
mod socket;
mod transmission;
mod turns;
pub mod wire;
mod workers;
