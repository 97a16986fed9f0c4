//! Tags on keys, through the API of a real daemon.

mod support;

use serde_json::{Value, json};
use support::kms::{Kms, text};

/// The tags of a key as `name=value`.
fn tags(kms: &Kms, key_id: &str) -> Vec<String> {
    let answer = kms.ok("ListResourceTags", &[("KeyId", key_id)]);
    let tags = answer["Tags"]["Tag"].as_array().unwrap();
    assert!(tags.iter().all(|tag| tag["KeyId"] == key_id), "{answer}");
    tags.iter().map(|tag| text(tag, "TagKey") + "=" + &text(tag, "TagValue")).collect()
}

#[test]
fn one_key_is_tagged_and_untagged() {
    let kms = Kms::start();
    let key = kms.key(&[]);
    let id = ("KeyId", key.as_str());
    let set = |text| kms.ok("TagResource", &[id, ("Tags", text)]);
    set(
        r#"[{"TagKey":"team","TagValue":"db"},{"TagKey":"acs:ecs:disk-encryption","TagValue":"true"}]"#,
    );
    set(r#"[{"TagKey":"team","TagValue":"web"}]"#);
    assert_eq!(tags(&kms, &key), ["acs:ecs:disk-encryption=true", "team=web"]);
    let event = kms.daemon.events("TagResource").remove(0);
    assert!(event["requestParameters"]["Tags"].as_str().unwrap().contains("web"), "{event}");

    kms.ok("UntagResource", &[id, ("TagKeys", r#"["team","absent"]"#)]);
    assert_eq!(tags(&kms, &key), ["acs:ecs:disk-encryption=true"]);

    let invalid = (400, "InvalidParameter");
    for bad in ["x", "{}", r#"[{"TagKey":"acs:x"}]"#, r#"[{"TagKey":"aliyun"}]"#, "[]"] {
        kms.refused("TagResource", &[id, ("Tags", bad)], invalid);
    }
    kms.refused("UntagResource", &[id, ("TagKeys", r#"["acs:x"]"#)], invalid);
    kms.refused("TagResource", &[id], (400, "MissingParameter"));
    kms.refused("TagResource", &[("Tags", "[]")], (400, "MissingParameter"));
    let missing = [("KeyId", "no-such-key"), ("Tags", r#"[{"TagKey":"a"}]"#)];
    kms.refused("TagResource", &missing, (404, "Forbidden.KeyNotFound"));
    let secret = [("SecretName", "s"), ("Tags", r#"[{"TagKey":"a"}]"#)];
    kms.refused("TagResource", &secret, (404, "Forbidden.ResourceNotFound"));

    let entry = |i: usize| json!({"TagKey": format!("t{i}"), "TagValue": ""});
    let many = Value::Array((0..19).map(entry).collect()).to_string();
    set(&many);
    let one_more = [id, ("Tags", r#"[{"TagKey":"last"}]"#)];
    kms.refused("TagResource", &one_more, (400, "Rejected.LimitExceeded"));
    // A tag that is there is replaced, not counted twice.
    set(r#"[{"TagKey":"t0","TagValue":"new"}]"#);
}

#[test]
fn many_keys_are_tagged_and_listed() {
    let kms = Kms::start();
    let (first, second) = (kms.key(&[]), kms.key(&[]));
    let both = [
        ("RegionId", "cn-hangzhou"),
        ("ResourceType", "key"),
        ("ResourceId.1", first.as_str()),
        ("ResourceId.2", second.as_str()),
    ];
    let with = |more: &[(&'static str, &'static str)]| [&both, more].concat();
    let pair = [("Tag.1.Key", "a"), ("Tag.1.Value", "1"), ("Tag.2.Key", "b")];
    kms.ok("TagResources", &with(&pair));
    kms.ok("TagResource", &[("KeyId", &second), ("Tags", r#"[{"TagKey":"a","TagValue":"2"}]"#)]);
    assert_eq!(
        (tags(&kms, &first), tags(&kms, &second)),
        (vec!["a=1".to_owned(), "b=".to_owned()], vec!["a=2".to_owned(), "b=".to_owned()],)
    );

    let listed = |parameters: &[(&str, &str)]| {
        let answer = kms.ok("ListTagResources", &[&[("ResourceType", "key")], parameters].concat());
        assert_eq!(answer["NextToken"], "");
        let tags = answer["TagResources"]["TagResource"].as_array().unwrap().clone();
        assert!(tags.iter().all(|tag| tag["ResourceType"] == "key"), "{answer}");
        tags
    };
    assert_eq!(listed(&[]).len(), 4);
    assert_eq!(listed(&[("ResourceId.1", &first)]).len(), 2);
    let found = listed(&[("Tag.1.Key", "a"), ("Tag.1.Value", "2")]);
    assert_eq!((found.len(), &found[0]["ResourceId"]), (1, &Value::from(second.as_str())));
    assert_eq!(listed(&[("Tag.1.Key", "b"), ("Tag.2.Key", "a")]).len(), 4);
    assert_eq!(listed(&[("Tag.1.Key", "b"), ("Tag.2.Key", "c")]).len(), 0);

    // All or none: one key that may not be tagged keeps the other from it.
    let deletion = [("KeyId", second.as_str()), ("PendingWindowInDays", "7")];
    kms.ok("ScheduleKeyDeletion", &deletion);
    kms.refused("TagResources", &with(&[("Tag.1.Key", "c")]), (409, "Rejected.PendingDeletion"));
    assert_eq!(tags(&kms, &first), ["a=1", "b="]);
    kms.ok("CancelKeyDeletion", &deletion[..1]);

    kms.ok("UntagResources", &with(&[("TagKey.1", "a")]));
    assert_eq!((tags(&kms, &first), tags(&kms, &second)), (vec!["b=".into()], vec!["b=".into()]));
    kms.ok("UntagResources", &with(&[("All", "true")]));
    assert_eq!(listed(&[]).len(), 0);

    kms.refused("UntagResources", &both, (400, "MissingParameter"));
    let secret = [("ResourceType", "secret"), ("ResourceId.1", "s"), ("TagKey.1", "a")];
    kms.refused("UntagResources", &secret, (404, "Forbidden.ResourceNotFound"));
    kms.refused("ListTagResources", &[], (400, "MissingParameter"));
    let forged = [("ResourceType", "key"), ("NextToken", "?")];
    kms.refused("ListTagResources", &forged, (400, "InvalidParameter"));
}

#[test]
fn a_long_list_of_tags_comes_in_pages() {
    let kms = Kms::start();
    let entry = |i: usize| json!({"TagKey": format!("t{i:02}"), "TagValue": "v"});
    let tags = Value::Array((0..20).map(entry).collect()).to_string();
    for _ in 0..6 {
        kms.ok("TagResource", &[("KeyId", &kms.key(&[])), ("Tags", &tags)]);
    }
    let mut token = String::new();
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let asked = [("ResourceType", "key"), ("NextToken", token.as_str())];
        let answer = kms.ok("ListTagResources", &asked);
        for tag in answer["TagResources"]["TagResource"].as_array().unwrap() {
            assert!(seen.insert(tag.to_string()), "{tag} came twice");
        }
        token = answer["NextToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 120);
}
