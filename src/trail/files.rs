//! The files under the journal, behind a trait so that a test can let any operation fail.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};

use super::TrailError;

const NAME_START: &str = "trail-";
const NAME_END: &str = ".jsonl";
/// A segment under this name is not complete and holds no record.
const UNFINISHED_NAME: &str = "next-segment";
/// The file of the head.
pub(super) const HEAD_NAME: &str = "head";

/// A directory of segments.
pub trait SegmentFiles: Send + Sync {
    /// The names of all segments, in order.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// An existing segment.
    ///
    /// # Errors
    /// As the system says.
    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>>;

    /// A new, empty segment with `reserve` bytes set aside for it. On return its name is durable;
    /// after an error there is no segment of that name.
    ///
    /// # Errors
    /// As the system says; `ENOSPC` belongs here.
    fn create(&self, name: &str, reserve: u64) -> io::Result<Box<dyn SegmentFile>>;

    /// The file that names the last record; made, empty and durable, if `may_create`.
    ///
    /// # Errors
    /// As the system says: `NotFound` if there is none.
    fn head(&self, may_create: bool) -> io::Result<Box<dyn SegmentFile>>;

    /// Where a segment is, for messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// One segment.
pub trait SegmentFile: Send + Sync {
    /// Its length in bytes, without what is only set aside.
    ///
    /// # Errors
    /// As the system says.
    fn length(&self) -> io::Result<u64>;

    /// Reads at `offset`; zero at the end.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at `offset`, possibly less than all.
    ///
    /// # Errors
    /// As the system says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// As the system says.
    fn sync(&self) -> io::Result<()>;

    /// Cuts the segment at `length` and gives back what was set aside beyond.
    ///
    /// # Errors
    /// As the system says.
    fn cut(&self, length: u64) -> io::Result<()>;
}

/// The name of the segment whose first record is `first_seq`.
pub(super) fn name_of(first_seq: u64) -> String {
    format!("{NAME_START}{first_seq:020}{NAME_END}")
}

/// The first record of the segment of this name.
pub(super) fn first_seq_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(NAME_START)?.strip_suffix(NAME_END)?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

/// Segments in a directory of the file system.
#[derive(Debug)]
pub struct DirectoryFiles {
    path: PathBuf,
    /// Held for its lock; `None` where we only read.
    locked: Option<File>,
}

impl DirectoryFiles {
    /// The segments in `path`, for this process alone; makes the directory (mode 0700).
    ///
    /// # Errors
    /// [`TrailError::InUse`] if another process holds it, [`TrailError::Io`] otherwise.
    pub fn lock(path: &Path) -> Result<Self, TrailError> {
        let failed = |error| TrailError::io("opening", path, error);
        if !path.is_dir() {
            DirBuilder::new().mode(0o700).create(path).map_err(failed)?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            sync_directory(parent.unwrap_or(Path::new("."))).map_err(failed)?;
        }
        let directory = File::open(path).map_err(failed)?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), locked: Some(directory) }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(TrailError::InUse { path: path.to_owned() }),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// The segments in `path`, to be read only.
    pub fn read(path: &Path) -> Self {
        Self { path: path.to_owned(), locked: None }
    }

    fn fill_new(&self, unfinished: &Path, name: &str, reserve: u64) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(unfinished)?;
        match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, reserve) {
            // Where a file system cannot set space aside, ENOSPC is met in a write, and poisons.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        file.sync_all()?;
        std::fs::rename(unfinished, self.path(name))?;
        Ok(file)
    }
}

impl SegmentFiles for DirectoryFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(NAME_START) && name.ends_with(NAME_END) {
                names.push(name.into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        let path = self.path(name);
        let file = OpenOptions::new().read(true).write(self.locked.is_some()).open(path)?;
        Ok(Box::new(file))
    }

    fn create(&self, name: &str, reserve: u64) -> io::Result<Box<dyn SegmentFile>> {
        let unfinished = self.path.join(UNFINISHED_NAME);
        let made = self.fill_new(&unfinished, name, reserve).and_then(|file| {
            sync_directory(&self.path)?;
            Ok(file)
        });
        made.map(|file| Box::new(file) as Box<dyn SegmentFile>).inspect_err(|_| {
            // Neither name may stay, or the space would be lost and the next try confused.
            let _ = std::fs::remove_file(&unfinished);
            let _ = std::fs::remove_file(self.path(name));
        })
    }

    fn head(&self, may_create: bool) -> io::Result<Box<dyn SegmentFile>> {
        let path = self.path(HEAD_NAME);
        match OpenOptions::new().read(true).write(self.locked.is_some()).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_create => {
                let mut options = OpenOptions::new();
                let file =
                    options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
                file.sync_all()?;
                sync_directory(&self.path)?;
                Ok(Box::new(file))
            }
            opened => Ok(Box::new(opened?)),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl SegmentFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_named_after_its_first_record() {
        assert_eq!(name_of(7), "trail-00000000000000000007.jsonl");
        assert_eq!(first_seq_of(&name_of(u64::MAX)), Some(u64::MAX));
        for name in ["trail-7.jsonl", "trail-0000000000000000000x.jsonl", "trail-.jsonl", "x"] {
            assert_eq!(first_seq_of(name), None, "{name}");
        }
    }
}
