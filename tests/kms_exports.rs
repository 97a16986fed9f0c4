//! Data keys and ciphertexts that move, key pairs, and dry runs, through the API of a real daemon.

mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sealdisk::crypto::asymmetric::{KeyKind, Padding, decrypt, generate, public_key};
use serde_json::Value;
use support::kms::{Kms, object, text};

/// The parameters that name somebody's public key.
fn recipient<'a>(public: &'a str, wrapping: &'a str) -> [(&'static str, &'a str); 3] {
    [("PublicKeyBlob", public), ("WrappingAlgorithm", wrapping), ("WrappingKeySpec", "RSA_2048")]
}

fn bytes(answer: &Value, name: &str) -> Vec<u8> {
    STANDARD.decode(text(answer, name)).unwrap()
}

#[test]
fn a_data_key_is_exported_under_a_public_key() {
    let kms = Kms::start();
    let key = kms.key(&[]);
    let private = generate(KeyKind::Rsa2048).unwrap();
    let public = STANDARD.encode(public_key(KeyKind::Rsa2048, &private).unwrap());
    let context = object(&[("disk", "d-1")]);
    for (wrapping, padding) in
        [("RSAES_OAEP_SHA_256", Padding::OaepSha256), ("RSAES_OAEP_SHA_1", Padding::OaepSha1)]
    {
        let to = recipient(&public, wrapping);
        let asked = [("KeyId", key.as_str()), ("EncryptionContext", &context)];
        let made = kms.ok("GenerateAndExportDataKey", &[&asked[..], &to].concat());
        let first = decrypt(&private, padding, &bytes(&made, "ExportedDataKey")).unwrap();
        assert_eq!(first.len(), 32);
        let blob = text(&made, "CiphertextBlob");
        let opened =
            kms.ok("Decrypt", &[("CiphertextBlob", &blob), ("EncryptionContext", &context)]);
        assert_eq!(bytes(&opened, "Plaintext"), first.expose());
        let again = [("CiphertextBlob", blob.as_str()), ("EncryptionContext", &context)];
        let exported = kms.ok("ExportDataKey", &[&again[..], &to].concat());
        let second = decrypt(&private, padding, &bytes(&exported, "ExportedDataKey")).unwrap();
        assert_eq!(second.expose(), first.expose());
        assert_eq!(exported["KeyVersionId"], made["KeyVersionId"]);
        let unbound = [&again[..1], &to].concat();
        kms.refused("ExportDataKey", &unbound, (400, "InvalidParameter"));
    }
    let good = recipient(&public, "RSAES_OAEP_SHA_256");
    let point = generate(KeyKind::P256).unwrap();
    let point = STANDARD.encode(public_key(KeyKind::P256, &point).unwrap());
    let large = generate(KeyKind::Rsa3072).unwrap();
    let large = STANDARD.encode(public_key(KeyKind::Rsa3072, &large).unwrap());
    for bad in [
        recipient("eA==", good[1].1),
        recipient(&point, good[1].1),
        recipient(&large, good[1].1),
        recipient(&public, "SM2PKE"),
        [good[0], good[1], ("WrappingKeySpec", "EC_SM2")],
    ] {
        let asked = [&[("KeyId", key.as_str())], &bad[..]].concat();
        kms.refused("GenerateAndExportDataKey", &asked, (400, "InvalidParameter"));
    }
    let long = [("KeyId", key.as_str()), ("NumberOfBytes", "191")];
    let long = [&long[..], &good].concat();
    kms.refused("GenerateAndExportDataKey", &long, (400, "InvalidParameter"));
    let trail = kms.daemon.events("GenerateAndExportDataKey");
    assert!(!trail.is_empty() && trail.iter().all(|event| !event.to_string().contains(&public)));
}

#[test]
fn a_ciphertext_moves_to_another_key() {
    let kms = Kms::start();
    let (old, new) = (kms.key(&[]), kms.key(&[]));
    let (was, will) = (object(&[("a", "1"), ("b", "2")]), object(&[("c", "3")]));
    let sealed = [("KeyId", old.as_str()), ("Plaintext", "c2VjcmV0"), ("EncryptionContext", &was)];
    let sealed = kms.ok("Encrypt", &sealed);
    let blob = text(&sealed, "CiphertextBlob");
    let reordered = r#"{ "b":"2", "a":"1" }"#;
    let contexts = |source| {
        [("SourceEncryptionContext", source), ("DestinationEncryptionContext", will.as_str())]
    };
    let move_to = |blob: &str, to: &str, source| {
        let asked = [("CiphertextBlob", blob), ("DestinationKeyId", to)];
        kms.ask("ReEncrypt", &[&asked[..], &contexts(source)].concat())
    };
    let (status, moved) = move_to(&blob, &new, reordered);
    assert_eq!(status, 200, "{moved}");
    assert_eq!(
        (&moved["KeyId"], &moved["KeyVersionId"]),
        (&sealed["KeyId"], &sealed["KeyVersionId"])
    );
    let again = text(&moved, "CiphertextBlob");
    let opened = kms.ok("Decrypt", &[("CiphertextBlob", &again), ("EncryptionContext", &will)]);
    assert_eq!(
        (&opened["Plaintext"], &opened["KeyId"]),
        (&"c2VjcmV0".into(), &new.as_str().into())
    );
    assert_eq!(move_to(&blob, &new, "{}").1["Code"], "InvalidParameter");
    let missing = move_to(&blob, "00000000-0000-4000-8000-000000000000", &was);
    assert_eq!(missing.1["Code"], "Forbidden.KeyNotFound");
    // Both keys are asked for their state.
    kms.ok("DisableKey", &[("KeyId", &new)]);
    assert_eq!(move_to(&blob, &new, &was).1["Code"], "Rejected.Disabled");
    assert_eq!(move_to(&again, &old, &will).1["Code"], "Rejected.Disabled");

    // From under a public key.
    let pair = kms.create(&[("KeySpec", "RSA_2048"), ("KeyUsage", "ENCRYPT/DECRYPT")]);
    let (id, version) = (text(&pair, "KeyId"), text(&pair, "PrimaryKeyVersion"));
    let asked = [("KeyId", id.as_str()), ("KeyVersionId", &version)];
    let oaep = ("Algorithm", "RSAES_OAEP_SHA_1");
    let plain = ("Plaintext", "c2VjcmV0");
    let sealed = kms.ok("AsymmetricEncrypt", &[asked[0], asked[1], oaep, plain]);
    let from = [
        ("CiphertextBlob", text(&sealed, "CiphertextBlob")),
        ("DestinationKeyId", old),
        ("SourceKeyId", id),
        ("SourceKeyVersionId", version),
        ("SourceEncryptionAlgorithm", "RSAES_OAEP_SHA_1".to_owned()),
    ];
    let from: Vec<(&str, &str)> = from.iter().map(|(name, value)| (*name, &**value)).collect();
    let moved = kms.ok("ReEncrypt", &from);
    let opened = kms.ok("Decrypt", &[("CiphertextBlob", &text(&moved, "CiphertextBlob"))]);
    assert_eq!(opened["Plaintext"], "c2VjcmV0");
}

#[test]
fn a_key_does_what_it_is_for_and_nothing_else() {
    let kms = Kms::start();
    let aes = kms.create(&[]);
    let signer = kms.create(&[("KeySpec", "RSA_2048")]);
    let opener = kms.create(&[("KeySpec", "RSA_2048"), ("KeyUsage", "ENCRYPT/DECRYPT")]);
    let named = |key: &Value| (text(key, "KeyId"), text(key, "PrimaryKeyVersion"));
    let digest = STANDARD.encode([7; 32]);
    let attempt = |action: &str, key: &Value, algorithm: &str, what: (&str, &str)| {
        let (id, version) = named(key);
        let asked =
            [("KeyId", id.as_str()), ("KeyVersionId", &version), ("Algorithm", algorithm), what];
        let (_, answer) = kms.ask(action, &asked);
        answer["Code"].as_str().unwrap_or("it went").to_owned()
    };
    let (sign, plain) = (("Digest", digest.as_str()), ("Plaintext", "eA=="));
    assert_eq!(signer["KeyUsage"], "SIGN/VERIFY");
    for algorithm in ["RSA_PSS_SHA_256", "RSA_PKCS1_SHA_256"] {
        assert_eq!(attempt("AsymmetricSign", &signer, algorithm, sign), "it went");
    }
    let foreign = attempt("AsymmetricSign", &signer, "ECDSA_SHA_256", sign);
    assert_eq!(foreign, "InvalidParameter");
    let short = attempt("AsymmetricSign", &signer, "RSA_PSS_SHA_256", ("Digest", "eA=="));
    assert_eq!(short, "InvalidParameter");
    for key in [&aes, &opener] {
        let refused = attempt("AsymmetricSign", key, "RSA_PSS_SHA_256", sign);
        assert_eq!(refused, "UnsupportedOperation");
    }
    for key in [&aes, &signer] {
        let refused = attempt("AsymmetricEncrypt", key, "RSAES_OAEP_SHA_256", plain);
        assert_eq!(refused, "UnsupportedOperation");
    }
    assert_eq!(attempt("AsymmetricEncrypt", &opener, "RSAES_OAEP_SHA_256", plain), "it went");
    let long = STANDARD.encode([0; 191]);
    let refused = attempt("AsymmetricEncrypt", &opener, "RSAES_OAEP_SHA_256", ("Plaintext", &long));
    assert_eq!(refused, "InvalidParameter");
    let zeros = STANDARD.encode([0; 256]);
    let zeros = ("CiphertextBlob", zeros.as_str());
    let refused = attempt("AsymmetricDecrypt", &opener, "RSAES_OAEP_SHA_256", zeros);
    assert_eq!(refused, "InvalidParameter");
    for key in [&signer, &opener] {
        let (id, _) = named(key);
        let asked = [("KeyId", id.as_str()), plain];
        kms.refused("Encrypt", &asked, (400, "UnsupportedOperation"));
        kms.refused("GenerateDataKey", &asked[..1], (400, "UnsupportedOperation"));
        let disk = ["disk", "create", "--name", "db", "--size", "1M", "--key-id", &id];
        assert!(kms.daemon.refused(&disk).contains("InvalidKMSKeyId.NotSymmetric"));
    }
    let (id, version) = named(&aes);
    let public = [("KeyId", id.as_str()), ("KeyVersionId", version.as_str())];
    kms.refused("GetPublicKey", &public, (400, "UnsupportedOperation"));
}

#[test]
fn a_dry_run_never_succeeds_and_tells_how_it_would_have_gone() {
    let kms = Kms::start();
    let key = kms.key(&[]);
    let id = ("KeyId", key.as_str());
    let dry = ("DryRun", "True");
    let blob = text(&kms.ok("Encrypt", &[id, ("Plaintext", "eA==")]), "CiphertextBlob");
    let attempts: [(&str, Vec<(&str, &str)>); 4] = [
        ("Encrypt", vec![id, ("Plaintext", "eA=="), dry]),
        ("Decrypt", vec![("CiphertextBlob", &blob), dry]),
        ("GenerateDataKey", vec![id, dry]),
        ("GenerateDataKeyWithoutPlaintext", vec![id, dry]),
    ];
    for (action, parameters) in &attempts {
        kms.refused(action, parameters, (400, "DryRunOperationError"));
        assert_eq!(kms.daemon.events(action)[0]["requestParameters"]["DryRun"], true);
    }
    kms.daemon.ok(&["disk", "create", "--name", "db", "--size", "1M"]);
    let service = [("KeyId", "alias/acs/ecs"), ("Plaintext", "eA=="), dry];
    kms.refused("Encrypt", &service, (403, "AccessDeniedError"));
    kms.ok("DisableKey", &[id]);
    for (action, parameters) in &attempts {
        kms.refused(action, parameters, (400, "ValidationError"));
    }
}

#[test]
fn a_dry_run_of_what_cannot_be_read_is_invalid() {
    let kms = Kms::start();
    let key = kms.key(&[]);
    let id = ("KeyId", key.as_str());
    let dry = ("DryRun", "true");
    let plain = ("Plaintext", "eA==");
    let junk = ("CiphertextBlob", "no base64!");
    let version = ("KeyVersionId", "v");
    let digest = ("Digest", "eA==");
    type Attempt<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a str);
    let attempts: [Attempt<'_>; 18] = [
        ("Encrypt", vec![plain], "MissingParameter"),
        ("Encrypt", vec![id], "MissingParameter"),
        ("Encrypt", vec![id, ("Plaintext", "no base64!")], "InvalidParameter"),
        ("Encrypt", vec![id, plain, ("EncryptionContext", "[")], "InvalidParameter"),
        ("Decrypt", vec![], "MissingParameter"),
        ("Decrypt", vec![junk], "InvalidParameter"),
        ("Decrypt", vec![("CiphertextBlob", "eA=="), ("Recipient", "x")], "UnsupportedOperation"),
        ("GenerateDataKey", vec![id, ("NumberOfBytes", "1025")], "InvalidParameter"),
        ("GenerateDataKey", vec![id, ("KeySpec", "DES")], "InvalidParameter"),
        ("GenerateDataKeyWithoutPlaintext", vec![], "MissingParameter"),
        ("GenerateAndExportDataKey", vec![id], "MissingParameter"),
        ("ExportDataKey", vec![junk], "InvalidParameter"),
        ("ReEncrypt", vec![junk], "InvalidParameter"),
        ("AsymmetricSign", vec![id, version, digest], "MissingParameter"),
        ("AsymmetricVerify", vec![id, version, digest], "MissingParameter"),
        ("AsymmetricEncrypt", vec![id, version], "MissingParameter"),
        ("AsymmetricDecrypt", vec![id, version], "MissingParameter"),
        ("GetPublicKey", vec![id], "MissingParameter"),
    ];
    for (action, mut parameters, otherwise) in attempts {
        kms.refused(action, &parameters, (400, otherwise));
        assert_eq!(kms.daemon.events(action)[0]["errorCode"], otherwise, "{action}");
        parameters.push(dry);
        let (status, answer) = kms.ask(action, &parameters);
        assert_eq!((status, text(&answer, "Code").as_str()), (400, "ValidationError"), "{answer}");
        // What is wrong is said beside it.
        assert!(text(&answer, "Recommend").starts_with(otherwise), "{answer}");
        assert_eq!(kms.daemon.events(action)[0]["errorCode"], "ValidationError", "{action}");
    }
    // What is no yes or no is no dry run; and where there is none, nobody is told that there was.
    kms.refused("Encrypt", &[id, plain, ("DryRun", "maybe")], (400, "InvalidParameter"));
    kms.refused("DescribeKey", &[dry], (400, "MissingParameter"));
}

#[test]
fn lists_are_filtered_by_everything_published() {
    let kms = Kms::start();
    let instance =
        text(&kms.ok("ListKmsInstances", &[])["KmsInstances"]["KmsInstance"][0], "KmsInstanceId");
    let tags = r#"[{"TagKey":"team","TagValue":"db"}]"#;
    let tagged = kms.key(&[("Tags", tags)]);
    let inside = kms.key(&[("DKMSInstanceId", &instance), ("KeySpec", "EC_P256")]);
    kms.ok("CreateAlias", &[("AliasName", "alias/in"), ("KeyId", &inside)]);
    kms.daemon.ok(&["disk", "create", "--name", "db", "--size", "1M"]);
    let found = |key: &str, value: &str| -> Vec<String> {
        let filter = format!(r#"[{{"Key":"{key}","Values":["{value}","nothing like it"]}}]"#);
        let listed = kms.ok("ListKeys", &[("Filters", &filter)]);
        let keys = listed["Keys"]["Key"].as_array().unwrap();
        keys.iter().map(|key| text(key, "KeyId")).collect()
    };
    assert_eq!(found("TagKey", "team"), [tagged.as_str()]);
    assert_eq!(found("TagValue", "db"), [tagged.as_str()]);
    assert_eq!(found("DKMSInstanceId", &instance), [inside.as_str()]);
    assert_eq!(found("AliasName", "alias/in"), [inside.as_str()]);
    assert_eq!(found("KeySpec", "EC_P256"), [inside.as_str()]);
    assert_eq!(found("KeyUsage", "SIGN/VERIFY"), [inside.as_str()]);
    assert_eq!(found("CreatorType", "User"), [tagged.as_str(), &inside]);
    assert_eq!(found("Creator", "Ecs").len(), 1);
    assert_eq!(found("KeyId", &tagged), [tagged]);
}

#[test]
fn a_blob_that_names_a_key_pair_is_no_blob() {
    let kms = Kms::start();
    let pair = kms.create(&[("KeySpec", "RSA_2048"), ("KeyUsage", "ENCRYPT/DECRYPT")]);
    let key = kms.key(&[]);
    let made = kms.ok("Encrypt", &[("KeyId", &key), ("Plaintext", "AAAA")]);
    let mut blob = bytes(&made, "CiphertextBlob");
    blob[..36].copy_from_slice(text(&pair, "PrimaryKeyVersion").as_bytes());
    let blob = STANDARD.encode(blob);
    // The client's fault, not damage of ours.
    kms.refused("Decrypt", &[("CiphertextBlob", &blob)], (400, "InvalidParameter"));
}
