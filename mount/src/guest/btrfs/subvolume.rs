//! Subvolumes: each a tree of its own, with its own inodes from 256 on.

use super::Btrfs;
use super::superblock::Root;
use super::tree::{Key, ROOT, ROOT_REFERENCE};
use crate::fields::{le16, le64};
use crate::guest::MAX_INODE;
use crate::{Error, Result};
use std::ops::ControlFlow;

/// The tree that holds the root directory of all.
const TOP: u64 = 5;
const FIRST: u64 = 256;
const LAST: u64 = (-256_i64).cast_unsigned();
/// The most subvolumes: their places and the inodes share 48 bits.
const MAX_SUBVOLUMES: usize = 1 << 16;

/// One subvolume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subvolume {
    pub id: u64,
    pub root: Root,
}

/// All subvolumes in the order of their numbers, and how inode numbers are shared among them.
#[derive(Debug, Default)]
pub(super) struct Subvolumes {
    all: Vec<Subvolume>,
    /// Bits of an inode number below the subvolume's place.
    bits: u32,
}

impl Subvolumes {
    pub(super) fn read(fs: &Btrfs) -> Result<Self> {
        let mut all: Vec<Subvolume> = Vec::new();
        fs.items(fs.sb.roots).all(Key::new(TOP, ROOT, 0), &mut |key, item| {
            let wanted = key.kind == ROOT && (key.object == TOP || (FIRST..=LAST).contains(&key.object));
            // one that was deleted and not yet cleaned away is named by nobody
            if wanted && all.last().is_none_or(|last| last.id != key.object) {
                all.push(Subvolume { id: key.object, root: Root::of_item(item)? });
            }
            Ok(if all.len() > MAX_SUBVOLUMES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if all.len() > MAX_SUBVOLUMES {
            let why = format!("it has more than {MAX_SUBVOLUMES} subvolumes");
            return Err(Error::unsupported("this btrfs filesystem", why));
        }
        if all.first().is_none_or(|first| first.id != TOP) {
            return Err(Error::corrupt("the tree of roots", "it has no root of files"));
        }
        let bits = MAX_INODE.count_ones() - all.len().next_power_of_two().trailing_zeros();
        Ok(Self { all, bits })
    }

    /// The subvolume of this number.
    pub(super) fn find(&self, id: u64) -> Option<Subvolume> {
        self.all
            .binary_search_by_key(&id, |subvolume| subvolume.id)
            .ok()
            .and_then(|place| self.all.get(place).copied())
    }

    /// The subvolume an inode number is in, and its own number there.
    pub(super) fn split(&self, ino: u64) -> Result<(Subvolume, u64)> {
        let found = self.all.get((ino >> self.bits) as usize);
        let found = found.ok_or_else(|| Error::not_found(format!("inode {ino}")))?;
        Ok((*found, ino & ((1 << self.bits) - 1)))
    }

    /// The number shown for an inode of a subvolume.
    pub(super) fn join(&self, subvolume: u64, ino: u64) -> Result<u64> {
        let place = self.all.binary_search_by_key(&subvolume, |subvolume| subvolume.id).ok();
        let place =
            place.ok_or_else(|| Error::corrupt("the tree of roots", format!("no subvolume {subvolume}")))?;
        if ino >> self.bits != 0 {
            let why =
                format!("its number passes 2^{}, what {} subvolumes leave for it", self.bits, self.all.len());
            return Err(Error::unsupported(format!("inode {ino} of subvolume {subvolume}"), why));
        }
        Ok((place as u64) << self.bits | ino)
    }
}

impl Btrfs {
    /// Whether a subvolume is the one that this name in this directory stands for. In a snapshot, the names of subvolumes
    /// below lead nowhere.
    pub(super) fn is_mounted_at(&self, parent: u64, child: u64, dir: u64, name: &[u8]) -> Result<bool> {
        let item = self.item(self.sb.roots, Key::new(parent, ROOT_REFERENCE, child))?;
        let Some(item) = item else { return Ok(false) };
        let its = item.get(18..18 + usize::from(le16(&item, 16)?));
        Ok(le64(&item, 0)? == dir && its == Some(name))
    }
}
