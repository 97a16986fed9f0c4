//! One client from greeting to goodbye, on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;

use super::directory::Exports;
use super::export::Negotiated;
use super::handshake::{CloseReason, Handshake, Step};
use super::intake::Intake;
use super::server::Server;
use super::socket::{SendMode, Socket};
use super::transmission;
use crate::disk::attachment::Guest;
use crate::limits;
use crate::metrics;

/// Bytes taken from the socket at a time during the handshake.
const HANDSHAKE_READ_BYTES: usize = 16 << 10;

/// Why a client did not come to transmission.
#[derive(Debug)]
enum Ended {
    /// It left.
    Left,
    /// It took longer than the handshake may.
    TooSlow,
    /// It asked to, or broke the protocol.
    Closed(CloseReason),
    /// The daemon stops.
    Stopping,
}

/// The connection, as the disk sees it.
struct NbdGuest {
    socket: Arc<Socket>,
    is_hung_up: AtomicBool,
}

impl Guest for NbdGuest {
    fn hang_up(&self) {
        self.is_hung_up.store(true, Ordering::Release);
        self.socket.stop_receiving();
    }

    fn cut(&self) {
        self.socket.cut();
    }

    fn has_departed(&self) -> bool {
        self.socket.peer_has_closed()
    }
}

/// Serves one client until it leaves.
pub(super) fn serve(server: &Arc<Server>, socket: &Arc<Socket>, peer: &str) {
    match negotiate(server, socket) {
        Ok((negotiated, early)) => {
            tracing::info!(%peer, export = %negotiated.export.name, "NBD client attached");
            transmit(server, socket, negotiated, &early);
            tracing::info!(%peer, "NBD client left");
        }
        Err(ended) => {
            metrics::handshake_failures(ended.cause()).increment(1);
            tracing::debug!(%peer, %ended, "NBD handshake ended without transmission");
        }
    }
    socket.cut();
}

/// Runs the handshake. `Ok` holds what the client sent behind it.
fn negotiate(server: &Server, socket: &Socket) -> Result<(Negotiated, BytesMut), Ended> {
    let deadline = server.clock.monotonic() + server.settings.handshake_timeout;
    let exports = Exports::new(&server.disks);
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    let mut handshake = Handshake::new(&mut output);
    loop {
        let left = deadline.saturating_sub(server.clock.monotonic());
        if left.is_zero() {
            return Err(Ended::TooSlow);
        }
        send_all(socket, &mut output, left)?;
        match receive_some(socket, &mut input, left) {
            Err(_) if server.is_stopping.load(Ordering::Acquire) => {
                handshake.shut_down(&mut output);
                send_all(socket, &mut output, left)?;
                return Err(Ended::Stopping);
            }
            outcome => outcome?,
        }
        if let Some(negotiated) =
            answer_all(&mut handshake, &mut input, &exports, |out| send_all(socket, out, left))?
        {
            return Ok((negotiated, input));
        }
    }
}

/// Answers every option in `input`, one by one; `Some` when transmission begins.
fn answer_all(
    handshake: &mut Handshake,
    input: &mut BytesMut,
    exports: &Exports<'_>,
    mut send: impl FnMut(&mut BytesMut) -> Result<(), Ended>,
) -> Result<Option<Negotiated>, Ended> {
    let mut output = BytesMut::new();
    loop {
        let step = handshake.advance(input, &mut output, exports);
        send(&mut output)?;
        match step {
            Step::Answered => {}
            Step::NeedMore => return Ok(None),
            Step::Transmit(negotiated) => return Ok(Some(negotiated)),
            Step::Close(reason) => return Err(Ended::Closed(reason)),
        }
    }
}

fn transmit(server: &Arc<Server>, socket: &Arc<Socket>, negotiated: Negotiated, early: &[u8]) {
    // An idle client may stay for ever; one that does not read its replies may not.
    if socket.set_receive_timeout(None).is_err()
        || socket.set_send_timeout(limits::SEND_TIMEOUT).is_err()
    {
        return;
    }
    let Some(attachment) = server.disks.find_export(&negotiated.export.name) else { return };
    let guest = Arc::new(NbdGuest { socket: Arc::clone(socket), is_hung_up: false.into() });
    let visitor: Arc<dyn Guest> = Arc::<NbdGuest>::clone(&guest);
    match attachment.enter(visitor) {
        Ok(visit) => {
            if server.is_stopping.load(Ordering::Acquire) {
                return;
            }
            let intake = Intake::starting_with(early);
            transmission::run(server, socket, negotiated, (visit, intake), &guest.is_hung_up);
        }
        Err(error) => tracing::warn!(%error, "NBD client refused"),
    }
}

fn send_all(socket: &Socket, output: &mut BytesMut, patience: Duration) -> Result<(), Ended> {
    socket.set_send_timeout(patience).map_err(|_| Ended::Left)?;
    while !output.is_empty() {
        let pieces = [std::io::IoSlice::new(output)];
        let sent = socket.send(&pieces, SendMode::Waiting).map_err(|_| Ended::Left)?;
        let _ = output.split_to(sent);
    }
    Ok(())
}

fn receive_some(socket: &Socket, input: &mut BytesMut, patience: Duration) -> Result<(), Ended> {
    socket.set_receive_timeout(Some(patience)).map_err(|_| Ended::Left)?;
    let mut bytes = [0; HANDSHAKE_READ_BYTES];
    match socket.receive(&mut bytes, &mut []) {
        Ok(0) => Err(Ended::Left),
        Ok(count) => {
            input.extend_from_slice(&bytes[..count]);
            Ok(())
        }
        Err(rustix::io::Errno::AGAIN) => Err(Ended::TooSlow),
        Err(_) => Err(Ended::Left),
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed(reason) => write!(f, "{reason}"),
            other => f.write_str(other.cause()),
        }
    }
}

impl Ended {
    const fn cause(&self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::TooSlow => "timeout",
            Self::Closed(_) => "closed",
            Self::Stopping => "stopping",
        }
    }
}
