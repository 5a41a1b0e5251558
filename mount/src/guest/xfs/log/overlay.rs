//! Sectors that are newer in the log than on the volume.

use crate::guest::lines::Bytes;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Bytes the log counts in.
pub(in super::super) const SECTOR: u64 = 512;
/// The most sectors kept, 48 MiB of them: metadata of some hundred thousand files changed since the guest last wrote its own
/// to their places.
const MAX_SECTORS: usize = 96 << 10;

/// The newer sectors by their number on the volume.
#[derive(Default)]
pub(in super::super) struct Overlay {
    sectors: BTreeMap<u64, Box<[u8; SECTOR as usize]>>,
}

impl Overlay {
    /// Whether any of these bytes is newer here. Checksums of such blocks were not yet computed when they were logged; the
    /// log's own checksum covers them.
    pub(in super::super) fn touches(&self, at: u64, len: usize) -> bool {
        let end = (at + len as u64).div_ceil(SECTOR);
        self.sectors.range(at / SECTOR..end.max(at / SECTOR)).next().is_some()
    }

    /// The bytes at `at`, as read from the volume, with what is newer over them.
    pub(in super::super) fn over(&self, at: u64, bytes: Bytes) -> Result<Bytes> {
        if !self.touches(at, bytes.len()) {
            return Ok(bytes);
        }
        let mut patched = bytes.to_vec();
        let end = at + bytes.len() as u64;
        for (number, sector) in self.sectors.range(at / SECTOR..end.div_ceil(SECTOR)) {
            let start = number * SECTOR;
            let (from, to) = (start.max(at), (start + SECTOR).min(end));
            let target = patched.get_mut((from - at) as usize..(to - at) as usize);
            let source = sector.get((from - start) as usize..(to - start) as usize);
            if let (Some(target), Some(source)) = (target, source) {
                target.copy_from_slice(source);
            }
        }
        Ok(patched.into())
    }

    /// Makes `bytes`, whole sectors from `at` on, the newest where they differ from `before`.
    pub(super) fn put(&mut self, at: u64, before: &[u8], bytes: &[u8]) -> Result<()> {
        let sectors = bytes.as_chunks::<{ SECTOR as usize }>().0.iter();
        let before = before.as_chunks::<{ SECTOR as usize }>().0.iter();
        for ((number, sector), before) in (at / SECTOR..).zip(sectors).zip(before) {
            if sector != before {
                self.sectors.insert(number, Box::new(*sector));
            }
        }
        if self.sectors.len() > MAX_SECTORS {
            let limit = MAX_SECTORS as u64 * SECTOR;
            return Err(Error::unsupported(
                "this XFS filesystem",
                format!("more than {limit} bytes of metadata wait in its log; a guest that syncs empties it"),
            ));
        }
        Ok(())
    }
}
