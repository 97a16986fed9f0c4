//! Checkpoints: lines that vouch by a signature for all lines before them.
//!
//! The MACs of the chain can be checked, and made, by who has the trail's key. A checkpoint can be
//! checked by anyone with the public key, and made by nobody with it: for auditors who must not be
//! able to write what they check.
//!
//! A checkpoint signs a running digest: SHA-256 over the digest of the checkpoint before it, that
//! checkpoint's own line, and every line since.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::Why;
use super::chain::{GENESIS, Mac, hex, unhex};
use crate::clock::Timestamp;
use crate::crypto::ed25519::{PublicKey, SigningKey};
use crate::crypto::mac::Sha256;

/// Records after which a checkpoint follows.
pub(super) const RECORDS_MAX: u64 = 1000;

/// Largest line of a checkpoint, in bytes; a segment keeps so much room for its last one.
pub(super) const CHECKPOINT_LINE_BYTES_MAX: usize = 768;

const DIGEST_LABEL: &[u8] = b"sealdisk-trail/digest/v1";
const SIGNED_LABEL: &[u8] = b"sealdisk-trail/checkpoint/v1";

/// A checkpoint as written.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Checkpoint {
    time: String,
    digest: String,
    signature: String,
}

/// The running digest since the last checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Since {
    digest: Sha256,
    /// Records since.
    pub(super) records: u64,
}

impl Since {
    /// At the first line of all.
    pub(super) fn genesis() -> Self {
        Self::after(&GENESIS)
    }

    fn after(digest: &Mac) -> Self {
        let mut next = Sha256::new();
        next.update(DIGEST_LABEL);
        next.update(digest);
        Self { digest: next, records: 0 }
    }

    /// A line of an event, with its newline.
    pub(super) fn event(&mut self, line: &[u8]) {
        self.digest.update(line);
        self.records += 1;
    }

    /// The digest of all so far.
    fn value(&self) -> Mac {
        self.digest.clone().finish()
    }

    /// What `seal` makes a line of, and what to do with that line.
    pub(super) fn close(
        &mut self,
        key: &SigningKey,
        seq: u64,
        now: Timestamp,
        seal: impl FnOnce(&str) -> Vec<u8>,
    ) -> Vec<u8> {
        let (time, digest) = (now.to_string(), self.value());
        let signature = key.sign(&signed(seq, &time, &digest));
        let checkpoint =
            Checkpoint { time, digest: hex(&digest), signature: STANDARD.encode(signature) };
        let body = serde_json::to_string(&checkpoint).unwrap_or_default();
        let line = seal(&body);
        debug_assert!(line.len() <= CHECKPOINT_LINE_BYTES_MAX);
        *self = Self::after(&digest);
        self.digest.update(&line);
        line
    }

    /// Goes on after a checkpoint that was read; `before` is what its digest must be, unless
    /// nothing is known of what came before it.
    pub(super) fn pass(
        before: Option<&Self>,
        checkpoint: &Checkpoint,
        (seq, line): (u64, &[u8]),
        public: PublicKey,
    ) -> Result<Self, Why> {
        let digest = unhex(&checkpoint.digest).ok_or(Why::NotARecord)?;
        let signature = STANDARD.decode(&checkpoint.signature).map_err(|_| Why::NotARecord)?;
        if !public.verifies(&signed(seq, &checkpoint.time, &digest), &signature) {
            return Err(Why::WrongSignature);
        }
        if before.is_some_and(|before| before.value() != digest) {
            return Err(Why::WrongDigest);
        }
        let mut next = Self::after(&digest);
        next.digest.update(line);
        Ok(next)
    }
}

fn signed(seq: u64, time: &str, digest: &Mac) -> Vec<u8> {
    [SIGNED_LABEL, &seq.to_be_bytes(), digest, time.as_bytes()].concat()
}
