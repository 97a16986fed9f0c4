//! The RPC form: what a request says, however it is written, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

use proptest::prelude::*;
use sealdisk::api::rpc::{Call, Product, Wire};
use sealdisk::limits::API_PARAMETERS_MAX;

fn query(query: &str) -> Wire<'_> {
    Wire { query, ..Wire::default() }
}

fn kms(parameters: &str) -> Call {
    let text = format!("Action=Encrypt&Version=2016-01-20&{parameters}");
    Call::read(&query(&text)).unwrap()
}

fn code(wire: &Wire<'_>) -> String {
    Call::read(wire).unwrap_err().code.into_owned()
}

#[test]
fn query_and_form_are_merged() {
    let form = b"Action=Encrypt&KeyId=alias%2Fdisk&Note=a+b%26c";
    let call = Call::read(&Wire { form, ..query("Version=2016-01-20") }).unwrap();
    assert_eq!((call.product, call.action.as_str()), (Product::Kms, "Encrypt"));
    assert_eq!(call.parameters.required("KeyId").unwrap(), "alias/disk");
    assert_eq!(call.parameters.text("Note"), Some("a b&c"));
    assert_eq!(call.parameters.text("Action"), None);
}

#[test]
fn action_and_version_may_come_from_headers() {
    let headers = Wire { action: Some("ListKeys"), version: Some("2016-01-20"), ..query("") };
    assert_eq!(Call::read(&headers).unwrap().action, "ListKeys");
    // Signature version 2 of the SDKs sends both; they must agree.
    let both = Wire { query: "Action=ListKeys", ..headers };
    assert_eq!(Call::read(&both).unwrap().action, "ListKeys");
    assert_eq!(code(&Wire { query: "Action=Decrypt", ..headers }), "InvalidParameter");
}

#[test]
fn what_cannot_be_read_is_refused_with_published_codes() {
    assert_eq!(code(&query("Version=2016-01-20")), "MissingParameter");
    assert_eq!(code(&query("Action=ListKeys")), "MissingParameter");
    assert_eq!(code(&query("Action=&Version=2016-01-20")), "MissingParameter");
    assert_eq!(code(&query("Action=ListKeys&Version=1999-01-01")), "InvalidVersion");
    assert_eq!(code(&query("Action=A&Action=B&Version=2016-01-20")), "InvalidParameter");
    let repeated = Wire { form: b"KeyId=2", ..query("Action=A&Version=2016-01-20&KeyId=1") };
    assert_eq!(code(&repeated), "InvalidParameter");
    for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "%c3=1"] {
        assert_eq!(code(&query(bad)), "ParseRequestParameterException", "{bad}");
    }
    assert_eq!(code(&Wire { form: b"\xff", ..query("") }), "ParseRequestParameterException");
    let many: String = (0..=API_PARAMETERS_MAX).map(|i| format!("p{i}=&")).collect();
    assert_eq!(code(&query(&many)), "ParseRequestParameterException");
}

#[test]
fn messages_name_the_parameter_as_published() {
    let error = kms("").parameters.required("KeyId").unwrap_err();
    assert_eq!(error.message, "The parameter \"KeyId\" is needed but not provided.");
    let error = kms("N=x").parameters.integer("N", 1..=9).unwrap_err();
    assert_eq!(error.message, "The specified parameter \"N\" is not valid.");
}

#[test]
fn booleans_of_every_sdk_are_understood() {
    for (text, value) in [("True", true), ("true", true), ("FALSE", false), ("false", false)] {
        assert_eq!(kms(&format!("B={text}")).parameters.boolean("B").unwrap(), Some(value));
    }
    assert_eq!(kms("B=").parameters.boolean("B").unwrap(), None);
    assert_eq!(kms("B=1").parameters.boolean("B").unwrap_err().code, "InvalidParameter");
}

#[test]
fn numbers_lists_and_pages_are_bounded() {
    let parameters = kms("N=7&Tag.1=a&Tag.2=b&Tag.4=d&PageNumber=3&PageSize=20").parameters;
    assert_eq!(parameters.integer("N", 1..=7).unwrap(), Some(7));
    assert!(parameters.integer("N", 1..=6).is_err());
    assert_eq!(parameters.list("Tag"), ["a", "b"]);
    let paging = parameters.paging().unwrap();
    assert_eq!((paging.page().offset, paging.page().limit), (40, 20));
    for wrong in ["PageNumber=0", "PageSize=0", "PageSize=101", "PageNumber=99999999999"] {
        assert!(kms(wrong).parameters.paging().is_err(), "{wrong}");
    }
    let ids = kms("DiskIds=%5B%22d-1%22,%22d-2%22%5D").parameters.json_list("DiskIds").unwrap();
    assert_eq!(ids, Some(vec!["d-1".to_owned(), "d-2".to_owned()]));
    for wrong in ["d-1", "%5B1%5D", "%7B%7D"] {
        assert!(kms(&format!("DiskIds={wrong}")).parameters.json_list("DiskIds").is_err());
    }
}

#[test]
fn an_encryption_context_is_an_object_of_strings() {
    let context =
        |text: &str| kms(&format!("EncryptionContext={text}")).parameters.encryption_context();
    assert_eq!(context("{\"b\":\"2\",\"a\":\"1\"}").unwrap().len(), 2);
    assert!(context("").unwrap().is_empty());
    assert!(context("{}").unwrap().is_empty());
    let flat = kms("EncryptionContext.a.b=1&EncryptionContext.c=2&EncryptionContextual=3");
    let flat = flat.parameters.encryption_context().unwrap();
    assert_eq!(flat, [("a.b", "1"), ("c", "2")].map(|(a, b)| (a.into(), b.into())).into());
    let both = kms("EncryptionContext.a=1&EncryptionContext={}").parameters.encryption_context();
    assert_eq!(both.unwrap_err().code, "InvalidParameter");
    for wrong in ["[]", "{\"a\":1}", "{\"a\":{}}", "{\"a\":\"1\",\"a\":\"2\"}", "{"] {
        assert_eq!(context(wrong).unwrap_err().code, "InvalidParameter");
    }
}

#[test]
fn base64_goes_into_a_secret_and_has_a_bound() {
    let parameters = kms("Plaintext=a2V5").parameters;
    assert_eq!(parameters.base64("Plaintext", 3).unwrap().expose(), b"key");
    assert!(parameters.base64("Plaintext", 2).is_err());
    assert!(kms("Plaintext=a2V").parameters.base64("Plaintext", 99).is_err());
    assert_eq!(format!("{parameters:?}"), "{\"Plaintext\"}");
}

proptest! {
    #[test]
    fn no_bytes_panic(
        query in ".*",
        form in prop::collection::vec(any::<u8>(), 0..300),
        action in prop::option::of(".*"),
    ) {
        let wire = Wire { action: action.as_deref(), version: None, query: &query, form: &form };
        let _ = Call::read(&wire);
    }

    #[test]
    fn any_value_survives_the_wire(value in ".*") {
        let encoded: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let call = kms(&format!("Value={encoded}"));
        prop_assert_eq!(call.parameters.text("Value"), Some(value.as_str()));
        let parameters = &call.parameters;
        let _ = (parameters.boolean("Value"), parameters.integer("Value", 0..=9_u64));
        let _ = (parameters.json_list("Value"), parameters.base64("Value", 64));
    }
}
