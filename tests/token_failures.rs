//! What each return code of PKCS#11 comes to, at each function that is called: by a module between
//! sealdisk and SoftHSM that answers as it is told.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sealdisk::clock::{SystemClock, SystemEntropy};
use sealdisk::config::{Hsm, TokenUri};
use sealdisk::token::{Load, Object, Token, TokenError, TokenParts, TokenState};
use support::softhsm::{self, PIN, SoftHsm, in_own_process};
use support::tokens::{self, Proxy};
use support::tools;

const LABEL: &str = "failures";
const DATA: &[u8] = b"what belongs to it";
const PLAIN: &[u8; 64] = &[0x5a; 64];

/// The way is broken; connect anew and ask again.
const RECONNECT: [&str; 7] = [
    "CKR_SESSION_HANDLE_INVALID",
    "CKR_SESSION_CLOSED",
    "CKR_USER_NOT_LOGGED_IN",
    "CKR_OBJECT_HANDLE_INVALID",
    "CKR_TOKEN_NOT_PRESENT",
    "CKR_DEVICE_REMOVED",
    "CKR_CRYPTOKI_NOT_INITIALIZED",
];

/// May mean anything; the probe tells.
const AMBIGUOUS: [&str; 3] = ["CKR_GENERAL_ERROR", "CKR_FUNCTION_FAILED", "CKR_DEVICE_ERROR"];

/// Said of a ciphertext: it is none.
const BAD_CIPHERTEXT: [&str; 3] =
    ["CKR_ENCRYPTED_DATA_INVALID", "CKR_ENCRYPTED_DATA_LEN_RANGE", "CKR_AEAD_DECRYPT_FAILED"];

/// What the same question would be answered with again.
const LASTING: [&str; 12] = [
    "CKR_ARGUMENTS_BAD",
    "CKR_ATTRIBUTE_SENSITIVE",
    "CKR_DEVICE_MEMORY",
    "CKR_FUNCTION_CANCELED",
    "CKR_FUNCTION_NOT_SUPPORTED",
    "CKR_HOST_MEMORY",
    "CKR_KEY_FUNCTION_NOT_PERMITTED",
    "CKR_KEY_TYPE_INCONSISTENT",
    "CKR_MECHANISM_INVALID",
    "CKR_MECHANISM_PARAM_INVALID",
    "CKR_OPERATION_NOT_INITIALIZED",
    "CKR_TOKEN_WRITE_PROTECTED",
];

/// A token behind a proxy, and who uses it.
struct Bench<'a> {
    hsm: &'a SoftHsm,
    proxy: Proxy,
    token: Token,
}

impl<'a> Bench<'a> {
    fn new(hsm: &'a SoftHsm) -> Option<Self> {
        Self::with(hsm, |_| {})
    }

    fn with(hsm: &'a SoftHsm, change: impl FnOnce(&mut Hsm)) -> Option<Self> {
        let proxy = Proxy::new(hsm.tokens.parent().unwrap(), softhsm::library()?)?;
        hsm.init(LABEL);
        let uri = tokens::uri(LABEL, proxy.library(), &hsm.pin_file);
        let mut settings = Hsm::new(TokenUri::parse(&uri).unwrap());
        settings.workers = 1;
        change(&mut settings);
        let token = Token::open(TokenParts {
            settings,
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            on_change: Box::new(|_| {}),
        });
        let token = token.unwrap();
        let state = token.settle(Duration::from_secs(20));
        assert!(matches!(state, TokenState::Up { .. }), "{state:?}");
        Some(Self { hsm, proxy, token })
    }

    fn give_pin(&self, pin: &str) {
        std::fs::write(&self.hsm.pin_file, pin).unwrap();
    }

    fn is_up(&self) -> bool {
        matches!(self.token.state(), TokenState::Up { .. })
    }

    /// Obeys the line once `act` calls; tried again if the token's own probe came in between.
    fn once<T>(&self, line: &str, act: impl Fn() -> T, is_settled: impl Fn(&T) -> bool) -> T {
        for _ in 0..4 {
            self.proxy.obey(&[line]);
            let done = act();
            if is_settled(&done) {
                return done;
            }
        }
        self.proxy.obey(&[line]);
        act()
    }

    fn well_again(&self, key: &Object, after: &str) {
        self.proxy.obey(&[]);
        tools::wait_until(after, || self.is_up());
        let sealed = self.token.seal(key, DATA, PLAIN);
        let sealed = sealed.unwrap_or_else(|error| panic!("after {after}: {error}"));
        let opened = self.token.open_sealed(key, sealed.iv, DATA, &sealed.bytes).unwrap().unwrap();
        assert_eq!(opened.expose(), PLAIN, "after {after}");
    }

    /// The functions that `act` calls.
    fn functions(&self, act: impl Fn()) -> BTreeSet<String> {
        self.proxy.obey(&[]);
        act();
        let calls = self.proxy.calls();
        calls.iter().map(|call| call.split(' ').next().unwrap().to_owned()).collect()
    }
}

/// The standard's name of the code in the error.
fn code_of(error: &TokenError) -> Option<String> {
    match error {
        TokenError::Code(code) => code.to_string().split(": ").nth(1).map(str::to_owned),
        _ => None,
    }
}

#[test]
fn a_code_once_is_mended_or_named() {
    in_own_process("a_code_once_is_mended_or_named", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        let seal = || bench.token.seal(&key, DATA, PLAIN);
        // A session is opened, the key found and checked: all of that is asked for once here.
        let functions = bench.functions(|| {
            bench.token.verify(&key).unwrap();
            seal().unwrap();
        });
        assert!(functions.contains("C_EncryptInit") && functions.contains("C_FindObjects"));
        for function in ["C_GenerateRandom", "C_EncryptInit", "C_Encrypt"] {
            assert!(functions.contains(function), "{functions:?}");
            for code in RECONNECT.iter().chain(&AMBIGUOUS) {
                let line = format!("{function} 1 return {code}");
                bench.proxy.obey(&[&line]);
                seal().unwrap_or_else(|error| panic!("{line}: {error}"));
                assert!(bench.is_up(), "{line}");
            }
            for code in LASTING {
                let line = format!("{function} 1 return {code}");
                let error = bench.once(&line, seal, Result::is_err).unwrap_err();
                assert_eq!(code_of(&error).as_deref(), Some(code), "{line}: {error}");
                assert_eq!(bench.proxy.count(&format!("C_Finalize {}", "CKR_OK")), 0, "{line}");
                assert!(bench.is_up(), "{line}");
                bench.well_again(&key, &line);
            }
        }
        bench.token.verify(&key).unwrap();
    });
}

#[test]
fn a_code_once_on_the_way_to_a_key_is_mended_or_named() {
    in_own_process("a_code_once_on_the_way_to_a_key_is_mended_or_named", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        let verify = || bench.token.verify(&key);
        let functions = bench.functions(|| verify().unwrap());
        for function in &functions {
            for code in RECONNECT.iter().chain(&AMBIGUOUS) {
                let line = format!("{function} 1 return {code}");
                bench.proxy.obey(&[&line]);
                verify().unwrap_or_else(|error| panic!("{line}: {error}"));
            }
            for code in LASTING {
                let line = format!("{function} 1 return {code}");
                // Some are no failure of the whole: an attribute untold, a closed session.
                bench.proxy.obey(&[&line]);
                if let Err(error) = verify() {
                    assert!(
                        code_of(&error).as_deref() == Some(code)
                            || matches!(
                                error,
                                TokenError::Unverified { .. } | TokenError::Weak { .. }
                            ),
                        "{line}: {error}"
                    );
                }
                bench.well_again(&key, &line);
            }
        }
        verify().unwrap();
    });
}

#[test]
fn on_decryption_a_code_is_a_bad_ciphertext_only_if_the_token_works() {
    in_own_process("on_decryption_a_code_is_a_bad_ciphertext_only_if_the_token_works", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        let sealed = bench.token.seal(&key, DATA, PLAIN).unwrap();
        let open = || bench.token.open_sealed(&key, sealed.iv, DATA, &sealed.bytes);
        // SoftHSM says CKR_GENERAL_ERROR of these.
        for spoilt in 0..sealed.bytes.len() {
            let mut bytes = sealed.bytes.clone();
            bytes[spoilt] ^= 1;
            assert!(bench.token.open_sealed(&key, sealed.iv, DATA, &bytes).unwrap().is_none());
        }
        assert!(
            bench.token.open_sealed(&key, sealed.iv, b"other", &sealed.bytes).unwrap().is_none()
        );
        assert!(bench.is_up());
        for code in RECONNECT.iter().chain(&AMBIGUOUS) {
            for function in ["C_DecryptInit", "C_Decrypt"] {
                let line = format!("{function} 1 return {code}");
                bench.proxy.obey(&[&line]);
                let opened = open().unwrap_or_else(|error| panic!("{line}: {error}"));
                assert_eq!(opened.expect(&line).expose(), PLAIN);
            }
        }
        for code in BAD_CIPHERTEXT {
            let line = format!("C_Decrypt 1 return {code}");
            let opened = bench.once(&line, open, |opened| matches!(opened, Ok(None)));
            assert!(matches!(opened, Ok(None)), "{line}: {:?}", opened.err());
            assert_eq!(bench.proxy.count("C_Finalize CKR_OK"), 0, "{line}");
        }
        // Of every decryption, the probe's too: then it is the token, no ciphertext is bad.
        for code in AMBIGUOUS {
            bench.proxy.obey(&[&format!("C_Decrypt * return {code}")]);
            let refused = open().map(|opened| opened.is_some()).unwrap_err();
            assert!(matches!(refused, TokenError::Away { .. }), "{code}: {refused}");
            assert!(refused.to_string().contains(code), "{refused}");
            bench.well_again(&key, code);
        }
        bench.well_again(&key, "all of it");
        assert!(open().unwrap().is_some());
    });
}

#[test]
fn what_making_a_key_leaves_behind() {
    in_own_process("what_making_a_key_leaves_behind", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let token = &bench.token;
        let functions = bench.functions(|| {
            let object = token.generate("acs/tried/v1").unwrap();
            token.destroy(object.id).unwrap();
        });
        let keep = token.generate("acs/keep/v1").unwrap();
        for function in &functions {
            for code in RECONNECT.iter().chain(&AMBIGUOUS).chain(&LASTING) {
                // The call has done its work in one case, and not in the other.
                for verb in ["return", "after"] {
                    let line = format!("{function} 1 {verb} {code}");
                    bench.proxy.obey(&[&line]);
                    let made = token.generate("acs/tried/v1");
                    bench.well_again(&keep, &line);
                    if let Ok(object) = &made {
                        token.verify(object).unwrap_or_else(|error| panic!("{line}: {error}"));
                        token.destroy(object.id).unwrap();
                    } else {
                        let is_lasting = LASTING.contains(code);
                        assert!(is_lasting, "{line} was not mended: {:?}", made.err());
                    }
                }
            }
        }
        // What a failed call has made is destroyed when the token can be reached.
        tools::wait_until("only the kept key is left", || {
            let labels: Vec<String> =
                token.keys("acs/").unwrap().into_iter().map(|(_, label)| label).collect();
            labels.iter().all(|label| label == "acs/keep/v1" || label == "acs/probe")
        });
        token.verify(&keep).unwrap();
    });
}

#[test]
fn a_code_without_end_takes_the_token_out_of_use_until_it_ends() {
    in_own_process("a_code_without_end_takes_the_token_out_of_use_until_it_ends", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        let cases = [
            ("C_EncryptInit", "CKR_DEVICE_REMOVED"),
            ("C_Encrypt", "CKR_DEVICE_ERROR"),
            ("C_OpenSession", "CKR_TOKEN_NOT_PRESENT"),
            ("C_FindObjectsInit", "CKR_SESSION_HANDLE_INVALID"),
            ("C_Initialize", "CKR_GENERAL_ERROR"),
            ("C_GetSlotList", "CKR_CRYPTOKI_NOT_INITIALIZED"),
            ("C_Login", "CKR_FUNCTION_FAILED"),
        ];
        for (function, code) in cases {
            let line = format!("{function} * return {code}");
            // Whatever it is, the way is broken first.
            bench.proxy.obey(&[&line, "C_GenerateRandom * return CKR_DEVICE_REMOVED"]);
            let refused = bench.token.seal(&key, DATA, PLAIN).unwrap_err();
            assert!(matches!(refused, TokenError::Away { .. }), "{line}: {refused}");
            // At once and without asking the token: a call that waits for it counts no C_ function.
            let again = bench.token.seal(&key, DATA, PLAIN).unwrap_err();
            assert!(matches!(again, TokenError::Away { .. }), "{line}: {again}");
            assert!(!bench.is_up(), "{line}");
            bench.well_again(&key, &line);
            bench.token.verify(&key).unwrap();
        }
    });
}

#[test]
fn a_wrong_pin_is_tried_once() {
    in_own_process("a_wrong_pin_is_tried_once", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        let lost = "C_GenerateRandom 1 first C_Logout";
        for code in ["CKR_PIN_INCORRECT", "CKR_PIN_LOCKED", "CKR_PIN_INVALID", "CKR_PIN_EXPIRED"] {
            let refusal = format!("C_Login * return {code}");
            bench.proxy.obey(&[lost, &refusal]);
            assert!(bench.token.seal(&key, DATA, PLAIN).is_err(), "{code}");
            let TokenState::Down { cause, .. } = bench.token.state() else { panic!("{code}: up") };
            assert!(cause.to_string().contains("PIN"), "{code}: {cause}");
            // It goes on looking for the token, and asks for the login no more.
            let looked = "C_GetTokenInfo CKR_OK";
            let before = bench.proxy.count(looked);
            tools::wait_until("it has looked again", || bench.proxy.count(looked) >= before + 3);
            assert_eq!(bench.proxy.count(&format!("C_Login {code}")), 1, "{code}");
            // Another PIN in the same place is another attempt.
            bench.give_pin("7777777");
            tools::wait_until("it was tried", || {
                bench.proxy.count(&format!("C_Login {code}")) == 2
            });
            bench.give_pin(PIN);
            bench.well_again(&key, code);
        }
    });
}

#[test]
fn a_token_before_its_last_try_is_not_asked() {
    in_own_process("a_token_before_its_last_try_is_not_asked", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        for flag in ["USER_PIN_FINAL_TRY", "USER_PIN_LOCKED"] {
            let flags = format!("flags +{flag}");
            bench.proxy.obey(&["C_GenerateRandom 1 first C_Logout", &flags]);
            assert!(bench.token.seal(&key, DATA, PLAIN).is_err(), "{flag}");
            let TokenState::Down { cause, .. } = bench.token.state() else { panic!("{flag}: up") };
            match flag {
                "USER_PIN_FINAL_TRY" => {
                    assert!(matches!(*cause, TokenError::PinFinalTry), "{cause}");
                }
                _ => assert!(matches!(*cause, TokenError::PinLocked), "{cause}"),
            }
            let before = bench.proxy.count("C_GetTokenInfo CKR_OK");
            tools::wait_until("it has looked again", || {
                bench.proxy.count("C_GetTokenInfo CKR_OK") >= before + 3
            });
            let calls = bench.proxy.calls();
            assert!(!calls.iter().any(|call| call.starts_with("C_Login")), "{flag}: {calls:?}");
            bench.well_again(&key, flag);
        }
    });
}

#[test]
fn what_happens_behind_our_back_is_mended() {
    in_own_process("what_happens_behind_our_back_is_mended", |hsm| {
        let Some(bench) = Bench::with(hsm, |hsm| hsm.workers = 4) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        for what in ["C_Finalize", "C_CloseAllSessions", "C_Logout"] {
            for function in ["C_GenerateRandom", "C_EncryptInit", "C_Encrypt"] {
                let line = format!("{function} 1 first {what}");
                bench.proxy.obey(&[&line]);
                std::thread::scope(|scope| {
                    for _ in 0..8 {
                        scope.spawn(|| {
                            for _ in 0..5 {
                                let sealed = bench.token.seal(&key, DATA, PLAIN);
                                sealed.unwrap_or_else(|error| panic!("{line}: {error}"));
                            }
                        });
                    }
                });
                bench.well_again(&key, &line);
            }
        }
    });
}

#[test]
fn fewer_sessions_than_workers_are_enough() {
    in_own_process("fewer_sessions_than_workers_are_enough", |hsm| {
        let Some(bench) = Bench::with(hsm, |hsm| hsm.workers = 4) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        // Everything anew, so that the sessions of before do not count.
        bench.proxy.obey(&["sessions 2", "C_GenerateRandom 1 first C_Finalize"]);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        bench.token.seal(&key, DATA, PLAIN).unwrap();
                    }
                });
            }
        });
        // Not even one for a worker: later it will do.
        bench.proxy.obey(&["sessions 1", "C_GenerateRandom 1 first C_Finalize"]);
        let refused = bench.token.seal(&key, DATA, PLAIN).unwrap_err();
        assert!(
            refused.to_string().contains("CKR_SESSION_COUNT")
                || matches!(refused, TokenError::Busy),
            "{refused}"
        );
        bench.well_again(&key, "too few sessions");
    });
}

/// As AWS CloudHSM is documented.
#[test]
fn a_token_with_its_own_vectors_and_without_reading_sessions_is_served() {
    let name = "a_token_with_its_own_vectors_and_without_reading_sessions_is_served";
    in_own_process(name, |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let kind = ["own-iv", "read-write-only"];
        bench.proxy.obey(&[&kind[..], &["C_GenerateRandom 1 first C_Finalize"]].concat());
        let key = bench.token.generate("acs/k/v1").unwrap();
        let sealed: Vec<_> = (0..3).map(|_| bench.token.seal(&key, DATA, PLAIN).unwrap()).collect();
        for one in &sealed {
            assert!(sealed.iter().filter(|other| other.iv == one.iv).count() == 1);
            assert_ne!(one.iv, [0; 12]);
            let opened = bench.token.open_sealed(&key, one.iv, DATA, &one.bytes).unwrap();
            assert_eq!(opened.unwrap().expose(), PLAIN);
        }
        assert!(bench.proxy.count("C_EncryptInit CKR_MECHANISM_PARAM_INVALID") > 0);
        assert!(bench.proxy.count("C_OpenSession CKR_FUNCTION_FAILED") > 0);
        bench.token.verify(&key).unwrap();
        // One that takes no vector and makes none is not used with zeros.
        bench.proxy.obey(&["C_EncryptInit 1 return CKR_MECHANISM_PARAM_INVALID"]);
        let refused = bench.token.seal(&key, DATA, PLAIN).unwrap_err();
        assert_eq!(code_of(&refused).as_deref(), Some("CKR_MECHANISM_PARAM_INVALID"));
        bench.well_again(&key, "all of it");
    });
}

#[test]
fn calls_that_hang_take_no_caller_with_them() {
    let short = |hsm: &mut Hsm| (hsm.workers, hsm.timeout) = (2, Duration::from_millis(300));
    in_own_process("calls_that_hang_take_no_caller_with_them", |hsm| {
        let Some(bench) = Bench::with(hsm, short) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        bench.proxy.obey(&["C_Encrypt * hang 600s"]);
        for _ in 0..4 {
            let refused = bench.token.seal(&key, DATA, PLAIN).unwrap_err();
            let is_known =
                matches!(refused, TokenError::Silent | TokenError::Busy | TokenError::Away { .. });
            assert!(is_known, "{refused}");
        }
        tools::wait_until("it is said that the token hangs", || !bench.is_up());
        bench.well_again(&key, "a hung call");
        let none = Load { waiting: 0, hung: 0, replaced: 0 };
        tools::wait_until("all workers are back, and no more", || bench.token.load() == none);
    });
}

#[test]
fn a_call_that_never_ends_is_no_worker_less_for_ever() {
    let one = |hsm: &mut Hsm| (hsm.workers, hsm.timeout) = (1, Duration::from_millis(300));
    in_own_process("a_call_that_never_ends_is_no_worker_less_for_ever", |hsm| {
        let Some(bench) = Bench::with(hsm, one) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        let seal = || bench.token.seal(&key, DATA, PLAIN);
        bench.once("C_Encrypt 1 hang 600s", seal, Result::is_err).unwrap_err();
        // The only worker is lost, and stays so; another one does the work.
        tools::wait_until("another worker has its place", || seal().is_ok());
        assert_eq!(bench.token.load(), Load { waiting: 0, hung: 1, replaced: 1 });
        assert_eq!(threads(), 2);
        // Not a third one, whatever hangs.
        bench.proxy.obey(&["C_Encrypt * hang 600s"]);
        tools::wait_until("it is said that the token hangs", || seal().is_err() && !bench.is_up());
        std::thread::sleep(Duration::from_secs(2));
        assert!(threads() <= 2, "{}", threads());
        bench.well_again(&key, "hung calls");
        tools::wait_until("there is one worker again", || threads() == 1);
        assert_eq!(bench.token.load(), Load { waiting: 0, hung: 0, replaced: 0 });
        seal().unwrap();
    });
}

/// Workers in this process.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("hsm-") && !name.starts_with("hsm-keeper")).count()
}

#[test]
fn what_is_not_in_the_token_stays_recorded_as_it_was() {
    in_own_process("what_is_not_in_the_token_stays_recorded_as_it_was", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        let seal = || bench.token.seal(&key, DATA, PLAIN);
        bench.hsm.take_out();
        let away = seal().unwrap_err();
        assert!(matches!(away, TokenError::Away { .. }), "{away}");
        // An empty place is not an empty token.
        std::fs::create_dir(&bench.hsm.tokens).unwrap();
        let away = seal().unwrap_err();
        assert!(matches!(away, TokenError::Away { .. }), "{away}");
        bench.hsm.put_back();
        bench.well_again(&key, "its absence");

        // Erased under the same name, then restored.
        let copy = bench.hsm.tokens.with_extension("copy");
        tools::run("cp", &["-a", bench.hsm.tokens.to_str().unwrap(), copy.to_str().unwrap()]);
        bench.hsm.erase(LABEL);
        let missing = || seal().unwrap_err();
        tools::wait_until("the key is missed", || match missing() {
            TokenError::Missing { label } => label == "acs/k/v1",
            TokenError::Away { .. } | TokenError::Code(_) => false,
            other => panic!("{other}"),
        });
        std::fs::remove_dir_all(&bench.hsm.tokens).unwrap();
        std::fs::rename(copy, &bench.hsm.tokens).unwrap();
        tools::wait_until("the key is there again", || seal().is_ok());
        bench.well_again(&key, "its erasure");
    });
}
