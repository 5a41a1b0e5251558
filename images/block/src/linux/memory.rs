//! Mapped memory: volatile files in tmpfs and scratch files beside the data.

use crate::{Error, Memory, Result};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::AtomicU64;

/// A file mapped shared and readable as atomic words.
pub(super) struct Mapped {
    file: File,
    map: MmapRaw,
    name: String,
}

impl Mapped {
    /// Maps `words` words of a file that nobody but this program writes or truncates, and that is at least as long.
    pub(super) fn new(file: File, words: usize, name: String) -> Result<Self> {
        let map = MmapOptions::new()
            .len(words * 8)
            .map_raw(&file)
            .map_err(|source| Error::host("map", &name, None, source))?;
        Ok(Self { file, map, name })
    }
}

impl Memory for Mapped {
    fn words(&self) -> &[AtomicU64] {
        let words = self.map.len() / 8;
        // SAFETY: the mapping is `len` bytes long, page aligned, lives as long as `self`, and is only ever seen as
        // atomics, here and in other processes. It stays backed: the file is ours, never truncated while mapped, and
        // callers touch only words they reserved.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), words) }
    }

    fn reserve(&self, words: Range<usize>) -> Result<()> {
        let (offset, len) = (words.start as u64 * 8, (words.len() as u64) * 8);
        if len == 0 {
            return Ok(());
        }
        fallocate(&self.file, FallocateFlags::empty(), offset, len)
            .map_err(|errno| Error::host("reserve memory of", &self.name, Some(offset), errno.into()))
    }
}
