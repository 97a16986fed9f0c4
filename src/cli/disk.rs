//! `sealdisk disk …`

use serde_json::{Value, json};

use super::arguments::{CreateDisk, DiskCommand, Performance, SetDisk};
use super::client::{Client, ECS, KMS, OWN, encode, text, wrapped};
use super::failure::Failure;
use super::output::{Cell, Output, Table, human_age, human_size, render_fields};
use super::{export, key};
use crate::clock::{Clock, SystemClock};

const GIB: u64 = 1 << 30;

/// Name of the key that disks are encrypted under unless told otherwise. It is made at its first
/// use, so it is asked for by naming none.
const SERVICE_KEY: &str = "alias/acs/ecs";

pub(super) fn run(command: DiskCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        DiskCommand::Create(create) => create_disk(&create, client, output),
        DiskCommand::List => list(client, output),
        DiskCommand::Show(disk) => show(&find(client, &disk.disk)?, client, output),
        DiskCommand::Attach { disk, instance } => {
            let id = id_of(client, &disk.disk)?;
            client.call(ECS, "AttachDisk", &[("DiskId", &id), ("InstanceId", &instance)])?;
            show(&by_id(client, &id)?, client, output)
        }
        DiskCommand::Set(set) => set_disk(&set, client, output),
        DiskCommand::Rewrap(disk) => {
            let id = id_of(client, &disk.disk)?;
            let answer = client.call(OWN, "RewrapDisk", &[("DiskId", &id)])?;
            output.answer(&answer, || rewrapped(&answer))
        }
        DiskCommand::Detach(disk) => {
            let id = id_of(client, &disk.disk)?;
            detach(client, &id)?;
            show(&by_id(client, &id)?, client, output)
        }
        DiskCommand::Delete { disk, erase, yes } => {
            delete(&disk.disk, (erase, yes), client, output)
        }
        DiskCommand::Uri(disk) => uri(&find(client, &disk.disk)?, client, output),
        DiskCommand::ExportKey { disk, to, yes } => {
            let disk = find(client, &disk.disk)?;
            export::run(&disk, (&to, yes), client, output)
        }
    }
}

fn create_disk(create: &CreateDisk, client: &Client, output: &Output) -> Result<(), Failure> {
    let bytes = create.size.get();
    let speed = performance(&create.performance);
    // The published action counts whole GiB and knows no read-only disks, cache modes or limits.
    let is_published =
        bytes.is_multiple_of(GIB) && bytes > 0 && !create.read_only && speed.is_empty();
    let size = if is_published { bytes / GIB } else { bytes }.to_string();
    let encrypted = (!create.unencrypted).to_string();
    let named = create.key_id.as_deref().filter(|key| *key != SERVICE_KEY);
    let key_id = named.map(|key| consented(client, key)).transpose()?;
    let mut parameters = vec![("Encrypted", encrypted.as_str())];
    parameters.push((if is_published { "Size" } else { "SizeBytes" }, &size));
    parameters.extend(create.name.iter().map(|name| ("DiskName", name.as_str())));
    parameters.extend(create.description.iter().map(|text| ("Description", text.as_str())));
    parameters.extend(key_id.iter().map(|key| ("KMSKeyId", key.as_str())));
    parameters.extend(speed.iter().map(|(name, value)| (*name, value.as_str())));
    if create.read_only {
        parameters.push(("ReadOnly", "true"));
    }
    let (version, action) =
        if is_published { (ECS, "CreateDisk") } else { (OWN, "CreateLocalDisk") };
    let created = client.call(version, action, &parameters)?;
    let id = text(&created, "DiskId");
    if create.attach {
        let attach = [("DiskId", id), ("InstanceId", create.instance.as_str())];
        client.call(ECS, "AttachDisk", &attach).map_err(|failure| Failure {
            message: format!("{id} was created but not attached: {}", failure.message),
            ..failure
        })?;
    }
    let disk = by_id(client, id)?;
    show(&disk, client, output)?;
    if output.is_for_people() && create.attach {
        output.note(&format!("\nsealdisk disk uri {id}   shows how to connect"))?;
    }
    Ok(())
}

fn set_disk(set: &SetDisk, client: &Client, output: &Output) -> Result<(), Failure> {
    let before = find(client, &set.disk.disk)?;
    let id = text(&before, "DiskId");
    let speed = performance(&set.performance);
    let mut parameters = vec![("DiskId", id)];
    parameters.extend(speed.iter().map(|(name, value)| (*name, value.as_str())));
    client.call(OWN, "ModifyDiskPerformance", &parameters)?;
    let after = by_id(client, id)?;
    show(&after, client, output)?;
    if text(&after, "Status") == "In_use" && before["Cache"] != after["Cache"] {
        output.note("\nthe cache mode changes when the disk is next attached")?;
    }
    Ok(())
}

/// The parameters that were given.
fn performance(given: &Performance) -> Vec<(&'static str, String)> {
    let cache = given.cache.as_ref().map(|mode| ("Cache", mode.clone()));
    let iops = given.iops_limit.map(|limit| ("IopsLimit", limit.to_string()));
    let bytes = given.throughput_limit.map(|limit| ("BytesPerSecondLimit", limit.to_string()));
    [cache, iops, bytes].into_iter().flatten().collect()
}

/// Detaches from whatever instance the disk is attached to.
/// The key of a new disk, with its owner's consent that the disk service uses it. A KMS on another
/// host knows neither our aliases nor our consent: there the key is named as it is.
fn consented(client: &Client, key: &str) -> Result<String, Failure> {
    let server = client.call(OWN, "DescribeServer", &[])?;
    if server["RemoteKms"].is_string() {
        return Ok(key.to_owned());
    }
    let id = key::resolve(client, key)?;
    key::consent(client, &id)?;
    Ok(id)
}

fn detach(client: &Client, id: &str) -> Result<(), Failure> {
    let disk = by_id(client, id)?;
    let instance = text(&disk, "InstanceId");
    let mut parameters = vec![("DiskId", id)];
    if !instance.is_empty() {
        parameters.push(("InstanceId", instance));
    }
    client.call(ECS, "DetachDisk", &parameters).map(drop)
}

fn delete(
    name: &str,
    (erase, yes): (bool, bool),
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let disk = find(client, name)?;
    let id = text(&disk, "DiskId");
    if !yes {
        let (name, size) = (text(&disk, "DiskName"), size_of(&disk));
        output.confirm(&format!(
            "Delete disk {id} {name} ({size})? Its data cannot be brought back."
        ))?;
    }
    let (version, action, done) =
        if erase { (OWN, "EraseDisk", "erased") } else { (ECS, "DeleteDisk", "deleted") };
    client.call(version, action, &[("DiskId", id)])?;
    output.answer(&json!({"DiskId": id}), || format!("{done} {id}\n"))
}

fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let disks = client.list_all((ECS, "DescribeDisks"), &[], ("Disks", "Disk"))?;
    let names = if output.is_for_people() { KeyNames::read(client) } else { KeyNames(vec![]) };
    let now = SystemClock::new().now();
    let mut table =
        Table::new(&["DISK ID", "NAME", "SIZE", "STATUS", "INSTANCE", "KEY", "CREATED"]);
    for disk in &disks {
        table.row([
            text(disk, "DiskId").into(),
            or_dash(text(disk, "DiskName")).into(),
            size_of(disk).into(),
            Cell::status(text(disk, "Status")),
            or_dash(text(disk, "InstanceId")).into(),
            names.of(disk).into(),
            human_age(text(disk, "CreationTime"), now).into(),
        ]);
    }
    let when_empty = "no disks; sealdisk disk create --name db --size 10GiB makes one";
    output.list(&wrapped("Disks", "Disk", &disks), &table, when_empty)
}

fn show(disk: &Value, client: &Client, output: &Output) -> Result<(), Failure> {
    let id = text(disk, "DiskId");
    let layers = client.call(OWN, "DescribeDiskLayers", &[("DiskId", id)])?;
    let mut shown = disk.clone();
    shown["LayerFiles"] = layers["LayerFiles"].clone();
    shown["Layers"] = layers["Layers"].clone();
    output.answer(&shown, || {
        let files = layers["LayerFiles"].as_array().map_or(&[][..], Vec::as_slice);
        let files: Vec<&str> = files.iter().filter_map(Value::as_str).collect();
        let read_only = if disk["ReadOnly"] == true { " (read-only)" } else { "" };
        render_fields(&[
            ("Disk id", id.to_owned()),
            ("Name", text(disk, "DiskName").to_owned()),
            ("Description", text(disk, "Description").to_owned()),
            ("Size", format!("{}{read_only}", size_of(disk))),
            ("Status", text(disk, "Status").to_owned()),
            ("Instance", text(disk, "InstanceId").to_owned()),
            ("Encrypted", if disk["Encrypted"] == true { "yes" } else { "NO" }.to_owned()),
            ("KMS key", KeyNames::read(client).of(disk)),
            ("Key use", key_use(disk, &layers)),
            ("Cache", text(disk, "Cache").to_owned()),
            ("Limits", limits_of(disk)),
            ("Created", text(disk, "CreationTime").to_owned()),
            ("Attached", text(disk, "AttachedTime").to_owned()),
            ("Layers", files.join("\n             ")),
        ])
    })
}

fn uri(disk: &Value, client: &Client, output: &Output) -> Result<(), Failure> {
    let endpoints = client.call(OWN, "DescribeEndpoints", &[])?;
    let id = text(disk, "DiskId");
    let lines = Lines::new(id, endpoints["NbdUnix"].as_str(), endpoints["NbdTcp"].as_str());
    if text(disk, "Status") != "In_use" {
        output.note(&format!(
            "{id} is not attached, so it is not served: sealdisk disk attach {id}"
        ))?;
    }
    let json = json!({
        "DiskId": id,
        "UnixUri": lines.unix,
        "TcpUri": lines.tcp,
        "NbdClient": lines.nbd_client,
        "Qemu": lines.qemu,
    });
    output.answer(&json, || {
        let all = [lines.unix, lines.tcp, lines.nbd_client, lines.qemu];
        all.into_iter().flatten().map(|line| line + "\n").collect()
    })
}

/// Ways to connect to an export.
pub(super) struct Lines {
    pub(super) unix: Option<String>,
    pub(super) tcp: Option<String>,
    pub(super) nbd_client: Option<String>,
    pub(super) qemu: Option<String>,
}

impl Lines {
    /// For `export` of a daemon that listens there.
    pub(super) fn new(export: &str, unix: Option<&str>, tcp: Option<&str>) -> Self {
        let name = encode(export);
        let unix_uri = unix.map(|path| {
            // Slashes may stay in a query, and are easier to read.
            let path = encode(path).replace("%2F", "/");
            format!("nbd+unix:///{name}?socket={path}")
        });
        let tcp_uri = tcp.map(|address| format!("nbd://{address}/{name}"));
        let nbd_client = match (unix, tcp.and_then(|address| address.rsplit_once(':'))) {
            (Some(path), _) => Some(format!("-unix {}", shell_word(path))),
            (None, Some((host, port))) => Some(format!("{} {port}", host.trim_matches(['[', ']']))),
            (None, None) => None,
        };
        let qemu = unix_uri.as_ref().or(tcp_uri.as_ref());
        Self {
            nbd_client: nbd_client.map(|address| {
                format!("sudo nbd-client {address} -name {export} -block-size 4096 /dev/nbd0")
            }),
            qemu: qemu.map(|uri| {
                format!(
                    "qemu-system-x86_64 -drive 'file={uri},format=raw,if=virtio,cache=none,\
                     discard=unmap'"
                )
            }),
            unix: unix_uri,
            tcp: tcp_uri,
        }
    }
}

/// `text` as one word of a shell line.
pub(super) fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The disk of this id or unique name.
fn find(client: &Client, disk: &str) -> Result<Value, Failure> {
    if is_disk_id(disk) {
        return by_id(client, disk);
    }
    let found =
        client.list_all((ECS, "DescribeDisks"), &[("DiskName", disk)], ("Disks", "Disk"))?;
    only_one(disk, found)
}

/// The only one of the disks found under a name.
fn only_one(name: &str, mut found: Vec<Value>) -> Result<Value, Failure> {
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let message = format!("there is no disk {name}");
            Err(Failure::refused("InvalidDiskId.NotFound", &message, None))
        }
        count => {
            let ids: Vec<&str> = found.iter().map(|disk| text(disk, "DiskId")).collect();
            let message = format!("{count} disks are called {name}: {}", ids.join(", "));
            Err(Failure::new(message).hint("use one of these ids"))
        }
    }
}

pub(super) fn id_of(client: &Client, disk: &str) -> Result<String, Failure> {
    if is_disk_id(disk) {
        return Ok(disk.to_owned());
    }
    Ok(text(&find(client, disk)?, "DiskId").to_owned())
}

fn by_id(client: &Client, id: &str) -> Result<Value, Failure> {
    let ids = json!([id]).to_string();
    let mut answer = client.call(ECS, "DescribeDisks", &[("DiskIds", &ids)])?;
    match answer.pointer_mut("/Disks/Disk/0") {
        Some(disk) => Ok(disk.take()),
        None => only_one(id, vec![]),
    }
}

/// `d-` and 20 lower-case letters or digits; names never look so.
fn is_disk_id(text: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.strip_prefix("d-").is_some_and(|rest| rest.len() == 20 && rest.bytes().all(is_known))
}

fn size_of(disk: &Value) -> String {
    human_size(disk["SizeBytes"].as_u64().unwrap_or_default())
}

/// `5000 requests/s, 200 MiB/s`; nothing where there is no limit.
fn limits_of(disk: &Value) -> String {
    let iops = disk["IopsLimit"].as_u64().map(|limit| format!("{limit} requests/s"));
    let bytes = disk["BytesPerSecondLimit"].as_u64();
    let bytes = bytes.map(|limit| format!("{}/s", human_size(limit)));
    [iops, bytes].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// `3 data keys rewrapped, 1 was under the newest version`.
pub(super) fn rewrapped(answer: &Value) -> String {
    let count = |name: &str| answer[name].as_u64().unwrap_or_default();
    let keys = |n: u64| if n == 1 { "1 data key".to_owned() } else { format!("{n} data keys") };
    let mut said = format!("{} wrapped anew", keys(count("Rewrapped")));
    let beside = [
        (count("Newest"), "under the newest version already"),
        (count("Unencrypted"), "not encrypted"),
    ];
    for (number, what) in beside.into_iter().filter(|(number, _)| *number > 0) {
        said.push_str(&format!(", {number} {what}"));
    }
    said + "\n"
}

/// How much the data key of the disk has encrypted that has encrypted the most.
fn key_use(disk: &Value, layers: &Value) -> String {
    let layers = layers["Layers"].as_array().map_or(&[][..], Vec::as_slice);
    let most = layers.iter().filter(|layer| layer["KMSKeyId"].is_string());
    let Some(most) = most.max_by_key(|layer| layer["KeyBytes"].as_u64()) else {
        return String::new();
    };
    let bytes = human_size(most["KeyBytes"].as_u64().unwrap_or_default());
    match most["RekeyAdvised"] == true {
        true => format!("{bytes} encrypted: time for sealdisk disk rekey {}", text(disk, "DiskId")),
        false => format!("{bytes} encrypted"),
    }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// Aliases by key id: people know their keys by name.
struct KeyNames(Vec<Value>);

impl KeyNames {
    /// Best effort: where aliases cannot be read, ids do.
    fn read(client: &Client) -> Self {
        Self(client.list_all((KMS, "ListAliases"), &[], ("Aliases", "Alias")).unwrap_or_default())
    }

    fn of(&self, disk: &Value) -> String {
        let key_id = text(disk, "KMSKeyId");
        if disk["Encrypted"] != true {
            return "none: unencrypted".to_owned();
        }
        let alias = self.0.iter().find(|alias| text(alias, "KeyId") == key_id);
        alias.map_or(key_id, |alias| text(alias, "AliasName")).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_to_connect() {
        let lines = Lines::new("d-1", Some("/a b/nbd.sock"), Some("127.0.0.1:10809"));
        assert_eq!(lines.unix.unwrap(), "nbd+unix:///d-1?socket=/a%20b/nbd.sock");
        assert_eq!(lines.tcp.unwrap(), "nbd://127.0.0.1:10809/d-1");
        assert_eq!(
            lines.nbd_client.unwrap(),
            "sudo nbd-client -unix '/a b/nbd.sock' -name d-1 -block-size 4096 /dev/nbd0"
        );
        assert!(lines.qemu.unwrap().contains("file=nbd+unix:///d-1?socket=/a%20b/nbd.sock,"));
        let tcp_only = Lines::new("db", None, Some("[::1]:10809"));
        assert!(tcp_only.nbd_client.unwrap().starts_with("sudo nbd-client ::1 10809 -name db"));
        assert_eq!(tcp_only.unix, None);
    }

    #[test]
    fn shell_words_are_quoted_only_where_they_must_be() {
        assert_eq!(shell_word("/a/b-c.sock"), "/a/b-c.sock");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn disk_ids_are_told_from_names() {
        assert!(is_disk_id("d-bp1aaaaaaaaaaaaaaaaa"));
        for name in ["d-bp1", "db", "d-BP1AAAAAAAAAAAAAAAAA", "d-bp1aaaaaaaaaaaaaaaaaa"] {
            assert!(!is_disk_id(name), "{name}");
        }
    }

    #[test]
    fn limits_are_shown_where_there_are_any() {
        let disk = json!({"IopsLimit": 5000, "BytesPerSecondLimit": 200 << 20});
        assert_eq!(limits_of(&disk), "5000 requests/s, 200 MiB/s");
        assert_eq!(limits_of(&json!({"IopsLimit": null, "BytesPerSecondLimit": null})), "");
    }

    #[test]
    fn an_ambiguous_name_lists_the_ids() {
        let failure = only_one("db", vec![json!({"DiskId": "d-1"}), json!({"DiskId": "d-2"})]);
        assert_eq!(failure.unwrap_err().message, "2 disks are called db: d-1, d-2");
        let failure = only_one("db", vec![]).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "error: there is no disk db\n  code: InvalidDiskId.NotFound\n  \
             hint: sealdisk disk list shows the disks there are"
        );
    }

    #[test]
    fn a_disk_is_shown_with_the_name_of_its_key() {
        let names = KeyNames(vec![json!({"KeyId": "k1", "AliasName": "alias/a"})]);
        assert_eq!(names.of(&json!({"Encrypted": true, "KMSKeyId": "k1"})), "alias/a");
        assert_eq!(names.of(&json!({"Encrypted": true, "KMSKeyId": "k2"})), "k2");
        assert_eq!(names.of(&json!({"Encrypted": false, "KMSKeyId": ""})), "none: unencrypted");
    }
}
