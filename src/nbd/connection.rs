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
    arrival: u64,
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

    fn arrival(&self) -> u64 {
        self.arrival
    }
}

/// Serves one client until it leaves. `arrival` counts clients as they were accepted.
pub(super) fn serve(server: &Arc<Server>, socket: &Arc<Socket>, (peer, arrival): (&str, u64)) {
    match negotiate(server, socket) {
        Ok((negotiated, early)) => {
            tracing::info!(%peer, export = %negotiated.export.name, "NBD client attached");
            transmit(server, (socket, arrival), negotiated, &early);
            tracing::info!(%peer, "NBD client left");
        }
        Err(ended) => {
            metrics::handshake_failures(ended.cause()).increment(1);
            tracing::debug!(%peer, %ended, "NBD handshake ended without transmission");
        }
    }
    part(server, socket);
}

/// Lets the client have all that was sent: a socket that is closed with bytes of the client unread
/// is reset, and takes what is on its way with it.
fn part(server: &Server, socket: &Socket) {
    socket.finish_sending();
    let deadline = server.clock.monotonic() + limits::PARTING_TIMEOUT;
    let mut ignored = [0; HANDSHAKE_READ_BYTES];
    loop {
        let left = deadline.saturating_sub(server.clock.monotonic());
        if left.is_zero() || !matches!(socket.receive_last(&mut ignored, left), Ok(1..)) {
            break;
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
        let send = |out: &mut BytesMut| send_all(server, socket, (out, deadline));
        send(&mut output)?;
        match receive_some(socket, &mut input, left) {
            Err(_) if server.is_stopping.load(Ordering::Acquire) => {
                handshake.shut_down(&mut output);
                send(&mut output)?;
                return Err(Ended::Stopping);
            }
            outcome => outcome?,
        }
        if let Some(negotiated) = answer_all(&mut handshake, &mut input, &exports, send)? {
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

fn transmit(
    server: &Arc<Server>,
    (socket, arrival): (&Arc<Socket>, u64),
    negotiated: Negotiated,
    early: &[u8],
) {
    // An idle client may stay for ever; one that stops within a request, or does not read its
    // replies, may not.
    if socket.set_receive_timeout(Some(limits::PAYLOAD_TIMEOUT)).is_err()
        || socket.set_send_timeout(limits::SEND_TIMEOUT).is_err()
    {
        return;
    }
    let Some(attachment) = server.disks.find_export(&negotiated.export.name) else { return };
    let guest =
        Arc::new(NbdGuest { socket: Arc::clone(socket), arrival, is_hung_up: false.into() });
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

fn send_all(
    server: &Server,
    socket: &Socket,
    (output, deadline): (&mut BytesMut, Duration),
) -> Result<(), Ended> {
    while !output.is_empty() {
        let left = deadline.saturating_sub(server.clock.monotonic());
        if left.is_zero() {
            return Err(Ended::TooSlow);
        }
        socket.set_send_timeout(left).map_err(|_| Ended::Left)?;
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
