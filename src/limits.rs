//! Every bound of the product, named, with what happens when it is reached.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Largest READ or WRITE a client may ask for, in bytes. Longer: `EINVAL`, its payload consumed up
/// to [`PAYLOAD_DISCARD_BYTES_MAX`]. Advertised as INFO_BLOCK_SIZE maximum.
pub const REQUEST_BYTES_MAX: u32 = 32 << 20;

/// Largest payload that is read and thrown away to keep a connection usable; beyond it we close.
pub const PAYLOAD_DISCARD_BYTES_MAX: u64 = 64 << 20;

/// Requests in flight on one connection; at the bound we stop reading its socket.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 256;

/// Data buffers in flight on one connection, in bytes; at the bound we stop reading its socket.
pub const CONNECTION_BUFFER_BYTES_MAX: usize = 64 << 20;

/// Data buffers in flight in the whole process, in bytes; at the bound connections wait their turn.
pub const TOTAL_BUFFER_BYTES_MAX: usize = 256 << 20;

/// Longest export name or other NBD string, in bytes (protocol.md, "String values").
pub const NBD_STRING_BYTES_MAX: usize = 4096;

/// Longest option data that is kept; longer data is read and thrown away, answered by an error.
pub const OPTION_BYTES_MAX: usize = 64 << 10;

/// Longest option data that is read at all; beyond it we close.
pub const OPTION_DISCARD_BYTES_MAX: u32 = 64 << 20;

/// Options one client may send before transmission; beyond it we close.
pub const OPTIONS_MAX: u32 = 1024;

/// Answer to one NBD_OPT_LIST, in bytes; a longer list ends in `NBD_REP_ERR_TOO_BIG`.
pub const LIST_BYTES_MAX: usize = 4 << 20;

/// Shortest hole inside a read that is sent as a hole, in bytes; a shorter one is sent as zeros,
/// because one more chunk costs both sides more than the bytes.
pub const READ_HOLE_BYTES_MIN: u64 = 32 << 10;

/// Holes sent as holes in the answer to one READ; the shortest beyond that are sent as zeros.
pub const READ_HOLES_MAX: u64 = 64;

/// Extents in one BLOCK_STATUS answer; a client asks again from where it ends.
pub const EXTENTS_MAX: usize = 4096;

/// Time a client has for its whole handshake; then we close.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time a reply may wait for a client that does not read; then we close.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// Time a client may pause within a request, whose buffer others wait for; then we close.
pub const PAYLOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Time a client has to take its last replies and close, once nothing more is read from it.
pub const PARTING_TIMEOUT: Duration = Duration::from_secs(2);

/// NBD connections at a time; one more is closed at once and counted.
pub const CONNECTIONS_MAX: usize = 1024;

/// Time a stop waits for requests in flight before it closes the sockets under them.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);

/// Largest disk, in bytes: 64 TiB less nothing, and far below the protocol's 2^63.
pub const DISK_BYTES_MAX: u64 = 64 << 40;

/// Limits of requests a second that a disk can have. Fewer would keep a full queue waiting for
/// longer than clients do; more is no limit on any machine.
pub const IOPS_LIMITS: RangeInclusive<u64> = 10..=100_000_000;

/// Limits of bytes a second that a disk can have: with the least, the largest request keeps the
/// one behind it waiting for 32 s.
pub const BYTES_PER_SECOND_LIMITS: RangeInclusive<u64> = (1 << 20)..=(1 << 40);

/// Percent of the data directory's file system below which a warning is given.
pub const LOW_SPACE_PERCENT: u8 = 5;

/// Largest body of an API request, in bytes; longer: 413.
pub const API_BODY_BYTES_MAX: usize = 1 << 20;

/// Largest head of an API request (request line and headers), in bytes; longer: 431. The official
/// SDKs put every parameter into the query, an 8 KiB encryption context percent-encoded too.
pub const API_HEAD_BYTES_MAX: usize = 64 << 10;

/// Header fields in one API request; one more: 431.
pub const API_HEADERS_MAX: usize = 64;

/// Parameters in one API request, query and form together; one more: 400.
pub const API_PARAMETERS_MAX: usize = 512;

/// Time a client has for the head of a request, and may idle between two; then we close. A TLS
/// handshake has as long.
pub const API_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Time a client has for the body of a request; then 408.
pub const API_BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Time an answer may wait for a client that does not read; then we close.
pub const API_WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests an access key may make in a second unless told otherwise; one more: 429.
pub const API_REQUESTS_PER_SECOND: u32 = 10_000;

/// Age at which an API connection is closed after its current answer, and is cut
/// [`SHUTDOWN_GRACE`] later: nobody holds a place for ever by not reading.
pub const API_CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);

/// API connections at a time on one listener; more wait in the backlog.
pub const API_CONNECTIONS_MAX: usize = 256;

/// API connections at a time on one listener from one peer (an IPv4 address, an IPv6 network of 64
/// bits, a user on the unix socket); one more is closed at once and counted. Half of all, so that
/// nobody alone can keep the others out.
pub const API_CONNECTIONS_PER_PEER_MAX: usize = API_CONNECTIONS_MAX / 2;

/// Attached disks in one daemon; one more is refused with `InstanceDiskLimitExceeded`.
pub const ATTACHED_DISKS_MAX: usize = 10_000;

/// Layers of a disk beyond which they are merged in the background, unless told otherwise.
pub const CHAIN_DEPTH: usize = 16;

/// Layers of a disk at most; a snapshot beyond it is refused with `QuotaExceed.Snapshot`.
pub const LAYERS_MAX: usize = 200;

/// Snapshots of one disk, at most; one more is refused with `QuotaExceed.Snapshot`.
pub const SNAPSHOTS_OF_DISK_MAX: u64 = 256;

/// Days that a snapshot can be kept, if it is not kept for ever.
pub const RETENTION_DAYS: RangeInclusive<u32> = 1..=65_536;

/// Tags on one disk, snapshot or image; one more is refused with `NumberExceed.Tags`.
pub const TAGS_MAX: usize = 20;

/// Jobs at their end that are kept to be looked at; older ones are forgotten.
pub const JOBS_KEPT: u64 = 500;
