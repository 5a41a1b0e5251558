//! A small cache over the blocks of a volume, shared by the readers. Metadata lies close together, and whoever serves
//! the blocks prefers few large requests, so it fetches and keeps more than was asked for.

use crate::{Error, Result};
use block::sync::{Mutex, lock};
use block::{BlockSource, ByteOffset};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

/// Bytes fetched and kept at once.
const LINE: u64 = 32 << 10;
/// Bytes of lines kept for one filesystem; several of them must fit the parser's memory limit.
const CACHE_LIMIT: u64 = 12 << 20;

/// Bytes of the volume, shared with the cache.
#[derive(Clone)]
pub(crate) struct Bytes {
    line: Arc<[u8]>,
    start: usize,
    len: usize,
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // made only below, where the range was checked
        self.line.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self { start: 0, len: bytes.len(), line: bytes.into() }
    }
}

#[derive(Default)]
struct Cache {
    lines: HashMap<u64, (Arc<[u8]>, u64)>,
    tick: u64,
}

/// The bytes of one volume.
pub(crate) struct Lines {
    source: Arc<dyn BlockSource>,
    cache: Mutex<Cache>,
}

impl Lines {
    pub(crate) fn new(source: Arc<dyn BlockSource>) -> Self {
        Self { source, cache: Mutex::default() }
    }

    /// Bytes on the volume.
    pub(crate) fn size(&self) -> u64 {
        self.source.size().get()
    }

    /// `len` bytes from `at` on. The caller has bounded `len`.
    ///
    /// # Errors
    /// `Corrupt` if the volume ends before, or what reading the blocks reports.
    pub(crate) fn read(&self, at: u64, len: usize) -> Result<Bytes> {
        if at.checked_add(len as u64).is_none_or(|end| end > self.size()) {
            return Err(Error::corrupt(
                "an address",
                format!("{len} bytes at {at}, and the volume ends at {}", self.size()),
            ));
        }
        let into = (at % LINE) as usize;
        if into + len <= LINE as usize {
            return Ok(Bytes { line: self.line(at / LINE)?, start: into, len });
        }
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = at + bytes.len() as u64;
            let line = self.line(at / LINE)?;
            let rest = line.get((at % LINE) as usize..).unwrap_or_default();
            bytes.extend_from_slice(rest.get(..len - bytes.len()).unwrap_or(rest));
        }
        Ok(bytes.into())
    }

    /// Fills `buf` from `at` on, past the cache: for content, and for what is read once.
    pub(crate) fn read_once(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        Ok(self.source.read_at(ByteOffset::new(at), buf)?)
    }

    fn line(&self, index: u64) -> Result<Arc<[u8]>> {
        let mut cache = lock(&self.cache);
        cache.tick += 1;
        let tick = cache.tick;
        if let Some((line, used)) = cache.lines.get_mut(&index) {
            *used = tick;
            return Ok(Arc::clone(line));
        }
        drop(cache);
        let start = index * LINE;
        let len = LINE.min(self.size().saturating_sub(start));
        let mut bytes = vec![0; len as usize];
        self.source.read_at(ByteOffset::new(start), &mut bytes)?;
        let line: Arc<[u8]> = bytes.into();
        let mut cache = lock(&self.cache);
        if cache.lines.len() as u64 >= CACHE_LIMIT / LINE {
            let oldest = cache.lines.iter().min_by_key(|(_, (_, used))| *used).map(|(index, _)| *index);
            oldest.and_then(|index| cache.lines.remove(&index));
        }
        cache.lines.insert(index, (Arc::clone(&line), tick));
        Ok(line)
    }
}
