//! Room set aside: blocks of the host that a full filesystem still has for giving space back. A deletion commits a
//! chain, ends the active layer perhaps, and folds in batches; each of these frees more than it takes, but takes first.

use crate::committed;
use crate::disk::Disk;
use crate::names;
use crate::{Error, Result};
use block::sync::atomic::Ordering;
use block::{ByteRange, Kind, OpenHow};

/// Room for one slice of a fold, for map files and for a chain.
const ROOM_BYTES: u64 = 2 << 20;

impl Disk {
    fn room_path(&self) -> String {
        format!("{}/{}", self.dir, names::ROOM)
    }

    /// Sets room aside, if there is none and the host has it.
    pub(crate) fn make_room(&self) {
        if self.has_room.load(Ordering::Relaxed) {
            return;
        }
        // what ending the active layer takes at least
        let layer = self.env.journal_room.get() + committed::top_bytes(self.view.load().size.blocks());
        let made = (self.env.media.open(&self.room_path(), OpenHow::Truncate))
            .and_then(|file| file.allocate(ByteRange::between(0, ROOM_BYTES + layer)));
        match made {
            Ok(()) => self.has_room.store(true, Ordering::Relaxed),
            Err(error) => tracing::debug!(disk = %self.id, %error, "no room set aside"),
        }
    }

    /// If the first attempt found the host full, gives up the room and tries again.
    pub(crate) fn with_room<T>(&self, first: Result<T>, again: impl FnOnce() -> Result<T>) -> Result<T> {
        match first {
            Err(error) if error.kind() == Kind::NoSpace && self.give_up_room(&error) => again(),
            first => first,
        }
    }

    /// Whether there was room to give up.
    fn give_up_room(&self, why: &Error) -> bool {
        if !self.has_room.swap(false, Ordering::Relaxed) {
            return false;
        }
        tracing::info!(disk = %self.id, error = %why, "the host is full: the room set aside is used");
        match self.env.media.open(&self.room_path(), OpenHow::Truncate) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(disk = %self.id, %error, "the room set aside cannot be used");
                false
            }
        }
    }
}
