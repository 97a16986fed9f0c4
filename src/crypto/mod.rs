//! Ciphers and digests: the one place that calls a cryptographic library.
//!
//! Data is AES-256-XTS ([`xts`]); keys and records are AES-256-GCM ([`aead`]), RSA and ECDSA
//! ([`asymmetric`]), PBKDF2 and HKDF ([`kdf`]), HMAC-SHA-256 ([`mac`]) and Ed25519 ([`ed25519`]).
//! Key bytes come in as [`crate::secret::Secret`] and plaintext keys leave as one.

pub mod aead;
pub mod asymmetric;
pub mod ed25519;
pub mod engine;
pub mod kdf;
pub mod mac;
mod stack;
pub mod tweak;
pub mod xts;
#[cfg_attr(
    not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(feature = "portable-xts"))),
    path = "xts_awslc_absent.rs"
)]
mod xts_awslc;
mod xts_portable;
#[cfg_attr(
    not(all(target_arch = "x86_64", not(feature = "portable-xts"))),
    path = "xts_vaes_absent.rs"
)]
mod xts_vaes;
#[cfg(all(target_arch = "x86_64", not(feature = "portable-xts")))]
mod xts_vaes_rounds;
