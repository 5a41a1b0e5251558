//! How far a restore onto a file or another server has come, so that the same command goes on after it was cut short.

use crate::failure::{Failure, Result};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Visit};
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// A mark is a few lines.
const LIMIT_BYTES: u64 = 4096;

/// A small file that says what is being written, and up to where it is durable.
pub struct Mark {
    path: PathBuf,
    what: String,
}

impl Mark {
    /// The mark in this file, of a point with this state on this target.
    pub fn new(path: PathBuf, state: &str, size: u64, target: &str) -> Self {
        Self { path, what: format!("blockd restore 1\npoint {state}\nsize {size}\ntarget {target}\n") }
    }

    /// The mark beside an image file that is being written.
    pub fn beside(file: &Path, state: &str, size: u64) -> Option<Self> {
        let name = file.file_name()?.to_str()?;
        Some(Self::new(file.with_file_name(format!(".{name}.mark")), state, size, name))
    }

    /// The mark of what another server is given, in the person's own state.
    pub fn of_server(uri: &str, state: &str, size: u64) -> Option<Self> {
        let named = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty());
        let base = named("XDG_STATE_HOME").map(PathBuf::from);
        let base = base.or_else(|| Some(PathBuf::from(named("HOME")?).join(".local/state")))?;
        let dir = base.join("blockd/restores");
        let name: String = uri.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let name = &name[name.len().saturating_sub(200)..];
        Some(Self::new(dir.join(format!("{name}.mark")), state, size, uri))
    }

    /// Up to where an earlier command has come with the same; 0 if there was none, or with something else.
    pub fn until(&self) -> u64 {
        let is_small = self.path.metadata().is_ok_and(|meta| meta.len() <= LIMIT_BYTES);
        let text = if is_small { fs::read_to_string(&self.path).unwrap_or_default() } else { String::new() };
        let until = text.strip_prefix(&self.what).and_then(|rest| rest.strip_prefix("until "));
        until.and_then(|until| until.strip_suffix('\n')?.parse().ok()).unwrap_or(0)
    }

    /// Notes that everything up to here is durable.
    ///
    /// # Errors
    /// What the host reports.
    #[expect(clippy::disallowed_methods, reason = "the file is the person's own, outside of any media")]
    pub fn note(&self, until: u64) -> Result<()> {
        let fresh = self.path.with_extension("mark-new");
        let write = || {
            if let Some(dir) = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
                fs::create_dir_all(dir)?;
            }
            let mut file = fs::File::create(&fresh)?;
            file.write_all(format!("{}until {until}\n", self.what).as_bytes())?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)
        };
        write().map_err(|error| Failure::host(format!("write {}", self.path.display()), &error))
    }

    /// It is done.
    #[expect(clippy::disallowed_methods, reason = "the file is the person's own, outside of any media")]
    pub fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("warning: {} is left behind: {error}", self.path.display());
        }
    }
}

/// A source as long as the whole, of which only a part is there; the rest is empty.
pub struct Part<'a> {
    /// All of it.
    pub whole: &'a dyn BlockSource,
    /// The part.
    pub part: ByteRange,
}

impl BlockSource for Part<'_> {
    fn size(&self) -> ByteCount {
        self.whole.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.whole.read_at(offset, buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        let part = range.intersect(self.part);
        if part.is_empty() {
            let _stop = visit(Extent { range, kind: ExtentKind::Hole });
            return Ok(());
        }
        let empty = |start: u64, end: u64, visit: &mut Visit<'_>| match start < end {
            true => visit(Extent { range: ByteRange::between(start, end), kind: ExtentKind::Hole }),
            false => ControlFlow::Continue(()),
        };
        if empty(range.start(), part.start(), visit).is_break() {
            return Ok(());
        }
        let mut has_enough = false;
        self.whole.extents(part, &mut |extent| {
            let flow = visit(extent);
            has_enough = flow.is_break();
            flow
        })?;
        if !has_enough {
            let _stop = empty(part.end(), range.end(), visit);
        }
        Ok(())
    }
}
