//! Tokens: keys in hardware, by PKCS #11. They never leave it.
//!
//! ```text
//! Token      what can be asked: generate, seal, open, destroy, import
//! worker.rs  threads with a session each, a bounded queue, deadlines
//! link.rs    the way there: library, slot, login; broken and mended by one at a time
//! module.rs  one object for each library, for the whole process
//! object.rs gcm.rs pair.rs    what is done in a session
//! failure.rs                  what a return code means
//! ```
//!
//! A token that is not there is no failure to start: it is *down*, every call fails at once with
//! the cause, and a thread looks for it until it is back.
//!
//! What was measured of real libraries, and is behind much of this: a token whose storage is gone
//! finds nothing and says that all is well; GENERAL_ERROR on decryption means a bad ciphertext or a
//! broken token; a login cannot be checked while somebody is logged in; one session in two threads
//! ends the process.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use cryptoki::object::ObjectClass;

use crate::clock::{Clock, Entropy};
use crate::config::Hsm;
use crate::metrics;
use crate::secret::Secret;

mod check;
mod failure;
mod gcm;
mod link;
mod module;
mod object;
mod pair;
mod pin;
mod select;
mod worker;

pub use check::{Finding, Verdict, check};
pub use failure::{Code, FoundToken, TokenError};
pub use gcm::{IV_BYTES, Sealed, TAG_BYTES};
use link::Link;
pub use link::TokenState;
use module::lock;
pub use object::{CHECK_BYTES, Check, ID_BYTES, Object};
pub use pair::{OaepHash, PairBits};
pub use pin::PinError;
use worker::{Access, Crew, Desk};

/// How often a token in use is probed, so that its state is known where nobody asks it.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Pauses between attempts to find a token again: doubled from the first to the last.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Objects that are listed at once.
const LISTED_MAX: usize = 10_000;

/// What a [`Token`] is made of.
pub struct TokenParts {
    /// Which, and how it is used.
    pub settings: Hsm,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ids of new objects, and jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Is told when the token comes or goes; may block.
    pub on_change: Box<dyn Fn(&TokenState) + Send + Sync>,
}

/// A token, whether it is there or not. Its calls block; they end within the configured time.
pub struct Token {
    link: Arc<Link>,
    crew: Arc<Crew>,
    keeper: Arc<Keeper>,
}

/// What the thread that looks after a token shares with it.
struct Keeper {
    duties: Mutex<Duties>,
    changed: Condvar,
}

#[derive(Default)]
struct Duties {
    is_stopped: bool,
    /// The first attempt has ended.
    has_looked: bool,
    /// Objects that nobody will ever ask for: what a call that was given up has made after all.
    doomed: Vec<[u8; ID_BYTES]>,
}

/// What [`Token::import_pair`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportPair {
    /// CKA_ID of the private half.
    pub id: [u8; ID_BYTES],
    /// X.509 SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
    /// Under which hash the token unwraps.
    pub hash: OaepHash,
}

impl Token {
    /// Begins to look for the token, and looks after it from then on. Does not wait for it.
    ///
    /// # Errors
    /// The system gave no thread.
    pub fn open(parts: TokenParts) -> std::io::Result<Self> {
        let TokenParts { settings, clock, entropy, on_change } = parts;
        let Hsm { name, uri, workers, timeout } = settings;
        let link = Arc::new(Link::new((name, uri, timeout), (clock, entropy), on_change));
        let crew = Crew::start(&link, workers)?;
        let keeper = Arc::new(Keeper { duties: Mutex::default(), changed: Condvar::new() });
        let token = Self { link, crew, keeper };
        let (link, crew) = (Arc::clone(&token.link), Arc::clone(&token.crew));
        let keeper = Arc::clone(&token.keeper);
        std::thread::Builder::new()
            .name("hsm-keeper".into())
            .spawn(move || keeper.look_after(&link, &crew, workers))?;
        Ok(token)
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.link.name
    }

    /// How it is.
    pub fn state(&self) -> TokenState {
        self.link.shown()
    }

    /// Calls that wait, and workers in calls that do not end.
    pub fn load(&self) -> (usize, usize) {
        self.crew.load()
    }

    /// Waits until the first attempt to find it has ended, at most `timeout`; how it is then.
    pub fn settle(&self, timeout: Duration) -> TokenState {
        let duties = lock(&self.keeper.duties);
        let waiting = |duties: &mut Duties| !duties.has_looked;
        drop(self.keeper.changed.wait_timeout_while(duties, timeout, waiting));
        self.state()
    }

    /// Makes an AES-256 key.
    ///
    /// # Errors
    /// [`TokenError`]; nothing stays in the token then, as soon as it can be reached.
    pub fn generate(&self, label: &str) -> Result<Object, TokenError> {
        let (id, label) = (self.fresh_id(), label.to_owned());
        let made = self.ask("generate", Access::Write, move |desk| {
            // The first try may have made it and failed after.
            object::destroy(desk.session, &id)?;
            object::generate(desk.session, &id, &label)
        });
        made.inspect_err(|error| self.doom_unless_untouched(id, error))
    }

    /// AES-256-GCM under a vector of the token's own.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn seal(&self, key: &Object, data: &[u8], plain: &[u8]) -> Result<Sealed, TokenError> {
        let (key, data) = (key.clone(), data.to_vec());
        let plain = Secret::from_fn(plain.len(), |copy| copy.copy_from_slice(plain));
        self.ask("seal", Access::Read, move |desk| {
            gcm::seal(desk.session, desk.find(&key)?, &data, plain.expose())
        })
    }

    /// As [`Token::seal`], under a given vector: for the vectors of tests, and nothing else.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn seal_with(
        &self,
        key: &Object,
        iv: [u8; IV_BYTES],
        data: &[u8],
        plain: &[u8],
    ) -> Result<Sealed, TokenError> {
        let (key, data) = (key.clone(), data.to_vec());
        let plain = Secret::from_fn(plain.len(), |copy| copy.copy_from_slice(plain));
        self.ask("seal", Access::Read, move |desk| {
            gcm::seal_with(desk.session, desk.find(&key)?, iv, &data, plain.expose())
        })
    }

    /// The plaintext of what was sealed; `None` if it is not what it is given.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn open_sealed(
        &self,
        key: &Object,
        iv: [u8; IV_BYTES],
        data: &[u8],
        sealed: &[u8],
    ) -> Result<Option<Secret>, TokenError> {
        let (key, data, sealed) = (key.clone(), data.to_vec(), sealed.to_vec());
        let opened = self.ask("open", Access::Read, move |desk| {
            let key = desk.find(&key)?;
            match gcm::open(desk.session, key, iv, &data, &sealed) {
                Err(TokenError::Code(code)) if code.is_bad_ciphertext() => Ok(None),
                opened => opened,
            }
        });
        match opened {
            // Twice, and the token does its work: the ciphertext is at fault.
            Err(TokenError::Settled(_)) => Ok(None),
            opened => opened,
        }
    }

    /// Whether the key is in the token and is the one that was recorded.
    ///
    /// # Errors
    /// [`TokenError`]: among them `Missing` and `Changed`.
    pub fn verify(&self, key: &Object) -> Result<(), TokenError> {
        let key = key.clone();
        self.link.forget(&key.id);
        self.ask("verify", Access::Read, move |desk| desk.find(&key).map(drop))
    }

    /// Destroys what has this id; nothing is there after.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn destroy(&self, id: [u8; ID_BYTES]) -> Result<(), TokenError> {
        self.link.forget(&id);
        self.ask("destroy", Access::Write, move |desk| {
            if object::destroy(desk.session, &id)? == 0 {
                // So says a token whose storage is gone as well.
                object::probe(desk.session)?;
            }
            Ok(())
        })
    }

    /// Destroys what has this id as soon as the token can be reached; what this process has made
    /// and nobody has recorded.
    pub fn doom(&self, id: [u8; ID_BYTES]) {
        lock(&self.keeper.duties).doomed.push(id);
        self.keeper.changed.notify_all();
    }

    /// Makes a pair for one import, and finds out under which hash the token unwraps.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn import_pair(&self, bits: PairBits, label: &str) -> Result<ImportPair, TokenError> {
        let (id, named) = (self.fresh_id(), label.to_owned());
        let made = self.ask("import-pair", Access::Write, {
            let label = named.clone();
            move |desk| {
                object::destroy(desk.session, &id)?;
                pair::generate(desk.session, bits, &id, &label)
            }
        });
        let public_key = made.inspect_err(|error| self.doom_unless_untouched(id, error))?;
        let known = match self.link.oaep() {
            Some(hash) => Ok(hash),
            None => self.find_hash(&id, &named, &public_key),
        };
        let hash = known.inspect_err(|_| self.doom(id))?;
        Ok(ImportPair { id, public_key, hash })
    }

    fn find_hash(
        &self,
        id: &[u8; ID_BYTES],
        label: &str,
        public_key: &[u8],
    ) -> Result<OaepHash, TokenError> {
        for hash in [OaepHash::Sha256, OaepHash::Sha1] {
            let (id, label, public_key) = (*id, label.to_owned(), public_key.to_vec());
            let tried = self.ask("import-try", Access::Write, move |desk| {
                pair::try_hash(desk.session, hash, (&id, &label), &public_key)
            });
            match tried {
                Ok(()) => {
                    self.link.learn_oaep(hash);
                    return Ok(hash);
                }
                Err(TokenError::Code(_) | TokenError::Settled(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(TokenError::Unsupported { what: "unwrapping keys by RSA-OAEP" })
    }

    /// Makes a key of material that is wrapped under a pair of [`Token::import_pair`]; `None` if
    /// that is none, or not of 256 bits. `known`: what earlier material left; other material is
    /// none either.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn import(
        &self,
        pair: ([u8; ID_BYTES], OaepHash),
        wrapped: &[u8],
        label: &str,
        known: Option<Check>,
    ) -> Result<Option<Object>, TokenError> {
        let (id, label, wrapped) = (self.fresh_id(), label.to_owned(), wrapped.to_vec());
        let (pair, hash) = pair;
        let made = self.ask("import", Access::Write, move |desk| {
            let session = desk.session;
            object::destroy(session, &id)?;
            let unwrapping = pair::find(session, &pair, &label)?;
            let made =
                object::unwrap(session, (&hash.mechanism(), unwrapping), &wrapped, (&id, &label));
            let made = match made {
                Err(TokenError::Code(code)) if code.is_bad_material() => return Ok(None),
                Err(TokenError::Weak { attribute: object::TOO_SHORT, .. }) => return Ok(None),
                made => made?,
            };
            if let Some(known) = &known {
                let key = object::find(session, &made)?;
                if !object::fits(session, key, known)? {
                    object::destroy(session, &id)?;
                    return Ok(None);
                }
            }
            Ok(Some(made))
        });
        match made {
            Err(TokenError::Settled(_)) => {
                self.doom(id);
                Ok(None)
            }
            made => made.inspect_err(|error| self.doom_unless_untouched(id, error)),
        }
    }

    /// Whether a private half of this id is there.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn has_private_key(&self, id: [u8; ID_BYTES]) -> Result<bool, TokenError> {
        self.ask("find", Access::Read, move |desk| match pair::find(desk.session, &id, "") {
            Ok(_) => Ok(true),
            Err(TokenError::Missing { .. }) => object::probe(desk.session).map(|()| false),
            Err(error) => Err(error),
        })
    }

    /// Ids and labels of our keys: of those whose label begins with `prefix`.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn keys(&self, prefix: &str) -> Result<Vec<([u8; ID_BYTES], String)>, TokenError> {
        self.listed(ObjectClass::SECRET_KEY, prefix)
    }

    /// As [`Token::keys`], of private halves.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn private_keys(&self, prefix: &str) -> Result<Vec<([u8; ID_BYTES], String)>, TokenError> {
        self.listed(ObjectClass::PRIVATE_KEY, prefix)
    }

    fn listed(
        &self,
        class: ObjectClass,
        prefix: &str,
    ) -> Result<Vec<([u8; ID_BYTES], String)>, TokenError> {
        let prefix = prefix.to_owned();
        self.ask("list", Access::Read, move |desk| {
            let listed = object::labelled(desk.session, class, &prefix, LISTED_MAX)?;
            if listed.is_empty() {
                object::probe(desk.session)?;
            }
            Ok(listed)
        })
    }

    /// Ends its threads; waits for what is under way, within the configured time.
    pub fn close(&self) {
        lock(&self.keeper.duties).is_stopped = true;
        self.keeper.changed.notify_all();
        self.crew.stop(self.link.timeout);
    }

    fn ask<T: Send + 'static>(
        &self,
        operation: &'static str,
        access: Access,
        work: impl FnMut(&Desk<'_>) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        // Known to be away: nobody is kept waiting.
        self.link.footing()?;
        let begun = self.link.clock.monotonic();
        let answer = self.crew.run(self.link.timeout, access, work);
        let took = self.link.clock.monotonic().saturating_sub(begun);
        let outcome = if answer.is_ok() { "ok" } else { "failed" };
        metrics::hsm_call(&self.link.name, operation, outcome, took);
        answer
    }

    fn fresh_id(&self) -> [u8; ID_BYTES] {
        let mut id = [0; ID_BYTES];
        self.link.entropy.fill(&mut id);
        id
    }

    /// Whatever may have been made in vain is destroyed later.
    fn doom_unless_untouched(&self, id: [u8; ID_BYTES], error: &TokenError) {
        if !matches!(error, TokenError::Busy) {
            self.doom(id);
        }
    }
}

impl Keeper {
    fn look_after(&self, link: &Arc<Link>, crew: &Arc<Crew>, workers: usize) {
        let mut pause = RETRY_MIN;
        loop {
            let is_up = match link.footing() {
                Ok(_) => {
                    // Through the queue: a token that hangs shows there.
                    let work = |desk: &Desk<'_>| object::probe(desk.session);
                    let _ = crew.run(link.timeout, Access::Read, work);
                    self.destroy_doomed(link, crew);
                    link.footing().is_ok()
                }
                Err(_) => match link.try_again() {
                    Ok(footing) => {
                        let most = footing.sessions_max.map_or(workers, |sessions| {
                            // One is the anchor's.
                            usize::try_from(sessions).unwrap_or(workers).saturating_sub(1)
                        });
                        crew.allow(most.min(workers));
                        tracing::info!(hsm = link.name, "the token is in use");
                        true
                    }
                    Err(error) => {
                        tracing::debug!(hsm = link.name, %error, "the token is not to be had yet");
                        false
                    }
                },
            };
            let (waiting, hung) = crew.load();
            metrics::hsm_load(&link.name, waiting, hung);
            let rest = if is_up {
                pause = RETRY_MIN;
                PROBE_INTERVAL
            } else {
                pause = (pause * 2).min(RETRY_MAX);
                jittered(pause, link)
            };
            let mut duties = lock(&self.duties);
            duties.has_looked = true;
            self.changed.notify_all();
            let known = duties.doomed.len();
            let idle = |duties: &mut Duties| {
                !duties.is_stopped && (!is_up || duties.doomed.len() <= known)
            };
            let waited = self.changed.wait_timeout_while(duties, rest, idle);
            let (duties, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if duties.is_stopped {
                return;
            }
        }
    }

    fn destroy_doomed(&self, link: &Link, crew: &Arc<Crew>) {
        let doomed = std::mem::take(&mut lock(&self.duties).doomed);
        for id in doomed {
            let work = move |desk: &Desk<'_>| object::destroy(desk.session, &id).map(drop);
            if crew.run(link.timeout, Access::Write, work).is_err() {
                lock(&self.duties).doomed.push(id);
            }
        }
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("name", &self.link.name).finish_non_exhaustive()
    }
}

/// Between half of `pause` and all of it, so that hosts that lost one token do not come in step.
fn jittered(pause: Duration, link: &Link) -> Duration {
    let mut byte = [0];
    link.entropy.fill(&mut byte);
    pause / 2 + pause * u32::from(byte[0]) / 512
}
