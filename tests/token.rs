//! A token by itself, without a KMS: SoftHSM is the judge.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sealdisk::config::{Hsm, TokenUri};
use sealdisk::token::{Check, OaepHash, Object, PairBits, Token, TokenError, TokenState};
use support::softhsm::{SoftHsm, in_own_process};
use support::tokens;
use support::tools::wait_until;

const DATA: &[u8] = b"associated";

fn open(uri: &str) -> Token {
    tokens::open(Hsm::new(TokenUri::parse(uri).unwrap()))
}

fn cause(token: &Token) -> TokenError {
    match token.state() {
        TokenState::Down { cause, .. } => (*cause).clone(),
        TokenState::Up { found, .. } => panic!("up: {found}"),
    }
}

fn is_up(token: &Token) -> bool {
    matches!(token.state(), TokenState::Up { .. })
}

fn away(softhsm: &SoftHsm) -> std::path::PathBuf {
    softhsm.tokens.with_file_name("away")
}

#[test]
fn a_key_is_made_used_and_destroyed() {
    in_own_process("a_key_is_made_used_and_destroyed", |softhsm| {
        softhsm.init("one");
        let token = open(&softhsm.uri("one"));
        assert!(is_up(&token), "{}", cause(&token));
        let key = token.generate("acs/key/v1").unwrap();
        let sealed = token.seal(&key, DATA, b"plain").unwrap();
        assert_eq!(sealed.bytes.len(), 5 + 16);
        let opened = token.open_sealed(&key, sealed.iv, DATA, &sealed.bytes).unwrap();
        assert_eq!(opened.unwrap().expose(), b"plain");
        // A wrong vector, other data, each flipped byte, each cut: none, and the token stays up.
        assert_eq!(token.open_sealed(&key, [1; 12], DATA, &sealed.bytes).unwrap(), None);
        assert_eq!(token.open_sealed(&key, sealed.iv, b"other", &sealed.bytes).unwrap(), None);
        for at in 0..sealed.bytes.len() {
            let mut changed = sealed.bytes.clone();
            changed[at] ^= 1;
            assert_eq!(token.open_sealed(&key, sealed.iv, DATA, &changed).unwrap(), None);
            let cut = &sealed.bytes[..at];
            assert_eq!(token.open_sealed(&key, sealed.iv, DATA, cut).unwrap(), None);
        }
        assert!(is_up(&token));
        assert_eq!(token.keys("acs/key/").unwrap(), [(key.id, "acs/key/v1".to_owned())]);
        let wrong = Object { check: Check([7; 44]), ..key.clone() };
        assert!(matches!(token.verify(&wrong), Err(TokenError::Changed { .. })));
        token.verify(&key).unwrap();
        token.destroy(key.id).unwrap();
        token.destroy(key.id).unwrap();
        let gone = token.seal(&key, DATA, b"plain");
        assert!(matches!(gone, Err(TokenError::Missing { .. })), "{gone:?}");
        assert!(is_up(&token));
    });
}

#[test]
fn material_comes_in_wrapped() {
    in_own_process("material_comes_in_wrapped", |softhsm| {
        softhsm.init("one");
        let token = open(&softhsm.uri("one"));
        let pair = token.import_pair(PairBits::B2048, "acs/key/import/1").unwrap();
        // SoftHSM 2.6 has SHA-1 alone; later ones have both.
        assert!(matches!(pair.hash, OaepHash::Sha1 | OaepHash::Sha256));
        let wrap = |material: &[u8]| {
            let padding = pair.hash.padding();
            sealdisk::crypto::asymmetric::encrypt(&pair.public_key, padding, material).unwrap()
        };
        let import = |wrapped: &[u8], known| {
            token.import((pair.id, pair.hash), wrapped, "acs/key/v1", known).unwrap()
        };
        let key = import(&wrap(&[3; 32]), None).unwrap();
        let sealed = token.seal_with(&key, [5; 12], DATA, b"plain").unwrap();
        let material = sealdisk::secret::Secret::from_fn(32, |bytes| bytes.fill(3));
        let software = sealdisk::crypto::aead::seal(&material, [5; 12], DATA, b"plain");
        assert_eq!(sealed.bytes, software);
        // The same material again, and only that.
        assert!(import(&wrap(&[3; 32]), Some(key.check)).is_some());
        assert_eq!(import(&wrap(&[4; 32]), Some(key.check)), None);
        assert_eq!(import(&wrap(&[3; 16]), None), None);
        assert_eq!(import(&[9; 256], None), None);
        assert!(is_up(&token));
        // What was refused after it was made goes by itself.
        wait_until("two are left", || token.keys("acs/key/").unwrap().len() == 2);
        assert_eq!(token.private_keys("acs/").unwrap().len(), 1);
        token.destroy(pair.id).unwrap();
        assert!(token.private_keys("acs/").unwrap().is_empty());
    });
}

#[test]
fn a_token_is_named_or_refused_with_what_is_there() {
    in_own_process("a_token_is_named_or_refused_with_what_is_there", |softhsm| {
        softhsm.init("one");
        softhsm.init("twin");
        softhsm.init("twin");
        match cause(&open(&softhsm.uri("two"))) {
            TokenError::NoToken { found, .. } => assert_eq!(found.len(), 3),
            other => panic!("{other}"),
        }
        match cause(&open(&softhsm.uri("twin"))) {
            TokenError::ManyTokens { found, .. } => {
                assert_eq!(found.len(), 2);
                let uri = softhsm.uri("twin");
                let by_serial = format!("serial={};token=twin", found[0].serial);
                assert!(is_up(&open(&uri.replace("token=twin", &by_serial))));
            }
            other => panic!("{other}"),
        }
        let nowhere = softhsm.uri("one").replace("libsofthsm2", "libnothing");
        assert!(matches!(cause(&open(&nowhere)), TokenError::Library { .. }));
    });
}

#[test]
fn a_wrong_pin_is_presented_once() {
    in_own_process("a_wrong_pin_is_presented_once", |softhsm| {
        softhsm.init("one");
        std::fs::write(&softhsm.pin_file, "wrong-one").unwrap();
        let token = open(&softhsm.uri("one"));
        assert!(matches!(cause(&token), TokenError::PinRefused), "{}", cause(&token));
        wait_until("it looks again", || matches!(cause(&token), TokenError::PinRefusedBefore));
        std::fs::write(&softhsm.pin_file, support::softhsm::PIN).unwrap();
        wait_until("it is in use", || is_up(&token));
    });
}

#[test]
fn what_was_away_comes_back_by_itself() {
    in_own_process("what_was_away_comes_back_by_itself", |softhsm| {
        softhsm.init("one");
        let token = open(&softhsm.uri("one"));
        let key = token.generate("acs/key/v1").unwrap();
        let sealed = token.seal(&key, DATA, b"plain").unwrap();
        let opened = |token: &Token| token.open_sealed(&key, sealed.iv, DATA, &sealed.bytes);
        std::fs::rename(&softhsm.tokens, away(softhsm)).unwrap();
        // It must not be taken for a bad ciphertext, nor for a key that is not there.
        let failed = opened(&token).unwrap_err();
        assert!(matches!(failed, TokenError::Away { .. }), "{failed:?}");
        assert!(!is_up(&token));
        std::fs::rename(away(softhsm), &softhsm.tokens).unwrap();
        wait_until("the token is back", || is_up(&token));
        assert_eq!(opened(&token).unwrap().unwrap().expose(), b"plain");
    });
}

#[test]
fn many_wrap_at_once_while_the_token_comes_and_goes() {
    in_own_process("many_wrap_at_once_while_the_token_comes_and_goes", |softhsm| {
        softhsm.init("one");
        let token = Arc::new(open(&softhsm.uri("one")));
        let key = token.generate("acs/key/v1").unwrap();
        let done = Arc::new(Mutex::new((0_u64, 0_u64)));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (token, key, done) = (Arc::clone(&token), key.clone(), Arc::clone(&done));
                std::thread::spawn(move || {
                    for _ in 0..400 {
                        match token.seal(&key, DATA, &[7; 64]) {
                            Ok(sealed) => {
                                let opened =
                                    token.open_sealed(&key, sealed.iv, DATA, &sealed.bytes);
                                match opened {
                                    Ok(plain) => assert_eq!(plain.unwrap().expose(), [7; 64]),
                                    Err(TokenError::Away { .. }) => {}
                                    Err(error) => panic!("{error}"),
                                }
                                done.lock().unwrap().0 += 1;
                            }
                            Err(TokenError::Away { .. }) => {
                                done.lock().unwrap().1 += 1;
                                std::thread::sleep(Duration::from_millis(2));
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        wait_until("they are at work", || done.lock().unwrap().0 > 20);
        std::fs::rename(&softhsm.tokens, away(softhsm)).unwrap();
        wait_until("they see it", || done.lock().unwrap().1 > 0);
        std::fs::rename(away(softhsm), &softhsm.tokens).unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
        wait_until("it is in use", || is_up(&token));
        assert!(token.seal(&key, DATA, b"x").is_ok());
    });
}
