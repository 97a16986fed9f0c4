//! One suite over all stores of key material; and what only those in tokens have.

mod support;

use std::sync::Arc;

use sealdisk::catalog::{Catalog, Operation};
use sealdisk::kms::{CreateKey, Import, KmsError};
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
    let house = House::open(dir.path(), None);
    let (kms, root, using) = (&house.kms, root_caller(), context(&[]));
    let key = house.key(CreateKey::default());
    let sealed = kms.encrypt(&root, &key, b"x", &using).unwrap();
    let version_id = sealed.key_version.clone();
    let last = Operation::ReserveWraps { version_id, seen: 1 << 16, reserved: 1 << 32 };
    house.catalog.apply(&[last], &mut || Ok(())).unwrap();
    // A block that this process has reserved is its own; another process finds nothing left.
    kms.encrypt(&root, &key, b"x", &using).unwrap();
    drop(house);
    let house = House::open(dir.path(), None);
    let (kms, root) = (&house.kms, root_caller());
    let refused = kms.encrypt(&root, &key, b"x", &using).unwrap_err();
    assert!(matches!(refused, KmsError::WornOut), "{refused}");
    assert_eq!(kms.decrypt(&root, &sealed.blob, &using).unwrap().plaintext.expose(), b"x");
    kms.rotate_key(&root, &key).unwrap();
    kms.encrypt(&root, &key, b"x", &using).unwrap();
}
