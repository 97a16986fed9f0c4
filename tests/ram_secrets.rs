//! Secrets of access keys: wrapped in the catalog, wrapped anew under another root key, and never
//! found by a stale answer.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

use std::path::Path;
use std::sync::Arc;

use sealdisk::catalog::ram::RamCatalog;
use sealdisk::catalog::sqlite::SqliteCatalog;
use sealdisk::catalog::{Catalog, CatalogError, Operation};
use sealdisk::clock::{ManualClock, SeededEntropy};
use sealdisk::ram::{CreateUser, Principal, Ram, RamError, RamParts, rewrap_secrets};
use sealdisk::secret::Secret;

fn catalog(folder: &Path) -> Arc<SqliteCatalog> {
    Arc::new(SqliteCatalog::open(&folder.join("catalog.db")).unwrap())
}

fn ram(catalog: &Arc<SqliteCatalog>, key: u8) -> Ram {
    Ram::new(RamParts {
        catalog: catalog.clone(),
        clock: Arc::new(ManualClock::default()),
        entropy: Arc::new(SeededEntropy::new(key.into())),
        key: secret(key),
        account_id: "1000000000000001".into(),
    })
}

fn secret(fill: u8) -> Secret {
    Secret::from_fn(32, |bytes| bytes.fill(fill))
}

#[test]
fn another_root_key_opens_what_was_wrapped_anew() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path());
    let before = ram(&catalog, 1);
    let user = CreateUser { user_name: "ann".into(), ..CreateUser::default() };
    before.create_user(user, &mut |_| Ok(())).unwrap();
    let made =
        [None, Some("ann")].map(|whose| before.create_access_key(whose, &mut |_| Ok(())).unwrap());
    let id = |at: usize| made[at].record.access_key_id.as_str();
    let after = ram(&catalog, 2);
    assert!(matches!(after.access_key(id(0)), Err(RamError::DamagedSecret { .. })));

    let (old, new) = (secret(1), secret(2));
    let entropy = SeededEntropy::new(3);
    let steps = rewrap_secrets(catalog.as_ref(), (&old, &new), &entropy).unwrap();
    let steps: Vec<Operation> = steps.into_iter().map(Operation::Ram).collect();
    catalog.apply(&steps, &mut || Ok(())).unwrap();
    for (at, key) in made.iter().enumerate() {
        let found = after.access_key(id(at)).unwrap().unwrap();
        assert_eq!(found.secret, key.secret);
    }
    let owner = after.access_key(id(0)).unwrap().unwrap();
    assert_eq!(owner.principal, Principal::Root { account: "1000000000000001".into() });
    let hers = after.access_key(id(1)).unwrap().unwrap();
    assert!(matches!(&hers.principal, Principal::User { user_name, .. } if user_name == "ann"));
}

#[test]
fn a_secret_of_another_access_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path());
    let ram = ram(&catalog, 1);
    let [one, other] =
        [(); 2].map(|()| ram.create_access_key(None, &mut |_| Ok(())).unwrap().record);
    let mut swapped = one.clone();
    swapped.wrapped_secret.clone_from(&other.wrapped_secret);
    let step = sealdisk::catalog::ram::RamOperation::UpdateAccessKey(swapped);
    catalog.apply(&[Operation::Ram(step)], &mut || Ok(())).unwrap();
    let refused = ram.access_key(&one.access_key_id);
    assert!(matches!(refused, Err(RamError::DamagedSecret { .. })), "{refused:?}");
    for wrapped in [vec![], vec![1], vec![2; 59], vec![1; 60], vec![1; 9000]] {
        let step = sealdisk::catalog::ram::RamOperation::UpdateAccessKey(
            sealdisk::catalog::ram::AccessKeyRecord { wrapped_secret: wrapped, ..one.clone() },
        );
        catalog.apply(&[Operation::Ram(step)], &mut || Ok(())).unwrap();
        let refused = ram.access_key(&one.access_key_id);
        assert!(matches!(refused, Err(RamError::DamagedSecret { .. })), "{refused:?}");
    }
}

#[test]
fn what_cannot_be_recorded_is_not_made_and_a_change_is_seen_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = catalog(folder.path());
    let ram = ram(&catalog, 1);
    let refused = ram.create_access_key(None, &mut |_| Err("the trail is full".into()));
    assert!(matches!(refused, Err(RamError::Catalog(CatalogError::Gate(_)))), "{refused:?}");
    assert!(catalog.all_access_keys().unwrap().is_empty());

    let made = ram.create_access_key(None, &mut |_| Ok(())).unwrap();
    let id = made.record.access_key_id;
    assert!(ram.access_key(&id).unwrap().unwrap().is_active);
    ram.set_access_key_active(None, &id, false, &mut || Ok(())).unwrap();
    assert!(!ram.access_key(&id).unwrap().unwrap().is_active);
    ram.delete_access_key(None, &id, &mut || Ok(())).unwrap();
    assert!(ram.access_key(&id).unwrap().is_none());
}
