//! One suite over all stores of key material; and what only those in tokens have.

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};

use sealdisk::catalog::{Catalog, Operation};
use sealdisk::kms::{CreateKey, Import, KmsError};
use sealdisk::token::Token;
use support::softhsm::{self, in_own_process};
use support::stores::{House, conform, context, root_caller, token};
use support::tokens::{self, Proxy, in_own_process_with_kryoptic};

#[test]
fn software_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conform(&House::open(dir.path(), None));
}

#[test]
fn softhsm_conforms() {
    in_own_process("softhsm_conforms", |softhsm| {
        softhsm.init("one");
        let dir = tempfile::tempdir().unwrap();
        conform(&House::open(dir.path(), Some(token(&softhsm.uri("one")))));
    });
}

/// Another token than SoftHSM: other error codes, other import mechanisms.
#[test]
fn kryoptic_conforms() {
    in_own_process_with_kryoptic("kryoptic_conforms", |uri| {
        let dir = tempfile::tempdir().unwrap();
        conform(&House::open(dir.path(), Some(token(uri))));
    });
}

#[test]
fn softhsm_behind_the_proxy_conforms() {
    in_own_process("softhsm_behind_the_proxy_conforms", |softhsm| {
        softhsm.init("one");
        let dir = tempfile::tempdir().unwrap();
        // Where it stays until the process has ended: threads may call it until then.
        let folder = softhsm.tokens.parent().unwrap();
        let Some(proxy) = Proxy::new(folder, softhsm::library().unwrap()) else { return };
        let uri = tokens::uri("one", proxy.library(), &softhsm.pin_file);
        conform(&House::open(dir.path(), Some(token(&uri))));
    });
}

#[test]
fn an_instance_of_hardware_has_keys_of_its_own() {
    in_own_process("an_instance_of_hardware_has_keys_of_its_own", |softhsm| {
        softhsm.init("one");
        let dir = tempfile::tempdir().unwrap();
        let house = House::open(dir.path(), Some(token(&softhsm.uri("one"))));
        let (kms, root) = (&house.kms, root_caller());
        let of = |instance: &str, level: &str| {
            let wanted = CreateKey {
                instance: Some(instance.into()),
                protection: Some(level.into()),
                ..CreateKey::default()
            };
            kms.create_key(&root, &wanted)
        };
        // As published: the instance decides, whatever the level says.
        let key = of("kst-hsm", "SOFTWARE").unwrap();
        assert_eq!((key.protection.as_str(), &key.key_id[..4]), ("HSM", "key-"));
        assert_eq!(of(&kms.instance_id(), "HSM").unwrap().protection, "SOFTWARE");
        assert!(matches!(of("kst-none", "HSM"), Err(KmsError::InstanceNotFound)));
        kms.key_policy(&root, &key.key_id, None).unwrap();
        let pair = CreateKey {
            protection: Some("HSM".into()),
            spec: Some("RSA_2048".into()),
            ..CreateKey::default()
        };
        let refused = kms.create_key(&root, &pair);
        assert!(matches!(refused, Err(KmsError::UnsupportedProtectionLevel)));
        std::fs::rename(&softhsm.tokens, softhsm.tokens.with_file_name("away")).unwrap();
        let away = kms.generate_data_key(&root, &key.key_id, 32, &context(&[])).unwrap_err();
        let published = ("Forbidden.DKMSInstanceStateInvalid", 409);
        assert_eq!((away.code(), away.status()), published, "{away}");
        assert!(away.message().contains("its library does not start"), "{}", away.message());
        let away = of("kst-hsm", "HSM").unwrap_err();
        assert_eq!((away.code(), away.status()), published, "{away}");
        let plain = CreateKey { protection: Some("HSM".into()), ..CreateKey::default() };
        let away = kms.create_key(&root, &plain).unwrap_err();
        assert_eq!((away.code(), away.status()), ("ServiceUnavailableTemporary", 503), "{away}");
    });
}

#[test]
fn a_token_for_one_import_is_used_once() {
    in_own_process("a_token_for_one_import_is_used_once", |softhsm| {
        softhsm.init("one");
        let dir = tempfile::tempdir().unwrap();
        let house = House::open(dir.path(), Some(token(&softhsm.uri("one"))));
        let (kms, root) = (&house.kms, root_caller());
        let wanted = CreateKey {
            protection: Some("HSM".into()),
            origin: Some("EXTERNAL".into()),
            ..CreateKey::default()
        };
        let key = kms.create_key(&root, &wanted).unwrap().key_id;
        let ask = |algorithm| kms.parameters_for_import(&root, &key, algorithm, "RSA_3072");
        assert!(matches!(
            ask("RSAES_PKCS1_V1_5"),
            Err(KmsError::InvalidParameter("WrappingAlgorithm"))
        ));
        let (given, padding) = match ask("RSAES_OAEP_SHA_256") {
            Ok(given) => (given, sealdisk::crypto::asymmetric::Padding::OaepSha256),
            Err(error) => {
                assert!(error.message().contains("RSAES_OAEP_SHA_1"), "{}", error.message());
                let given = ask("RSAES_OAEP_SHA_1").unwrap();
                (given, sealdisk::crypto::asymmetric::Padding::OaepSha1)
            }
        };
        let wrap = |bytes: &[u8]| {
            sealdisk::crypto::asymmetric::encrypt(&given.public_key, padding, bytes).unwrap()
        };
        let wrapped = wrap(&[1; 32]);
        assert_eq!(wrapped.len(), 384);
        let import = Import { wrapped: &wrapped, token: &given.token, expires: 0 };
        kms.import_key_material(&root, &key, import).unwrap();
        let token = house.token.as_ref().unwrap();
        assert_eq!(token.private_keys("acs/").unwrap(), [], "the pair goes with its import");
        let again = kms.import_key_material(&root, &key, import);
        assert!(matches!(again, Err(KmsError::InvalidImportToken)), "{again:?}");
    });
}

#[test]
fn orphans_of_our_keys_are_found_and_destroyed_on_demand() {
    in_own_process("orphans_of_our_keys_are_found_and_destroyed_on_demand", |softhsm| {
        softhsm.init("one");
        let dir = tempfile::tempdir().unwrap();
        let house = House::open(dir.path(), Some(token(&softhsm.uri("one"))));
        let (kms, root) = (&house.kms, root_caller());
        let key = house.key(CreateKey::default());
        assert_eq!(kms.orphans(&root, "hsm", false).unwrap(), []);
        let token = Arc::clone(house.token.as_ref().unwrap());
        let ours = token.generate(&format!("acs/{key}/v2")).unwrap();
        let others = token.generate("acs/somebody-else/v1").unwrap();
        let found = kms.orphans(&root, "hsm", true).unwrap();
        assert_eq!(found.len(), 2);
        token.verify(&others).unwrap();
        assert!(token.verify(&ours).is_err());
        assert_eq!(house.objects(&key), Some(1));
        kms.encrypt(&root, &key, b"x", &context(&[])).unwrap();
        let none = kms.orphans(&root, "none", false);
        assert!(matches!(none, Err(KmsError::InstanceNotFound)));
    });
}

#[test]
fn dates_wait_for_a_token_that_is_away_and_others_do_not() {
    in_own_process("dates_wait_for_a_token_that_is_away_and_others_do_not", |softhsm| {
        softhsm.init("one");
        let dir = tempfile::tempdir().unwrap();
        let house = House::open(dir.path(), Some(token(&softhsm.uri("one"))));
        let (kms, root) = (&house.kms, root_caller());
        let doomed = house.key(CreateKey::default());
        let software = kms.create_key(&root, &CreateKey::default()).unwrap().key_id;
        for key in [&doomed, &software] {
            kms.schedule_key_deletion(&root, key, 7).unwrap();
        }
        house.clock.advance(std::time::Duration::from_secs(8 * 24 * 3600));
        let away = softhsm.tokens.with_file_name("away");
        std::fs::rename(&softhsm.tokens, &away).unwrap();
        // The first to ask finds out.
        let plain = CreateKey { protection: Some("HSM".into()), ..CreateKey::default() };
        kms.create_key(&root, &plain).unwrap_err();
        let swept = kms.run_due().unwrap();
        assert_eq!((swept.deleted, swept.waiting), (1, 1));
        std::fs::rename(&away, &softhsm.tokens).unwrap();
        support::tools::wait_until("it is deleted", || kms.run_due().unwrap().deleted == 1);
        assert_eq!(house.objects(&doomed), Some(0));
        assert!(house.catalog.key(&doomed).unwrap().is_none());
    });
}

#[test]
fn what_is_not_recorded_leaves_nothing_in_the_token() {
    in_own_process("what_is_not_recorded_leaves_nothing_in_the_token", |softhsm| {
        softhsm.init("one");
        let dir = tempfile::tempdir().unwrap();
        let house = House::open(dir.path(), Some(token(&softhsm.uri("one"))));
        let (kms, root) = (&house.kms, root_caller());
        let key = house.key(CreateKey::default());
        // Another daemon takes the key away while a rotation makes its version: the commit fails.
        house.catalog.apply(&[Operation::DeleteKey(key.clone())], &mut || Ok(())).unwrap();
        kms.rotate_key(&root, &key).unwrap_err();
        let token = house.token.as_ref().unwrap();
        support::tools::wait_until("only the first is left", || {
            token.keys("acs/").unwrap().iter().filter(|(_, label)| label.contains(&key)).count()
                == 1
        });
    });
}

#[test]
fn a_worn_out_version_encrypts_no_more() {
    let dir = tempfile::tempdir().unwrap();
    wears_out(dir.path(), None);
}

#[test]
fn a_worn_out_version_in_a_token_encrypts_no_more() {
    in_own_process("a_worn_out_version_in_a_token_encrypts_no_more", |softhsm| {
        softhsm.init("one");
        let dir = tempfile::tempdir().unwrap();
        wears_out(dir.path(), Some(&token(&softhsm.uri("one"))));
    });
}

/// Warned of from 2^31 uses on, ended by 2^32, and as good as new by a rotation.
fn wears_out(dir: &Path, token: Option<&Arc<Token>>) {
    let (root, using) = (root_caller(), context(&[]));
    let open = || House::open(dir, token.cloned());
    let house = open();
    let key = house.key(CreateKey::default());
    let sealed = house.kms.encrypt(&root, &key, b"x", &using).unwrap();
    let reserve = |house: &House, seen, reserved| {
        let version_id = sealed.key_version.clone();
        let used = Operation::ReserveWraps { version_id, seen, reserved };
        house.catalog.apply(&[used], &mut || Ok(())).unwrap();
    };
    let warned = |house: &House| {
        log_of(|| drop(house.kms.encrypt(&root, &key, b"x", &using).unwrap()))
            .contains("rotate the key")
    };
    reserve(&house, 1 << 16, (1 << 31) - (1 << 16));
    drop(house);
    // Each process reserves a block of its own, and knows what was reserved before.
    for is_warned in [false, true] {
        assert_eq!(warned(&open()), is_warned);
    }
    let house = open();
    reserve(&house, (1 << 31) + (1 << 16), 1 << 32);
    let refused = house.kms.encrypt(&root, &key, b"x", &using).unwrap_err();
    assert!(matches!(refused, KmsError::WornOut), "{refused}");
    let opened = house.kms.decrypt(&root, &sealed.blob, &using).unwrap();
    assert_eq!(opened.plaintext.expose(), b"x");
    house.kms.rotate_key(&root, &key).unwrap();
    assert!(!warned(&house));
}

/// What `act` writes to the log.
fn log_of(act: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, act);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}
