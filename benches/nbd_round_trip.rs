//! Requests through the real daemon over a unix socket: one 4 KiB read at a time, and 32 at once.
//! Set beside `write_route`, the difference is what the protocol, the socket and the threads cost.

#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const BLOCK: u32 = 4096;
const READ: u16 = 0;
const WRITE: u16 = 1;

struct Daemon(Child);

impl Daemon {
    fn start(data: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sealdisk"))
            .args(["serve", "--dev", "--nbd-tcp", "off", "--http", "off", "--data-dir"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the daemon starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("a line");
        Self(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection in transmission with simple replies.
fn connect(socket: &Path, export: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).expect("the NBD socket");
    stream.read_exact(&mut [0; 18]).expect("the greeting");
    stream.write_all(&3u32.to_be_bytes()).expect("client flags");
    let mut option = b"IHAVEOPT".to_vec();
    option.extend(1u32.to_be_bytes());
    option.extend((export.len() as u32).to_be_bytes());
    option.extend(export.as_bytes());
    stream.write_all(&option).expect("EXPORT_NAME");
    stream.read_exact(&mut [0; 10]).expect("size and flags");
    stream
}

fn request(command: u16, offset: u64) -> [u8; 28] {
    let mut header = [0; 28];
    header[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
    header[6..8].copy_from_slice(&command.to_be_bytes());
    header[16..24].copy_from_slice(&offset.to_be_bytes());
    header[24..].copy_from_slice(&BLOCK.to_be_bytes());
    header
}

fn benches(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let data = folder.path().join("data");
    let _daemon = Daemon::start(&data);
    let endpoint = format!("unix:{}", data.join("api.sock").display());
    for (name, plain) in [("encrypted", None), ("plain", Some("--unencrypted"))] {
        let made = Command::new(env!("CARGO_BIN_EXE_sealdisk"))
            .args(["--endpoint", &endpoint, "disk", "create", "--name", name])
            .args(["--size", "64M", "--attach"])
            .args(plain)
            .output()
            .expect("the command line runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut stream = connect(&data.join("nbd.sock"), name);
        let payload = vec![7; BLOCK as usize];
        for at in (0..1 << 20).step_by(BLOCK as usize) {
            stream.write_all(&[&request(WRITE, at)[..], &payload].concat()).expect("a write");
            stream.read_exact(&mut [0; 16]).expect("its reply");
        }
        let mut group = criterion.benchmark_group(name);
        for depth in [1usize, 32] {
            let requests: Vec<u8> =
                (0..depth as u64).flat_map(|i| request(READ, i * u64::from(BLOCK))).collect();
            let mut replies = vec![0; depth * (16 + BLOCK as usize)];
            group.throughput(Throughput::Elements(depth as u64));
            group.bench_function(format!("read 4 KiB, {depth} at once"), |bencher| {
                bencher.iter(|| {
                    stream.write_all(&requests).expect("requests");
                    stream.read_exact(&mut replies).expect("replies");
                });
            });
        }
        group.finish();
    }
}

criterion_group!(all, benches);
criterion_main!(all);
