//! Model a: tokio tasks. Reads in the page cache and writes into it run inline in the task;
//! what is large or must wait goes to tokio's blocking threads.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::Arc;

use sealdisk::disk::Waiting;
use sealdisk::layer::Presence;
use sealdisk::nbd::export::Negotiated;
use sealdisk::storage::buffer::{Buffer, BufferPool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;

use super::house::{House, listen};
use super::request_work::{BATCH_BYTES, Batch, Intake, Job, buffer_for, header_bytes};

/// Slices in one call.
const SLICES_MAX: usize = 256;

/// Starts the server at `socket`. The handshake, which is not measured, runs before the
/// connection becomes a task.
pub(crate) fn start(house: &Arc<House>, socket: &Path) {
    let house = Arc::clone(house);
    let pool = BufferPool::new(sealdisk::limits::TOTAL_BUFFER_BYTES_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(2)
        .enable_io()
        .build()
        .expect("a runtime");
    listen(socket, move |stream| {
        let Some((negotiated, early)) = house.greet(&stream) else { return };
        let (house, pool) = (Arc::clone(&house), Arc::clone(&pool));
        runtime.spawn(async move {
            let (reader, writer) = split(stream);
            let writer = Arc::new(Mutex::new(writer));
            let intake = Intake::starting_with(&early);
            let (batch, present) = (Batch::default(), Presence::new());
            let mut connection = Connection { house, reader, writer, pool, intake, batch, present };
            connection.serve(&negotiated).await;
            connection.send().await;
        });
    });
}

fn split(stream: StdStream) -> (OwnedReadHalf, OwnedWriteHalf) {
    stream.set_nonblocking(true).expect("a socket");
    UnixStream::from_std(stream).expect("a runtime around").into_split()
}

struct Connection {
    house: Arc<House>,
    reader: OwnedReadHalf,
    writer: Arc<Mutex<OwnedWriteHalf>>,
    pool: Arc<BufferPool>,
    intake: Intake,
    batch: Batch,
    present: Presence,
}

impl Connection {
    async fn serve(&mut self, negotiated: &Negotiated) {
        let header = header_bytes(negotiated.replies);
        loop {
            let Some(bytes) = self.intake.peek(header) else {
                self.send().await;
                match self.reader.read(self.intake.room()).await {
                    Ok(count @ 1..) => self.intake.filled(count),
                    _ => return,
                }
                continue;
            };
            let Some(job) = Job::decode(bytes, negotiated) else { return };
            self.intake.consume(header);
            let mut buffer = buffer_for(&job, &self.pool);
            if job.is_write() && !self.receive_payload(&mut buffer).await {
                return;
            }
            self.run(job, buffer);
            if self.batch.bytes() > BATCH_BYTES {
                self.send().await;
            }
        }
    }

    fn run(&mut self, job: Job, mut buffer: Buffer) {
        let disk = self.house.disk.as_ref();
        let is_done =
            !job.is_large() && job.run(disk, &mut buffer, &mut self.present, Waiting::Forbidden);
        if is_done {
            return self.batch.add(&job, Some(buffer));
        }
        let (house, writer) = (Arc::clone(&self.house), Arc::clone(&self.writer));
        tokio::spawn(async move {
            let work = tokio::task::spawn_blocking(move || {
                let mut present = Presence::new();
                job.run(house.disk.as_ref(), &mut buffer, &mut present, Waiting::Allowed);
                let mut batch = Batch::default();
                batch.add(&job, Some(buffer));
                batch
            });
            let mut batch = work.await.expect("no job panics");
            send(&writer, &mut batch).await;
        });
    }

    async fn receive_payload(&mut self, into: &mut [u8]) -> bool {
        let mut done = self.intake.take(into);
        while done < into.len() {
            let room = self.intake.room();
            let ahead = room.len().min(if into.len() >= 32 << 10 { 4 << 10 } else { usize::MAX });
            let mut slices =
                [IoSliceMut::new(&mut into[done..]), IoSliceMut::new(&mut room[..ahead])];
            match self.reader.try_read_vectored(&mut slices) {
                Ok(count @ 1..) => {
                    let taken = count.min(into.len() - done);
                    done += taken;
                    self.intake.filled(count - taken);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.send().await;
                    if self.reader.readable().await.is_err() {
                        return false;
                    }
                }
                _ => return false,
            }
        }
        true
    }

    async fn send(&mut self) {
        if self.batch.bytes() > 0 {
            send(&self.writer, &mut self.batch).await;
        }
    }
}

/// Sends all of `batch`. A client that is gone is noticed by the reading side.
async fn send(writer: &Mutex<OwnedWriteHalf>, batch: &mut Batch) {
    let mut slices = batch.slices();
    let mut left = &mut slices[..];
    let mut writer = writer.lock().await;
    while !left.is_empty() {
        let some: &[IoSlice<'_>] = &left[..left.len().min(SLICES_MAX)];
        let Ok(count) = writer.write_vectored(some).await else { break };
        IoSlice::advance_slices(&mut left, count);
    }
    drop(writer);
    batch.clear();
}
