//! From the greeting to transmission: fixed newstyle negotiation as a machine over bytes
//! (spec, "Handshake", "Option types").
//!
//! [`Handshake::advance`] takes bytes from one buffer and puts answers into another. Options whose
//! data we use are waited for whole, up to [`limits::OPTION_BYTES_MAX`]; all other data is thrown
//! away as it streams in, so what a client claims about lengths costs no memory.
//!
//! TLS is not offered yet. When it is, `NBD_OPT_STARTTLS` ends in a [`Step`] of its own, and
//! everything in `Agreed` must be dropped with it: the spec forbids to keep what was said in clear.

use std::ops::ControlFlow;

use bytes::{Buf, BufMut, BytesMut};

use super::context::{self, Selected};
use super::export::{ExportDirectory, ExportInfo, Negotiated, ReplyMode};
use super::option::{self, ContextRequest, InfoRequest, OptionReply};
use super::wire::{self, OptionHeader};
use crate::limits;

/// What the caller does next. Whatever it is, `out` is sent first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read more from the client, then advance again.
    NeedMore,
    /// An option was answered: send `out` and advance again *before* reading. One option at a time,
    /// so that a client that sends many and reads none cannot make `out` grow.
    Answered,
    /// Transmission begins with the next byte of `input`.
    Transmit(Negotiated),
    /// Close.
    Close(CloseReason),
}

/// Why a negotiation ended without transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The client ended it in the way the protocol wants.
    #[error("the client aborted the negotiation")]
    Aborted,
    /// Advanced once more after transmission had begun.
    #[error("the negotiation is over")]
    Over,
    /// The server is stopping, and `NBD_OPT_EXPORT_NAME` has no way to say so.
    #[error("the server is stopping")]
    ShuttingDown,
    /// The client set flags we did not offer.
    #[error("unknown client flags {0:#010x}")]
    UnknownClientFlags(u32),
    /// An option did not begin with `IHAVEOPT`; there is no way to find the next one.
    #[error("an option without its magic number")]
    BadOptionMagic,
    /// The client uses options without having said that it understands answers to them.
    #[error("option {0} from a client without fixed newstyle")]
    NotFixedNewstyle(u32),
    /// More data than we read even to throw it away ([`limits::OPTION_DISCARD_BYTES_MAX`]).
    #[error("option {option} with {bytes} bytes of data")]
    OptionTooLong {
        /// `NBD_OPT_*`.
        option: u32,
        /// What its header claims.
        bytes: u32,
    },
    /// More than [`limits::OPTIONS_MAX`] options.
    #[error("too many options")]
    TooManyOptions,
    /// `NBD_OPT_EXPORT_NAME` for an export that is not there; it cannot be answered by an error.
    #[error("no such export")]
    UnknownExport,
    /// `NBD_OPT_EXPORT_NAME` after extended headers, which the spec forbids.
    #[error("NBD_OPT_EXPORT_NAME after NBD_OPT_EXTENDED_HEADERS")]
    ExportNameAfterExtendedHeaders,
}

/// One client's negotiation.
#[derive(Debug)]
pub struct Handshake {
    state: State,
    client: ClientFlags,
    agreed: Agreed,
    options: u32,
    shutting_down: bool,
}

/// What the next bytes of `input` are.
#[derive(Clone, Copy, Debug)]
enum State {
    ClientFlags,
    OptionHeader,
    /// Data of an option that is kept.
    Data(OptionHeader),
    /// Data that is thrown away, `remaining` bytes of it; then the option is answered, unless it
    /// already was.
    Skip {
        header: OptionHeader,
        remaining: u32,
        is_answered: bool,
    },
    Over(CloseReason),
}

#[derive(Clone, Copy, Debug, Default)]
struct ClientFlags {
    fixed_newstyle: bool,
    no_zeroes: bool,
}

/// What stateful options have set.
#[derive(Debug, Default)]
struct Agreed {
    replies: ReplyMode,
    /// What is selected, if anything was.
    contexts: Option<Selected>,
}

/// Whether to go on with what is in `input`.
type Flow = ControlFlow<Step>;

const ANSWERED: Flow = ControlFlow::Break(Step::Answered);

impl Handshake {
    /// A new negotiation; the greeting is put into `out`.
    pub fn new(out: &mut BytesMut) -> Self {
        out.put_u64(wire::INIT_PASSWD);
        out.put_u64(wire::IHAVEOPT);
        out.put_u16(wire::NBD_FLAG_FIXED_NEWSTYLE | wire::NBD_FLAG_NO_ZEROES);
        Self {
            state: State::ClientFlags,
            client: ClientFlags::default(),
            agreed: Agreed::default(),
            options: 0,
            shutting_down: false,
        }
    }

    /// Takes what it can use from the front of `input` and appends answers to `out`, up to and
    /// including the answer to one option. Never needs more than
    /// [`limits::OPTION_BYTES_MAX`] bytes in `input` to go on.
    pub fn advance(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
        exports: &dyn ExportDirectory,
    ) -> Step {
        loop {
            let flow = match self.state {
                State::ClientFlags => self.take_client_flags(input),
                State::OptionHeader => self.take_option_header(input),
                State::Data(header) => self.take_data(header, input, out, exports),
                State::Skip { header, remaining, is_answered } => match skip(input, remaining) {
                    0 if is_answered => self.next_option(),
                    0 => self.answer_without_data(header, out, exports),
                    remaining => {
                        self.state = State::Skip { header, remaining, is_answered };
                        ControlFlow::Break(Step::NeedMore)
                    }
                },
                State::Over(reason) => close(reason),
            };
            if let ControlFlow::Break(step) = flow {
                match &step {
                    Step::NeedMore => {}
                    Step::Answered => self.state = State::OptionHeader,
                    Step::Transmit(_) => self.state = State::Over(CloseReason::Over),
                    Step::Close(reason) => self.state = State::Over(*reason),
                }
                return step;
            }
        }
    }

    /// From now on every option but ABORT is answered by `NBD_REP_ERR_SHUTDOWN`; one that is still
    /// arriving is answered at once.
    pub fn shut_down(&mut self, out: &mut BytesMut) {
        self.shutting_down = true;
        let (header, remaining) = match self.state {
            State::Data(header) if header.option == wire::NBD_OPT_EXPORT_NAME => {
                self.state = State::Over(CloseReason::ShuttingDown);
                return;
            }
            State::Data(header) => (header, header.length),
            State::Skip { header, remaining, is_answered: false }
                if header.option != wire::NBD_OPT_ABORT =>
            {
                (header, remaining)
            }
            _ => return,
        };
        refuse_for_shutdown(&mut OptionReply::new(header.option, out));
        self.state = State::Skip { header, remaining, is_answered: true };
    }

    fn take_client_flags(&mut self, input: &mut BytesMut) -> Flow {
        let Ok(flags) = input.try_get_u32() else {
            return ControlFlow::Break(Step::NeedMore);
        };
        if flags & !(wire::NBD_FLAG_C_FIXED_NEWSTYLE | wire::NBD_FLAG_C_NO_ZEROES) != 0 {
            return close(CloseReason::UnknownClientFlags(flags));
        }
        self.client = ClientFlags {
            fixed_newstyle: flags & wire::NBD_FLAG_C_FIXED_NEWSTYLE != 0,
            no_zeroes: flags & wire::NBD_FLAG_C_NO_ZEROES != 0,
        };
        self.next_option()
    }

    /// Decides from an option's header alone what becomes of its data.
    fn take_option_header(&mut self, input: &mut BytesMut) -> Flow {
        let Some(bytes) = input.first_chunk() else {
            return ControlFlow::Break(Step::NeedMore);
        };
        let Some(header) = OptionHeader::parse(bytes) else {
            return close(CloseReason::BadOptionMagic);
        };
        input.advance(wire::OPTION_HEADER_BYTES);
        let OptionHeader { option, length } = header;

        self.options += 1;
        if self.options > limits::OPTIONS_MAX {
            return close(CloseReason::TooManyOptions);
        }
        // The spec lets us answer such a client; but it never said that it can read answers.
        if !self.client.fixed_newstyle && option != wire::NBD_OPT_EXPORT_NAME {
            return close(CloseReason::NotFixedNewstyle(option));
        }
        if option == wire::NBD_OPT_EXPORT_NAME {
            // It has no error answer: what would be one closes.
            if self.shutting_down {
                return close(CloseReason::ShuttingDown);
            } else if self.agreed.replies == ReplyMode::Extended {
                return close(CloseReason::ExportNameAfterExtendedHeaders);
            } else if length as usize > limits::NBD_STRING_BYTES_MAX {
                return close(CloseReason::UnknownExport);
            }
        }
        if length > limits::OPTION_DISCARD_BYTES_MAX {
            return close(CloseReason::OptionTooLong { option, bytes: length });
        }
        if option == wire::NBD_OPT_SET_META_CONTEXT {
            // The spec: earlier contexts are replaced even when the option fails.
            self.agreed.contexts = None;
        }
        let is_kept = data_is_used(option)
            && length as usize <= limits::OPTION_BYTES_MAX
            && !self.shutting_down;
        self.state = if is_kept {
            State::Data(header)
        } else {
            State::Skip { header, remaining: length, is_answered: false }
        };
        ControlFlow::Continue(())
    }

    /// Answers an option whose data is all there.
    fn take_data(
        &mut self,
        header: OptionHeader,
        input: &mut BytesMut,
        out: &mut BytesMut,
        exports: &dyn ExportDirectory,
    ) -> Flow {
        let length = header.length as usize;
        if input.len() < length {
            return ControlFlow::Break(Step::NeedMore);
        }
        let data = input.split_to(length);
        if header.option == wire::NBD_OPT_EXPORT_NAME {
            return self.export_name(&data, out, exports);
        }
        let mut reply = OptionReply::new(header.option, out);
        match header.option {
            wire::NBD_OPT_INFO | wire::NBD_OPT_GO => {
                let begins = header.option == wire::NBD_OPT_GO;
                match self.info(&data, &mut reply, exports) {
                    Some(negotiated) if begins => ControlFlow::Break(Step::Transmit(negotiated)),
                    _ => ANSWERED,
                }
            }
            option => {
                let selects = option == wire::NBD_OPT_SET_META_CONTEXT;
                self.meta_context(selects, &data, &mut reply, exports);
                ANSWERED
            }
        }
    }

    /// Answers an option whose data is of no use, now that it has gone by.
    fn answer_without_data(
        &mut self,
        header: OptionHeader,
        out: &mut BytesMut,
        exports: &dyn ExportDirectory,
    ) -> Flow {
        let mut reply = OptionReply::new(header.option, out);
        match header.option {
            // Data is to be ignored here, so says the spec.
            wire::NBD_OPT_ABORT => {
                reply.ack();
                return close(CloseReason::Aborted);
            }
            _ if self.shutting_down => refuse_for_shutdown(&mut reply),
            wire::NBD_OPT_LIST
            | wire::NBD_OPT_STARTTLS
            | wire::NBD_OPT_STRUCTURED_REPLY
            | wire::NBD_OPT_EXTENDED_HEADERS
                if header.length > 0 =>
            {
                reply.error(wire::NBD_REP_ERR_INVALID, "this option takes no data");
            }
            wire::NBD_OPT_LIST => list(&mut reply, exports),
            // UNSUP and not POLICY: no configuration of this server could allow it.
            wire::NBD_OPT_STARTTLS => {
                reply.error(wire::NBD_REP_ERR_UNSUP, "this server does not offer TLS");
            }
            wire::NBD_OPT_STRUCTURED_REPLY => self.structured_reply(&mut reply),
            wire::NBD_OPT_EXTENDED_HEADERS => self.extended_headers(&mut reply),
            option if data_is_used(option) => {
                reply.error(wire::NBD_REP_ERR_TOO_BIG, "the option's data is too long");
            }
            _ => reply.error(wire::NBD_REP_ERR_UNSUP, "unknown option"),
        }
        ANSWERED
    }

    fn export_name(&self, data: &[u8], out: &mut BytesMut, exports: &dyn ExportDirectory) -> Flow {
        let Some((name, export)) =
            option::string(data).ok().and_then(|name| Some((name, exports.resolve(name)?)))
        else {
            return close(CloseReason::UnknownExport);
        };
        let negotiated = self.negotiated(name, export, false);
        out.put_u64(negotiated.export.size);
        out.put_u16(negotiated.transmission_flags());
        if !self.client.no_zeroes {
            out.put_bytes(0, wire::EXPORT_NAME_PADDING_BYTES);
        }
        ControlFlow::Break(Step::Transmit(negotiated))
    }

    /// Answers INFO or GO; `Some` if the last answer is an ACK.
    fn info(
        &self,
        data: &[u8],
        reply: &mut OptionReply<'_>,
        exports: &dyn ExportDirectory,
    ) -> Option<Negotiated> {
        let request = match InfoRequest::parse(data) {
            Ok(request) => request,
            Err(why) => {
                reply.malformed(why);
                return None;
            }
        };
        let Some(export) = exports.resolve(request.export) else {
            refuse_unknown(request.export, reply);
            return None;
        };
        let negotiated = self.negotiated(request.export, export, request.wants_block_size);
        let export = &negotiated.export;
        reply.info_export(export.size, negotiated.transmission_flags());
        // Asked or not: clients ignore what they do not know, and the others gain.
        reply.info_block_size(export.block_min, export.block_preferred, export.block_max);
        if request.wants_name {
            reply.info_text(wire::NBD_INFO_NAME, &export.name);
        }
        if request.wants_description && !export.description.is_empty() {
            reply.info_text(wire::NBD_INFO_DESCRIPTION, &export.description);
        }
        reply.ack();
        Some(negotiated)
    }

    fn structured_reply(&mut self, reply: &mut OptionReply<'_>) {
        match self.agreed.replies {
            ReplyMode::Simple => {
                self.agreed.replies = ReplyMode::Structured;
                reply.ack();
            }
            ReplyMode::Structured => {
                reply.error(wire::NBD_REP_ERR_INVALID, "structured replies are already agreed on");
            }
            ReplyMode::Extended => reply
                .error(wire::NBD_REP_ERR_EXT_HEADER_REQD, "extended headers are already agreed on"),
        }
    }

    fn extended_headers(&mut self, reply: &mut OptionReply<'_>) {
        if self.agreed.replies == ReplyMode::Extended {
            reply.error(wire::NBD_REP_ERR_INVALID, "extended headers are already agreed on");
        } else {
            self.agreed.replies = ReplyMode::Extended;
            reply.ack();
        }
    }

    /// Answers LIST_META_CONTEXT, or SET_META_CONTEXT if it `selects`.
    fn meta_context(
        &mut self,
        selects: bool,
        data: &[u8],
        reply: &mut OptionReply<'_>,
        exports: &dyn ExportDirectory,
    ) {
        if self.agreed.replies == ReplyMode::Simple {
            return reply.error(
                wire::NBD_REP_ERR_INVALID,
                "structured replies or extended headers must be agreed on first",
            );
        }
        let request = match ContextRequest::parse(data) {
            Ok(request) => request,
            Err(why) => return reply.malformed(why),
        };
        let Some(export) = exports.resolve(request.export) else {
            return refuse_unknown(request.export, reply);
        };
        if !selects {
            return context::list(&request, &export, reply, exports);
        }
        self.agreed.contexts = Selected::answer(&request, &export, reply, exports);
    }

    /// What would be agreed on if transmission began with `export`, asked for under `name`.
    fn negotiated(&self, name: &str, export: ExportInfo, keeps_sizes: bool) -> Negotiated {
        debug_assert!(export.has_legal_sizes(), "illegal sizes: {export:?}");
        let block_min = if keeps_sizes { export.block_min } else { 1 };
        let selected = self.agreed.contexts.as_ref().filter(|selected| selected.export == name);
        Negotiated {
            export: ExportInfo { block_min, ..export },
            replies: self.agreed.replies,
            base_allocation: selected.and_then(Selected::allocation),
            changes: selected.map(|selected| selected.changes.clone()).unwrap_or_default(),
        }
    }

    fn next_option(&mut self) -> Flow {
        self.state = State::OptionHeader;
        ControlFlow::Continue(())
    }
}

fn list(reply: &mut OptionReply<'_>, exports: &dyn ExportDirectory) {
    let mut bytes = 0;
    for (name, description) in exports.list(limits::ATTACHED_DISKS_MAX) {
        bytes += name.len() + description.len();
        if bytes > limits::LIST_BYTES_MAX {
            return reply.error(wire::NBD_REP_ERR_TOO_BIG, "too many exports to list them");
        }
        reply.server(&name, &description);
    }
    reply.ack();
}

fn refuse_unknown(name: &str, reply: &mut OptionReply<'_>) {
    let text = if name.is_empty() {
        "there is no default export: name one".to_owned()
    } else {
        format!("there is no export {name:?}")
    };
    reply.error(wire::NBD_REP_ERR_UNKNOWN, &text);
}

fn refuse_for_shutdown(reply: &mut OptionReply<'_>) {
    reply.error(wire::NBD_REP_ERR_SHUTDOWN, "the server is stopping");
}

/// Whether an option's data is waited for, rather than thrown away.
const fn data_is_used(option: u32) -> bool {
    matches!(
        option,
        wire::NBD_OPT_EXPORT_NAME
            | wire::NBD_OPT_INFO
            | wire::NBD_OPT_GO
            | wire::NBD_OPT_LIST_META_CONTEXT
            | wire::NBD_OPT_SET_META_CONTEXT
    )
}

/// Throws away up to `remaining` bytes of `input`; what is still to come.
fn skip(input: &mut BytesMut, remaining: u32) -> u32 {
    let here = u32::try_from(input.len()).unwrap_or(u32::MAX).min(remaining);
    input.advance(here as usize);
    remaining - here
}

const fn close(reason: CloseReason) -> Flow {
    ControlFlow::Break(Step::Close(reason))
}
