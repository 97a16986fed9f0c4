//! A vendor's library: one object for each file, initialised once for the whole process.
//!
//! C_Finalize must not meet a call that is under way, whoever's it is. So every call passes the
//! gate here, and a new initialisation closes it and waits until the last one is out.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};

use super::failure::{Code, TokenError};

/// A loaded library. It stays loaded: libraries with threads of their own do not survive unloading.
pub(super) struct Module {
    file: PathBuf,
    library: Pkcs11,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Default)]
struct Gate {
    /// Calls under way.
    calls: usize,
    /// Nobody is let in: who waits for the last call to end will initialise anew.
    is_closing: bool,
    /// How many times it was initialised; what is left of an earlier time is void.
    generation: u64,
    is_initialised: bool,
    /// Tokens in it that are in use.
    tokens_up: usize,
}

/// The right to call the library, as long as it lives.
pub(super) struct Call<'a> {
    module: &'a Module,
    pub(super) generation: u64,
}

static MODULES: Mutex<Vec<Arc<Module>>> = Mutex::new(Vec::new());

impl Module {
    /// The library at `path`, loaded at the first call. Whatever names lead to its file, it is one:
    /// the loader has it once.
    pub(super) fn of(path: &Path) -> Result<Arc<Self>, TokenError> {
        let file = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut modules = lock(&MODULES);
        if let Some(module) = modules.iter().find(|module| module.file == file) {
            return Ok(Arc::clone(module));
        }
        let library = Pkcs11::new(path).map_err(|error| TokenError::Library {
            path: path.to_owned(),
            reason: match error {
                Error::LibraryLoading(error) => error.to_string(),
                Error::MissingSymbol(symbol) => format!("it has no function {symbol}"),
                other => format!("{other:?}"),
            },
        })?;
        let (gate, changed) = (Mutex::default(), Condvar::new());
        let module = Arc::new(Self { file, library, gate, changed });
        modules.push(Arc::clone(&module));
        Ok(module)
    }

    /// The functions. Only for who holds a [`Call`].
    pub(super) const fn library(&self, _: &Call<'_>) -> &Pkcs11 {
        &self.library
    }

    /// Lets a call in, at the latest after `timeout`.
    pub(super) fn enter(&self, timeout: Duration) -> Result<Call<'_>, TokenError> {
        let gate = lock(&self.gate);
        let waited = self.changed.wait_timeout_while(gate, timeout, |gate| gate.is_closing);
        let (mut gate, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(TokenError::Silent);
        }
        if !gate.is_initialised {
            self.initialise(&mut gate)?;
        }
        gate.calls += 1;
        Ok(Call { module: self, generation: gate.generation })
    }

    /// Initialises anew, unless somebody has since `seen`, once no call is under way.
    ///
    /// # Errors
    /// [`TokenError::Silent`] if one does not end in time: nothing was done.
    pub(super) fn start_again(&self, seen: u64, timeout: Duration) -> Result<(), TokenError> {
        let mut gate = lock(&self.gate);
        if gate.generation != seen || gate.is_closing {
            return Ok(());
        }
        gate.is_closing = true;
        let waited = self.changed.wait_timeout_while(gate, timeout, |gate| gate.calls > 0);
        let (mut gate, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        gate.is_closing = false;
        self.changed.notify_all();
        if waited.timed_out() {
            return Err(TokenError::Silent);
        }
        // It may have been finalised behind our back; then this has nothing to do.
        let _ = self.library.clone().finalize();
        gate.is_initialised = false;
        self.initialise(&mut gate)
    }

    fn initialise(&self, gate: &mut Gate) -> Result<(), TokenError> {
        let threads = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match self.library.initialize(threads) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {
                gate.is_initialised = true;
                gate.generation += 1;
                Ok(())
            }
            Err(Error::Pkcs11(code, function)) => Err(TokenError::Start(Code { code, function })),
            Err(error) => Err(error.into()),
        }
    }

    /// One token more, or less, is in use.
    pub(super) fn count_token(&self, is_up: bool) {
        let mut gate = lock(&self.gate);
        gate.tokens_up = if is_up { gate.tokens_up + 1 } else { gate.tokens_up.saturating_sub(1) };
    }

    /// How many tokens are in use.
    pub(super) fn tokens_up(&self) -> usize {
        lock(&self.gate).tokens_up
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut gate = lock(&self.module.gate);
        gate.calls -= 1;
        // Nobody else waits for calls to end, and a wake for nobody is a system call.
        if gate.is_closing {
            self.module.changed.notify_all();
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is changed in single steps: a panic leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
