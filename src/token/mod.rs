//! Tokens: keys in hardware, by PKCS #11. They never leave it.
//!
//! ```text
//! Token      what can be asked: generate, seal, open, destroy, import
//! crew.rs    threads and a bounded queue; those that hang are replaced
//! ticket.rs  a call, its caller and its deadline
//! apart.rs   what threads write apart from what others read
//! worker.rs  a thread's session; what failed is tried again on a mended way
//! keeper.rs  looks whether it is there, and tidies up in it
//! link.rs    the way there: library, slot, login; broken and mended by one at a time
//! login.rs   a wrong PIN is tried once
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

use std::sync::Arc;
use std::time::Duration;

use cryptoki::object::{ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use crate::clock::{Clock, Entropy};
use crate::config::Hsm;
use crate::metrics;
use crate::secret::Secret;

mod apart;
mod check;
mod crew;
mod failure;
mod gcm;
mod keeper;
mod link;
mod login;
mod module;
mod object;
mod pair;
mod pin;
mod select;
mod ticket;
mod worker;

pub use check::{Finding, Verdict, check};
use crew::Crew;
pub use crew::Load;
pub use failure::{Code, FoundToken, TokenError};
pub use gcm::{IV_BYTES, Sealed, TAG_BYTES};
use keeper::Keeper;
use link::Link;
pub use link::TokenState;
pub use object::{CHECK_BYTES, Check, ID_BYTES, Object};
pub use pair::{OaepHash, PairBits};
pub use pin::PinError;
use worker::{Access, Desk};

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
        let keeper = Arc::new(Keeper::default());
        let bell = Box::new({
            let keeper = Arc::clone(&keeper);
            move || keeper.wake()
        });
        let link = Link::new((name, uri, timeout), (clock, entropy), (on_change, bell));
        let link = Arc::new(link);
        let crew = Crew::start(&link, workers)?;
        let token = Self { link, crew, keeper };
        let (link, crew) = (Arc::clone(&token.link), Arc::clone(&token.crew));
        let keeper = Arc::clone(&token.keeper);
        std::thread::Builder::new()
            .name("hsm-keeper".into())
            .spawn(move || keeper.serve(&link, &crew, workers))?;
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

    /// What it has to do.
    pub fn load(&self) -> Load {
        self.crew.load()
    }

    /// Waits until the first attempt to find it has ended, at most `timeout`; how it is then.
    pub fn settle(&self, timeout: Duration) -> TokenState {
        self.keeper.settle(timeout);
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
        self.seal_by(key, data, plain, gcm::seal)
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
        self.seal_by(key, data, plain, move |session, key, data, plain| {
            gcm::seal_with(session, key, iv, data, plain)
        })
    }

    /// Callers bring the memory for their answers: what a worker allocates and others free has the
    /// two meet in the allocator, at the worker's cost.
    fn seal_by(
        &self,
        key: &Object,
        data: &[u8],
        plain: &[u8],
        seal: impl Fn(&Session, ObjectHandle, &[u8], &[u8]) -> Result<Sealed, TokenError>
        + Send
        + 'static,
    ) -> Result<Sealed, TokenError> {
        let mut answer = Vec::with_capacity(plain.len() + TAG_BYTES);
        let (key, data) = (key.clone(), data.to_vec());
        let plain = Secret::from_fn(plain.len(), |copy| copy.copy_from_slice(plain));
        self.ask("seal", Access::Read, move |desk| {
            let Sealed { iv, bytes } = seal(desk.session, desk.find(&key)?, &data, plain.expose())?;
            answer.extend_from_slice(&bytes);
            Ok(Sealed { iv, bytes: std::mem::take(&mut answer) })
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
        // As in `seal_by`.
        let mut answer = Some(Secret::zeroed(sealed.len().saturating_sub(TAG_BYTES)));
        let (key, data, sealed) = (key.clone(), data.to_vec(), sealed.to_vec());
        let opened = self.ask("open", Access::Read, move |desk| {
            let Some(plain) = answer.as_mut() else { return Err(TokenError::Output) };
            let key = desk.find(&key)?;
            let is_open = gcm::open_into(desk.session, key, (iv, &data), &sealed, plain)?;
            Ok(answer.take_if(|_| is_open))
        });
        match opened {
            Err(TokenError::Code(code)) if code.is_bad_ciphertext() => Ok(None),
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
                desk.probe()?;
            }
            Ok(())
        })
    }

    /// Destroys what has this id as soon as the token can be reached; what this process has made
    /// and nobody has recorded.
    pub fn doom(&self, id: [u8; ID_BYTES]) {
        self.keeper.doom(id);
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
                Err(TokenError::Code(code)) if code.is_unsupported() => {}
                // Twice, and the token does its work.
                Err(TokenError::Settled(_)) => {}
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
            Err(TokenError::Missing { .. }) => desk.probe().map(|()| false),
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
                desk.probe()?;
            }
            Ok(listed)
        })
    }

    /// Ends its threads; waits for what is under way, within the configured time.
    pub fn close(&self) {
        self.keeper.stop(self.link.timeout);
        self.crew.stop(self.link.timeout);
    }

    fn ask<T: Send + 'static>(
        &self,
        operation: &'static str,
        access: Access,
        work: impl FnMut(&Desk<'_>) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        // Known to be away: nobody is kept waiting.
        self.link.is_up()?;
        let begun = self.link.clock.monotonic();
        let answer = self.crew.run(&self.link, access, work);
        if self.crew.is_hung() {
            self.link.take_down(TokenError::Silent);
        } else if matches!(answer, Err(TokenError::Silent)) {
            // A worker may have to be replaced.
            self.link.ring();
        }
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
