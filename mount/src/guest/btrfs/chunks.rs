//! From the addresses of the filesystem to bytes of the volume.

use super::tree::{CHUNK, Key};
use crate::fields::{le16, le64};
use crate::{Error, Result};

const STRIPES_AT: usize = 48;
const STRIPE: usize = 32;
/// Content in turns on several devices; with one, it is as plain as any.
const IN_TURNS: u64 = 0x8 | 0x40 | 0x80 | 0x100;
/// Chunks are 1 GiB as a rule: this many make half an exabyte.
const MAX_CHUNKS: usize = 1 << 19;

#[derive(Debug, Clone, Copy)]
struct Chunk {
    start: u64,
    len: u64,
    /// Where it lies on this volume, or `None` if it lies on others.
    byte: Option<u64>,
}

/// All chunks, by their addresses.
#[derive(Debug, Default)]
pub(super) struct Chunks(Vec<Chunk>);

impl Chunks {
    /// The chunks listed in the superblock, each with its key.
    pub(super) fn of_system(list: &[u8], device: u64) -> Result<Self> {
        let mut chunks = Self::default();
        let mut at = 0;
        while at < list.len() {
            let key = Key::decode(list, at)?;
            let rest = list.get(at + Key::LEN..).unwrap_or_default();
            at += Key::LEN + STRIPES_AT + usize::from(le16(rest, 44)?) * STRIPE;
            chunks.add(key, rest, device)?;
        }
        chunks.sort();
        Ok(chunks)
    }

    /// Adds a chunk; to be sorted afterwards.
    pub(super) fn add(&mut self, key: Key, item: &[u8], device: u64) -> Result<()> {
        let (start, len, kind, count) =
            (key.offset, le64(item, 0)?, le64(item, 24)?, usize::from(le16(item, 44)?));
        let fits = key.kind == CHUNK && len > 0 && start.checked_add(len).is_some() && count > 0;
        if !fits || self.0.len() == MAX_CHUNKS {
            return Err(Error::corrupt("the tree of chunks", format!("a chunk of {len} bytes at {start}")));
        }
        let mut byte = None;
        for i in 0..count {
            let at = STRIPES_AT + i * STRIPE;
            if le64(item, at)? == device && byte.is_none() {
                byte = Some(le64(item, at + 8)?);
            }
        }
        if kind & IN_TURNS != 0 && count > 1 {
            byte = None;
        }
        self.0.push(Chunk { start, len, byte });
        Ok(())
    }

    pub(super) fn sort(&mut self) {
        self.0.sort_by_key(|chunk| chunk.start);
    }

    /// The byte of the volume for `len` bytes at an address.
    pub(super) fn byte(&self, address: u64, len: u64) -> Result<u64> {
        let place = self.0.partition_point(|chunk| chunk.start <= address).checked_sub(1);
        let chunk = place.and_then(|place| self.0.get(place)).filter(|chunk| {
            let into = address - chunk.start;
            into < chunk.len && len <= chunk.len - into
        });
        let chunk = chunk
            .ok_or_else(|| Error::corrupt("an address of btrfs", format!("{address} is in no chunk")))?;
        let byte = chunk.byte.and_then(|byte| byte.checked_add(address - chunk.start));
        byte.ok_or_else(|| {
            Error::unsupported(
                "a part of this btrfs filesystem",
                "it lies on, or in turns with, other devices",
            )
        })
    }
}
