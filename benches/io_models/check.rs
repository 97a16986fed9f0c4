//! A server that is fast and wrong is not worth a number: what one model writes, all read.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::Model;
use super::house::DISK_BYTES;

const READ: u16 = 0;
const WRITE: u16 = 1;

/// # Panics
/// If they do not.
pub(crate) fn every_model_reads_what_the_others_wrote(models: &[Model]) {
    let mut clients: Vec<_> = models.iter().map(|model| Client::connect(&model.socket)).collect();
    for (index, length) in [4096_usize, 36 << 10, 64 << 10, 256 << 10, 1 << 20].iter().enumerate() {
        for writer in 0..clients.len() {
            let at = ((index * clients.len() + writer) as u64) << 20;
            let fill = |byte: usize| (byte / 7 + writer + 1) as u8;
            let data: Vec<u8> = (0..*length).map(fill).collect();
            clients[writer].write(at, &data);
            for (reader, client) in clients.iter_mut().enumerate() {
                let title = models[reader].title;
                assert!(client.read(at, *length) == data, "{title}, {length} bytes at {at}");
            }
        }
    }
    clients.iter_mut().zip(models).for_each(|(client, model)| client.many_at_once(model.title));
}

/// Writes the whole disk at `socket`.
pub(crate) fn fill(socket: &Path) {
    let mut client = Client::connect(socket);
    let data = vec![0x5a; 1 << 20];
    (0..DISK_BYTES).step_by(data.len()).for_each(|at| client.write(at, &data));
}

/// One connection in transmission with simple replies.
struct Client(UnixStream);

impl Client {
    fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).expect("the socket");
        stream.read_exact(&mut [0; 18]).expect("the greeting");
        let flags_and_option = [&3_u32.to_be_bytes()[..], b"IHAVEOPT", &[0, 0, 0, 1, 0, 0, 0, 4]];
        stream.write_all(&[&flags_and_option.concat()[..], b"disk"].concat()).expect("an option");
        stream.read_exact(&mut [0; 10]).expect("size and flags");
        Self(stream)
    }

    fn request(command: u16, cookie: u64, at: u64, length: usize) -> Vec<u8> {
        let mut header = 0x2560_9513_u32.to_be_bytes().to_vec();
        header.extend([0, 0]);
        header.extend(command.to_be_bytes());
        header.extend(cookie.to_be_bytes());
        header.extend(at.to_be_bytes());
        header.extend((length as u32).to_be_bytes());
        header
    }

    /// The cookie of a reply without error.
    fn reply(&mut self) -> u64 {
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply).expect("a reply");
        assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "magic and no error");
        u64::from_be_bytes(reply[8..].try_into().expect("8 bytes"))
    }

    fn write(&mut self, at: u64, data: &[u8]) {
        self.0.write_all(&Self::request(WRITE, at, at, data.len())).expect("a header");
        self.0.write_all(data).expect("a payload");
        assert_eq!(self.reply(), at);
    }

    fn read(&mut self, at: u64, length: usize) -> Vec<u8> {
        self.0.write_all(&Self::request(READ, at, at, length)).expect("a header");
        assert_eq!(self.reply(), at);
        let mut data = vec![0; length];
        self.0.read_exact(&mut data).expect("the data");
        data
    }

    /// More writes in one batch than any model has slots, and as many reads.
    fn many_at_once(&mut self, title: &str) {
        const COUNT: u64 = 200;
        let block = |number: u64| vec![number as u8 ^ 0x33; 4096];
        let batch: Vec<u8> = (0..COUNT)
            .flat_map(|number| [Self::request(WRITE, number, number * 4096, 4096), block(number)])
            .flatten()
            .collect();
        self.0.write_all(&batch).expect("a batch");
        let mut seen: Vec<u64> = (0..COUNT).map(|_| self.reply()).collect();
        seen.sort_unstable();
        assert!(seen.iter().copied().eq(0..COUNT), "{title}: each write is answered once");
        let reads = (0..COUNT).flat_map(|number| Self::request(READ, number, number * 4096, 4096));
        self.0.write_all(&reads.collect::<Vec<u8>>()).expect("a batch");
        for _ in 0..COUNT {
            let number = self.reply();
            let mut data = vec![0; 4096];
            self.0.read_exact(&mut data).expect("the data");
            assert!(data == block(number), "{title}: block {number}");
        }
    }
}
