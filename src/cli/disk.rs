//! `sealdisk disk …`

use serde_json::{Value, json};

use super::arguments::{CreateDisk, DiskCommand, Performance, SetDisk};
use super::client::{Client, ECS, KMS, OWN, encode, text, wrapped};
use super::failure::Failure;
use super::find::{DISK, IMAGE, SNAPSHOT};
use super::output::{Cell, Output, Table, human_age, human_size, render_fields};
use super::snapshot::{numbered_tags, tags_of};
use super::{disk_layers, export, key};
use crate::clock::{Clock, SystemClock};
use crate::units::ByteCount;

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
            let id = DISK.id_of(client, &disk.disk)?;
            client.call(ECS, "AttachDisk", &[("DiskId", &id), ("InstanceId", &instance)])?;
            show(&find(client, &id)?, client, output)
        }
        DiskCommand::Resize(resize) => show(&disk_layers::resize(&resize, client)?, client, output),
        DiskCommand::Rekey(change) => disk_layers::change("RekeyDisk", &change, client, output),
        DiskCommand::SetKey(set) => disk_layers::set_key(&set, client, output),
        DiskCommand::Flatten(change) => disk_layers::change("FlattenDisk", &change, client, output),
        DiskCommand::Reset(reset) => disk_layers::reset(&reset, client, output),
        DiskCommand::Reinit { disk, yes } => disk_layers::reinit((&disk.disk, yes), client, output),
        DiskCommand::Set(set) => set_disk(&set, client, output),
        DiskCommand::Rewrap { disk, wait: _ } => {
            let id = DISK.id_of(client, &disk.disk)?;
            rewrap((OWN, "RewrapDisk"), ("DiskId", &id), client, output)
        }
        DiskCommand::Detach(disk) => {
            let id = DISK.id_of(client, &disk.disk)?;
            detach(client, &id)?;
            show(&find(client, &id)?, client, output)
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
    let ((version, action), parameters) = new_disk(create, client)?;
    let parameters: Vec<(&str, &str)> =
        parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let created = client.call(version, action, &parameters)?;
    let id = text(&created, "DiskId");
    if create.attach {
        let attach = [("DiskId", id), ("InstanceId", create.instance.as_str())];
        client.call(ECS, "AttachDisk", &attach).map_err(|failure| Failure {
            message: format!("{id} was created but not attached: {}", failure.message),
            ..failure
        })?;
    }
    let disk = find(client, id)?;
    show(&disk, client, output)?;
    if output.is_for_people() && create.attach {
        output.note(&format!("\nsealdisk disk uri {id}   shows how to connect"))?;
    }
    Ok(())
}

type Action = (&'static str, &'static str);

/// The action that makes the disk, and its parameters.
fn new_disk(
    create: &CreateDisk,
    client: &Client,
) -> Result<(Action, Vec<(String, String)>), Failure> {
    let speed = performance(&create.performance);
    let snapshot = create.snapshot.as_deref().map(|name| SNAPSHOT.id_of(client, name));
    let image = create.image.as_deref().map(|name| IMAGE.id_of(client, name));
    let (snapshot, image) = (snapshot.transpose()?, image.transpose()?);
    // The published action counts whole GiB and knows neither read-only disks nor images of data
    // disks, cache modes or limits.
    let is_whole = |size: ByteCount| size.get().is_multiple_of(GIB) && size.get() > 0;
    let is_published = create.size.is_none_or(is_whole)
        && image.is_none()
        && !create.read_only
        && speed.is_empty();
    let key_id = create.key_id.as_deref().filter(|key| *key != SERVICE_KEY);
    let key_id = key_id.map(|key| consented(client, key)).transpose()?;
    let mut parameters = vec![("Encrypted", (!create.unencrypted).to_string())];
    parameters.extend(create.size.map(|size| match is_published {
        true => ("Size", (size.get() / GIB).to_string()),
        false => ("SizeBytes", size.get().to_string()),
    }));
    parameters.extend(snapshot.map(|id| ("SnapshotId", id)));
    parameters.extend(image.map(|id| ("ImageId", id)));
    parameters.extend(create.name.clone().map(|name| ("DiskName", name)));
    parameters.extend(create.description.clone().map(|text| ("Description", text)));
    parameters.extend(key_id.map(|key| ("KMSKeyId", key)));
    parameters.extend(speed);
    if create.read_only {
        parameters.push(("ReadOnly", "true".to_owned()));
    }
    if create.multi_attach {
        parameters.push(("MultiAttach", "Enabled".to_owned()));
    }
    let named = parameters.into_iter().map(|(name, value)| (name.to_owned(), value));
    let parameters = named.chain(numbered_tags(&create.tags)).collect();
    let action = if is_published { (ECS, "CreateDisk") } else { (OWN, "CreateLocalDisk") };
    Ok((action, parameters))
}

fn set_disk(set: &SetDisk, client: &Client, output: &Output) -> Result<(), Failure> {
    let before = find(client, &set.disk.disk)?;
    let id = text(&before, "DiskId");
    let speed = performance(&set.performance);
    let mut parameters = vec![("DiskId", id)];
    parameters.extend(speed.iter().map(|(name, value)| (*name, value.as_str())));
    client.call(OWN, "ModifyDiskPerformance", &parameters)?;
    let after = find(client, id)?;
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

/// The key of a new disk, with its owner's consent that the disk service uses it. A KMS on another
/// host knows neither our aliases nor our consent: there the key is named as it is.
pub(super) fn consented(client: &Client, key: &str) -> Result<String, Failure> {
    let server = client.call(OWN, "DescribeServer", &[])?;
    if server["RemoteKms"].is_string() {
        return Ok(key.to_owned());
    }
    let id = key::resolve(client, key)?;
    key::consent(client, &id)?;
    Ok(id)
}

/// Detaches from whatever instance the disk is attached to.
fn detach(client: &Client, id: &str) -> Result<(), Failure> {
    let disk = find(client, id)?;
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
    let disks = DISK.list(client, &[])?;
    let names = KeyNames::for_people(client, output);
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
            ("Made of", source_of(disk).to_owned()),
            ("Key use", key_use(disk, &layers)),
            ("Cache", text(disk, "Cache").to_owned()),
            ("Limits", limits_of(disk)),
            ("Created", text(disk, "CreationTime").to_owned()),
            ("Attached", text(disk, "AttachedTime").to_owned()),
            ("Tags", tags_of(disk)),
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

fn find(client: &Client, disk: &str) -> Result<Value, Failure> {
    DISK.find(client, disk)
}

pub(super) fn size_of(disk: &Value) -> String {
    human_size(disk["SizeBytes"].as_u64().unwrap_or_default())
}

/// The snapshot or image it began as.
fn source_of(disk: &Value) -> &str {
    match text(disk, "SourceSnapshotId") {
        "" => text(disk, "ImageId"),
        snapshot => snapshot,
    }
}

/// `5000 requests/s, 200 MiB/s`; nothing where there is no limit.
fn limits_of(disk: &Value) -> String {
    let iops = disk["IopsLimit"].as_u64().map(|limit| format!("{limit} requests/s"));
    let bytes = disk["BytesPerSecondLimit"].as_u64();
    let bytes = bytes.map(|limit| format!("{}/s", human_size(limit)));
    [iops, bytes].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Wraps the data keys of a disk or key anew; a failure if some were left as they were.
pub(super) fn rewrap(
    call: (&str, &str),
    of: (&str, &str),
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let answer = client.call(call.0, call.1, &[of])?;
    output.answer(&answer, || rewrapped(&answer))?;
    let failed = answer["Failed"].as_array().map_or(&[][..], Vec::as_slice);
    let Some(first) = failed.first() else { return Ok(()) };
    let (layer, why) = (text(first, "LayerId"), text(first, "Message"));
    let message = format!("{} layers were left as they were; {layer}: {why}", failed.len());
    Err(Failure::new(message).hint("mend the cause and call it again"))
}

/// `3 data keys rewrapped, 1 was under the newest version`.
fn rewrapped(answer: &Value) -> String {
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

pub(super) fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// Aliases by key id: people know their keys by name.
pub(super) struct KeyNames(Vec<Value>);

impl KeyNames {
    /// Best effort: where aliases cannot be read, ids do.
    pub(super) fn read(client: &Client) -> Self {
        Self(client.list_all((KMS, "ListAliases"), &[], ("Aliases", "Alias")).unwrap_or_default())
    }

    /// As [`KeyNames::read`], where anybody will see them.
    pub(super) fn for_people(client: &Client, output: &Output) -> Self {
        if output.is_for_people() { Self::read(client) } else { Self(Vec::new()) }
    }

    pub(super) fn of(&self, disk: &Value) -> String {
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
    fn limits_are_shown_where_there_are_any() {
        let disk = json!({"IopsLimit": 5000, "BytesPerSecondLimit": 200 << 20});
        assert_eq!(limits_of(&disk), "5000 requests/s, 200 MiB/s");
        assert_eq!(limits_of(&json!({"IopsLimit": null, "BytesPerSecondLimit": null})), "");
    }

    #[test]
    fn a_disk_is_shown_with_the_name_of_its_key() {
        let names = KeyNames(vec![json!({"KeyId": "k1", "AliasName": "alias/a"})]);
        assert_eq!(names.of(&json!({"Encrypted": true, "KMSKeyId": "k1"})), "alias/a");
        assert_eq!(names.of(&json!({"Encrypted": true, "KMSKeyId": "k2"})), "k2");
        assert_eq!(names.of(&json!({"Encrypted": false, "KMSKeyId": ""})), "none: unencrypted");
    }
}
