//! Model b: a thread for each connection that parses and runs what needs no waiting, and a pool
//! of two threads for what must wait and, if so asked, for what is large. The product's model,
//! without its bounds.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};

use sealdisk::disk::Waiting;
use sealdisk::layer::Presence;
use sealdisk::nbd::export::Negotiated;
use sealdisk::storage::buffer::{Buffer, BufferPool};

use super::house::{House, listen};
use super::request_work::{BATCH_BYTES, Batch, Intake, Job, buffer_for, header_bytes};

/// Threads of the pool.
const POOL_THREADS: usize = 2;

/// Slices in one call; the kernel takes 1024.
const SLICES_MAX: usize = 256;

type Task = Box<dyn FnOnce() + Send>;

/// Where large requests run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Large {
    /// On the connection's own thread.
    Here,
    /// In the pool.
    InPool,
}

/// Starts the server at `socket`.
pub(crate) fn start(house: &Arc<House>, socket: &Path, large: Large) {
    let house = Arc::clone(house);
    let pool = BufferPool::new(sealdisk::limits::TOTAL_BUFFER_BYTES_MAX);
    let (tasks, queue) = mpsc::channel::<Task>();
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..POOL_THREADS {
        let queue = Arc::clone(&queue);
        std::thread::spawn(move || {
            loop {
                let task = queue.lock().expect("no task panics").recv();
                let Ok(task) = task else { return };
                task();
            }
        });
    }
    listen(socket, move |stream| {
        let Some((negotiated, early)) = house.greet(&stream) else { return };
        let connection = Connection {
            large,
            house: Arc::clone(&house),
            writer: Arc::new(Mutex::new(stream.try_clone().expect("a descriptor"))),
            stream,
            pool: Arc::clone(&pool),
            intake: Intake::starting_with(&early),
            batch: Batch::default(),
            present: Presence::new(),
        };
        connection.serve(&negotiated, &tasks);
    });
}

struct Connection {
    large: Large,
    house: Arc<House>,
    stream: UnixStream,
    writer: Arc<Mutex<UnixStream>>,
    pool: Arc<BufferPool>,
    intake: Intake,
    batch: Batch,
    present: Presence,
}

impl Connection {
    fn serve(mut self, negotiated: &Negotiated, tasks: &mpsc::Sender<Task>) {
        let header = header_bytes(negotiated.replies);
        loop {
            let Some(bytes) = self.intake.peek(header) else {
                self.send();
                match self.stream.read(self.intake.room()) {
                    Ok(count @ 1..) => self.intake.filled(count),
                    _ => return,
                }
                continue;
            };
            let Some(job) = Job::decode(bytes, negotiated) else { break };
            self.intake.consume(header);
            let mut buffer = buffer_for(&job, &self.pool);
            if job.is_write() && !self.receive_payload(&mut buffer) {
                return;
            }
            self.run(job, buffer, tasks);
            if self.batch.bytes() > BATCH_BYTES {
                self.send();
            }
        }
        self.send();
    }

    fn run(&mut self, job: Job, mut buffer: Buffer, tasks: &mpsc::Sender<Task>) {
        let disk = self.house.disk.as_ref();
        let here = self.large == Large::Here || !job.is_large();
        if here && job.run(disk, &mut buffer, &mut self.present, Waiting::Forbidden) {
            return self.batch.add(&job, Some(buffer));
        }
        let (house, writer) = (Arc::clone(&self.house), Arc::clone(&self.writer));
        let task = move || {
            let mut present = Presence::new();
            job.run(house.disk.as_ref(), &mut buffer, &mut present, Waiting::Allowed);
            let mut batch = Batch::default();
            batch.add(&job, Some(buffer));
            send(&writer, &mut batch);
        };
        tasks.send(Box::new(task)).expect("the pool runs");
    }

    fn receive_payload(&mut self, into: &mut [u8]) -> bool {
        let mut done = self.intake.take(into);
        while done < into.len() {
            self.send();
            // All that was here is used up: what follows the payload comes along in the same call.
            let room = self.intake.room();
            let ahead = room.len().min(if into.len() >= 32 << 10 { 4 << 10 } else { usize::MAX });
            let mut slices =
                [IoSliceMut::new(&mut into[done..]), IoSliceMut::new(&mut room[..ahead])];
            let Ok(count @ 1..) = self.stream.read_vectored(&mut slices) else { return false };
            let taken = count.min(into.len() - done);
            done += taken;
            self.intake.filled(count - taken);
        }
        true
    }

    fn send(&mut self) {
        if self.batch.bytes() > 0 {
            send(&self.writer, &mut self.batch);
        }
    }
}

/// Sends all of `batch`. A client that is gone is noticed by the reading side.
fn send(writer: &Mutex<UnixStream>, batch: &mut Batch) {
    let mut slices = batch.slices();
    let mut left = &mut slices[..];
    let mut writer = writer.lock().expect("nobody panics while sending");
    while !left.is_empty() {
        let some: &[IoSlice<'_>] = &left[..left.len().min(SLICES_MAX)];
        let Ok(count) = writer.write_vectored(some) else { break };
        IoSlice::advance_slices(&mut left, count);
    }
    drop(writer);
    batch.clear();
}
