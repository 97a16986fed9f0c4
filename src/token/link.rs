//! The way to the token: library, slot, login. Broken and mended by one at a time.
//!
//! ```text
//! ladder: another session  ->  login anew  ->  C_Finalize, C_Initialize, select, login
//!         each step counts only if the probe passes after it
//! ```
//!
//! After any of them all that was known of the token is void: sessions have another *epoch*, and
//! keys are found again by their id and checked before their first use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use cryptoki::context::Pkcs11;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use super::apart::Apart;
use super::failure::{FoundToken, TokenError};
use super::login;
use super::module::{Call, Module, lock};
use super::object::{self, ID_BYTES, Object, PROBE_LABEL};
use super::pair::OaepHash;
use super::select::{self, Selected};
use crate::clock::{Clock, Entropy, Timestamp};
use crate::config::TokenUri;
use crate::metrics;
use crate::secret::Secret;

/// Keys whose place in the token is remembered; beyond that all are looked up anew.
const HANDLES_MAX: usize = 4096;

/// Every so many failures the library is initialised anew though other tokens in it are in use:
/// nothing else may help, and they mend themselves.
const PATIENCE: u32 = 4;

/// How the token is.
#[derive(Clone, Debug)]
pub enum TokenState {
    /// In use.
    Up {
        /// Which it is.
        found: FoundToken,
        /// Since when.
        since: Timestamp,
    },
    /// Not in use: every call fails at once.
    Down {
        /// Why.
        cause: Arc<TokenError>,
        /// Since when; none before the first attempt has ended.
        since: Option<Timestamp>,
    },
}

/// What a session and the knowledge of handles belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footing {
    pub(super) epoch: u64,
    /// Of the library.
    pub(super) generation: u64,
    pub(super) slot: Slot,
    pub(super) sessions_max: Option<u64>,
}

pub(super) type Listener = Box<dyn Fn(&TokenState) + Send + Sync>;
pub(super) type Bell = Box<dyn Fn() + Send + Sync>;

pub(super) struct Link {
    pub(super) name: String,
    pub(super) uri: TokenUri,
    pub(super) timeout: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    listener: Listener,
    /// Wakes who looks after the token.
    bell: Bell,
    module: OnceLock<Arc<Module>>,
    state: Mutex<State>,
    /// The epoch of the footing there is, for who looks without the lock; 0: none.
    standing: AtomicU64,
    ladder: Mutex<Ladder>,
    /// Workers write here at each call, callers nowhere.
    handles: Apart<Mutex<Handles>>,
}

struct State {
    shown: TokenState,
    /// While it is up.
    footing: Option<Footing>,
    /// Of the last way that held.
    epoch: u64,
    /// Under which hash it unwraps imported material, once that was tried.
    oaep: Option<OaepHash>,
}

/// What only the mender touches.
#[derive(Default)]
struct Ladder {
    /// Keeps the login, which ends with the last session.
    anchor: Option<(u64, Session)>,
    last: Option<Selected>,
    /// Was refused, so is not tried again.
    refused: Option<Secret>,
    failures: u32,
}

#[derive(Default)]
struct Handles {
    epoch: u64,
    known: HashMap<[u8; ID_BYTES], ObjectHandle>,
}

impl Link {
    pub(super) fn new(
        (name, uri, timeout): (String, TokenUri, Duration),
        (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>),
        (listener, bell): (Listener, Bell),
    ) -> Self {
        // Nobody has looked yet.
        let shown = TokenState::Down { cause: Arc::new(TokenError::Silent), since: None };
        let state = State { shown, footing: None, epoch: 0, oaep: None };
        Self {
            name,
            uri,
            timeout,
            clock,
            entropy,
            listener,
            bell,
            module: OnceLock::new(),
            state: Mutex::new(state),
            standing: AtomicU64::new(0),
            ladder: Mutex::default(),
            handles: Apart::default(),
        }
    }

    pub(super) fn shown(&self) -> TokenState {
        lock(&self.state).shown.clone()
    }

    /// Where calls can go now.
    ///
    /// # Errors
    /// [`TokenError::Away`] with the cause.
    pub(super) fn footing(&self) -> Result<Footing, TokenError> {
        let state = lock(&self.state);
        match (&state.shown, state.footing) {
            (_, Some(footing)) => Ok(footing),
            (TokenState::Down { cause, .. }, None) => {
                Err(TokenError::Away { cause: Arc::clone(cause) })
            }
            (TokenState::Up { .. }, None) => {
                Err(TokenError::Away { cause: Arc::new(TokenError::Silent) })
            }
        }
    }

    /// Whether calls can go anywhere now.
    ///
    /// # Errors
    /// As [`Link::footing`].
    pub(super) fn is_up(&self) -> Result<(), TokenError> {
        match self.standing.load(Ordering::Acquire) {
            0 => self.footing().map(drop),
            _ => Ok(()),
        }
    }

    /// Whether this is where calls go still.
    pub(super) fn stands(&self, footing: Footing) -> bool {
        self.standing.load(Ordering::Acquire) == footing.epoch
    }

    pub(super) fn module(&self) -> Result<&Arc<Module>, TokenError> {
        if let Some(module) = self.module.get() {
            return Ok(module);
        }
        let loaded = Module::of(&self.uri.module)?;
        Ok(self.module.get_or_init(|| loaded))
    }

    pub(super) fn oaep(&self) -> Option<OaepHash> {
        lock(&self.state).oaep
    }

    pub(super) fn learn_oaep(&self, hash: OaepHash) {
        lock(&self.state).oaep = Some(hash);
    }

    /// The key in the token, found and checked once an epoch.
    pub(super) fn find(
        &self,
        session: &Session,
        footing: Footing,
        object: &Object,
    ) -> Result<ObjectHandle, TokenError> {
        {
            let handles = lock(&self.handles);
            if handles.epoch == footing.epoch
                && let Some(handle) = handles.known.get(&object.id)
            {
                return Ok(*handle);
            }
        }
        let handle = object::find(session, object)?;
        let mut handles = lock(&self.handles);
        if handles.epoch == footing.epoch && handles.known.len() < HANDLES_MAX {
            handles.known.insert(object.id, handle);
        } else if handles.epoch <= footing.epoch {
            *handles =
                Handles { epoch: footing.epoch, known: HashMap::from([(object.id, handle)]) };
        }
        Ok(handle)
    }

    /// Asks the token what it is, and to do its work.
    pub(super) fn probe(
        &self,
        library: &Pkcs11,
        session: &Session,
        footing: Footing,
    ) -> Result<(), TokenError> {
        if let TokenState::Up { found, .. } = self.shown() {
            still_there(library, footing.slot, &found)?;
        }
        object::probe(session)
    }

    pub(super) fn forget(&self, id: &[u8; ID_BYTES]) {
        lock(&self.handles).known.remove(id);
    }

    /// Mends the way that was seen broken; if somebody has meanwhile, takes theirs.
    ///
    /// # Errors
    /// [`TokenError::Away`]: it could not be mended now.
    pub(super) fn mend(&self, seen: Footing) -> Result<Footing, TokenError> {
        let mut ladder = lock(&self.ladder);
        match self.footing() {
            // It was broken when we came; whoever was before us has found out.
            Err(away) => return Err(away),
            Ok(footing) if footing.epoch != seen.epoch => return Ok(footing),
            Ok(_) => {}
        }
        self.climb(&mut ladder)
    }

    /// Tries whether a token that was away is back, or is there for the first time.
    pub(super) fn try_again(&self) -> Result<Footing, TokenError> {
        let mut ladder = lock(&self.ladder);
        match self.footing() {
            Ok(footing) => Ok(footing),
            Err(_) => self.climb(&mut ladder),
        }
    }

    /// Wakes who looks after the token: there is something to look at.
    pub(super) fn ring(&self) {
        (self.bell)();
    }

    /// Out of use from now on, until it is found to work.
    pub(super) fn take_down(&self, cause: TokenError) {
        let shown = {
            let mut state = lock(&self.state);
            if state.footing.take().is_none() {
                return;
            }
            self.standing.store(0, Ordering::Release);
            let since = Some(self.clock.now());
            state.shown = TokenState::Down { cause: Arc::new(cause), since };
            state.shown.clone()
        };
        self.tell(&shown, false);
    }

    /// Tells everybody who wants to know; it came, or went.
    fn tell(&self, shown: &TokenState, is_up: bool) {
        if let Some(module) = self.module.get() {
            module.count_token(is_up);
        }
        metrics::hsm_up(&self.name, is_up);
        (self.listener)(shown);
        if !is_up {
            self.ring();
        }
    }

    fn climb(&self, ladder: &mut Ladder) -> Result<Footing, TokenError> {
        let climbed = self.steps(ladder);
        let (was_up, shown, outcome) = {
            let mut state = lock(&self.state);
            let was_up = state.footing.is_some();
            let now = self.clock.now();
            let outcome = match climbed {
                Ok((selected, generation)) => {
                    state.epoch += 1;
                    let Selected { slot, found, sessions_max } = selected;
                    let footing = Footing { epoch: state.epoch, generation, slot, sessions_max };
                    state.footing = Some(footing);
                    self.standing.store(state.epoch, Ordering::Release);
                    state.oaep = None;
                    let since = match &state.shown {
                        TokenState::Up { since, .. } => *since,
                        TokenState::Down { .. } => now,
                    };
                    state.shown = TokenState::Up { found, since };
                    ladder.failures = 0;
                    Ok(footing)
                }
                Err(cause) => {
                    state.footing = None;
                    self.standing.store(0, Ordering::Release);
                    let since = match &state.shown {
                        TokenState::Down { since: Some(since), .. } => *since,
                        _ => now,
                    };
                    let cause = Arc::new(cause);
                    let since = Some(since);
                    state.shown = TokenState::Down { cause: Arc::clone(&cause), since };
                    ladder.failures = ladder.failures.saturating_add(1);
                    Err(TokenError::Away { cause })
                }
            };
            (was_up, state.shown.clone(), outcome)
        };
        if was_up != outcome.is_ok() {
            self.tell(&shown, outcome.is_ok());
        } else if outcome.is_err() && ladder.failures == 1 {
            // Never seen yet.
            metrics::hsm_up(&self.name, false);
            (self.listener)(&shown);
        }
        outcome
    }

    fn steps(&self, ladder: &mut Ladder) -> Result<(Selected, u64), TokenError> {
        let module = Arc::clone(self.module()?);
        if lock(&self.state).footing.is_some() {
            for (step, climb) in [
                (
                    "session",
                    Self::replace_session as fn(&Self, &mut Ladder, &Call<'_>, &Pkcs11) -> _,
                ),
                ("login", Self::log_in_again),
            ] {
                let call = module.enter(self.timeout)?;
                let held: Result<Selected, TokenError> =
                    climb(self, ladder, &call, module.library(&call));
                match held {
                    Ok(selected) => {
                        metrics::hsm_recovered(&self.name, step);
                        return Ok((selected, call.generation));
                    }
                    Err(error) if error.is_of_pin() => return Err(error),
                    Err(_) => {}
                }
            }
        }
        self.start_over(ladder, &module)
    }

    /// The login still stands; one session may have died.
    fn replace_session(
        &self,
        ladder: &mut Ladder,
        call: &Call<'_>,
        library: &Pkcs11,
    ) -> Result<Selected, TokenError> {
        let selected = ladder.last.clone().ok_or(TokenError::Silent)?;
        if ladder.anchor.as_ref().is_none_or(|(generation, _)| *generation != call.generation) {
            return Err(TokenError::Silent);
        }
        still_there(library, selected.slot, &selected.found)?;
        let session = select::open_to_read(library, selected.slot)?;
        object::probe(&session)?;
        Ok(selected)
    }

    fn log_in_again(
        &self,
        ladder: &mut Ladder,
        call: &Call<'_>,
        library: &Pkcs11,
    ) -> Result<Selected, TokenError> {
        let selected = ladder.last.clone().ok_or(TokenError::Silent)?;
        still_there(library, selected.slot, &selected.found)?;
        self.log_in(ladder, (call, library), &selected)?;
        let session = select::open_to_read(library, selected.slot)?;
        object::probe(&session)?;
        Ok(selected)
    }

    /// Everything anew, the library too: what a token needs that was taken out and put back.
    fn start_over(
        &self,
        ladder: &mut Ladder,
        module: &Module,
    ) -> Result<(Selected, u64), TokenError> {
        let is_first = ladder.last.is_none() && ladder.failures == 0;
        let others_up = module.tokens_up() > usize::from(lock(&self.state).footing.is_some());
        if !is_first && (!others_up || ladder.failures % PATIENCE == PATIENCE - 1) {
            let seen = module.enter(self.timeout).map(|call| call.generation)?;
            match module.start_again(seen, self.timeout) {
                // A call that never ends keeps the library from being initialised anew; without
                // that the token may do its work as well.
                Ok(()) | Err(TokenError::Silent) => {}
                Err(error) => return Err(error),
            }
        }
        let call = module.enter(self.timeout)?;
        let library = module.library(&call);
        let selected = select::select(library, &self.uri)?;
        self.log_in(ladder, (&call, library), &selected)?;
        {
            // One session at a time: a token may have few.
            let session = select::open_to_read(library, selected.slot)?;
            match object::probe(&session) {
                Err(TokenError::Missing { .. }) => {
                    drop(session);
                    let session = library.open_rw_session(selected.slot)?;
                    let mut id = [0; ID_BYTES];
                    self.entropy.fill(&mut id);
                    object::generate(&session, &id, PROBE_LABEL)?;
                    object::probe(&session)?;
                }
                probed => probed?,
            }
        }
        metrics::hsm_recovered(&self.name, if is_first { "start" } else { "library" });
        ladder.last = Some(selected.clone());
        Ok((selected, call.generation))
    }

    /// Opens the anchor session and logs in.
    fn log_in(
        &self,
        ladder: &mut Ladder,
        (call, library): (&Call<'_>, &Pkcs11),
        selected: &Selected,
    ) -> Result<(), TokenError> {
        if let Some((generation, anchor)) = ladder.anchor.take()
            && generation == call.generation
        {
            let _ = anchor.close();
        }
        let anchor = select::open_to_read_no_drop(library, selected.slot)?;
        let pin =
            login::Pin { of: &self.name, source: &self.uri.pin, refused: &mut ladder.refused };
        let logged_in = login::present(pin, library, (&anchor, selected.slot));
        match logged_in {
            Ok(()) => {
                ladder.anchor = Some((call.generation, anchor));
                Ok(())
            }
            Err(error) => {
                let _ = anchor.close();
                Err(error)
            }
        }
    }
}

/// Whether the slot still has the token that was in it.
fn still_there(library: &Pkcs11, slot: Slot, was: &FoundToken) -> Result<(), TokenError> {
    let info = library.get_token_info(slot)?;
    if info.serial_number() == was.serial {
        return Ok(());
    }
    Err(TokenError::NoToken { wanted: was.to_string(), found: Vec::new() })
}

impl Drop for Link {
    fn drop(&mut self) {
        let Some(module) = self.module.get() else { return };
        if lock(&self.state).footing.is_some() {
            module.count_token(false);
        }
        let anchor = lock(&self.ladder).anchor.take();
        if let (Some((generation, anchor)), Ok(call)) = (anchor, module.enter(self.timeout))
            && generation == call.generation
        {
            let _ = anchor.close();
        }
    }
}
