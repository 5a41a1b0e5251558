//! Content: an extent of the log takes the place of what lay there.

use super::view::View;
use super::{SIZE_AT, damaged, put64};
use crate::Result;
use crate::fields::{le64, u8_at};
use crate::guest::btrfs::extent::INLINE;
use crate::guest::btrfs::tree::{EXTENT, Key};
use std::ops::ControlFlow;

const PLAIN_LEN_AT: usize = 8;
const KIND_AT: usize = 20;
const DISK_AT: usize = 21;
const INTO_AT: usize = 37;
const LEN_AT: usize = 45;

/// One past the last byte of an extent.
fn end(key: Key, item: &[u8], sector: u64) -> Result<u64> {
    let inside = u8_at(item, KIND_AT)? == INLINE;
    let len = if inside {
        le64(item, PLAIN_LEN_AT)?.checked_next_multiple_of(sector)
    } else {
        Some(le64(item, LEN_AT)?)
    };
    let end = len.filter(|len| *len > 0).and_then(|len| key.offset.checked_add(len));
    end.ok_or_else(|| damaged(format!("an extent at {} has no end", key.offset)))
}

/// How much space an extent takes by the inode's account.
pub(super) fn space(item: &[u8]) -> Result<u64> {
    match u8_at(item, KIND_AT)? {
        INLINE => le64(item, PLAIN_LEN_AT),
        _ if le64(item, DISK_AT)? == 0 => Ok(0),
        _ => le64(item, LEN_AT),
    }
}

impl View<'_> {
    /// Puts an extent in the place of what lay there.
    pub(super) fn write(&mut self, key: Key, item: Vec<u8>) -> Result<()> {
        let end = end(key, &item, self.sector())?;
        self.drop_extents(key.object, key.offset, end)?;
        self.touch(key.object);
        self.put(key, item)
    }

    /// Takes away what lies behind the end of a file.
    pub(super) fn cut(&mut self, ino: u64) -> Result<()> {
        let size = le64(&self.inode(ino)?, SIZE_AT)?;
        let Some(from) = size.checked_next_multiple_of(self.sector()) else { return Ok(()) };
        self.drop_extents(ino, from, u64::MAX)?;
        self.touch(ino);
        Ok(())
    }

    /// Takes away `from..to` of a file's content; of extents that begin before or end behind, that part stays.
    fn drop_extents(&mut self, ino: u64, from: u64, to: u64) -> Result<()> {
        let (mut found, sector) = (Vec::new(), self.sector());
        self.items().each(Key::new(ino, EXTENT, from), &mut |key, item| {
            if key.offset >= to {
                return Ok(ControlFlow::Break(()));
            }
            if end(key, item, sector)? > from {
                found.push((key, item.to_vec()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for (key, item) in found {
            let its_end = end(key, &item, sector)?;
            // bytes inside the tree are not divided
            let divides = u8_at(&item, KIND_AT)? != INLINE;
            self.remove(key)?;
            if key.offset < from && divides {
                let mut front = item.clone();
                put64(&mut front, LEN_AT, from - key.offset)?;
                self.put(key, front)?;
            }
            if its_end > to && divides {
                let mut back = item;
                let into = le64(&back, INTO_AT)?.checked_add(to - key.offset);
                put64(&mut back, INTO_AT, into.ok_or_else(|| damaged("an extent passes its end"))?)?;
                put64(&mut back, LEN_AT, its_end - to)?;
                self.put(Key { offset: to, ..key }, back)?;
            }
        }
        Ok(())
    }
}
