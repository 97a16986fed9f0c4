//! Finding events again (ActionTrail, `LookupEvents`).
//!
//! Segments are read in blocks from where the last page ended, newest first or oldest first. One
//! call reads a bounded number of bytes, whatever it finds; the token leads on.

use std::time::Duration;

use serde_json::Value;

use super::chain::{self, Body, LINE_BYTES_MAX, Line};
use super::files::{SegmentFile, name_of};
use super::journal::{Extent, Journal};
use super::segment;
use super::{TrailError, Why};
use crate::clock::Timestamp;

/// Events in one page at most.
pub const LOOKUP_RESULTS_MAX: u32 = 50;

/// Events in one page if the caller does not say.
pub const LOOKUP_RESULTS_DEFAULT: u32 = 20;

/// Bytes of journal that one call reads at most before it answers with what it has.
const SCAN_BYTES_MAX: u64 = 4 << 20;

/// Bytes read at a time; longer only for a longer line.
const BLOCK_BYTES: u64 = 64 << 10;

/// Events by threads at work are numbered in another order than they are dated, and clocks are set
/// back; beyond this much out of order an event may be missed by a lookup with a time limit.
const DISORDER_MAX: Duration = Duration::from_secs(3600);

/// How far back a lookup goes that does not say.
const WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);

/// Which end comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Oldest first.
    Forward,
    /// Newest first.
    #[default]
    Backward,
}

/// What an event can be found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// `serviceName`.
    ServiceName,
    /// `eventName`.
    EventName,
    /// `userIdentity.userName`.
    User,
    /// `eventId`.
    EventId,
    /// A type in `referencedResources`.
    ResourceType,
    /// A name in `referencedResources`.
    ResourceName,
    /// `eventRW`: `Read` or `Write`.
    EventRw,
    /// `userIdentity.accessKeyId`.
    EventAccessKeyId,
}

/// A question to the trail.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Not before; seven days ago if absent.
    pub start: Option<Timestamp>,
    /// Not after; now if absent.
    pub end: Option<Timestamp>,
    /// Which end comes first.
    pub direction: Direction,
    /// Events at most, up to [`LOOKUP_RESULTS_MAX`]; [`LOOKUP_RESULTS_DEFAULT`] if absent or 0.
    pub max_results: Option<u32>,
    /// Where the page before ended.
    pub next_token: Option<String>,
    /// One condition.
    pub filter: Option<(Attribute, String)>,
}

/// A part of the answer.
#[derive(Clone, Debug)]
pub struct TrailPage {
    /// The events, as published.
    pub events: Vec<Value>,
    /// Asks for the next page; `None` at the end.
    pub next_token: Option<String>,
    /// The start that applied.
    pub start: Timestamp,
    /// The end that applied.
    pub end: Timestamp,
}

impl Attribute {
    /// The attribute of this published name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "ServiceName" => Self::ServiceName,
            "EventName" => Self::EventName,
            "User" => Self::User,
            "EventId" => Self::EventId,
            "ResourceType" => Self::ResourceType,
            "ResourceName" => Self::ResourceName,
            "EventRW" => Self::EventRw,
            "EventAccessKeyId" => Self::EventAccessKeyId,
            _ => return None,
        })
    }

    fn matches(self, event: &Value, wanted: &str) -> bool {
        let resources = || event["referencedResources"].as_object().into_iter().flatten();
        match self {
            Self::ServiceName => event["serviceName"] == wanted,
            Self::EventName => event["eventName"] == wanted,
            Self::User => event["userIdentity"]["userName"] == wanted,
            Self::EventId => event["eventId"] == wanted,
            Self::ResourceType => resources().any(|(kind, _)| kind == wanted),
            Self::ResourceName => resources().any(|(_, names)| {
                names.as_array().into_iter().flatten().any(|name| name == wanted)
            }),
            Self::EventRw => event["eventRW"] == wanted,
            Self::EventAccessKeyId => event["userIdentity"]["accessKeyId"] == wanted,
        }
    }
}

/// A place between two lines.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Which of the extents.
    segment: usize,
    /// Offset of the line that starts here.
    at: u64,
}

pub(super) fn lookup(
    journal: &Journal,
    query: &Query,
    now: Timestamp,
) -> Result<TrailPage, TrailError> {
    let end = query.end.unwrap_or(now);
    let start = query.start.unwrap_or_else(|| before(now, WINDOW));
    let extents = journal.extents();
    let mut page = TrailPage { events: Vec::new(), next_token: None, start, end };
    if extents.is_empty() {
        return Ok(page);
    }
    let mut walk = Walk { journal, extents, open: None, scanned: 0 };
    let place = match &query.next_token {
        Some(token) => walk.place_of(token)?,
        None => walk.first_place(query.direction, start, end)?,
    };
    let rest = walk.collect(query, place, &mut page)?;
    page.next_token = rest.map(|place| walk.token_of(place));
    Ok(page)
}

struct Walk<'a> {
    journal: &'a Journal,
    extents: Vec<Extent>,
    open: Option<Opened>,
    scanned: u64,
}

struct Opened {
    segment: usize,
    file: Box<dyn SegmentFile>,
    /// Part of the file that is in memory.
    block: Vec<u8>,
    block_at: u64,
}

impl Walk<'_> {
    /// Fills `page`; where to go on, if there may be more.
    fn collect(
        &mut self,
        query: &Query,
        mut place: Place,
        page: &mut TrailPage,
    ) -> Result<Option<Place>, TrailError> {
        let wanted = query.max_results.filter(|results| *results > 0);
        let wanted = wanted.unwrap_or(LOOKUP_RESULTS_DEFAULT).min(LOOKUP_RESULTS_MAX);
        while (page.events.len() as u64) < u64::from(wanted) && self.scanned < SCAN_BYTES_MAX {
            let step = match query.direction {
                Direction::Backward => self.previous(place)?,
                Direction::Forward => self.next(place)?,
            };
            let Some((line, next)) = step else { return Ok(None) };
            place = next;
            let Body::Event(event) = line.body else { continue };
            let time = event["eventTime"].as_str().and_then(Timestamp::parse);
            let time = time.unwrap_or_default();
            let is_past_the_end = match query.direction {
                Direction::Backward => time.plus(DISORDER_MAX) < page.start,
                Direction::Forward => page.end.plus(DISORDER_MAX) < time,
            };
            if is_past_the_end {
                return Ok(None);
            }
            let in_time = time >= page.start && time <= page.end;
            let fits = |(attribute, value): &(Attribute, String)| attribute.matches(&event, value);
            if in_time && query.filter.as_ref().is_none_or(fits) {
                page.events.push(event);
            }
        }
        Ok(Some(place))
    }

    /// The line that ends at `place`, and the place where it starts.
    fn previous(&mut self, mut place: Place) -> Result<Option<(Line, Place)>, TrailError> {
        while place.at == 0 {
            let Some(segment) = place.segment.checked_sub(1) else { return Ok(None) };
            place = Place { segment, at: self.extents[segment].length };
        }
        let mut span = BLOCK_BYTES;
        loop {
            let from = place.at.saturating_sub(span);
            let block = self.load(place.segment, from, place.at)?;
            let body = block.strip_suffix(b"\n").unwrap_or(block);
            match body.iter().rposition(|byte| *byte == b'\n') {
                Some(newline) => {
                    let at = from + newline as u64 + 1;
                    return self.parse(place.segment, at, place.at).map(Some);
                }
                None if from == 0 => return self.parse(place.segment, 0, place.at).map(Some),
                None if span >= LINE_BYTES_MAX as u64 => return Err(self.bad(place, Why::TooLong)),
                None => span *= 2,
            }
        }
    }

    /// The line that starts at `place`, and the place where it ends.
    fn next(&mut self, mut place: Place) -> Result<Option<(Line, Place)>, TrailError> {
        while place.at >= self.extents[place.segment].length {
            place = Place { segment: place.segment + 1, at: 0 };
            if place.segment == self.extents.len() {
                return Ok(None);
            }
        }
        let length = self.extents[place.segment].length;
        let mut span = BLOCK_BYTES;
        loop {
            let to = (place.at + span).min(length);
            let block = self.load(place.segment, place.at, to)?;
            match block.iter().position(|byte| *byte == b'\n') {
                Some(newline) => {
                    let end = place.at + newline as u64 + 1;
                    let (line, _) = self.parse(place.segment, place.at, end)?;
                    return Ok(Some((line, Place { segment: place.segment, at: end })));
                }
                None if to == length || span >= LINE_BYTES_MAX as u64 => {
                    return Err(self.bad(place, Why::Unfinished));
                }
                None => span *= 2,
            }
        }
    }

    /// The line from `from` to `to`, newline included.
    fn parse(&mut self, segment: usize, from: u64, to: u64) -> Result<(Line, Place), TrailError> {
        self.scanned += to - from;
        let place = Place { segment, at: from };
        let journal = self.journal;
        let block = self.load(segment, from, to)?;
        let line = block.strip_suffix(b"\n").unwrap_or(block);
        match chain::unseal(Some(&journal.keys().mac), line) {
            Ok(line) => Ok((line, place)),
            Err(why) => Err(self.bad(place, why)),
        }
    }

    /// The bytes `from..to` of a segment, out of the block in memory if it has them.
    fn load(&mut self, segment: usize, from: u64, to: u64) -> Result<&[u8], TrailError> {
        let files = self.journal.files();
        let name = name_of(self.extents[segment].first_seq);
        let failed = |error| TrailError::io("reading", &files.path(&name), error);
        let opened = match self.open.take() {
            Some(opened) if opened.segment == segment => opened,
            _ => {
                let file = files.open(&name).map_err(failed)?;
                Opened { segment, file, block: Vec::new(), block_at: 0 }
            }
        };
        let opened = self.open.insert(opened);
        let has = opened.block_at <= from && to <= opened.block_at + opened.block.len() as u64;
        if !has {
            let length = usize::try_from(to - from).unwrap_or(usize::MAX);
            opened.block.resize(length, 0);
            opened.block_at = from;
            let read = segment::read_full(opened.file.as_ref(), &mut opened.block, from);
            opened.block.truncate(read.map_err(failed)?);
        }
        let skip = usize::try_from(from - opened.block_at).unwrap_or(usize::MAX);
        let length = usize::try_from(to - from).unwrap_or(usize::MAX);
        let rest = opened.block.get(skip..).unwrap_or_default();
        Ok(&rest[..length.min(rest.len())])
    }

    /// Where a lookup without token begins.
    fn first_place(
        &mut self,
        direction: Direction,
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Place, TrailError> {
        // Binary search for the number of segments that begin at or before the limit.
        let limit = match direction {
            Direction::Backward => end.plus(DISORDER_MAX),
            Direction::Forward => before(start, DISORDER_MAX),
        };
        let (mut low, mut high) = (0, self.extents.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.begin_time(middle)?.is_some_and(|time| time <= limit) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let segment = low.saturating_sub(1);
        Ok(match direction {
            Direction::Backward => Place { segment, at: self.extents[segment].length },
            Direction::Forward => Place { segment, at: 0 },
        })
    }

    fn begin_time(&mut self, segment: usize) -> Result<Option<Timestamp>, TrailError> {
        if self.extents[segment].length == 0 {
            return Ok(None);
        }
        // The first line of a segment may be a checkpoint; the next one is an event then.
        let mut place = Place { segment, at: 0 };
        while let Some((line, next)) = self.next(place)? {
            if let Body::Event(event) = line.body {
                return Ok(event["eventTime"].as_str().and_then(Timestamp::parse));
            }
            place = next;
        }
        Ok(None)
    }

    fn token_of(&self, place: Place) -> String {
        format!("{:x}.{:x}", self.extents[place.segment].first_seq, place.at)
    }

    /// The place a token names. It must be one between two lines.
    fn place_of(&mut self, token: &str) -> Result<Place, TrailError> {
        let parsed = token.split_once('.').and_then(|(first_seq, at)| {
            let first_seq = u64::from_str_radix(first_seq, 16).ok()?;
            let at = u64::from_str_radix(at, 16).ok()?;
            let by_seq = |extent: &Extent| extent.first_seq;
            let segment = self.extents.binary_search_by_key(&first_seq, by_seq).ok()?;
            (at <= self.extents[segment].length).then_some(Place { segment, at })
        });
        let place = parsed.ok_or(TrailError::InvalidToken)?;
        let is_between =
            place.at == 0 || self.load(place.segment, place.at - 1, place.at)? == b"\n";
        if is_between { Ok(place) } else { Err(TrailError::InvalidToken) }
    }

    /// Names the line at `place`: counts the lines before it.
    fn bad(&self, place: Place, why: Why) -> TrailError {
        let files = self.journal.files();
        let extent = self.extents[place.segment];
        let name = name_of(extent.first_seq);
        match segment::read(files, &name) {
            Ok(bytes) => {
                let at = usize::try_from(place.at).unwrap_or(usize::MAX).min(bytes.len());
                let lines = bytes[..at].iter().filter(|byte| **byte == b'\n').count() as u64;
                segment::damage(files, &name, (lines + 1, extent.first_seq + lines), why)
            }
            Err(error) => error,
        }
    }
}

fn before(moment: Timestamp, span: Duration) -> Timestamp {
    Timestamp::from_unix_millis(moment.unix_millis().saturating_sub(span.as_millis() as i64))
}
