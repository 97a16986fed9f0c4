//! What every model serves: one encrypted disk in a file, or nothing at all (the null server).

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use sealdisk::clock::{SeededEntropy, Timestamp};
use sealdisk::crypto::engine::Engine;
use sealdisk::crypto::xts::{Cipher, DATA_KEY_BYTES, XtsCipher};
use sealdisk::disk::Disk;
use sealdisk::disk::align::Span;
use sealdisk::layer::{self, Envelope, Layer, LayerSpec, Writable};
use sealdisk::limits;
use sealdisk::nbd::export::{ExportDirectory, ExportInfo, Negotiated};
use sealdisk::nbd::handshake::{Handshake, Step};
use sealdisk::secret::Secret;
use sealdisk::storage::file::FileStorage;
use sealdisk::storage::{Durability, Storage};
use sealdisk::units::{ByteCount, ByteOffset, DataUnitSize};

/// Bytes of the disk; all of them are written before anything is measured.
pub(crate) const DISK_BYTES: u64 = 512 << 20;

/// The unit of the disk.
pub(crate) const UNIT: DataUnitSize = DataUnitSize::B4096;

/// Socket buffer of every model, in bytes; the product's.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// What is served, and to whom.
pub(crate) struct House {
    /// `None`: the null server, which answers reads from its buffers and drops writes.
    pub(crate) disk: Option<Disk>,
    /// The disk's file.
    pub(crate) file: PathBuf,
    exports: OneExport,
}

struct OneExport(ExportInfo);

impl House {
    /// A disk in `folder`, filled.
    pub(crate) fn with_disk(folder: &Path) -> Arc<Self> {
        let file = folder.join("layer");
        let storage: Arc<dyn Storage> = Arc::new(FileStorage::create(&file).expect("a file"));
        let disk = make_disk(storage);
        fill(&disk);
        Arc::new(Self { disk: Some(disk), file, exports: OneExport(info()) })
    }

    #[allow(dead_code, reason = "only limits.rs has a null server")]
    /// No disk: what protocol and socket cost alone.
    pub(crate) fn without_disk() -> Arc<Self> {
        Arc::new(Self { disk: None, file: PathBuf::new(), exports: OneExport(info()) })
    }

    /// Runs the product's handshake on `stream`. `None` if the client leaves instead. Also what
    /// the client sent behind it.
    pub(crate) fn greet(&self, stream: &UnixStream) -> Option<(Negotiated, BytesMut)> {
        use std::io::{Read, Write};
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(stream, BUFFER);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(stream, BUFFER);
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        let mut handshake = Handshake::new(&mut output);
        let mut stream = stream;
        let mut bytes = [0; 16 << 10];
        loop {
            let step = handshake.advance(&mut input, &mut output, &self.exports);
            stream.write_all(&output).ok()?;
            output.clear();
            match step {
                Step::Answered => {}
                Step::Transmit(negotiated) => return Some((negotiated, input)),
                Step::Close(_) => return None,
                Step::NeedMore => match stream.read(&mut bytes) {
                    Ok(count @ 1..) => input.extend_from_slice(&bytes[..count]),
                    _ => return None,
                },
            }
        }
    }
}

const BUFFER: usize = SOCKET_BUFFER_BYTES;

impl ExportDirectory for OneExport {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        (name == self.0.name).then(|| self.0.clone())
    }

    fn list(&self, _limit: usize) -> Vec<(String, String)> {
        vec![(self.0.name.clone(), String::new())]
    }
}

fn info() -> ExportInfo {
    ExportInfo {
        name: "disk".to_owned(),
        description: String::new(),
        size: DISK_BYTES,
        read_only: false,
        multi_conn: true,
        rotational: false,
        fast_zero: false,
        block_min: 1,
        block_preferred: 4096,
        block_max: limits::REQUEST_BYTES_MAX,
    }
}

fn data_key() -> Secret {
    Secret::random(DATA_KEY_BYTES, &SeededEntropy::new(1))
}

/// The disk's cipher, for a model that goes around [`Disk`].
pub(crate) fn cipher() -> XtsCipher {
    XtsCipher::new(Engine::best(), &data_key()).expect("a good key")
}

fn make_disk(storage: Arc<dyn Storage>) -> Disk {
    let spec = LayerSpec {
        layer_id: uuid::Uuid::from_u128(1),
        disk_id: "d-benchbenchbenchbench".to_owned(),
        parent: None,
        size: ByteCount::new(DISK_BYTES),
        unit: UNIT,
        cipher: Cipher::Aes256XtsPlain64,
        created: Timestamp::from_unix_millis(0),
    };
    let envelope = Envelope {
        key_id: "00000000-0000-4000-8000-000000000001".to_owned(),
        key_version: "00000000-0000-4000-8000-000000000002".to_owned(),
        wrapped: vec![1; 120],
    };
    let key = data_key();
    layer::format(&*storage, &spec, Some((&envelope, &key)), &SeededEntropy::new(2))
        .expect("a new layer");
    let header = layer::read_header(&*storage).expect("its header");
    Disk::new(Layer::<Writable>::open(storage, header, Some(key)).expect("the layer"))
}

fn fill(disk: &Disk) {
    let mut data = vec![0; 1 << 20];
    for at in (0..DISK_BYTES).step_by(data.len()) {
        data.fill(0x5a);
        let span: Span = disk.span(ByteOffset::new(at), data.len());
        disk.write(&span, &mut data, Durability::Volatile).expect("room for the disk");
    }
    disk.flush().expect("a flush");
}

/// Listens at `path` for ever, each client on a thread of its own that runs `serve`.
pub(crate) fn listen(path: &Path, serve: impl Fn(UnixStream) + Send + Sync + 'static) {
    let listener = UnixListener::bind(path).expect("a socket");
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
}
