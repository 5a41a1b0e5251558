//! Inode numbers of the mounted tree. They say what a file is, so no table is kept of what the kernel knows, and they
//! are the same in every mount of the same recovery point.

use crate::guest::MAX_INODE;
use crate::parser::wire::{FIRST_ASSEMBLED, MAX_DISKS, MAX_VOLUMES};

/// The highest number of a volume.
const MAX_VOLUME: u32 = FIRST_ASSEMBLED + MAX_VOLUMES as u32 - 1;

/// What an inode number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// The top directory.
    Top,
    /// `disk.raw`, or the bytes of one disk of several.
    Disk(u32),
    /// The directory `partitions`.
    Partitions,
    /// The directory `files`.
    Files,
    /// `partitions/N.raw`, also of a volume that was put together.
    Partition(u32),
    /// `files/N.unreadable`.
    Reason(u32),
    /// An inode of the filesystem on volume N.
    Guest(u32, u64),
}

const TOP: u64 = 1;
const DISK: u64 = 2;
const MORE_DISKS: u64 = 3 << 16;
const PARTITIONS: u64 = 3;
const FILES: u64 = 4;
const PARTITION: u64 = 1 << 16;
const REASON: u64 = 2 << 16;
/// Bits below the volume's number plus one.
const GUEST_BITS: u32 = 48;

impl Place {
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Top => TOP,
            Self::Disk(0) => DISK,
            Self::Disk(disk) => MORE_DISKS | u64::from(disk),
            Self::Partitions => PARTITIONS,
            Self::Files => FILES,
            Self::Partition(number) => PARTITION | u64::from(number),
            Self::Reason(number) => REASON | u64::from(number),
            Self::Guest(volume, ino) => (u64::from(volume) + 1) << GUEST_BITS | ino,
        }
    }

    pub(crate) fn of(number: u64) -> Option<Self> {
        let low = (number & 0xffff) as u32;
        Some(match (number >> GUEST_BITS, number & MAX_INODE & !0xffff) {
            (0, 0) => match number {
                TOP => Self::Top,
                DISK => Self::Disk(0),
                PARTITIONS => Self::Partitions,
                FILES => Self::Files,
                _ => return None,
            },
            (0, PARTITION) if low <= MAX_VOLUME => Self::Partition(low),
            (0, REASON) if low <= MAX_VOLUME => Self::Reason(low),
            (0, MORE_DISKS) if (1..MAX_DISKS as u32).contains(&low) => Self::Disk(low),
            (0, _) => return None,
            (volume, _) => {
                let volume = u32::try_from(volume - 1).ok().filter(|volume| *volume <= MAX_VOLUME)?;
                Self::Guest(volume, number & MAX_INODE)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_places_are_the_same_thing() {
        let guests = [(0, 0), (0, 2), (1, 2), (MAX_VOLUME, MAX_INODE)].map(|(v, i)| Place::Guest(v, i));
        let others = [Place::Top, Place::Disk(0), Place::Disk(3), Place::Partitions, Place::Files];
        let numbered =
            [Place::Partition(1), Place::Partition(MAX_VOLUME), Place::Reason(0), Place::Reason(7)];
        let all: Vec<_> = guests.into_iter().chain(others).chain(numbered).collect();
        for place in &all {
            assert_eq!(Place::of(place.number()), Some(*place));
            assert_eq!(all.iter().filter(|other| other.number() == place.number()).count(), 1);
        }
        for number in [0, 5, PARTITION | 0xffff, MORE_DISKS, MORE_DISKS | 31, 4 << 16, u64::MAX] {
            assert_eq!(Place::of(number), None, "{number:#x}");
        }
    }
}
