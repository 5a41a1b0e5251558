//! The newest entry, noted beside the log, so that a log cut short is told from one that ends. Two slots take turns, so that
//! a torn write leaves the other.

use super::chain::Link;
use block::{Media, MediaFile, OpenHow};
use std::sync::Arc;

/// The file.
const FILE: &str = "audit/head";
/// A number, a hash in hex, a checksum.
const SLOT: usize = 8 + 64 + 4;
/// Between the beginnings of the slots.
const STEP: u64 = 128;

/// The open file.
pub struct Head(Arc<dyn MediaFile>);

impl Head {
    /// Opens it, and reads what it says; nothing if it is new or neither slot is whole.
    ///
    /// # Errors
    /// What the host reports.
    pub fn open(media: &dyn Media) -> block::Result<(Self, Option<Link>)> {
        let file = match media.open(FILE, OpenHow::Write) {
            Err(error) if error.kind() == block::Kind::NotFound => {
                let made = media.open(FILE, OpenHow::Create)?;
                made.set_len(2 * STEP)?;
                made.sync()?;
                media.sync_dir(super::DIR)?;
                made
            }
            opened => opened?,
        };
        let newest = (0..2).filter_map(|slot| read(&*file, slot)).max_by_key(|link| link.number);
        Ok((Self(file), newest))
    }

    /// Notes an entry that is durable. This is not synced itself: after a power cut it may name an older one.
    ///
    /// # Errors
    /// What the host reports.
    pub fn note(&self, link: &Link) -> block::Result<()> {
        let mut slot = Vec::with_capacity(SLOT);
        slot.extend_from_slice(&link.number.to_le_bytes());
        slot.extend_from_slice(link.hash.as_bytes());
        slot.extend_from_slice(&crc32fast::hash(&slot).to_le_bytes());
        self.0.write_at(link.number % 2 * STEP, &slot)
    }
}

fn read(file: &dyn MediaFile, slot: u64) -> Option<Link> {
    let mut bytes = [0; SLOT];
    file.read_at(slot * STEP, &mut bytes).ok()?;
    let (said, crc) = bytes.split_at(SLOT - 4);
    if crc32fast::hash(said).to_le_bytes() != *crc {
        return None;
    }
    let (number, hash) = said.split_at(8);
    let number = u64::from_le_bytes(number.try_into().ok()?);
    Some(Link { number, hash: std::str::from_utf8(hash).ok()?.to_owned() })
}
