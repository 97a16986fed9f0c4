//! Looks for bytes where they must not be: in memory, in files, in logs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Longest overlap between two blocks of a scan.
const OVERLAP: usize = 4096;
const BLOCK: usize = 1 << 20;
const PAGE: usize = 4096;

/// What is looked for, each with a label.
pub struct Needles {
    all: Vec<(String, Vec<u8>)>,
    /// Which first two bytes a needle has: few places are looked at twice.
    starts: Vec<bool>,
}

/// How often which needle was found.
pub type Found = BTreeMap<String, usize>;

impl Default for Needles {
    fn default() -> Self {
        Self { all: Vec::new(), starts: vec![false; 1 << 16] }
    }
}

impl Needles {
    pub fn text(label: &str, bytes: &[u8]) -> Self {
        Self::default().with(label, bytes)
    }

    pub fn with(mut self, label: &str, bytes: &[u8]) -> Self {
        assert!((8..=OVERLAP).contains(&bytes.len()), "{label}");
        self.starts[start_of(bytes)] = true;
        self.all.push((label.to_owned(), bytes.to_vec()));
        self
    }

    /// A key: whole, its 32-byte halves, its 16-byte quarters (the first round keys of AES).
    pub fn key(self, name: &str, key: &[u8]) -> Self {
        let mut needles = self.with(&format!("{name}, whole"), key);
        for (part, size) in [("half", 32), ("quarter", 16)] {
            if size < key.len() {
                for (index, bytes) in key.chunks_exact(size).enumerate() {
                    needles = needles.with(&format!("{name}, {part} {index}"), bytes);
                }
            }
        }
        needles
    }

    /// A key in hexadecimal digits and base64, in pieces of 12 bytes or so.
    pub fn written_key(self, name: &str, key: &[u8]) -> Self {
        let mut needles = self;
        for (index, piece) in key.chunks_exact(16).enumerate() {
            let lower: String = piece.iter().map(|byte| format!("{byte:02x}")).collect();
            needles = needles
                .with(&format!("{name}, hex {index}"), lower.as_bytes())
                .with(&format!("{name}, HEX {index}"), lower.to_uppercase().as_bytes());
        }
        let base64 = STANDARD.encode(key);
        for (index, piece) in base64.as_bytes().chunks_exact(16).enumerate() {
            needles = needles.with(&format!("{name}, base64 {index}"), piece);
        }
        needles
    }

    /// Label and position of everything found in `bytes`.
    pub fn positions(&self, bytes: &[u8]) -> Vec<(&str, usize)> {
        let mut found = Vec::new();
        for page in (0..bytes.len()).step_by(PAGE) {
            let end = (page + PAGE).min(bytes.len());
            if bytes[page..end] == [0; PAGE][..end - page] {
                continue;
            }
            for at in page..end.min(bytes.len() - 1) {
                if !self.starts[start_of(&bytes[at..])] {
                    continue;
                }
                let here = self.all.iter().filter(|(_, needle)| bytes[at..].starts_with(needle));
                found.extend(here.map(|(label, _)| (label.as_str(), at)));
            }
        }
        found
    }

    pub fn count(&self, bytes: &[u8]) -> Found {
        let mut found = Found::new();
        for (label, _) in self.positions(bytes) {
            *found.entry(label.to_owned()).or_default() += 1;
        }
        found
    }

    /// Counts in a file of any size, holes included.
    pub fn count_in_file(&self, path: &Path) -> Found {
        let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let length = file.metadata().unwrap().len();
        let mut found = Found::new();
        let mut block = vec![0; BLOCK + OVERLAP];
        for start in (0..length).step_by(BLOCK) {
            let count = read_up_to(&file, &mut block, start);
            for (label, at) in self.positions(&block[..count]) {
                // What starts in the overlap is the next block's.
                if at < BLOCK {
                    *found.entry(label.to_owned()).or_default() += 1;
                }
            }
        }
        found
    }

    /// Counts in every file below `directory`: path and what was found there.
    pub fn count_below(&self, directory: &Path) -> BTreeMap<String, Found> {
        let found = files_below(directory).into_iter().map(|path| {
            let found = self.count_in_file(&path);
            (path.display().to_string(), found)
        });
        found.filter(|(_, found)| !found.is_empty()).collect()
    }
}

/// Every regular file below `directory`.
pub fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files
}

/// What a scan of a process found.
#[derive(Debug, Default)]
pub struct MemoryScan {
    /// Label, mapping and address of each find.
    pub hits: Vec<(String, String, u64)>,
    /// Bytes that were looked at.
    pub bytes: u64,
    /// Mappings that not even root can read.
    pub unreadable: Vec<String>,
}

impl MemoryScan {
    /// Finds of labels that start with `name`.
    pub fn of(&self, name: &str) -> Vec<&(String, String, u64)> {
        self.hits.iter().filter(|(label, _, _)| label.starts_with(name)).collect()
    }
}

/// Looks through everything that is mapped in a process.
pub fn scan_memory(pid: u32, needles: &Needles) -> std::io::Result<MemoryScan> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut maps = String::new();
    File::open(format!("/proc/{pid}/maps"))?.read_to_string(&mut maps)?;
    let mut scan = MemoryScan::default();
    let mut block = vec![0; BLOCK + OVERLAP];
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words.get(5..).unwrap_or_default().join(" ");
        if !words[1].starts_with('r') || name == "[vvar]" || name.starts_with("[vsyscall") {
            continue;
        }
        let (start, end) = words[0].split_once('-').unwrap();
        let parse = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end): (u64, u64) = (parse(start), parse(end));
        let what = format!("{} {} {name}", words[0], words[1]);
        let mut seen = 0;
        for at in (start..end).step_by(BLOCK) {
            let wanted = (end - at).min((BLOCK + OVERLAP) as u64) as usize;
            let count = read_up_to(&memory, &mut block[..wanted], at);
            seen += count.min(BLOCK) as u64;
            for (label, position) in needles.positions(&block[..count]) {
                if position < BLOCK {
                    scan.hits.push((label.to_owned(), what.clone(), at + position as u64));
                }
            }
        }
        if seen < end - start {
            scan.unreadable.push(what);
        }
        scan.bytes += seen;
    }
    Ok(scan)
}

fn read_up_to(file: &File, bytes: &mut [u8], at: u64) -> usize {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], at + done as u64) {
            Ok(count) if count > 0 => done += count,
            _ => break,
        }
    }
    done
}

fn start_of(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}
