//! Things by the id or the unique name that a person gives.

use serde_json::{Value, json};

use super::client::{Client, ECS, text};
use super::failure::Failure;

/// A kind of thing that has ids and names, and how the API lists it.
#[derive(Debug)]
pub(super) struct Kind {
    /// What ids begin with.
    prefix: &'static str,
    /// What people call it.
    word: &'static str,
    /// Lists it.
    action: &'static str,
    /// The two names of the list.
    pub(super) list: (&'static str, &'static str),
    /// The parameter that picks by id, and whether it takes a JSON list.
    by_id: (&'static str, bool),
    /// The parameter that picks by name, and the field with the name.
    pub(super) name: &'static str,
    /// The field with the id.
    pub(super) id: &'static str,
    /// What the API says where there is none.
    not_found: &'static str,
    /// Further parameters of the list.
    always: &'static [(&'static str, &'static str)],
}

/// Disks.
pub(super) const DISK: Kind = Kind {
    prefix: "d-",
    word: "disk",
    action: "DescribeDisks",
    list: ("Disks", "Disk"),
    by_id: ("DiskIds", true),
    name: "DiskName",
    id: "DiskId",
    not_found: "InvalidDiskId.NotFound",
    always: &[],
};

/// Snapshots.
pub(super) const SNAPSHOT: Kind = Kind {
    prefix: "s-",
    word: "snapshot",
    action: "DescribeSnapshots",
    list: ("Snapshots", "Snapshot"),
    by_id: ("SnapshotIds", true),
    name: "SnapshotName",
    id: "SnapshotId",
    not_found: "InvalidSnapshotId.NotFound",
    always: &[],
};

/// Images; the API shows only those that can be used unless told otherwise.
pub(super) const IMAGE: Kind = Kind {
    prefix: "m-",
    word: "image",
    action: "DescribeImages",
    list: ("Images", "Image"),
    by_id: ("ImageId", false),
    name: "ImageName",
    id: "ImageId",
    not_found: "InvalidImageId.NotFound",
    always: &[("Status", "Creating,Available,CreateFailed")],
};

impl Kind {
    /// All of them, or those that meet further parameters, newest first.
    pub(super) fn list(
        &self,
        client: &Client,
        parameters: &[(&str, &str)],
    ) -> Result<Vec<Value>, Failure> {
        let parameters = [self.always, parameters].concat();
        client.list_all((ECS, self.action), &parameters, self.list)
    }

    /// The one of this id or unique name.
    pub(super) fn find(&self, client: &Client, given: &str) -> Result<Value, Failure> {
        self.check_given(given)?;
        let is_id = self.is_id(given);
        let ids = json!([given]).to_string();
        let found = match (is_id, self.by_id) {
            (false, _) => self.list(client, &[(self.name, given)])?,
            (true, (parameter, true)) => self.list(client, &[(parameter, &ids)])?,
            (true, (parameter, false)) => self.list(client, &[(parameter, given)])?,
        };
        self.only_one(given, found)
    }

    /// The id of the one of this id or unique name.
    pub(super) fn id_of(&self, client: &Client, given: &str) -> Result<String, Failure> {
        if self.is_id(given) {
            return Ok(given.to_owned());
        }
        Ok(text(&self.find(client, given)?, self.id).to_owned())
    }

    /// The API takes an empty name for no name asked, so all of them: a variable that a script
    /// forgot to set would pick the only one there is.
    fn check_given(&self, given: &str) -> Result<(), Failure> {
        match given {
            "" => Err(Failure::usage(format!("no {} is named: the name is empty", self.word))),
            _ => Ok(()),
        }
    }

    /// The prefix and 20 lower-case letters or digits; names never look so.
    pub(super) fn is_id(&self, text: &str) -> bool {
        let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        text.strip_prefix(self.prefix)
            .is_some_and(|rest| rest.len() == 20 && rest.bytes().all(is_known))
    }

    /// The only one of those found under a name.
    pub(super) fn only_one(&self, name: &str, mut found: Vec<Value>) -> Result<Value, Failure> {
        let word = self.word;
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => {
                let message = format!("there is no {word} {name}");
                Err(Failure::refused(self.not_found, &message, None))
            }
            count => {
                let ids: Vec<&str> = found.iter().map(|one| text(one, self.id)).collect();
                let message = format!("{count} {word}s are called {name}: {}", ids.join(", "));
                Err(Failure::new(message).hint("use one of these ids"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_names() {
        assert!(DISK.is_id("d-bp1aaaaaaaaaaaaaaaaa") && IMAGE.is_id("m-bp1aaaaaaaaaaaaaaaaa"));
        for name in ["d-bp1", "db", "d-BP1AAAAAAAAAAAAAAAAA", "d-bp1aaaaaaaaaaaaaaaaaa"] {
            assert!(!DISK.is_id(name), "{name}");
        }
        assert!(!SNAPSHOT.is_id("d-bp1aaaaaaaaaaaaaaaaa"));
    }

    #[test]
    fn an_empty_name_picks_nothing() {
        let failure = SNAPSHOT.check_given("").unwrap_err();
        assert_eq!(failure.message, "no snapshot is named: the name is empty");
        assert_eq!(failure.exit_code(), 2);
        assert_eq!(SNAPSHOT.check_given("monday"), Ok(()));
    }

    #[test]
    fn an_ambiguous_name_lists_the_ids() {
        let failure = DISK.only_one("db", vec![json!({"DiskId": "d-1"}), json!({"DiskId": "d-2"})]);
        assert_eq!(failure.unwrap_err().message, "2 disks are called db: d-1, d-2");
        let failure = DISK.only_one("db", vec![]).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "error: there is no disk db\n  code: InvalidDiskId.NotFound\n  \
             hint: sealdisk disk list shows the disks there are"
        );
    }
}
