//! Negotiation against the negative cases a server must get right, one test for each, and against
//! arbitrary bytes; all in memory.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

use bytes::BytesMut;
use proptest::prelude::*;
use sealdisk::limits;
use sealdisk::nbd::export::{ExportDirectory, ExportInfo, Negotiated, ReplyMode};
use sealdisk::nbd::handshake::{CloseReason, Handshake, Step};
use uuid::Uuid;

#[path = "nbd_client/negotiation.rs"]
mod negotiation;
use negotiation::{
    ACK, Answer, EXPORT_NAME, EXTENDED_HEADERS, FIXED, GO, GREETING, MODES, Mode, REP_INFO,
    REP_META_CONTEXT, Reader, SET_META_CONTEXT, STRUCTURED_REPLY, context_data, info_data,
    long_string, option, take_answer,
};

const ABORT: u32 = 2;
const LIST: u32 = 3;
const PEEK_EXPORT: u32 = 4;
const STARTTLS: u32 = 5;
const INFO: u32 = 6;
const LIST_META_CONTEXT: u32 = 9;

const REP_SERVER: u32 = 2;
const ERR_UNSUP: u32 = 0x8000_0001;
const ERR_INVALID: u32 = 0x8000_0003;
const ERR_UNKNOWN: u32 = 0x8000_0006;
const ERR_SHUTDOWN: u32 = 0x8000_0007;
const ERR_TOO_BIG: u32 = 0x8000_0009;
const ERR_EXT_HEADER_REQD: u32 = 0x8000_000a;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_DESCRIPTION: u16 = 2;
const INFO_BLOCK_SIZE: u16 = 3;

const SIZE: u64 = 10 << 30;

struct Exports(Vec<ExportInfo>);

impl ExportDirectory for Exports {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        assert!(!name.is_empty(), "the empty name is resolved by the negotiation");
        self.0.iter().find(|export| export.name == name).cloned()
    }

    fn list(&self, limit: usize) -> Vec<(String, String)> {
        let names = self.0.iter().map(|export| (export.name.clone(), export.description.clone()));
        names.take(limit).collect()
    }

    /// Beside another export, `disk` has two snapshots below it, of the layers 1 and 2.
    fn snapshots(&self, export: &str, limit: usize) -> Vec<String> {
        let has_any = export == "disk" && self.0.len() > 1;
        let known = if has_any { &["s-1", "s-2"][..] } else { &[] };
        known.iter().take(limit).map(|id| (*id).to_owned()).collect()
    }

    fn layer_of_snapshot(&self, export: &str, snapshot: &str) -> Option<Uuid> {
        let number = self.snapshots(export, 9).iter().position(|id| id == snapshot)?;
        Some(Uuid::from_u128(number as u128 + 1))
    }
}

fn export(name: &str) -> ExportInfo {
    ExportInfo {
        name: name.to_owned(),
        description: format!("about {name}"),
        size: SIZE,
        read_only: false,
        multi_conn: true,
        rotational: false,
        fast_zero: true,
        block_min: 512,
        block_preferred: 4096,
        block_max: limits::REQUEST_BYTES_MAX,
    }
}

fn one_disk() -> Exports {
    Exports(vec![export("disk")])
}

fn two_disks() -> Exports {
    Exports(vec![export("disk"), export("other")])
}

/// What came of a conversation.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    out: Vec<u8>,
    /// `None`: it still waits for more.
    end: Option<Step>,
    left: Vec<u8>,
}

impl Outcome {
    /// The answers to options, after the greeting.
    fn answers(&self) -> Vec<Answer> {
        let mut reader = Reader(&self.out);
        assert_eq!(reader.bytes(GREETING.len()), GREETING);
        let mut answers = Vec::new();
        while !reader.is_empty() {
            answers.push(take_answer(&mut reader));
        }
        answers
    }

    /// Options and kinds of the answers.
    fn kinds(&self) -> Vec<(u32, u32)> {
        self.answers().iter().map(|answer| (answer.option, answer.kind)).collect()
    }

    fn closed(&self) -> CloseReason {
        match &self.end {
            Some(Step::Close(reason)) => *reason,
            other => panic!("not closed: {other:?}"),
        }
    }

    fn negotiated(&self) -> &Negotiated {
        match &self.end {
            Some(Step::Transmit(negotiated)) => negotiated,
            other => panic!("no transmission: {other:?}"),
        }
    }
}

/// Feeds `pieces` one after another, as a connection would, and watches the bounds.
fn converse<'a>(exports: &Exports, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut out = BytesMut::new();
    let mut sent = Vec::new();
    let mut machine = Handshake::new(&mut out);
    let mut input = BytesMut::new();
    let mut end = None;
    for piece in pieces {
        input.extend_from_slice(piece);
        while end.is_none() {
            let step = machine.advance(&mut input, &mut out, exports);
            assert!(out.len() <= limits::LIST_BYTES_MAX + (1 << 20), "answer too long");
            sent.extend_from_slice(&out.split());
            match step {
                Step::NeedMore => {
                    assert!(input.len() < limits::OPTION_BYTES_MAX, "more is needed for no reason");
                    break;
                }
                Step::Answered => {}
                last => end = Some(last),
            }
        }
    }
    Outcome { out: sent, end, left: input.to_vec() }
}

/// A fixed newstyle client without zeroes says all of `options` in one go.
fn say(exports: &Exports, options: &[Vec<u8>]) -> Outcome {
    let bytes = [FIXED, &options.concat()].concat();
    converse(exports, [&bytes[..]])
}

fn go(name: &str) -> Vec<u8> {
    option(GO, &info_data(name, &[]))
}

/// That the connection is usable after `options`: a GO at the end still works.
fn usable_after(options: &[Vec<u8>]) -> Outcome {
    let outcome = say(&one_disk(), &[options, &[go("disk")]].concat());
    outcome.negotiated();
    outcome
}

/// The kind of the only answer to `bad`, after which the connection was usable.
fn answer_to(bad: Vec<u8>) -> u32 {
    let outcome = usable_after(&[bad]);
    outcome.kinds()[0].1
}

// Greeting and client flags.

#[test]
fn unknown_client_flag_bits_close() {
    for bit in 2..32 {
        let flags = (1_u32 << bit | 3).to_be_bytes();
        let outcome = converse(&one_disk(), [&flags[..], &go("disk")]);
        assert_eq!(outcome.closed(), CloseReason::UnknownClientFlags(1 << bit | 3));
        assert_eq!(outcome.out, GREETING);
    }
}

#[test]
fn bad_option_magic_closes() {
    let mut bad = go("disk");
    bad[7] ^= 1;
    assert_eq!(say(&one_disk(), &[bad]).closed(), CloseReason::BadOptionMagic);
}

#[test]
fn options_of_a_client_without_fixed_newstyle_close_and_never_enter_tls() {
    for number in [ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED_REPLY, EXTENDED_HEADERS, 99] {
        for flags in [[0_u8, 0, 0, 0], [0, 0, 0, 2]] {
            let outcome = converse(&one_disk(), [&flags[..], &option(number, &[])]);
            assert_eq!(outcome.closed(), CloseReason::NotFixedNewstyle(number));
            assert_eq!(outcome.out, GREETING);
        }
    }
}

#[test]
fn export_name_of_a_client_without_fixed_newstyle_works() {
    let outcome = converse(&one_disk(), [&[0; 4][..], &option(EXPORT_NAME, b"disk")]);
    assert_eq!(outcome.negotiated().replies, ReplyMode::Simple);
}

// Unknown options and lying lengths.

#[test]
fn unknown_option_of_any_length_is_consumed_and_unsupported() {
    for length in [0, 1, 7, 4096, limits::OPTION_BYTES_MAX, limits::OPTION_BYTES_MAX + 1, 3 << 20] {
        for number in [0, PEEK_EXPORT, 12, u32::MAX] {
            assert_eq!(answer_to(option(number, &vec![0xff; length])), ERR_UNSUP);
        }
    }
}

#[test]
fn data_beyond_the_denial_of_service_bound_closes() {
    for number in [GO, ABORT, LIST, 99] {
        let bytes = limits::OPTION_DISCARD_BYTES_MAX + 1;
        let header = [b"IHAVEOPT", &number.to_be_bytes()[..], &bytes.to_be_bytes()].concat();
        assert_eq!(
            say(&one_disk(), &[header]).closed(),
            CloseReason::OptionTooLong { option: number, bytes }
        );
    }
}

#[test]
fn more_options_than_the_bound_close() {
    let list = option(LIST, &[]);
    let allowed = limits::OPTIONS_MAX as usize;
    let outcome = say(&one_disk(), &vec![list.clone(); allowed]);
    assert_eq!((&outcome.end, outcome.kinds().len()), (&None, 2 * allowed));
    assert_eq!(say(&one_disk(), &vec![list; allowed + 1]).closed(), CloseReason::TooManyOptions);
}

#[test]
fn data_with_list_starttls_structured_reply_or_extended_headers_is_consumed_and_invalid() {
    for number in [LIST, STARTTLS, STRUCTURED_REPLY, EXTENDED_HEADERS] {
        for length in [1, 16, limits::OPTION_BYTES_MAX + 1] {
            assert_eq!(answer_to(option(number, &vec![0; length])), ERR_INVALID);
        }
        // And it had no effect.
        let outcome = usable_after(&[option(number, &[0])]);
        assert_eq!(outcome.negotiated().replies, ReplyMode::Simple);
    }
}

#[test]
fn known_option_with_more_data_than_is_kept_is_too_big() {
    for number in [INFO, GO, LIST_META_CONTEXT, SET_META_CONTEXT] {
        assert_eq!(answer_to(option(number, &vec![0; limits::OPTION_BYTES_MAX + 1])), ERR_TOO_BIG);
    }
}

// INFO and GO.

#[test]
fn malformed_info_and_go_are_invalid_and_the_connection_is_usable() {
    let good = info_data("disk", &[INFO_NAME, INFO_BLOCK_SIZE]);
    let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
    bad.push([&good[..], &[0]].concat());
    bad.push([&good[..], &[0, 0]].concat());
    bad.push([&[0xff; 4][..], b"disk\0\0"].concat());
    bad.push(info_data(&"x".repeat(4097), &[]));
    bad.push(info_data("di\0sk", &[]));
    bad.push([&[0, 0, 0, 2][..], &[0xc3, 0x28], &[0, 0]].concat());
    for number in [INFO, GO] {
        for data in &bad {
            assert_eq!(answer_to(option(number, data)), ERR_INVALID, "{data:?}");
        }
    }
}

#[test]
fn unknown_export_is_unknown_to_info_and_go() {
    for number in [INFO, GO] {
        for name in ["nope", &"é".repeat(2048), "\u{1b}[2J"] {
            let outcome = usable_after(&[option(number, &info_data(name, &[]))]);
            assert_eq!(outcome.kinds()[0], (number, ERR_UNKNOWN));
        }
    }
}

#[test]
fn export_name_that_is_unknown_malformed_or_too_long_closes() {
    for name in [&b"nope"[..], b"di\0sk", &[0xff], &[b'x'; 4097], &[b'x'; 70_000]] {
        let outcome = say(&one_disk(), &[option(EXPORT_NAME, name)]);
        assert_eq!(outcome.closed(), CloseReason::UnknownExport);
        assert_eq!(outcome.out, GREETING);
    }
}

#[test]
fn export_name_is_padded_by_124_zeroes_unless_agreed_otherwise() {
    for (flags, padding) in [([0_u8, 0, 0, 0], 124), ([0, 0, 0, 1], 124), ([0, 0, 0, 3], 0)] {
        let outcome = converse(&one_disk(), [&flags[..], &option(EXPORT_NAME, b"disk")]);
        let mut reader = Reader(&outcome.out[GREETING.len()..]);
        assert_eq!(reader.u64(), SIZE);
        assert_eq!(reader.u16(), outcome.negotiated().transmission_flags());
        assert_eq!(reader.0, vec![0; padding]);
    }
}

#[test]
fn info_export_is_always_sent_and_other_information_when_asked() {
    let infos = |asked: &[u16]| -> Vec<u16> {
        let outcome = say(&one_disk(), &[option(INFO, &info_data("disk", asked))]);
        let answers = outcome.answers();
        assert_eq!(answers.last().unwrap().kind, ACK);
        let infos = answers.iter().filter(|answer| answer.kind == REP_INFO);
        infos.map(|info| Reader(&info.data).u16()).collect()
    };
    assert_eq!(infos(&[]), [INFO_EXPORT, INFO_BLOCK_SIZE]);
    assert_eq!(infos(&[INFO_EXPORT, 77, INFO_NAME]), [INFO_EXPORT, INFO_BLOCK_SIZE, INFO_NAME]);
    assert_eq!(
        infos(&[INFO_DESCRIPTION, INFO_BLOCK_SIZE, INFO_NAME, INFO_NAME]),
        [INFO_EXPORT, INFO_BLOCK_SIZE, INFO_NAME, INFO_DESCRIPTION]
    );
}

#[test]
fn go_after_the_same_info_answers_the_same_and_is_not_padded() {
    for asked in [&[][..], &[INFO_BLOCK_SIZE], &[INFO_NAME, INFO_DESCRIPTION, 9]] {
        let data = info_data("disk", asked);
        // Without NO_ZEROES: still no padding after GO.
        let options = [option(INFO, &data), option(GO, &data)].concat();
        let outcome = converse(&one_disk(), [&[0, 0, 0, 1][..], &options]);
        let answers = outcome.answers();
        let (info, go) = answers.split_at(answers.len() / 2);
        let strip = |answers: &[Answer]| -> Vec<(u32, Vec<u8>)> {
            answers.iter().map(|answer| (answer.kind, answer.data.clone())).collect()
        };
        assert_eq!(strip(info), strip(go));
        assert_eq!(go.last().unwrap().kind, ACK);
    }
}

#[test]
fn block_sizes_are_legal_and_the_minimum_binds_only_who_asked() {
    for (asked, minimum) in [(&[INFO_BLOCK_SIZE][..], 512), (&[], 1)] {
        let outcome = say(&one_disk(), &[option(GO, &info_data("disk", asked))]);
        let answers = outcome.answers();
        let sizes = answers.iter().find(|answer| answer.data.starts_with(&[0, 3])).unwrap();
        let mut sizes = Reader(&sizes.data[2..]);
        let (min, preferred, max) = (sizes.u32(), sizes.u32(), sizes.u32());
        assert!(min.is_power_of_two() && min <= 65536);
        assert!(preferred.is_power_of_two() && preferred >= min.max(512));
        assert!(max >= preferred.max(1 << 20));
        assert_eq!((min, outcome.negotiated().export.block_min), (minimum, minimum));
    }
    for illegal in [
        ExportInfo { block_min: 3, ..export("disk") },
        ExportInfo { block_min: 0, ..export("disk") },
        ExportInfo { block_min: 1 << 17, block_preferred: 1 << 17, ..export("disk") },
        ExportInfo { block_preferred: 256, ..export("disk") },
        ExportInfo { block_max: 2048, ..export("disk") },
        ExportInfo { block_max: u32::MAX, ..export("disk") },
        ExportInfo { size: 513, ..export("disk") },
        ExportInfo { size: 1 << 63, ..export("disk") },
    ] {
        assert!(!illegal.has_legal_sizes(), "{illegal:?}");
    }
}

#[test]
fn empty_name_is_the_only_export_or_none() {
    for number in [INFO, GO] {
        let alone = say(&one_disk(), &[option(number, &info_data("", &[INFO_NAME]))]);
        assert!(alone.answers().iter().any(|answer| answer.data == b"\0\x01disk"));
        for exports in [Exports(vec![]), two_disks()] {
            let outcome = say(&exports, &[option(number, &info_data("", &[]))]);
            assert_eq!(outcome.kinds(), [(number, ERR_UNKNOWN)]);
        }
    }
    let outcome = say(&one_disk(), &[option(EXPORT_NAME, b"")]);
    assert_eq!(outcome.negotiated().export.name, "disk");
    let outcome = say(&two_disks(), &[option(EXPORT_NAME, b"")]);
    assert_eq!(outcome.closed(), CloseReason::UnknownExport);
}

// LIST and ABORT.

#[test]
fn list_names_every_export() {
    let outcome = say(&two_disks(), &[option(LIST, &[])]);
    let answers = outcome.answers();
    let entry = |name: &str, text: &str| [&long_string(name)[..], text.as_bytes()].concat();
    assert_eq!(outcome.kinds(), [(LIST, REP_SERVER), (LIST, REP_SERVER), (LIST, ACK)]);
    assert_eq!(answers[0].data, entry("disk", "about disk"));
    assert_eq!(answers[1].data, entry("other", "about other"));
    assert_eq!(say(&Exports(vec![]), &[option(LIST, &[])]).kinds(), [(LIST, ACK)]);
}

#[test]
fn list_that_is_too_long_ends_in_an_error() {
    let text = "x".repeat(4000);
    let exports = Exports(
        (0..2000)
            .map(|i| ExportInfo { description: text.clone(), ..export(&i.to_string()) })
            .collect(),
    );
    let kinds = say(&exports, &[option(LIST, &[])]).kinds();
    assert_eq!(kinds.last(), Some(&(LIST, ERR_TOO_BIG)));
}

#[test]
fn abort_is_acknowledged_then_closed_whatever_data_it_has() {
    for data in [&[][..], b"why not", &[0; 100_000]] {
        let outcome = say(&one_disk(), &[option(ABORT, data), go("disk")]);
        assert_eq!(outcome.kinds(), [(ABORT, ACK)]);
        assert_eq!(outcome.closed(), CloseReason::Aborted);
    }
}

// Structured replies, extended headers, metadata contexts.

#[test]
fn second_structured_reply_is_invalid() {
    let twice = usable_after(&[option(STRUCTURED_REPLY, &[]), option(STRUCTURED_REPLY, &[])]);
    assert_eq!(twice.kinds()[..2], [(STRUCTURED_REPLY, ACK), (STRUCTURED_REPLY, ERR_INVALID)]);
    assert_eq!(twice.negotiated().replies, ReplyMode::Structured);
}

#[test]
fn structured_reply_after_extended_headers_is_ext_header_reqd() {
    let outcome = usable_after(&[option(EXTENDED_HEADERS, &[]), option(STRUCTURED_REPLY, &[])]);
    assert_eq!(
        outcome.kinds()[..2],
        [(EXTENDED_HEADERS, ACK), (STRUCTURED_REPLY, ERR_EXT_HEADER_REQD)]
    );
    assert_eq!(outcome.negotiated().replies, ReplyMode::Extended);
}

#[test]
fn extended_headers_after_structured_replies_take_precedence_and_a_second_is_invalid() {
    let options = [STRUCTURED_REPLY, EXTENDED_HEADERS, EXTENDED_HEADERS];
    let outcome = usable_after(&options.map(|number| option(number, &[])));
    let kinds: Vec<u32> = outcome.kinds()[..3].iter().map(|(_, kind)| *kind).collect();
    assert_eq!(kinds, [ACK, ACK, ERR_INVALID]);
    assert_eq!(outcome.negotiated().replies, ReplyMode::Extended);
}

#[test]
fn export_name_after_extended_headers_closes() {
    let outcome = say(&one_disk(), &[option(EXTENDED_HEADERS, &[]), option(EXPORT_NAME, b"disk")]);
    assert_eq!(outcome.closed(), CloseReason::ExportNameAfterExtendedHeaders);
}

#[test]
fn meta_context_before_structured_or_extended_is_invalid() {
    for number in [SET_META_CONTEXT, LIST_META_CONTEXT] {
        let data = context_data("disk", &["base:allocation"]);
        assert_eq!(answer_to(option(number, &data)), ERR_INVALID);
    }
}

/// Answers to a context option after structured replies, without the first ACK.
fn contexts(exports: &Exports, number: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let outcome = say(exports, &[option(STRUCTURED_REPLY, &[]), option(number, data)]);
    outcome.answers()[1..].iter().map(|answer| (answer.kind, answer.data.clone())).collect()
}

#[test]
fn unknown_namespace_is_ignored_and_wildcards_only_list() {
    let listed = (REP_META_CONTEXT, b"\0\0\0\0base:allocation".to_vec());
    let selected = (REP_META_CONTEXT, b"\0\0\0\x01base:allocation".to_vec());
    let ack = (ACK, Vec::new());
    let ask =
        |number, queries: &[&str]| contexts(&one_disk(), number, &context_data("disk", queries));
    for queries in [&[][..], &["base:"], &["base:allocation"], &["x:y", "base:", "base:allocation"]]
    {
        assert_eq!(ask(LIST_META_CONTEXT, queries), [listed.clone(), ack.clone()], "{queries:?}");
    }
    for queries in [&[][..], &["base:"], &["qemu:dirty-bitmap:a"], &["base:nothing", "nonsense"]] {
        assert_eq!(ask(SET_META_CONTEXT, queries), std::slice::from_ref(&ack), "{queries:?}");
    }
    assert_eq!(ask(LIST_META_CONTEXT, &["qemu:"]), std::slice::from_ref(&ack));
    let twice = ["base:allocation", "base:allocation"];
    assert_eq!(ask(SET_META_CONTEXT, &twice), [selected, ack]);
}

#[test]
fn malformed_meta_context_is_invalid_and_unknown_export_unknown() {
    let good = context_data("disk", &["base:allocation", "base:"]);
    let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|end| good[..end].to_vec()).collect();
    bad.push([&good[..], &[0]].concat());
    bad.push(context_data("disk", &[&"x".repeat(4097)]));
    bad.push(context_data("disk", &["base:\0"]));
    bad.push([&long_string("disk")[..], &[0xff; 4]].concat());
    for number in [LIST_META_CONTEXT, SET_META_CONTEXT] {
        for data in &bad {
            assert_eq!(contexts(&one_disk(), number, data)[0].0, ERR_INVALID, "{data:?}");
        }
        let unknown = context_data("nope", &["base:allocation"]);
        assert_eq!(contexts(&one_disk(), number, &unknown)[0].0, ERR_UNKNOWN);
    }
}

/// What is agreed on for GO "disk" after these SET_META_CONTEXT options.
fn allocation_after(sets: &[(&str, &[&str])]) -> Option<u32> {
    let mut options = vec![option(STRUCTURED_REPLY, &[])];
    for (name, queries) in sets {
        options.push(option(SET_META_CONTEXT, &context_data(name, queries)));
    }
    options.push(go("disk"));
    say(&two_disks(), &options).negotiated().base_allocation
}

#[test]
fn contexts_hold_for_the_export_they_were_set_for_until_the_next_set() {
    let allocation: &[&str] = &["base:allocation"];
    assert_eq!(allocation_after(&[]), None);
    assert_eq!(allocation_after(&[("disk", allocation)]), Some(1));
    assert_eq!(allocation_after(&[("other", allocation)]), None, "another export than GO's");
    assert_eq!(allocation_after(&[("disk", allocation), ("other", allocation)]), None);
    assert_eq!(allocation_after(&[("disk", allocation), ("disk", &[])]), None);
    assert_eq!(allocation_after(&[("disk", allocation), ("nope", allocation)]), None, "failed set");
    assert_eq!(allocation_after(&[("disk", &["base:"])]), None);
}

fn named_contexts(number: u32, export: &str, queries: &[&str]) -> Vec<(u32, String)> {
    let answers = contexts(&two_disks(), number, &context_data(export, queries));
    let of = |(kind, data): &(u32, Vec<u8>)| {
        let (id, name) = data.split_at_checked(4)?;
        let id = u32::from_be_bytes(id.try_into().unwrap());
        (*kind == REP_META_CONTEXT).then(|| (id, String::from_utf8(name.to_vec()).unwrap()))
    };
    answers.iter().filter_map(of).collect()
}

#[test]
fn changes_since_a_snapshot_are_a_context_where_it_is_in_the_chain() {
    let since = |id: &str| format!("sealdisk:changed-since={id}");
    let both = [(0, since("s-1")), (0, since("s-2"))];
    for query in ["sealdisk:", "sealdisk:changed-since="] {
        assert_eq!(named_contexts(LIST_META_CONTEXT, "disk", &[query]), both);
        assert_eq!(named_contexts(LIST_META_CONTEXT, "other", &[query]), []);
        assert_eq!(named_contexts(SET_META_CONTEXT, "disk", &[query]), [], "selects nothing");
    }
    let one = since("s-2");
    assert_eq!(named_contexts(LIST_META_CONTEXT, "disk", &[&one]), [(0, one.clone())]);
    assert_eq!(named_contexts(SET_META_CONTEXT, "disk", &[&one, &one]), [(2, one.clone())]);
    assert_eq!(named_contexts(SET_META_CONTEXT, "other", &[&one]), []);
    assert_eq!(named_contexts(SET_META_CONTEXT, "disk", &[&since("s-3")]), []);
    let all = named_contexts(LIST_META_CONTEXT, "disk", &[]);
    assert_eq!(all, [&[(0, "base:allocation".to_owned())], &both[..]].concat());

    let set = context_data("disk", &["base:allocation", &since("s-1"), &one]);
    let options = [option(STRUCTURED_REPLY, &[]), option(SET_META_CONTEXT, &set), go("disk")];
    let outcome = say(&two_disks(), &options);
    let negotiated = outcome.negotiated();
    let changes: Vec<(u32, &str, u128)> = negotiated
        .changes
        .iter()
        .map(|change| (change.id, change.snapshot_id.as_str(), change.layer_id.as_u128()))
        .collect();
    assert_eq!(negotiated.base_allocation, Some(1));
    assert_eq!(changes, [(2, "s-1", 1), (3, "s-2", 2)]);
}

#[test]
fn contexts_of_changes_are_bounded() {
    let many: Vec<String> = (0..9).map(|id| format!("sealdisk:changed-since=s-{id}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let answer = |count| {
        let data = context_data("disk", &many[..count]);
        contexts(&two_disks(), SET_META_CONTEXT, &data).last().unwrap().0
    };
    assert_eq!((answer(8), answer(9)), (ACK, ERR_TOO_BIG));
}

#[test]
fn set_that_is_too_big_or_malformed_drops_earlier_contexts() {
    for data in [vec![0; limits::OPTION_BYTES_MAX + 1], vec![1]] {
        let outcome = usable_after(&[
            option(STRUCTURED_REPLY, &[]),
            option(SET_META_CONTEXT, &context_data("disk", &["base:allocation"])),
            option(SET_META_CONTEXT, &data),
        ]);
        assert_eq!(outcome.negotiated().base_allocation, None);
    }
}

// TLS and shutdown.

#[test]
fn starttls_when_off_is_unsupported_every_time() {
    let outcome = usable_after(&[option(STARTTLS, &[]), option(STARTTLS, &[])]);
    assert_eq!(outcome.kinds()[..2], [(STARTTLS, ERR_UNSUP), (STARTTLS, ERR_UNSUP)]);
}

#[test]
fn shutdown_answers_options_by_err_shutdown_and_still_acknowledges_abort() {
    let whole = option(GO, &info_data("disk", &[INFO_NAME]));
    for arrived in 0..whole.len() {
        let (exports, mut out) = (one_disk(), BytesMut::new());
        let mut machine = Handshake::new(&mut out);
        let mut input = BytesMut::from(&[FIXED, &whole[..arrived]].concat()[..]);
        assert_eq!(machine.advance(&mut input, &mut out, &exports), Step::NeedMore);
        machine.shut_down(&mut out);
        input.extend_from_slice(&whole[arrived..]);
        for next in [option(LIST, &[]), option(ABORT, &[])] {
            input.extend_from_slice(&next);
        }
        let end = loop {
            match machine.advance(&mut input, &mut out, &exports) {
                Step::Answered => {}
                last => break last,
            }
        };
        assert_eq!(end, Step::Close(CloseReason::Aborted));
        let outcome = Outcome { out: out.to_vec(), end: Some(end), left: vec![] };
        assert_eq!(outcome.kinds(), [(GO, ERR_SHUTDOWN), (LIST, ERR_SHUTDOWN), (ABORT, ACK)]);
    }
}

#[test]
fn shutdown_closes_on_export_name() {
    let whole = option(EXPORT_NAME, b"disk");
    for arrived in [0, 15, 16, 18] {
        let (exports, mut out) = (one_disk(), BytesMut::new());
        let mut machine = Handshake::new(&mut out);
        let mut input = BytesMut::from(&[FIXED, &whole[..arrived]].concat()[..]);
        assert_eq!(machine.advance(&mut input, &mut out, &exports), Step::NeedMore);
        machine.shut_down(&mut out);
        input.extend_from_slice(&whole[arrived..]);
        let end = machine.advance(&mut input, &mut out, &exports);
        assert_eq!(end, Step::Close(CloseReason::ShuttingDown));
        assert_eq!(&out[..], GREETING);
    }
}

// Transmission flags.

#[test]
fn transmission_flags_say_what_works() {
    let flags = |change: fn(&mut ExportInfo), mode: ReplyMode, base_allocation| {
        let mut export = export("disk");
        export.multi_conn = false;
        export.fast_zero = false;
        change(&mut export);
        let changes = Vec::new();
        Negotiated { export, replies: mode, base_allocation, changes }.transmission_flags()
    };
    let plain = 0b0100_0110_1101; // cache, zeroes, trim, fua, flush, has-flags
    assert_eq!(flags(|_| (), ReplyMode::Simple, None), plain);
    assert_eq!(flags(|_| (), ReplyMode::Structured, Some(1)), plain | 1 << 7);
    assert_eq!(flags(|_| (), ReplyMode::Extended, None), plain | 1 << 7);
    assert_eq!(flags(|_| (), ReplyMode::Extended, Some(1)), plain | 1 << 7 | 1 << 12);
    assert_eq!(flags(|export| export.multi_conn = true, ReplyMode::Simple, None), plain | 1 << 8);
    assert_eq!(flags(|export| export.rotational = true, ReplyMode::Simple, None), plain | 1 << 4);
    assert_eq!(flags(|export| export.fast_zero = true, ReplyMode::Simple, None), plain | 1 << 11);
    let read_only = |export: &mut ExportInfo| {
        export.read_only = true;
        export.fast_zero = true;
    };
    assert_eq!(flags(read_only, ReplyMode::Simple, None), 0b0100_0000_0111);
}

// Whole negotiations, and every way to cut them.

/// A negotiation that uses everything `mode` has, and where its last option ends.
fn full_negotiation(mode: Mode) -> Vec<u8> {
    let mut bytes = FIXED.to_vec();
    bytes.extend(option(STARTTLS, &[]));
    bytes.extend(option(LIST, &[]));
    bytes.extend(option(77, b"who knows"));
    if let Some(number) = mode.option() {
        bytes.extend(option(number, &[]));
        bytes.extend(option(LIST_META_CONTEXT, &context_data("disk", &[])));
        bytes.extend(option(SET_META_CONTEXT, &context_data("disk", &["base:allocation"])));
    }
    bytes.extend(option(INFO, &info_data("nope", &[])));
    bytes.extend(option(GO, &info_data("disk", &[INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE])));
    bytes
}

#[test]
fn full_negotiation_reaches_transmission_in_every_mode_and_leaves_later_bytes_alone() {
    for mode in MODES {
        let pipelined = b"the first request";
        let bytes = [&full_negotiation(mode)[..], pipelined].concat();
        let outcome = converse(&two_disks(), [&bytes[..]]);
        let negotiated = outcome.negotiated();
        let expected = match mode {
            Mode::Simple => (ReplyMode::Simple, None),
            Mode::Structured => (ReplyMode::Structured, Some(1)),
            Mode::Extended => (ReplyMode::Extended, Some(1)),
        };
        assert_eq!((negotiated.replies, negotiated.base_allocation), expected);
        assert_eq!(outcome.left, pipelined);
        let last = outcome.answers().pop().unwrap();
        assert_eq!((last.option, last.kind), (GO, ACK));
    }
}

#[test]
fn every_split_point_gives_the_same_answers() {
    for mode in MODES {
        let bytes = full_negotiation(mode);
        let whole = converse(&two_disks(), [&bytes[..]]);
        for split in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(split);
            assert_eq!(converse(&two_disks(), [head, tail]), whole, "split at {split}");
        }
        assert_eq!(converse(&two_disks(), bytes.chunks(1)), whole, "byte by byte");
    }
}

/// Options that are right, nearly right, or lie about their length.
fn some_option() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![Just("disk"), Just("other"), Just(""), Just("nope")];
    let query = prop_oneof![Just("base:"), Just("base:allocation"), Just("x:y"), Just("")];
    let infos = prop::collection::vec(0_u16..6, 0..4);
    let numbers = prop_oneof![0_u32..14, any::<u32>()];
    prop_oneof![
        4 => (name.clone(), infos, prop_oneof![3 => Just(INFO), 1 => Just(GO)])
            .prop_map(|(name, infos, number)| option(number, &info_data(name, &infos))),
        4 => (name, prop::collection::vec(query, 0..4), prop_oneof![Just(9_u32), Just(10)])
            .prop_map(|(name, queries, number)| option(number, &context_data(name, &queries))),
        4 => prop_oneof![Just(LIST), Just(STARTTLS), Just(STRUCTURED_REPLY), Just(EXTENDED_HEADERS)]
            .prop_map(|number| option(number, &[])),
        2 => (numbers.clone(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(number, data)| option(number, &data)),
        1 => (numbers, prop_oneof![0..100_u32, 65_000..70_000_u32, any::<u32>()],
              prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(number, length, data)| {
                [b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes(), &data].concat()
            }),
    ]
}

proptest! {
    #[test]
    fn any_options_cut_anywhere_get_the_same_answers(
        options in prop::collection::vec(some_option(), 0..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes = [FIXED, &options.concat()].concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
        let whole = converse(&two_disks(), [&bytes[..]]);
        let cut = converse(&two_disks(), pieces);
        prop_assert_eq!(&cut.out, &whole.out);
        prop_assert_eq!(&cut.end, &whole.end);
    }

    #[test]
    fn random_bytes_neither_panic_nor_pile_up(
        flags in prop_oneof![3 => 0_u32..4, 1 => any::<u32>()],
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        converse(&two_disks(), [&flags.to_be_bytes()[..], &bytes]);
    }

    #[test]
    fn lying_lengths_neither_panic_nor_pile_up(
        options in prop::collection::vec((0_u32..14, any::<u32>()), 1..20),
        noise in prop::collection::vec(any::<u8>(), 1..100_000),
    ) {
        let mut pieces = vec![FIXED.to_vec()];
        for (number, length) in options {
            let length = length >> (number * 2);
            pieces.push([b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes()].concat());
            pieces.push(noise.clone());
        }
        converse(&two_disks(), pieces.iter().map(Vec::as_slice));
    }
}
