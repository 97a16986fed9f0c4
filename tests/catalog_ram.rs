//! What every catalog must do with users, access keys, roles and policies, held against each
//! engine through `&dyn Catalog`.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

use sealdisk::catalog::ram::{
    AccessKeyRecord, AttachmentRecord, Holder, PolicyKind, PolicyRecord, RamOperation, RoleRecord,
    UserRecord,
};
use sealdisk::catalog::sqlite::SqliteCatalog;
use sealdisk::catalog::{Catalog, CatalogError, Operation};
use sealdisk::clock::Timestamp;

const NOW: Timestamp = Timestamp::from_unix_millis(1_767_582_245_123);

fn user(name: &str) -> UserRecord {
    UserRecord {
        user_id: format!("id-of-{name}"),
        user_name: name.into(),
        display_name: "Ann — \u{1f512}".into(),
        comments: "c".into(),
        email: "a@b".into(),
        mobile_phone: "1".into(),
        created: NOW,
        updated: NOW,
    }
}

fn access_key(id: &str, user_id: Option<&str>) -> AccessKeyRecord {
    AccessKeyRecord {
        access_key_id: id.into(),
        user_id: user_id.map(Into::into),
        wrapped_secret: vec![0, 1, 255],
        is_active: true,
        created: NOW,
    }
}

fn role(name: &str) -> RoleRecord {
    RoleRecord {
        role_id: format!("id-of-{name}"),
        role_name: name.into(),
        description: "d".into(),
        trust_policy: "{}".into(),
        session_seconds_max: 3600,
        created: NOW,
        updated: NOW,
    }
}

fn policy(name: &str) -> PolicyRecord {
    PolicyRecord {
        policy_name: name.into(),
        description: "d".into(),
        document: "{}".into(),
        created: NOW,
    }
}

fn held(holder: Holder, kind: PolicyKind, name: &str) -> AttachmentRecord {
    AttachmentRecord { holder, kind, policy_name: name.into(), attached: NOW }
}

fn apply(catalog: &dyn Catalog, operation: RamOperation) -> Result<(), CatalogError> {
    catalog.apply(&[Operation::Ram(operation)], &mut || Ok(()))
}

fn must(catalog: &dyn Catalog, operations: impl IntoIterator<Item = RamOperation>) {
    for operation in operations {
        apply(catalog, operation).unwrap();
    }
}

#[test]
fn sqlite_holds_the_contract() {
    for part in [
        records_come_back_as_they_went_in,
        names_are_unique,
        what_is_referred_to_stays,
        what_is_not_there_is_not_found,
        lists_go_on_after_a_name,
        a_refusing_gate_leaves_nothing,
    ] {
        let scratch = tempfile::tempdir().unwrap();
        part(&SqliteCatalog::open(&scratch.path().join("catalog.db")).unwrap());
    }
}

fn records_come_back_as_they_went_in(catalog: &dyn Catalog) {
    let ann = user("ann");
    must(catalog, [RamOperation::InsertUser(ann.clone())]);
    assert_eq!(catalog.user("ann").unwrap().as_ref(), Some(&ann));
    assert_eq!(catalog.user_by_id(&ann.user_id).unwrap().as_ref(), Some(&ann));
    assert_eq!(catalog.user("Ann").unwrap(), None);

    let (own, mut hers) = (access_key("k0", None), access_key("k1", Some(&ann.user_id)));
    must(catalog, [own.clone(), hers.clone()].map(RamOperation::InsertAccessKey));
    (hers.is_active, hers.wrapped_secret) = (false, vec![7]);
    must(catalog, [RamOperation::UpdateAccessKey(hers.clone())]);
    assert_eq!(catalog.access_key("k1").unwrap().as_ref(), Some(&hers));
    assert_eq!(catalog.access_keys(None).unwrap(), std::slice::from_ref(&own));
    assert_eq!(catalog.access_keys(Some(&ann.user_id)).unwrap(), std::slice::from_ref(&hers));
    assert_eq!(catalog.all_access_keys().unwrap(), [own, hers]);

    must(catalog, [RamOperation::InsertRole(role("r")), RamOperation::InsertPolicy(policy("p"))]);
    assert_eq!(catalog.role("r").unwrap(), Some(role("r")));
    assert_eq!(catalog.policy("p").unwrap(), Some(policy("p")));
    let (to_user, to_role) = (Holder::User(ann.user_id), Holder::Role("id-of-r".into()));
    let attached = [
        held(to_user.clone(), PolicyKind::Custom, "p"),
        held(to_user.clone(), PolicyKind::System, "p"),
        held(to_role.clone(), PolicyKind::Custom, "p"),
    ];
    must(catalog, attached.clone().map(RamOperation::Attach));
    assert_eq!(catalog.attachments(&to_user).unwrap(), attached[..2]);
    assert_eq!(catalog.attachments(&to_role).unwrap(), attached[2..]);
    let holders = catalog.holders(PolicyKind::Custom, "p").unwrap();
    assert_eq!(holders, [attached[0].clone(), attached[2].clone()]);
}

fn names_are_unique(catalog: &dyn Catalog) {
    let holder = Holder::User("id-of-ann".into());
    let twice = || {
        [
            RamOperation::InsertUser(user("ann")),
            RamOperation::InsertAccessKey(access_key("k", None)),
            RamOperation::InsertRole(role("r")),
            RamOperation::InsertPolicy(policy("p")),
            RamOperation::Attach(held(holder.clone(), PolicyKind::Custom, "p")),
            RamOperation::Attach(held(holder.clone(), PolicyKind::System, "s")),
        ]
    };
    must(catalog, twice());
    for operation in twice() {
        let refused = apply(catalog, operation.clone());
        assert!(matches!(refused, Err(CatalogError::Exists)), "{operation:?} {refused:?}");
    }
    let same_name = UserRecord { user_id: "another".into(), ..user("ann") };
    let refused = apply(catalog, RamOperation::InsertUser(same_name));
    assert!(matches!(refused, Err(CatalogError::Exists)), "{refused:?}");
}

fn what_is_referred_to_stays(catalog: &dyn Catalog) {
    let (ann, bob) = (Holder::User("id-of-ann".into()), "id-of-bob");
    must(
        catalog,
        [
            RamOperation::InsertUser(user("ann")),
            RamOperation::InsertUser(user("bob")),
            RamOperation::InsertRole(role("r")),
            RamOperation::InsertPolicy(policy("p")),
            RamOperation::Attach(held(ann.clone(), PolicyKind::Custom, "p")),
            RamOperation::Attach(held(Holder::Role("id-of-r".into()), PolicyKind::System, "s")),
            RamOperation::InsertAccessKey(access_key("k", Some(bob))),
        ],
    );
    let deletions = || {
        [
            RamOperation::DeleteUser("id-of-ann".into()),
            RamOperation::DeleteUser(bob.into()),
            RamOperation::DeleteRole("id-of-r".into()),
            RamOperation::DeletePolicy("p".into()),
        ]
    };
    for operation in deletions() {
        let refused = apply(catalog, operation.clone());
        assert!(matches!(refused, Err(CatalogError::Referenced)), "{operation:?} {refused:?}");
    }
    let detach = |holder, kind, name: &str| RamOperation::Detach {
        holder,
        kind,
        policy_name: name.to_owned(),
    };
    must(
        catalog,
        [
            detach(ann, PolicyKind::Custom, "p"),
            detach(Holder::Role("id-of-r".into()), PolicyKind::System, "s"),
            RamOperation::DeleteAccessKey("k".into()),
        ],
    );
    must(catalog, deletions());
    assert!(catalog.users("", 9).unwrap().is_empty() && catalog.roles("", 9).unwrap().is_empty());
}

fn what_is_not_there_is_not_found(catalog: &dyn Catalog) {
    let nobody = Holder::User("nobody".into());
    must(catalog, [RamOperation::InsertPolicy(policy("p"))]);
    for operation in [
        RamOperation::DeleteUser("x".into()),
        RamOperation::DeleteAccessKey("x".into()),
        RamOperation::UpdateAccessKey(access_key("x", None)),
        RamOperation::DeleteRole("x".into()),
        RamOperation::DeletePolicy("x".into()),
        RamOperation::InsertAccessKey(access_key("k", Some("nobody"))),
        RamOperation::Attach(held(nobody.clone(), PolicyKind::Custom, "p")),
        RamOperation::Detach { holder: nobody, kind: PolicyKind::Custom, policy_name: "p".into() },
    ] {
        let refused = apply(catalog, operation.clone());
        assert!(matches!(refused, Err(CatalogError::NotFound)), "{operation:?} {refused:?}");
    }
    assert!(catalog.access_key("x").unwrap().is_none());
}

fn lists_go_on_after_a_name(catalog: &dyn Catalog) {
    for name in ["c", "a", "b"] {
        must(
            catalog,
            [
                RamOperation::InsertUser(user(name)),
                RamOperation::InsertRole(role(name)),
                RamOperation::InsertPolicy(policy(name)),
            ],
        );
    }
    let names = |after: &str, limit| {
        let users = catalog.users(after, limit).unwrap();
        let roles = catalog.roles(after, limit).unwrap();
        let policies = catalog.policies(after, limit).unwrap();
        let users: Vec<String> = users.into_iter().map(|user| user.user_name).collect();
        assert!(roles.iter().map(|role| &role.role_name).eq(&users));
        assert!(policies.iter().map(|policy| &policy.policy_name).eq(&users));
        users
    };
    assert_eq!(names("", 2), ["a", "b"]);
    assert_eq!(names("a", 9), ["b", "c"]);
    assert!(names("c", 9).is_empty());
}

fn a_refusing_gate_leaves_nothing(catalog: &dyn Catalog) {
    let operations = [Operation::Ram(RamOperation::InsertUser(user("ann")))];
    let refused = catalog.apply(&operations, &mut || Err("no".into()));
    assert!(matches!(refused, Err(CatalogError::Gate(_))), "{refused:?}");
    assert_eq!(catalog.user("ann").unwrap(), None);
}
