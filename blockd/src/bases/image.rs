//! Images that are not ours, held as bases: every file of them is locked against writers, and must be what it was.

use super::record::{FileRecord, ImageRecord};
use crate::error::{Doing, Error, Result};
use block::linux::{ForeignFile, Stamp};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Stored, Visit};
use control::Kind;
use formats::{Format, Reach};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files of one image that can be a base. Each is an open descriptor twice and a line in the disk's name file.
const FILES_LIMIT: usize = 256;

/// An image somebody wants a disk to stand on.
pub struct Asked<'a> {
    /// Its path, absolute.
    pub path: &'a Path,
    /// Its format, if it is said.
    pub format: Option<Format>,
    /// Whether it may name files outside of its folder.
    pub follow: bool,
    /// Whether it becomes the disk's own.
    pub adopted: bool,
}

/// An image that is locked and read. The locks end with this value.
pub struct HeldImage {
    source: Arc<dyn BlockSource>,
    files: Vec<Held>,
}

struct Held {
    path: PathBuf,
    file: ForeignFile,
}

impl HeldImage {
    /// Opens an image for the first time, and says what must be the same at every later time.
    ///
    /// # Errors
    /// `Conflict` if a file of it is in use or changes meanwhile; what [`formats::open`] refuses.
    pub fn begin(asked: &Asked<'_>) -> Result<(Self, ImageRecord)> {
        let path = absolute(asked.path)?;
        // a first look: which files there are to lock
        let seen = open(&path, asked.format, asked.follow)?;
        if seen.files.len() > FILES_LIMIT {
            let why =
                format!("has {} files; an image of more than {FILES_LIMIT} can be no base", seen.files.len());
            return Err(Error::said(Kind::Unsupported, shown(&path), why)
                .with_help("import it: blockctl disk create NAME --from FILE"));
        }
        let (format, paths) = (seen.format, seen.files);
        let files = paths.iter().map(|path| hold(path)).collect::<Result<Vec<_>>>()?;
        let records =
            files.iter().map(|held| FileRecord::new(&held.path, &held.stamp()?)).collect::<Result<_>>()?;
        let record = ImageRecord {
            format: format.name().to_owned(),
            follow: asked.follow,
            adopted: asked.adopted,
            files: records,
        };
        let source = read(&record)?;
        let image = Self { source, files };
        image.check(&record)?;
        Ok((image, record))
    }

    /// Opens an image again.
    ///
    /// # Errors
    /// `Conflict` naming a file that is in use or not what it was; `Unavailable` naming one that is missing.
    pub fn again(record: &ImageRecord) -> Result<Self> {
        let files =
            record.files.iter().map(|file| hold(Path::new(&file.path))).collect::<Result<Vec<_>>>()?;
        check_all(&files, record)?;
        let image = Self { source: read(record)?, files };
        image.check(record)?;
        Ok(image)
    }

    /// Holds every file against what it was: the one that is open, and what its path leads to now.
    ///
    /// # Errors
    /// `Conflict` naming the file and what changed.
    pub fn check(&self, record: &ImageRecord) -> Result<()> {
        check_all(&self.files, record)
    }

    /// Holds what was written to the open files against what they were: what a reader may get. That a file was moved away
    /// or changed hands meanwhile is no matter here.
    ///
    /// # Errors
    /// `Conflict` naming the file.
    pub fn check_bytes(&self, record: &ImageRecord) -> Result<()> {
        for (held, file) in self.files.iter().zip(&record.files) {
            let now = held.stamp()?;
            let as_it_was = Stamp { inode: file.inode.cast_unsigned(), changed_ns: file.changed_ns, ..now };
            if let Some(changes) = file.changes(&as_it_was) {
                return Err(Error::said(Kind::Conflict, &file.path, format!("changed behind us: {changes}"))
                    .with_help("what the disk reads is not to be trusted; vaults hold earlier points"));
            }
        }
        Ok(())
    }
}

impl Held {
    fn stamp(&self) -> Result<Stamp> {
        self.file.stamp().doing(|| format!("look at {}", shown(&self.path)))
    }

    fn check(&self, file: &FileRecord) -> Result<()> {
        let at_path = Stamp::of(&self.path).doing(|| format!("look at {}", shown(&self.path)));
        for now in [self.stamp(), at_path] {
            if let Some(changes) = file.changes(&now.map_err(gone)?) {
                return Err(Error::said(Kind::Conflict, &file.path, format!("changed behind us: {changes}")));
            }
        }
        Ok(())
    }
}

fn check_all(files: &[Held], record: &ImageRecord) -> Result<()> {
    files.iter().zip(&record.files).try_for_each(|(held, file)| held.check(file))
}

fn hold(path: &Path) -> Result<Held> {
    let file = ForeignFile::hold(path).map_err(|error| {
        let in_use = error.kind() == block::Kind::Conflict;
        let error = Error::below(format!("stand on {}", shown(path)), error);
        match in_use {
            true => error.with_help("end the program that uses it (shut the machine down) first"),
            false => error,
        }
    });
    Ok(Held { path: path.to_owned(), file: file.map_err(gone)? })
}

/// A file that is not there may come back: its filesystem is not mounted yet.
fn gone(error: Error) -> Error {
    match error.kind() {
        Kind::NotFound => {
            Error::said(Kind::Unavailable, error.body().message, "what a disk stands on is missing")
        }
        _ => error,
    }
}

/// The disk in a recorded image, which must still be made of the same files.
fn read(record: &ImageRecord) -> Result<Arc<dyn BlockSource>> {
    let format = record
        .format
        .parse::<Format>()
        .map_err(|error| Error::said(Kind::Corrupt, &record.format, error.to_string()))?;
    let paths = || record.files.iter().map(|file| Path::new(&file.path));
    let first = paths().next().ok_or_else(|| Error::said(Kind::Corrupt, "an image", "has no file"))?;
    let opened = open(first, Some(format), record.follow)?;
    if opened.files.iter().map(PathBuf::as_path).eq(paths()) {
        return Ok(opened.disk);
    }
    Err(Error::said(Kind::Conflict, shown(first), "changed behind us: it names other files than before"))
}

fn open(path: &Path, format: Option<Format>, follow: bool) -> Result<formats::Opened> {
    let reach = if follow { Reach::Anywhere } else { Reach::Below };
    formats::open(path, format, reach).map_err(|error| {
        let help = error.help().map(str::to_owned);
        let error = Error::below(format!("open {}", shown(path)), error);
        match help {
            Some(help) => error.with_help(help),
            None => error,
        }
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    if !path.is_absolute() {
        return Err(Error::said(Kind::Invalid, shown(path), "is not an absolute path"));
    }
    path.canonicalize().map_err(|error| Error::host(format!("find {}", shown(path)), error))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

impl BlockSource for HeldImage {
    fn size(&self) -> ByteCount {
        self.source.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.source.read_at(offset, buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        self.source.extents(range, visit)
    }

    fn stored(&self, range: ByteRange) -> Option<Stored> {
        self.source.stored(range)
    }
}
