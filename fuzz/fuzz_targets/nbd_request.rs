//! Headers of NBD requests: what is let through stays within the export and its limits.
//!
//! Input: what was negotiated (a byte), then the header and the payload of a BLOCK_STATUS.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sealdisk::limits;
use sealdisk::nbd::context::ChangeContext;
use sealdisk::nbd::export::{ExportInfo, Negotiated, ReplyMode};
use sealdisk::nbd::request::{self, BLOCK_STATUS_PAYLOAD_BYTES_MAX, Command};

const SIZE: u64 = 1 << 30;

fuzz_target!(|bytes: &[u8]| {
    let Some((flags, bytes)) = bytes.split_first() else { return };
    let has = |bit: u8| flags & 1 << bit != 0;
    let replies = [ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended];
    let negotiated = Negotiated {
        export: ExportInfo {
            name: "disk".to_owned(),
            description: String::new(),
            size: SIZE,
            read_only: has(2),
            multi_conn: true,
            rotational: false,
            fast_zero: has(3),
            block_min: if has(4) { 512 } else { 1 },
            block_preferred: 4096,
            block_max: limits::REQUEST_BYTES_MAX,
        },
        replies: replies[usize::from(flags & 3) % replies.len()],
        base_allocation: has(5).then_some(1),
        changes: if has(6) { vec![change(2), change(3)] } else { Vec::new() },
    };
    let header_bytes = request::header_bytes(negotiated.replies);
    let Some((header, rest)) = bytes.split_at_checked(header_bytes) else { return };
    let Ok(mut decoded) = request::decode(header, &negotiated) else { return };
    if decoded.payload <= BLOCK_STATUS_PAYLOAD_BYTES_MAX as u64
        && let Some(payload) = rest.get(..decoded.payload as usize)
    {
        decoded = decoded.with_block_status_payload(payload, &negotiated);
    }
    let Ok(command) = decoded.verdict else { return };
    let (offset, length) = (decoded.offset, decoded.length);
    let stays_within = || {
        let end = offset.checked_add(length);
        assert!(end.is_some_and(|end| end <= SIZE), "{command:?} {offset} {length}");
        let block = u64::from(negotiated.export.block_min);
        assert!(offset.is_multiple_of(block) && length.is_multiple_of(block), "{command:?}");
    };
    match command {
        Command::Read { .. } | Command::Write { .. } => {
            stays_within();
            assert!(length <= u64::from(limits::REQUEST_BYTES_MAX));
        }
        Command::Trim { .. }
        | Command::Cache
        | Command::WriteZeroes { .. }
        | Command::BlockStatus { .. } => stays_within(),
        Command::BlockStatusPayload { .. } | Command::Disconnect | Command::Flush => {}
    }
    let writes = matches!(
        command,
        Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. }
    );
    assert!(!(writes && negotiated.export.read_only));
});

fn change(id: u32) -> ChangeContext {
    ChangeContext { id, snapshot_id: "s-1".to_owned(), layer_id: Default::default() }
}
