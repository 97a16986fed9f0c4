//! Signatures of requests: found, described, checked. Pure; bytes in, a verdict out.
//!
//! ```text
//! canonical.rs  what exactly is signed         pure, fuzzed
//! rpc1.rs       RPC 1.0, HMAC-SHA1             parameters Signature, SignatureNonce, …
//! acs.rs        ACS3 and ACS4, HMAC-SHA256     header Authorization
//! nonces.rs     once per access key            bounded memory
//! ```
//!
//! A signature covers the method, every parameter, and in ACS the listed headers and the body.
//! RPC 1.0 covers no header: nothing that matters may be taken from one then.

use crate::clock::Timestamp;
use crate::secret::Secret;

mod acs;
pub mod canonical;
pub mod nonces;
mod rpc1;

/// A request as it came off the wire, as far as it can be signed.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `GET` or `POST`.
    pub method: &'a str,
    /// What follows `?`, still encoded.
    pub query: &'a str,
    /// All header fields in the order they came, names in lower case.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The body whole: empty or a form.
    pub body: &'a [u8],
}

/// Why a signature is refused. The client's fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignError {
    /// Parts of it do not fit together; says which.
    Incomplete(&'static str),
    /// A part that must be there is not.
    Missing(&'static str),
    /// A part has a value it cannot have.
    Invalid(&'static str),
    /// A temporary credential, of which none exist here.
    SecurityToken,
    /// It is another one than ours over `string_to_sign`.
    Mismatch {
        /// What we computed it over: it comes from the request, no secret of ours is in it.
        string_to_sign: String,
    },
}

/// A signature found in a request. Nothing in it is known to be true before [`Signature::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    access_key_id: String,
    nonce: String,
    timestamp: String,
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Rpc1(rpc1::Rpc1),
    Acs(acs::Acs),
}

impl Signature {
    /// The signature of `message`; `None` if it has none of a kind we know.
    ///
    /// # Errors
    /// [`SignError`] if it is there in part, or cannot be read.
    pub fn find(message: &Message<'_>) -> Result<Option<Self>, SignError> {
        match acs::find(message)? {
            Some(found) => Ok(Some(found)),
            None => rpc1::find(message),
        }
    }

    /// Whose secret it is to be checked with.
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// The one product that its key is good for; `None` if it is good for all.
    pub fn product(&self) -> Option<&str> {
        match &self.form {
            Form::Rpc1(_) => None,
            Form::Acs(form) => form.product(),
        }
    }

    /// The text that makes it good for one use.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// When the client says it was made; `None` if that is no time.
    pub fn timestamp(&self) -> Option<Timestamp> {
        Timestamp::parse(&self.timestamp)
    }

    /// Checks it over `message`, the one it was found in, with the access key's `secret`.
    ///
    /// # Errors
    /// [`SignError::Mismatch`], or what kept us from computing our own.
    pub fn verify(&self, message: &Message<'_>, secret: &Secret) -> Result<(), SignError> {
        match &self.form {
            Form::Rpc1(form) => form.verify(message, secret),
            Form::Acs(form) => form.verify(message, secret),
        }
    }
}
