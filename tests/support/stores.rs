//! What every store of key material must do, held against each through the KMS: real catalog, real
//! trail, a clock moved by hand.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sealdisk::catalog::sqlite::SqliteCatalog;
use sealdisk::catalog::{Catalog, KeyState, Page};
use sealdisk::clock::{Clock, ManualClock, SystemEntropy, Timestamp};
use sealdisk::config::{Hsm, TokenUri};
use sealdisk::crypto::aead;
use sealdisk::crypto::asymmetric::{Padding, encrypt};
use sealdisk::kms::context::Context;
use sealdisk::kms::{
    Account, CreateKey, Import, ImportParameters, Kms, KmsError, KmsParts, Paging, Source, blob,
    root,
};
use sealdisk::ram::{Caller, Principal, Ram, RamParts, Route};
use sealdisk::secret::Secret;
use sealdisk::token::{OaepHash, Token};
use sealdisk::trail::Trail;
use uuid::Uuid;

use super::tokens;

const ACCOUNT: &str = "1000000000000001";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A daemon's worth of key management in `dir`; keys of `level`, in `token` if that is HSM.
pub struct House {
    pub kms: Kms,
    pub catalog: Arc<SqliteCatalog>,
    pub clock: Arc<ManualClock>,
    pub token: Option<Arc<Token>>,
}

/// Opens the token of a URI; it must be there.
pub fn token(uri: &str) -> Arc<Token> {
    Arc::new(tokens::reach(Hsm::new(TokenUri::parse(uri).unwrap())))
}

pub fn root_caller() -> Caller {
    Caller {
        principal: Principal::Root { account: ACCOUNT.into() },
        request_id: Uuid::from_u128(7),
        source: "unix:uid=0".into(),
        user_agent: "test".into(),
        route: Route::LOCAL,
        on_behalf_of: None,
    }
}

pub fn context(pairs: &[(&str, &str)]) -> Context {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

impl House {
    pub fn open(dir: &Path, token: Option<Arc<Token>>) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_millis(1_767_582_245_000)));
        let entropy = Arc::new(SystemEntropy);
        let key = Secret::from_fn(32, |bytes| bytes.fill(0x42));
        let trail = dir.join("trail");
        let trail_key = root::trail_key(&key);
        let trail = Trail::open(&trail, trail_key, clock.clone(), entropy.clone()).unwrap();
        let catalog = Arc::new(SqliteCatalog::open(&dir.join("catalog.db")).unwrap());
        let ram = Ram::new(RamParts {
            catalog: catalog.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            key: root::ram_key(&key),
            account_id: ACCOUNT.into(),
        });
        let kms = Kms::open(KmsParts {
            catalog: catalog.clone(),
            trail: Arc::new(trail),
            ram: Arc::new(ram),
            sealing_key: key,
            clock: clock.clone(),
            entropy,
            account: Account { account_id: ACCOUNT.into(), region: "cn-hangzhou".into() },
            tokens: token.iter().cloned().collect(),
        });
        Self { kms: kms.unwrap(), catalog, clock, token }
    }

    fn level(&self) -> &'static str {
        if self.token.is_some() { "HSM" } else { "SOFTWARE" }
    }

    pub fn key(&self, more: CreateKey) -> String {
        let wanted = CreateKey { protection: Some(self.level().into()), ..more };
        let key = self.kms.create_key(&root_caller(), &wanted).unwrap();
        assert_eq!(key.protection, self.level());
        key.key_id
    }

    fn describe(&self, key: &str) -> sealdisk::catalog::KeyRecord {
        self.kms.describe_key(&root_caller(), key).unwrap()
    }

    /// Objects in the token of this key; as many as it has versions with material.
    pub fn objects(&self, key: &str) -> Option<usize> {
        let token = self.token.as_ref()?;
        Some(token.keys(&format!("acs/{key}/")).unwrap().len())
    }

    fn import_parameters(&self, key: &str) -> (ImportParameters, Padding) {
        let ask = |algorithm, padding| {
            let given = self.kms.parameters_for_import(&root_caller(), key, algorithm, "RSA_2048");
            given.map(|given| (given, padding))
        };
        // A token may have SHA-1 alone, and says so.
        match ask("RSAES_OAEP_SHA_256", Padding::OaepSha256) {
            Err(KmsError::WrappingOfToken { .. }) => {
                ask("RSAES_OAEP_SHA_1", Padding::OaepSha1).unwrap()
            }
            given => given.unwrap(),
        }
    }

    fn import(&self, key: &str, material: &[u8]) -> Result<(), KmsError> {
        let (given, padding) = self.import_parameters(key);
        let wrapped = encrypt(&given.public_key, padding, material).unwrap();
        let import = Import { wrapped: &wrapped, token: &given.token, expires: 0 };
        self.kms.import_key_material(&root_caller(), key, import)
    }
}

/// All of it.
pub fn conform(house: &House) {
    data_keys_are_bound_to_key_and_context(house);
    versions_follow_one_another(house);
    states_hold(house);
    deletion_destroys(house);
    material_is_brought(house);
    ciphertexts_are_the_same_wherever_the_key_is(house);
    uses_are_counted(house);
}

fn data_keys_are_bound_to_key_and_context(house: &House) {
    let (kms, root) = (&house.kms, root_caller());
    let key = house.key(CreateKey::default());
    assert_eq!(house.objects(&key).unwrap_or(1), 1);
    let using = context(&[("disk", "d-1")]);
    let made = kms.generate_data_key(&root, &key, 64, &using).unwrap();
    let other = kms.generate_data_key(&root, &key, 64, &using).unwrap();
    assert_ne!(made.blob, other.blob);
    let found = kms.decrypt(&root, &made.blob, &using).unwrap();
    assert_eq!(found.plaintext, made.plaintext);
    assert_eq!(found.key_id, key);
    let bad = |blob: &[u8], using: &Context| {
        let refused = kms.decrypt(&root, blob, using);
        assert!(
            matches!(
                refused,
                Err(KmsError::InvalidParameter("CiphertextBlob") | KmsError::KeyNotFound)
            ),
            "{refused:?}"
        );
    };
    bad(&made.blob, &context(&[("disk", "d-2")]));
    bad(&made.blob, &context(&[]));
    for at in [0, 40, 45, 57, 60, made.blob.len() - 1] {
        let mut changed = made.blob.clone();
        changed[at] ^= 1;
        bad(&changed, &using);
    }
    bad(&made.blob[..made.blob.len() - 1], &using);
    let to = house.key(CreateKey::default());
    let source = Source::Blob { blob: &made.blob, context: &using };
    let again = kms.re_encrypt(&root, source, &to, &context(&[("disk", "d-3")])).unwrap();
    let found = kms.decrypt(&root, &again.blob, &context(&[("disk", "d-3")])).unwrap();
    assert_eq!(found.plaintext, made.plaintext);
    assert_eq!(found.key_id, to);
    let long = vec![0x5a; 6144];
    let sealed = kms.encrypt(&root, &key, &long, &using).unwrap();
    assert_eq!(kms.decrypt(&root, &sealed.blob, &using).unwrap().plaintext.expose(), long);
}

fn versions_follow_one_another(house: &House) {
    let (kms, root, using) = (&house.kms, root_caller(), context(&[]));
    let rotates =
        CreateKey { rotates: true, rotation_interval: Some("7d".into()), ..CreateKey::default() };
    let key = house.key(rotates);
    let first = kms.encrypt(&root, &key, b"first", &using).unwrap();
    let by_hand = kms.rotate_key(&root, &key).unwrap();
    let second = kms.encrypt(&root, &key, b"second", &using).unwrap();
    assert_eq!(second.key_version, by_hand);
    assert_ne!(first.key_version, by_hand);
    house.clock.advance(DAY * 8);
    assert_eq!(kms.run_due().unwrap().rotated, 1);
    let third = kms.encrypt(&root, &key, b"third", &using).unwrap();
    assert_ne!(third.key_version, by_hand);
    assert_eq!(house.objects(&key).unwrap_or(3), 3);
    for (sealed, plain) in [(&first, &b"first"[..]), (&second, b"second"), (&third, b"third")] {
        assert_eq!(kms.decrypt(&root, &sealed.blob, &using).unwrap().plaintext.expose(), plain);
    }
    kms.update_rotation_policy(&root, &key, false, None).unwrap();
}

fn states_hold(house: &House) {
    let (kms, root, using) = (&house.kms, root_caller(), context(&[]));
    let key = house.key(CreateKey::default());
    let sealed = kms.encrypt(&root, &key, b"x", &using).unwrap();
    kms.disable_key(&root, &key).unwrap();
    assert!(matches!(kms.decrypt(&root, &sealed.blob, &using), Err(KmsError::Disabled)));
    assert!(matches!(kms.rotate_key(&root, &key), Err(KmsError::Disabled)));
    kms.enable_key(&root, &key).unwrap();
    kms.decrypt(&root, &sealed.blob, &using).unwrap();
}

fn deletion_destroys(house: &House) {
    let (kms, root, using) = (&house.kms, root_caller(), context(&[]));
    let key = house.key(CreateKey::default());
    kms.rotate_key(&root, &key).unwrap();
    let sealed = kms.encrypt(&root, &key, b"x", &using).unwrap();
    kms.schedule_key_deletion(&root, &key, 7).unwrap();
    kms.cancel_key_deletion(&root, &key).unwrap();
    kms.decrypt(&root, &sealed.blob, &using).unwrap();
    kms.schedule_key_deletion(&root, &key, 7).unwrap();
    assert_eq!(house.objects(&key).unwrap_or(2), 2);
    house.clock.advance(DAY * 8);
    assert_eq!(kms.run_due().unwrap().deleted, 1);
    assert_eq!(house.objects(&key).unwrap_or(0), 0);
    assert!(matches!(kms.decrypt(&root, &sealed.blob, &using), Err(KmsError::KeyNotFound)));
}

fn material_is_brought(house: &House) {
    let (kms, root, using) = (&house.kms, root_caller(), context(&[]));
    let external = || CreateKey { origin: Some("EXTERNAL".into()), ..CreateKey::default() };
    let key = house.key(external());
    assert_eq!(house.describe(&key).state, KeyState::PendingImport);
    if house.token.is_some() {
        // SHA-1 is for a token that has nothing else: it does one of them, and names it.
        let ask = |hash| kms.parameters_for_import(&root, &key, hash, "RSA_2048");
        match (ask("RSAES_OAEP_SHA_256"), ask("RSAES_OAEP_SHA_1")) {
            (Ok(_), Err(KmsError::WrappingOfToken { hash: OaepHash::Sha256 }))
            | (Err(KmsError::WrappingOfToken { hash: OaepHash::Sha1 }), Ok(_)) => {}
            given => panic!("{given:?}"),
        }
    }
    for bad in [&[3; 16][..], &[3; 24], &[3; 31], &[3; 33]] {
        let refused = house.import(&key, bad);
        assert!(matches!(refused, Err(KmsError::InvalidKeyMaterial)), "{refused:?}");
    }
    house.import(&key, &[3; 32]).unwrap();
    assert_eq!(house.describe(&key).state, KeyState::Enabled);
    let sealed = kms.encrypt(&root, &key, b"x", &using).unwrap();
    // The same again may come, at any time; other material never.
    house.import(&key, &[3; 32]).unwrap();
    assert!(matches!(house.import(&key, &[4; 32]), Err(KmsError::InvalidKeyMaterial)));
    kms.decrypt(&root, &sealed.blob, &using).unwrap();
    kms.delete_key_material(&root, &key).unwrap();
    assert_eq!(house.objects(&key).unwrap_or(0), 0);
    assert!(matches!(kms.decrypt(&root, &sealed.blob, &using), Err(KmsError::PendingImport)));
    assert!(matches!(house.import(&key, &[4; 32]), Err(KmsError::InvalidKeyMaterial)));
    house.import(&key, &[3; 32]).unwrap();
    assert_eq!(kms.decrypt(&root, &sealed.blob, &using).unwrap().plaintext.expose(), b"x");
    assert!(matches!(kms.rotate_key(&root, &key), Err(KmsError::UnsupportedOperation)));
    let (given, padding) = house.import_parameters(&key);
    let wrapped = encrypt(&given.public_key, padding, &[3; 32]).unwrap();
    let import = Import { wrapped: &wrapped, token: &given.token, expires: 0 };
    let other = house.key(external());
    let elsewhere = kms.import_key_material(&root, &other, import);
    assert!(matches!(elsewhere, Err(KmsError::InvalidImportToken)), "{elsewhere:?}");
    house.clock.advance(DAY + Duration::from_secs(1));
    let late = kms.import_key_material(&root, &key, import);
    assert!(matches!(late, Err(KmsError::ExpiredImportToken)), "{late:?}");
    kms.sweep_tokens();
    if let Some(token) = &house.token {
        assert_eq!(token.private_keys("acs/").unwrap(), [], "pairs of imports are left");
        assert_eq!(house.objects(&key), Some(1));
    }
}

fn ciphertexts_are_the_same_wherever_the_key_is(house: &House) {
    let (kms, root, using) = (&house.kms, root_caller(), context(&[("disk", "d-1")]));
    let key = house.key(CreateKey { origin: Some("EXTERNAL".into()), ..CreateKey::default() });
    house.import(&key, &[0x77; 32]).unwrap();
    let material = Secret::from_fn(32, |bytes| bytes.fill(0x77));
    // What the KMS sealed is opened by who has the material and nothing else.
    let sealed = kms.encrypt(&root, &key, b"both ways", &using).unwrap();
    let parsed = blob::parse(&sealed.blob).unwrap();
    let opened =
        parsed.open(&using, |iv, data, sealed| Ok(aead::open(&material, iv, data, sealed).ok()));
    assert_eq!(opened.unwrap().expose(), b"both ways");
    // And the other way round.
    let version = house.describe(&key).primary_version;
    let made = blob::seal(&version, &using, |data| {
        let iv = *b"twelve bytes";
        Ok(sealdisk::token::Sealed { iv, bytes: aead::seal(&material, iv, data, b"and back") })
    });
    let found = kms.decrypt(&root, &made.unwrap(), &using).unwrap();
    assert_eq!(found.plaintext.expose(), b"and back");
}

fn uses_are_counted(house: &House) {
    let (kms, root, using) = (&house.kms, root_caller(), context(&[]));
    let key = house.key(CreateKey::default());
    let version = house.describe(&key).primary_version;
    assert_eq!(house.catalog.reserved_wraps(&version).unwrap(), 0);
    kms.encrypt(&root, &key, b"x", &using).unwrap();
    kms.encrypt(&root, &key, b"x", &using).unwrap();
    assert_eq!(house.catalog.reserved_wraps(&version).unwrap(), 1 << 16);
    let all = house.catalog.key_versions(&key, Page::ALL).unwrap();
    assert_eq!(all.total, 1);
    assert!(house.clock.now() > Timestamp::from_unix_millis(0));
    let listed = kms.list_instances(&root, Paging::default()).unwrap();
    assert_eq!(listed.total, 1 + u64::from(house.token.is_some()));
}
