//! Who is calling: the signature of a request becomes a principal, or a published refusal.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::ApiError;
use super::ledger::Ledger;
use super::rate::Rates;
use super::rpc::Product;
use super::sign::nonces::{CLOCK_WINDOW, Freshness, NONCES_MAX, Nonces};
use super::sign::{Message, SignError, Signature};
use crate::clock::{Clock, Entropy, Timestamp};
use crate::ram::{Principal, Ram, RamError};

/// Somebody who proved who they are.
#[derive(Debug)]
pub struct Admitted {
    /// Who.
    pub principal: Principal,
    /// By which access key.
    pub access_key_id: String,
}

/// Checks signatures. One for all listeners: a nonce used on one is used on all.
pub struct Gate {
    ram: Arc<Ram>,
    clock: Arc<dyn Clock>,
    used: Mutex<Used>,
    rates: Mutex<Rates>,
    /// Requests signed before are refused: what they used a restart has forgotten.
    opened: Timestamp,
}

/// The nonces that were used: in memory, and what a restart needs of them.
struct Used {
    nonces: Nonces,
    ledger: Option<Ledger>,
}

impl Gate {
    /// A gate that lets each access key call `per_second` times in a second. Which nonces were used
    /// it forgets when it is dropped, unless it is [`Gate::remembering`].
    pub fn new(
        ram: Arc<Ram>,
        (clock, entropy): (Arc<dyn Clock>, &dyn Entropy),
        per_second: u32,
    ) -> Self {
        let opened = Timestamp::from_unix_millis(clock.now().unix_seconds() * 1000);
        let used = Used { nonces: Nonces::new(entropy, NONCES_MAX), ledger: None };
        let rates = Mutex::new(Rates::new(per_second));
        Self { ram, clock, used: Mutex::new(used), rates, opened }
    }

    /// The same gate, which knows what the one before it on this data directory has let in, and
    /// tells the next.
    ///
    /// # Errors
    /// The system's.
    pub fn remembering(mut self, data_dir: &Path, entropy: &dyn Entropy) -> io::Result<Self> {
        let (ledger, nonces) = Ledger::open(data_dir, entropy, self.opened)?;
        self.used = Mutex::new(Used { nonces, ledger: Some(ledger) });
        Ok(self)
    }

    /// Who signed `message`; `None` if nobody did. `product` tells in whose words to refuse.
    ///
    /// # Errors
    /// The published refusals.
    pub fn admit(
        &self,
        message: &Message<'_>,
        product: Product,
    ) -> Result<Option<Admitted>, ApiError> {
        let Some(signature) = Signature::find(message)? else { return Ok(None) };
        if signature.product().is_some_and(|named| !named.eq_ignore_ascii_case(product.code())) {
            return Err(incomplete("the credential is for another product"));
        }
        let id = signature.access_key_id();
        let credential = self.ram.access_key(id).map_err(|error| unreadable(id, &error))?;
        let credential = credential.ok_or_else(unknown)?;
        signature.verify(message, &credential.secret)?;
        if !credential.is_active {
            return Err(inactive(product));
        }
        self.check_use(&signature)?;
        let principal = credential.principal.clone();
        Ok(Some(Admitted { principal, access_key_id: id.to_owned() }))
    }

    /// Refuses what comes too late, too early, again, or too often.
    fn check_use(&self, signature: &Signature) -> Result<(), ApiError> {
        let now = self.clock.now();
        let made = signature.timestamp().ok_or_else(|| {
            let message = "The specified timestamp is not well formatted.";
            ApiError::new(400, "IllegalTimestamp", message)
                .recommending("write it in UTC, as in 2026-01-05T03:04:05Z")
        })?;
        if now > made.plus(CLOCK_WINDOW) || made > now.plus(CLOCK_WINDOW) {
            let message = "Specified time stamp or date value is expired.";
            return Err(ApiError::new(400, "InvalidTimeStamp.Expired", message)
                .recommending(format!("set the clock; here it is {now}")));
        }
        if made < self.opened {
            let message = "Specified time stamp or date value is expired.";
            return Err(ApiError::new(400, "InvalidTimeStamp.Expired", message).recommending(
                format!("the service started at {}; sign the request anew", self.opened),
            ));
        }
        self.use_nonce(signature.access_key_id(), signature.nonce(), (made, now))
    }

    /// A replay costs whom it copies nothing: it is found before it is counted.
    fn use_nonce(
        &self,
        id: &str,
        nonce: &str,
        (made, now): (Timestamp, Timestamp),
    ) -> Result<(), ApiError> {
        let mut used = lock(&self.used);
        if used.nonces.is_used(id, nonce) {
            return Err(replayed());
        }
        if !lock(&self.rates).take(id, self.clock.monotonic()) {
            return Err(throttled());
        }
        match used.nonces.take(id, nonce, (made, now)) {
            Freshness::Fresh => {}
            Freshness::Full => return Err(throttled()),
            Freshness::Used => return Err(replayed()),
        }
        let hash = used.nonces.hash(nonce);
        let Some(ledger) = &mut used.ledger else { return Ok(()) };
        let noted = ledger.note(id, hash, (made, now));
        // Nobody else waits for the medium.
        drop(used);
        let synced = noted.and_then(|file| file.map_or(Ok(()), |file| file.sync_data()));
        synced.map_err(|error| {
            tracing::error!(%error, "a used nonce cannot be written down");
            let message = format!("nothing was done: a used nonce cannot be written down: {error}");
            ApiError::new(503, "ServiceUnavailableTemporary", message)
        })
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("opened", &self.opened).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request without a signature where one is needed.
pub(super) fn unsigned() -> ApiError {
    incomplete("the request carries no signature")
}

fn incomplete(why: &'static str) -> ApiError {
    let message = "The request signature does not conform to Aliyun standards.";
    ApiError::new(400, "IncompleteSignature", message).recommending(why)
}

fn unknown() -> ApiError {
    ApiError::new(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
}

fn unreadable(id: &str, error: &RamError) -> ApiError {
    tracing::error!(access_key = id, %error, "an access key cannot be read");
    ApiError::new(500, "InternalFailure", "The access key cannot be read.")
        .recommending("see the daemon's log")
}

/// The products name it apart.
fn inactive(product: Product) -> ApiError {
    let message = "Specified access key is disabled.";
    match product {
        Product::Kms => ApiError::new(403, "Forbidden.AccessKey", message),
        _ => ApiError::new(400, "InvalidAccessKeyId.Inactive", message),
    }
}

fn replayed() -> ApiError {
    let message = "Specified signature nonce was used already.";
    ApiError::new(400, "SignatureNonceUsed", message).recommending("sign each request anew")
}

fn throttled() -> ApiError {
    ApiError::new(429, "Rejected.Throttling", "QPS Limit Exceeded").recommending("call less often")
}

impl From<SignError> for ApiError {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Incomplete(why) => incomplete(why),
            SignError::Missing(name) => Self::missing(Product::Kms, name),
            SignError::Invalid(name) => Self::invalid(name),
            SignError::SecurityToken => {
                let message = "The specified SecurityToken is malformed.";
                Self::new(400, "InvalidSecurityToken.Malformed", message)
                    .recommending("sign with an access key; temporary ones do not exist here")
            }
            SignError::Mismatch { string_to_sign } => {
                // Old clients split this at its only colon, and fail without one.
                let message = "Specified signature is not matched with our calculation. server \
                               string to sign is";
                Self::new(400, "SignatureDoesNotMatch", format!("{message}:{string_to_sign}"))
                    .recommending("check the access key's secret")
            }
        }
    }
}
