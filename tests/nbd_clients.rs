//! The daemon judged by clients that others wrote: libnbd, qemu and fio.

mod support;

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::daemon::{Daemon, binary};
use support::dice::Dice;
use support::tools::{self, have};

const MIB: usize = 1 << 20;

struct Site {
    folder: tempfile::TempDir,
    daemon: Daemon,
}

impl Site {
    /// A daemon on Unix and TCP.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let daemon = Daemon::start_with(&data, &["--nbd-tcp", "127.0.0.1:0", "--http", "off"]);
        Self { folder, daemon }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn uris(&self, export: &str) -> [String; 2] {
        [self.daemon.uri(export), self.daemon.tcp_uri(export)]
    }

    /// A file of `size` bytes with some data in it, mostly holes.
    fn sparse_image(&self, name: &str, size: u64) -> String {
        use std::os::unix::fs::FileExt;
        let path = self.path(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(size).unwrap();
        let mut dice = Dice::new(9);
        for number in 0..8 {
            let at = number * (size / 8) + dice.below(100) * 4096;
            let len = 1 + dice.below(300_000) as usize;
            file.write_all_at(&dice.bytes(len), at).unwrap();
        }
        path
    }
}

fn json(program: &str, arguments: &[&str]) -> Value {
    serde_json::from_str(&tools::run(program, arguments)).unwrap()
}

fn fails(program: &str, arguments: &[&str]) -> String {
    let output = tools::command(program).args(arguments).output().unwrap();
    assert!(!output.status.success(), "{program} {arguments:?} must fail");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn qemu_io(uri: &str, commands: &[&str]) -> String {
    let mut arguments = vec!["-f", "raw"];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    arguments.push(uri);
    tools::run("qemu-io", &arguments)
}

/// Runs a script with libnbd connected to `uri` as `h`.
fn libnbd(uri: &str, script: &str) {
    let start = r#"
import errno, nbd, sys
def refused(code, call):
    try:
        call()
    except nbd.Error as error:
        assert error.errnum == code, (errno.errorcode[error.errnum], errno.errorcode[code])
        return
    raise AssertionError("not refused")
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
size = h.get_size()
"#;
    tools::run("/usr/bin/python3", &["-c", &format!("{start}\n{script}\nh.shutdown()\n"), uri]);
}

#[test]
fn nbdinfo_shows_what_the_disk_is() {
    if !have("nbdinfo") {
        return;
    }
    let site = Site::new();
    let disk = site.daemon.disk("db", "64M");
    site.daemon.disk_with("frozen", "4M", &["--read-only"]);
    let told = site.daemon.json(&["disk", "uri", "db"]);
    let mut uris: Vec<String> = [&disk, "db"].iter().flat_map(|name| site.uris(name)).collect();
    uris.extend(["UnixUri", "TcpUri"].map(|field| told[field].as_str().unwrap().to_owned()));
    for uri in uris {
        let info = json("nbdinfo", &["--json", &uri]);
        assert_eq!(info["protocol"], "newstyle-fixed");
        assert_eq!(info["structured"], true);
        let export = &info["exports"][0];
        assert_eq!(export["export-size"], 64 << 20);
        assert_eq!(export["is_read_only"], false);
        let abilities = [
            "can_multi_conn",
            "can_cache",
            "can_df",
            "can_fua",
            "can_flush",
            "can_trim",
            "can_zero",
            "can_fast_zero",
        ];
        for ability in abilities {
            assert_eq!(export[ability], true, "{ability}");
        }
        assert_eq!(export["is_rotational"], false);
        assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
        assert_eq!(export["block_size_minimum"], 1);
        assert_eq!(export["block_size_preferred"], 4096);
        assert_eq!(export["block_size_maximum"], 32 << 20);
        tools::run("nbdinfo", &["--can", "multi-conn", &uri]);
    }
    let frozen = json("nbdinfo", &["--json", &site.daemon.uri("frozen")]);
    assert_eq!(frozen["exports"][0]["is_read_only"], true);
    assert_eq!(frozen["exports"][0]["can_trim"], false);
    let listed = json("nbdinfo", &["--list", "--json", &site.daemon.uri("")]);
    let names: Vec<&str> = listed["exports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|export| export["export-name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 2);
    assert!(names.contains(&disk.as_str()), "{names:?}");
    for unknown in ["nothing", "d-0000000000000000000a", "db/", "DB", ""] {
        fails("nbdinfo", &["--size", &site.daemon.uri(unknown)]);
    }
}

#[test]
fn nbdinfo_maps_what_was_written_and_trimmed() {
    if !have("nbdinfo") || !have("qemu-io") {
        return;
    }
    let site = Site::new();
    site.daemon.disk("db", "64M");
    for uri in site.uris("db") {
        qemu_io(&uri, &["write -P 1 1M 2M", "write -P 2 8M 4k", "discard 2M 512k", "flush"]);
        let map = json("nbdinfo", &["--map", "--json", &uri]);
        let found: Vec<(u64, u64, u64)> = map
            .as_array()
            .unwrap()
            .iter()
            .map(|extent| {
                let number = |field: &str| extent[field].as_u64().unwrap();
                (number("offset"), number("length"), number("type"))
            })
            .collect();
        let (m, k) = (1u64 << 20, 1u64 << 10);
        let expected = [
            (0, m, 3),
            (m, m, 0),
            (2 * m, 512 * k, 3),
            (2 * m + 512 * k, 512 * k, 0),
            (3 * m, 5 * m, 3),
            (8 * m, 4 * k, 0),
            (8 * m + 4 * k, 56 * m - 4 * k, 3),
        ];
        assert_eq!(found, expected);
    }
}

#[test]
fn nbdcopy_copies_there_and_back_and_keeps_holes() {
    if !have("nbdcopy") {
        return;
    }
    let site = Site::new();
    let image = site.sparse_image("image", 64 << 20);
    let back = site.path("back");
    for (number, uri) in site.uris("NAME").into_iter().enumerate() {
        for (round, options) in
            [&["-C", "4"][..], &["--request-size=33554432"], &["--synchronous"], &["--no-extents"]]
                .into_iter()
                .enumerate()
        {
            let name = format!("db{number}{round}");
            let disk = site.daemon.disk(&name, "64M");
            let uri = uri.replace("NAME", &name);
            tools::run("nbdcopy", &[options, &["--flush", &image, &uri]].concat());
            tools::run("nbdcopy", &[options, &[&uri, &back]].concat());
            tools::run("cmp", &[&image, &back]);
            let layer = std::fs::metadata(site.daemon.layer_file(&disk)).unwrap();
            let allocated = layer.blocks() * 512;
            assert!(allocated < 12 << 20, "{options:?}: {} KiB allocated", allocated >> 10);
            site.daemon.ok(&["disk", "detach", &name]);
            site.daemon.ok(&["disk", "delete", &name, "--yes"]);
        }
    }
}

/// A daemon that is handed `listener` as systemd would.
fn activated(data: &Path, listener: &UnixListener) -> Daemon {
    let hand_over = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", hand_over]).arg(binary()).args(["serve", "--dev", "--data-dir"]).arg(data);
    command.args(["--nbd-tcp", "off", "--http", "off"]);
    command.stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
    Daemon::launch(command, data)
}

#[test]
fn a_socket_handed_over_is_served_again_and_again() {
    if !have("nbdinfo") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let socket = folder.path().join("handed-over.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    for round in 0..3 {
        // As systemd does: the next daemon gets the same socket, which must not have been closed
        // by the one before.
        let daemon = activated(&data, &listener);
        if round == 0 {
            daemon.disk("db", "64M");
        }
        assert_eq!(tools::run("nbdinfo", &["--size", &uri]).trim(), "67108864");
        assert_eq!(tools::run("nbdinfo", &["--size", &daemon.uri("db")]).trim(), "67108864");
        assert!(daemon.stop().success());
    }
}

#[test]
fn nbdcopy_starts_the_daemon_itself() {
    if !have("nbdcopy") {
        return;
    }
    let site = Site::new();
    site.daemon.disk("db", "64M");
    let image = site.sparse_image("image", 64 << 20);
    tools::run("nbdcopy", &["--flush", &image, &site.daemon.uri("db")]);
    let Site { folder, daemon } = site;
    assert!(daemon.stop().success());
    let data = folder.path().join("data").display().to_string();
    let back = folder.path().join("back").display().to_string();
    let program = binary().display().to_string();
    let serve = ["serve", "--dev", "--nbd-tcp", "off", "--http", "off", "--data-dir", &data];
    let arguments = [&["--", "[", &program][..], &serve, &["]", &back]].concat();
    tools::run("nbdcopy", &arguments);
    tools::run("cmp", &[&image, &back]);
}

#[test]
fn libnbd_without_strict_mode_gets_the_published_errors() {
    if !have("nbdsh") {
        return;
    }
    let site = Site::new();
    site.daemon.disk("db", "64M");
    site.daemon.disk_with("frozen", "1M", &["--read-only"]);
    for uri in site.uris("db") {
        libnbd(
            &uri,
            r"
h.set_strict_mode(0)
block = bytes(512)
for at in (size, size - 511, 1 << 62, (1 << 64) - 512):
    refused(errno.EINVAL, lambda: h.pread(512, at))
    refused(errno.ENOSPC, lambda: h.pwrite(block, at))
    refused(errno.ENOSPC, lambda: h.zero(512, at))
    refused(errno.EINVAL, lambda: h.trim(512, at))
    refused(errno.EINVAL, lambda: h.cache(512, at))
for flags in (nbd.CMD_FLAG_REQ_ONE, 1 << 9, 1 << 15, nbd.CMD_FLAG_NO_HOLE):
    refused(errno.EINVAL, lambda: h.pwrite(block, 0, flags))
refused(errno.EINVAL, lambda: h.trim(512, 0, nbd.CMD_FLAG_NO_HOLE))
refused(errno.EINVAL, lambda: h.zero(512, 0, nbd.CMD_FLAG_DF))
try:
    h.pread((32 << 20) + 1, 0)
    raise AssertionError('too long')
except nbd.Error as error:
    assert error.errnum in (errno.EINVAL, errno.EOVERFLOW)
h.pwrite(b'end', size - 3)
assert h.pread(3, size - 3) == b'end'
assert len(h.pread(32 << 20, 0)) == 32 << 20
",
        );
    }
    libnbd(
        &site.daemon.uri("frozen"),
        r"
assert h.is_read_only()
h.set_strict_mode(0)
for change in (lambda: h.pwrite(bytes(512), 0), lambda: h.zero(512, 0), lambda: h.trim(512, 0)):
    refused(errno.EPERM, change)
h.flush()
assert h.pread(size, 0) == bytes(size)
",
    );
}

#[test]
fn libnbd_reads_in_chunks_zeroes_trims_and_asks_for_extents() {
    if !have("nbdsh") {
        return;
    }
    let site = Site::new();
    site.daemon.disk("db", "64M");
    for uri in site.uris("db") {
        libnbd(
            &uri,
            r"
M = 1 << 20
h.zero(size, 0)
data = bytes(range(256)) * 1024
h.pwrite(data, M, nbd.CMD_FLAG_FUA)
chunks = []
def chunk(data, offset, kind, error):
    chunks.append((offset, len(data), kind))
got = h.pread_structured(4 * M, 0, chunk)
assert got == bytes(M) + data + bytes(3 * M - len(data))
assert (0, M, nbd.READ_HOLE) in chunks, chunks
assert sum(length for _, length, _ in chunks) == 4 * M
chunks.clear()
assert h.pread_structured(4 * M, 0, chunk, nbd.CMD_FLAG_DF) == got
assert len(chunks) == 1 and chunks[0][2] == nbd.READ_DATA
def extents(length, at, flags=0):
    found = []
    def extent(context, offset, entries, error):
        assert context == 'base:allocation' and offset == at
        found.extend(zip(entries[::2], entries[1::2]))
    h.block_status(length, at, extent, flags)
    return found
hole = nbd.STATE_HOLE | nbd.STATE_ZERO
assert extents(size, 0) == [(M, hole), (len(data), 0), (size - M - len(data), hole)]
assert extents(size - M - 1, M + 1, nbd.CMD_FLAG_REQ_ONE) == [(len(data) - 1, 0)]
h.zero(M, 2 * M, nbd.CMD_FLAG_NO_HOLE)
assert extents(M, 2 * M, nbd.CMD_FLAG_REQ_ONE) == [(M, 0)], 'allocated'
refused(errno.ENOTSUP, lambda: h.zero(M, M, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO))
assert h.pread(len(data), M) == data, 'a refused zero changes nothing'
h.zero(1000, M + 10, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(2000, M) == data[:10] + bytes(1000) + data[1010:2000]
h.trim(4 * M, 0)
assert extents(size, 0) == [(size, hole)]
h.cache(4 * M, 0)
h.flush()
",
        );
    }
}

#[test]
fn libnbd_keeps_128_requests_in_flight_on_one_connection() {
    if !have("nbdsh") {
        return;
    }
    let site = Site::new();
    site.daemon.disk("db", "64M");
    for uri in site.uris("db") {
        libnbd(
            &uri,
            r"
def wait():
    while h.aio_in_flight() > 0:
        h.poll(-1)
done = []
def finished(number):
    def callback(error):
        done.append((number, error))
        return 1
    return callback
content = [bytes([number]) * (4096 + number * 37) for number in range(128)]
for number, data in enumerate(content):
    buffer = nbd.Buffer.from_bytearray(bytearray(data))
    flags = nbd.CMD_FLAG_FUA if number % 5 == 0 else 0
    h.aio_pwrite(buffer, number << 16, finished(number), flags)
    if number % 7 == 0:
        h.aio_flush(finished(number))
wait()
assert len(done) == 128 + 19 and not any(error for _, error in done), done
done.clear()
buffers = [nbd.Buffer(len(data)) for data in content]
for number, buffer in enumerate(buffers):
    h.aio_pread(buffer, number << 16, finished(number))
wait()
assert sorted(number for number, _ in done) == list(range(128))
assert [bytes(buffer.to_bytearray()) for buffer in buffers] == content
",
        );
    }
}

#[test]
fn qemu_img_converts_compares_maps_and_benches() {
    if !have("qemu-img") {
        return;
    }
    let site = Site::new();
    let image = site.sparse_image("image", 64 << 20);
    let qcow2 = site.path("image.qcow2");
    tools::run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &image, &qcow2]);
    let mut sources = [("raw", &image), ("qcow2", &qcow2)].into_iter().cycle();
    for (number, uri) in site.uris("NAME").into_iter().enumerate() {
        for (form, source) in sources.by_ref().take(2) {
            let name = format!("{form}{number}");
            site.daemon.disk(&name, "64M");
            let uri = uri.replace("NAME", &name);
            let tuning = ["-n", "--target-is-zero", "-W", "-m", "16"];
            let from_to = ["-f", form, "-O", "raw", source, &uri];
            tools::run("qemu-img", &[&["convert"], &tuning[..], &from_to].concat());
            tools::run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &uri]);
            let map = json("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
            let data: u64 = map
                .as_array()
                .unwrap()
                .iter()
                .filter(|extent| extent["data"] == true)
                .map(|extent| extent["length"].as_u64().unwrap())
                .sum();
            assert!(data > 0 && data < 8 * MIB as u64, "{data} bytes of data in {map}");
        }
        let uri = uri.replace("NAME", &format!("raw{number}"));
        for kind in [&[][..], &["-w", "--flush-interval=64"]] {
            let load = ["-f", "raw", "-d", "64", "-s", "4096", "-c", "2000", &uri];
            tools::run("qemu-img", &[&["bench"], kind, &load].concat());
        }
    }
}

#[test]
fn qemu_zeroes_and_discards_gigabytes_in_one_request() {
    if !have("qemu-io") {
        return;
    }
    let site = Site::new();
    let disk = site.daemon.disk("big", "64G");
    let layer = site.daemon.layer_file(&disk);
    for uri in site.uris("big") {
        let told = qemu_io(
            &uri,
            &[
                "write -P 5 0 64k",
                "write -P 6 40G 64k",
                "write -zun 1M 5G",
                "write -zun 39G 5G",
                "read -P 0 40G 64k",
                "read -P 5 0 64k",
                "write -P 7 63G 1M",
                "discard 0 2047M",
                "discard 40G 2047M",
                "read -P 0 0 1M",
                "read -P 7 63G 1M",
                "discard 63G 1M",
                "write -z 1000 3000",
                "flush",
            ],
        );
        assert!(!told.contains("failed"), "{told}");
    }
    let allocated = std::fs::metadata(layer).unwrap().blocks() * 512;
    assert!(allocated < 4 << 20, "{} KiB allocated", allocated >> 10);
}

#[test]
fn qemu_may_only_read_a_read_only_disk() {
    if !have("qemu-io") {
        return;
    }
    let site = Site::new();
    site.daemon.disk_with("frozen", "4M", &["--read-only"]);
    for uri in site.uris("frozen") {
        tools::run("qemu-io", &["-r", "-f", "raw", "-c", "read -P 0 0 4M", &uri]);
        fails("qemu-io", &["-f", "raw", "-c", "write 0 64k", &uri]);
    }
}

#[test]
fn fio_finds_every_byte_it_wrote() {
    if !have("fio") {
        return;
    }
    let site = Site::new();
    site.daemon.disk("db", "64M");
    for uri in site.uris("db") {
        let uri = format!("--uri={uri}");
        let load = [
            "--name=verify",
            "--ioengine=nbd",
            &uri,
            "--rw=randrw",
            "--bsrange=512-64k",
            "--blockalign=512",
            "--iodepth=64",
            "--size=12M",
            "--numjobs=4",
            "--offset_increment=16M",
            "--thread",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--serialize_overlap=1",
            "--randseed=4711",
            "--output-format=terse",
        ];
        tools::run("fio", &load);
    }
}
