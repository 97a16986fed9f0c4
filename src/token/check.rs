//! Checks a token from end to end, for who sets one up: each step says what was found, and what to
//! mend.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::session::UserType;
use cryptoki::slot::{Limit, TokenInfo};

use super::failure::TokenError;
use super::module::Module;
use super::object::{self, ID_BYTES};
use super::pair::{self, OaepHash, PairBits};
use super::select::{self, Selected};
use super::{gcm, pin};
use crate::clock::{Entropy, SystemEntropy};
use crate::config::Hsm;

/// What one step found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which step.
    pub step: &'static str,
    /// Whether that is well.
    pub verdict: Verdict,
    /// What was found.
    pub text: String,
    /// What to do.
    pub advice: Option<&'static str>,
}

/// Whether what was found is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Good,
    /// It works, and has to be minded.
    Doubtful,
    /// The token cannot be used so.
    Bad,
}

impl Finding {
    fn bad(step: &'static str, text: impl Into<String>, advice: Option<&'static str>) -> Self {
        Self { step, verdict: Verdict::Bad, text: text.into(), advice }
    }
}

const LABEL: &str = "acs/check";
const DATA: &[u8] = b"sealdisk hsm check";

/// Checks a token; ends at the first step without which the next make no sense, or that takes
/// longer than a call may. The PIN is presented at most once. What is made in the token is
/// destroyed again.
pub fn check(hsm: &Hsm) -> Vec<Finding> {
    const STEP: &str = "check";
    let (findings, told) = mpsc::channel();
    let settings = hsm.clone();
    // A call that hangs cannot be ended: it keeps its thread until the process ends.
    let thread = std::thread::Builder::new().name("hsm-check".into());
    let started = thread.spawn(move || {
        // The finding that ends it is among the others.
        let _ = Findings(findings).run(&settings);
    });
    if let Err(error) = started {
        return vec![Finding::bad(STEP, format!("the system gave no thread: {error}"), None)];
    }
    let mut all = Vec::new();
    loop {
        match told.recv_timeout(hsm.timeout) {
            Ok(finding) => all.push(finding),
            Err(RecvTimeoutError::Disconnected) => return all,
            Err(RecvTimeoutError::Timeout) => {
                let advice = "look whether the device answers; if it is but slow, raise timeout";
                let text = format!("the token does not go on: no answer for {:?}", hsm.timeout);
                all.push(Finding::bad(STEP, text, Some(advice)));
                return all;
            }
        }
    }
}

struct Findings(Sender<Finding>);

impl Findings {
    fn tell(&mut self, finding: Finding) {
        // Nobody waits for it any more once the time was over.
        let _ = self.0.send(finding);
    }

    fn good(&mut self, step: &'static str, text: impl Into<String>) {
        self.tell(Finding { step, verdict: Verdict::Good, text: text.into(), advice: None });
    }

    fn doubtful(&mut self, step: &'static str, text: impl Into<String>, advice: &'static str) {
        let (text, advice) = (text.into(), Some(advice));
        self.tell(Finding { step, verdict: Verdict::Doubtful, text, advice });
    }

    fn bad(&mut self, step: &'static str, text: impl Into<String>, advice: Option<&'static str>) {
        self.tell(Finding::bad(step, text, advice));
    }

    fn need<T>(&mut self, step: &'static str, done: Result<T, TokenError>) -> Result<T, ()> {
        done.map_err(|error| self.bad(step, error.to_string(), None))
    }

    fn run(&mut self, hsm: &Hsm) -> Result<(), ()> {
        let module = self.need("library", Module::of(&hsm.uri.module))?;
        let call = self.need("library", module.enter(hsm.timeout))?;
        let library = module.library(&call);
        match library.get_library_info() {
            Ok(info) => {
                let (maker, version) = (info.manufacturer_id(), info.cryptoki_version());
                let path = hsm.uri.module.display();
                self.good("library", format!("{path}: {maker}, PKCS #11 {version}"));
            }
            Err(error) => {
                self.bad("library", TokenError::from(error).to_string(), None);
                return Err(());
            }
        }
        let selected = self.need("token", select::select(library, &hsm.uri))?;
        self.good("token", selected.found.to_string());
        let info = library.get_token_info(selected.slot).map_err(TokenError::from);
        let info = self.need("token", info)?;
        self.flags(&info)?;
        self.sessions(&info, hsm.workers);
        self.mechanisms(library, &selected)?;
        let session = select::open_to_read(library, selected.slot).map_err(TokenError::from);
        // Keeps the login for all that follow.
        let anchor = self.need("session", session)?;
        self.log_in(hsm, &info, &anchor)?;
        self.key(library, &selected)?;
        self.import(library, &selected);
        Ok(())
    }

    fn sessions(&mut self, info: &TokenInfo, workers: usize) {
        const STEP: &str = "sessions";
        match info.max_session_count() {
            Limit::Max(most) if most < 2 => {
                self.bad(STEP, format!("the token has {most}, and 2 are needed"), None);
            }
            Limit::Max(most) if most <= workers as u64 => self.doubtful(
                STEP,
                format!("the token has {most}, less than workers and 1"),
                "lower workers, or other users of the token are shut out",
            ),
            Limit::Max(most) => self.good(STEP, format!("{most}, {workers} workers")),
            Limit::Unavailable | Limit::Infinite => self.good(STEP, "as many as one likes"),
        }
    }

    fn flags(&mut self, info: &TokenInfo) -> Result<(), ()> {
        const STEP: &str = "flags";
        let unfit = [
            (info.write_protected(), "it is write-protected: no key can be made", "lift that"),
            (
                !info.rng(),
                "it has no random numbers: no key can be made or used",
                "take a token that has a generator",
            ),
            (info.error_state(), "it says that it is in error", "ask its maker's tool why"),
        ];
        let mut is_fit = true;
        for (_, text, advice) in unfit.into_iter().filter(|(is_so, ..)| *is_so) {
            self.bad(STEP, text, Some(advice));
            is_fit = false;
        }
        if !is_fit {
            return Err(());
        }
        let login = if info.login_required() { "asks for a login" } else { "asks for no login" };
        self.good(STEP, format!("{login}, may be written, has random numbers"));
        Ok(())
    }

    fn mechanisms(&mut self, library: &Pkcs11, selected: &Selected) -> Result<(), ()> {
        const STEP: &str = "mechanisms";
        let list = library.get_mechanism_list(selected.slot).map_err(TokenError::from);
        let list = self.need(STEP, list)?;
        let needed = [
            (MechanismType::AES_KEY_GEN, "CKM_AES_KEY_GEN"),
            (MechanismType::AES_GCM, "CKM_AES_GCM"),
        ];
        let lacking = |wanted: &[(MechanismType, &'static str)]| -> Vec<&'static str> {
            wanted.iter().filter(|(one, _)| !list.contains(one)).map(|(_, name)| *name).collect()
        };
        let missing = lacking(&needed);
        if !missing.is_empty() {
            let text = format!("the token lacks {}", missing.join(", "));
            self.bad(STEP, text, Some("take a token or a firmware that has them"));
            return Err(());
        }
        self.good(STEP, "CKM_AES_KEY_GEN, CKM_AES_GCM");
        let missing = lacking(&[
            (MechanismType::RSA_PKCS_KEY_PAIR_GEN, "CKM_RSA_PKCS_KEY_PAIR_GEN"),
            (MechanismType::RSA_PKCS_OAEP, "CKM_RSA_PKCS_OAEP"),
        ]);
        if !missing.is_empty() {
            let text = format!("the token lacks {}", missing.join(", "));
            self.doubtful(STEP, text, "keys of origin EXTERNAL cannot be imported");
        }
        Ok(())
    }

    fn log_in(
        &mut self,
        hsm: &Hsm,
        info: &TokenInfo,
        anchor: &cryptoki::session::Session,
    ) -> Result<(), ()> {
        const STEP: &str = "PIN";
        const TRIES: &str = "PIN tries";
        if !info.login_required() {
            self.doubtful(STEP, "the token asks for none", "whoever reaches it uses its keys");
            return Ok(());
        }
        let refused = [
            (info.user_pin_locked(), TokenError::PinLocked),
            (info.user_pin_final_try(), TokenError::PinFinalTry),
            (!info.user_pin_initialized(), TokenError::PinUnset),
        ];
        if let Some((_, error)) = refused.into_iter().find(|(is_so, _)| *is_so) {
            let step = if matches!(error, TokenError::PinUnset) { STEP } else { TRIES };
            self.bad(step, error.to_string(), None);
            return Err(());
        }
        if info.user_pin_count_low() {
            self.doubtful(
                TRIES,
                "fewer than all are left: a wrong one was tried",
                "find out by whom",
            );
        } else {
            self.good(TRIES, "as many left as the token allows, or it does not tell");
        }
        if info.user_pin_to_be_changed() {
            self.doubtful(STEP, "the token wants it changed", "change it by the vendor's tool");
        }
        let answer = if info.protected_authentication_path() {
            anchor.login(UserType::User, None)
        } else {
            let read = pin::read(&hsm.uri.pin).map_err(TokenError::Pin);
            let pin = self.need(STEP, read)?;
            anchor.login_with_raw(UserType::User, &pin::for_library(&pin))
        };
        match answer {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                self.good(STEP, format!("from {}: logged in", hsm.uri.pin));
                Ok(())
            }
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinLenRange, _)) => {
                self.bad(
                    STEP,
                    format!("from {}: the token refused it", hsm.uri.pin),
                    Some("correct it before trying again: tokens lock after some wrong ones"),
                );
                Err(())
            }
            Err(error) => {
                self.bad(STEP, TokenError::from(error).to_string(), None);
                Err(())
            }
        }
    }

    fn key(&mut self, library: &Pkcs11, selected: &Selected) -> Result<(), ()> {
        let session = library.open_rw_session(selected.slot).map_err(TokenError::from);
        let session = self.need("key", session)?;
        let id = fresh_id();
        let made = object::generate(&session, &id, LABEL);
        let object = self.need("key", made)?;
        self.good("key", "made: AES-256, sensitive, not extractable, read back");
        let used = object::find(&session, &object).and_then(|key| {
            let sealed = gcm::seal(&session, key, DATA, DATA)?;
            let opened = gcm::open(&session, key, sealed.iv, DATA, &sealed.bytes)?;
            match opened {
                Some(plain) if plain.expose() == DATA => Ok(()),
                _ => Err(TokenError::Output),
            }
        });
        let destroyed = object::destroy(&session, &id);
        self.need("use", used)?;
        self.good("use", "found again, encrypted and decrypted by AES-GCM with associated data");
        match self.need("destroy", destroyed)? {
            1 => self.good("destroy", "done"),
            _ => self.bad("destroy", "the key was not found again", None),
        }
        Ok(())
    }

    fn import(&mut self, library: &Pkcs11, selected: &Selected) {
        const STEP: &str = "import";
        const ADVICE: &str = "keys of origin EXTERNAL cannot be imported; all else works";
        let id = fresh_id();
        let made = library
            .open_rw_session(selected.slot)
            .map_err(TokenError::from)
            .and_then(|session| pair::generate(&session, PairBits::B2048, &id, LABEL));
        let public = match made {
            Ok(public) => public,
            Err(error) => return self.doubtful(STEP, error.to_string(), ADVICE),
        };
        // A session for each try: what failed may have left its session unusable.
        let fits = |hash: &OaepHash| {
            library
                .open_rw_session(selected.slot)
                .map_err(TokenError::from)
                .and_then(|session| pair::try_hash(&session, *hash, (&id, LABEL), &public))
                .is_ok()
        };
        match [OaepHash::Sha256, OaepHash::Sha1].iter().find(|hash| fits(hash)) {
            Some(OaepHash::Sha256) => self.good(STEP, "RSA-OAEP with SHA-256"),
            Some(OaepHash::Sha1) => self.doubtful(
                STEP,
                "RSA-OAEP with SHA-1 alone",
                "material is imported under RSAES_OAEP_SHA_1, and the trail says so",
            ),
            None => self.doubtful(STEP, "no RSA-OAEP that it has works", ADVICE),
        }
        if let Ok(session) = library.open_rw_session(selected.slot) {
            let _ = object::destroy(&session, &id);
        }
    }
}

fn fresh_id() -> [u8; ID_BYTES] {
    let mut id = [0; ID_BYTES];
    SystemEntropy.fill(&mut id);
    id
}
