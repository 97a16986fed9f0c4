//! What each return code of PKCS#11 comes to, at each function that is called: by a module between
//! sealdisk and SoftHSM that answers as it is told.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use sealdisk::config::{Hsm, TokenUri};
use sealdisk::crypto::asymmetric;
use sealdisk::token::{Load, OaepHash, Object, PairBits, Token, TokenError, TokenState};
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
        let token = tokens::reach(settings);
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
                assert_eq!(bench.proxy.count("C_Finalize CKR_OK"), 0, "{line}");
                // The session is gone with its error, the login is not: another session holds it.
                assert_eq!(bench.proxy.count("C_CloseSession CKR_OK"), 1, "{line}");
                assert_eq!(bench.proxy.count("C_Login CKR_OK"), 0, "{line}");
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
                // By one of them for all, and by no higher step of the ladder than it takes.
                let initialised = usize::from(what == "C_Finalize");
                assert_eq!(bench.proxy.count("C_Initialize CKR_OK"), initialised, "{line}");
                assert_eq!(bench.proxy.count("C_Login CKR_OK"), 1, "{line}");
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

#[test]
fn a_key_that_came_out_weaker_is_not_used() {
    in_own_process("a_key_that_came_out_weaker_is_not_used", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let token = &bench.token;
        let keep = token.generate("acs/keep/v1").unwrap();
        let pair = token.import_pair(PairBits::B2048, "acs/weak/import/1").unwrap();
        let padding = pair.hash.padding();
        let wrapped = asymmetric::encrypt(&pair.public_key, padding, &[3; 32]).unwrap();
        let import = || token.import((pair.id, pair.hash), &wrapped, "acs/weak/v1", None);
        let is_weak = |error: &TokenError, word: &str| {
            matches!(error, TokenError::Weak { .. }) && error.to_string().contains(word)
        };
        // Of every key; whatever has to be told counts as missing where it is not.
        let of_every = [
            ("TOKEN false", "not kept"),
            ("PRIVATE false", "not private"),
            ("SENSITIVE false", "not sensitive"),
            ("SENSITIVE nothing", "not sensitive"),
            ("EXTRACTABLE true", "extractable"),
            ("EXTRACTABLE nothing", "extractable"),
            ("WRAP true", "wrap"),
            ("UNWRAP true", "unwrap"),
            ("SIGN true", "sign"),
            ("VERIFY true", "verify"),
            ("DERIVE true", "derive"),
        ];
        // Of those that the token made: what comes from outside cannot have these.
        let of_born = [
            ("NEVER_EXTRACTABLE false", "extractable before"),
            ("ALWAYS_SENSITIVE false", "not sensitive before"),
            ("MODIFIABLE true", "modifiable"),
        ];
        for (told, word) in of_every.into_iter().chain(of_born) {
            bench.proxy.obey(&[&format!("tells CKA_{told}")]);
            let made = token.generate("acs/weak/v1").unwrap_err();
            assert!(is_weak(&made, word), "{told}: {made}");
            if of_every.contains(&(told, word)) {
                let found = token.verify(&keep).unwrap_err();
                assert!(is_weak(&found, word), "{told}: {found}");
                let brought = import().unwrap_err();
                assert!(is_weak(&brought, word), "{told}: {brought}");
            }
            bench.well_again(&keep, told);
            tools::wait_until("none is left", || token.keys("acs/weak/").unwrap().is_empty());
        }
        // What may go untold.
        for untold in ["WRAP", "DERIVE", "NEVER_EXTRACTABLE", "ALWAYS_SENSITIVE", "MODIFIABLE"] {
            bench.proxy.obey(&[&format!("tells CKA_{untold} nothing")]);
            token.destroy(token.generate("acs/some/v1").unwrap().id).unwrap();
        }
        // Nor is a pair of which the private half could be taken out.
        bench.proxy.obey(&["tells CKA_EXTRACTABLE true"]);
        let weak = token.import_pair(PairBits::B2048, "acs/weak/import/2").unwrap_err();
        assert!(is_weak(&weak, "extractable"), "{weak}");
        bench.proxy.obey(&[]);
        tools::wait_until("the weak pair is gone", || {
            token.private_keys("acs/weak/").unwrap().len() == 1
        });
        assert!(import().unwrap().is_some());
    });
}

#[test]
fn a_token_that_knows_no_limit_of_mechanisms_is_served_without() {
    in_own_process("a_token_that_knows_no_limit_of_mechanisms_is_served_without", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        for code in [
            "CKR_ATTRIBUTE_TYPE_INVALID",
            "CKR_ATTRIBUTE_VALUE_INVALID",
            "CKR_ATTRIBUTE_READ_ONLY",
            "CKR_TEMPLATE_INCONSISTENT",
        ] {
            bench.proxy.obey(&[&format!("C_GenerateKey 1 return {code}")]);
            let key = bench.token.generate("acs/k/v1").unwrap_or_else(|e| panic!("{code}: {e}"));
            bench.well_again(&key, code);
            bench.proxy.obey(&[&format!("C_GenerateKey * return {code}")]);
            let refused = bench.token.generate("acs/k/v2").unwrap_err();
            assert_eq!(code_of(&refused).as_deref(), Some(code), "{refused}");
        }
    });
}

/// A module may ask for more room than what it writes takes.
#[test]
fn wrapped_material_has_its_length_and_not_that_of_its_room() {
    in_own_process("wrapped_material_has_its_length_and_not_that_of_its_room", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let pair = bench.token.import_pair(PairBits::B2048, "acs/k/import/1").unwrap();
        let import = |material: &[u8]| {
            let wrapped = asymmetric::encrypt(&pair.public_key, pair.hash.padding(), material);
            bench.token.import((pair.id, pair.hash), &wrapped.unwrap(), "acs/k/v1", None).unwrap()
        };
        for room in [0, 8, 16, 64] {
            bench.proxy.obey(&[&format!("wrapped-room {room}")]);
            assert!(import(&[3; 32]).is_some(), "{room}");
            assert!(bench.proxy.count("C_WrapKey CKR_OK") > 0, "the token told the length itself");
            for length in [16, 24] {
                assert_eq!(import(&vec![3; length]), None, "{length} bytes, {room} of room");
            }
        }
    });
}

/// SHA-1 is for a token that says that it has nothing else, not for one that failed once.
#[test]
fn a_failure_is_no_reason_to_fall_back_to_sha_1() {
    in_own_process("a_failure_is_no_reason_to_fall_back_to_sha_1", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let ask = || bench.token.import_pair(PairBits::B2048, "acs/k/import/1");
        for code in ["CKR_DEVICE_MEMORY", "CKR_HOST_MEMORY", "CKR_FUNCTION_CANCELED"] {
            bench.proxy.obey(&[&format!("C_UnwrapKey 1 return {code}")]);
            let refused = ask().map(|pair| pair.hash).unwrap_err();
            assert_eq!(code_of(&refused).as_deref(), Some(code), "{refused}");
        }
        for code in ["CKR_MECHANISM_INVALID", "CKR_MECHANISM_PARAM_INVALID", "CKR_ARGUMENTS_BAD"] {
            // Another epoch, so that what was found out before does not count.
            let lines = [
                "C_GenerateRandom 1 first C_Finalize".to_owned(),
                format!("C_UnwrapKey 1 return {code}"),
            ];
            bench.proxy.obey(&lines.each_ref().map(String::as_str));
            let key = bench.token.generate("acs/k/v1").unwrap();
            bench.token.destroy(key.id).unwrap();
            assert_eq!(ask().unwrap().hash, OaepHash::Sha1, "{code}");
        }
    });
}

#[test]
fn keys_are_used_in_sessions_that_only_read() {
    in_own_process("keys_are_used_in_sessions_that_only_read", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        bench.proxy.obey(&["read-only", "C_GenerateRandom 1 first C_Finalize"]);
        let sealed = bench.token.seal(&key, DATA, PLAIN).unwrap();
        assert!(bench.token.open_sealed(&key, sealed.iv, DATA, &sealed.bytes).unwrap().is_some());
        bench.token.verify(&key).unwrap();
        assert_eq!(bench.proxy.count("C_OpenSession CKR_TOKEN_WRITE_PROTECTED"), 0);
        let refused = bench.token.generate("acs/k/v2").unwrap_err();
        assert_eq!(code_of(&refused).as_deref(), Some("CKR_TOKEN_WRITE_PROTECTED"), "{refused}");
    });
}

/// A token that answers but is not well: its key works, what it is cannot be asked.
#[test]
fn the_probe_asks_what_the_token_is() {
    in_own_process("the_probe_asks_what_the_token_is", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        let sealed = bench.token.seal(&key, DATA, PLAIN).unwrap();
        for answer in ["CKR_GENERAL_ERROR", "CKR_TOKEN_NOT_PRESENT"] {
            let info = format!("C_GetTokenInfo * return {answer}");
            bench.proxy.obey(&["C_Decrypt 1 return CKR_DEVICE_ERROR", &info]);
            let refused = bench.token.open_sealed(&key, sealed.iv, DATA, &sealed.bytes);
            let refused = refused.map(|opened| opened.is_some()).unwrap_err();
            assert!(matches!(refused, TokenError::Away { .. }), "{answer}: {refused}");
            bench.well_again(&key, answer);
        }
    });
}

#[test]
fn one_call_more_than_may_wait_is_told_so_at_once() {
    let slow = |hsm: &mut Hsm| hsm.timeout = Duration::from_secs(120);
    in_own_process("one_call_more_than_may_wait_is_told_so_at_once", |hsm| {
        const MOST: usize = 256;
        let Some(bench) = Bench::with(hsm, slow) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        bench.token.seal(&key, DATA, PLAIN).unwrap();
        bench.proxy.obey(&["C_Encrypt * hang 600s"]);
        std::thread::scope(|scope| {
            let seal = || bench.token.seal(&key, DATA, PLAIN);
            let running = scope.spawn(seal);
            tools::wait_until("the worker is in it", || {
                bench.proxy.count("C_EncryptInit CKR_OK") > 0 && bench.token.load().waiting == 0
            });
            let waiting: Vec<_> = (0..MOST).map(|_| scope.spawn(seal)).collect();
            tools::wait_until("all of them wait", || bench.token.load().waiting == MOST);
            let refused = seal().unwrap_err();
            assert!(matches!(refused, TokenError::Busy) && refused.is_busy(), "{refused}");
            assert_eq!(bench.token.load().waiting, MOST, "it was told while the others waited");
            bench.proxy.obey(&[]);
            running.join().unwrap().unwrap();
            for one in waiting {
                one.join().unwrap().unwrap();
            }
        });
        bench.well_again(&key, "a full queue");
    });
}

/// Two names of one file are one library: it is initialised once, and never in the midst of the
/// calls of the other.
#[test]
fn a_library_by_two_names_is_one() {
    in_own_process("a_library_by_two_names_is_one", |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        let link = bench.proxy.library().with_file_name("link.so");
        std::os::unix::fs::symlink(bench.proxy.library(), &link).unwrap();
        bench.proxy.obey(&[]);
        let uri = tokens::uri(LABEL, &link, &hsm.pin_file);
        let other = tokens::reach(Hsm::new(TokenUri::parse(&uri).unwrap()));
        other.verify(&key).unwrap();
        assert_eq!(bench.proxy.count("C_Initialize CKR_CRYPTOKI_ALREADY_INITIALIZED"), 0);
        bench.well_again(&key, "its other name");
    });
}

/// Where one library has two tokens and one of them is away, looking for it takes nothing from the
/// other, though in the end the library is initialised anew for it.
#[test]
fn a_token_that_is_away_leaves_the_others_of_its_library_at_work() {
    let name = "a_token_that_is_away_leaves_the_others_of_its_library_at_work";
    in_own_process(name, |hsm| {
        let Some(bench) = Bench::with(hsm, |hsm| hsm.workers = 2) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        let folders = || -> BTreeSet<std::path::PathBuf> {
            std::fs::read_dir(&hsm.tokens).unwrap().map(|entry| entry.unwrap().path()).collect()
        };
        let before = folders();
        hsm.init("other");
        let folder = folders().difference(&before).next().unwrap().clone();
        // Known only once the library has been initialised anew.
        bench.proxy.obey(&["C_GenerateRandom 1 first C_Finalize"]);
        bench.token.seal(&key, DATA, PLAIN).unwrap();
        let uri = tokens::uri("other", bench.proxy.library(), &hsm.pin_file);
        let other = tokens::reach(Hsm::new(TokenUri::parse(&uri).unwrap()));
        let others_key = other.generate("acs/k/v1").unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        bench.token.seal(&key, DATA, PLAIN).unwrap();
                    }
                });
            }
            let away = hsm.tokens.with_file_name("other-away");
            std::fs::rename(&folder, &away).unwrap();
            bench.proxy.obey(&[]);
            let refused = other.seal(&others_key, DATA, PLAIN).unwrap_err();
            assert!(matches!(refused, TokenError::Away { .. }), "{refused}");
            assert_eq!(bench.proxy.count("C_Initialize CKR_OK"), 0, "not at the first failure");
            std::fs::rename(&away, &folder).unwrap();
            tools::wait_until("the other is back", || {
                matches!(other.state(), TokenState::Up { .. })
            });
            assert!(bench.proxy.count("C_Initialize CKR_OK") > 0, "nothing else could help");
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        other.verify(&others_key).unwrap();
        bench.well_again(&key, "the other's absence");
    });
}

#[test]
fn workers_leave_a_session_to_the_login_where_the_token_says_how_many_it_has() {
    let name = "workers_leave_a_session_to_the_login_where_the_token_says_how_many_it_has";
    in_own_process(name, |hsm| {
        let Some(bench) = Bench::new(hsm) else { return };
        let key = bench.token.generate("acs/k/v1").unwrap();
        // Two are the other's: its login and its worker. Three are what this one is told of.
        bench.proxy.obey(&["says-sessions 3", "sessions 5"]);
        let uri = tokens::uri(LABEL, bench.proxy.library(), &hsm.pin_file);
        let greedy = tokens::reach(Hsm { workers: 4, ..Hsm::new(TokenUri::parse(&uri).unwrap()) });
        bench.proxy.obey(&["sessions 5", "C_Encrypt 1-4 hang 1s"]);
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| greedy.seal(&key, DATA, PLAIN).unwrap());
            }
        });
        assert_eq!(bench.proxy.count("C_OpenSession CKR_SESSION_COUNT"), 0);
        assert!(bench.proxy.count("C_OpenSession CKR_OK") > 1, "more than one worked");
    });
}
