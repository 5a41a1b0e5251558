//! The address space of all disks and of all that is put together from them.

use super::{MAX_LEGS, MAX_PARTS};
use crate::luks::Opened;
use block::{
    BlockSource, ByteCount, ByteOffset, ByteRange, Error, Extent, ExtentKind, RangeSet, Result, Visit,
    check_range,
};
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

/// Some bytes of a volume, and where they lie: in turns of `stripe` bytes on each leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// How many bytes; a part begins where the one before it ends.
    pub len: u64,
    /// Bytes on one leg before the next leg's turn; of no meaning for a single leg.
    pub stripe: u64,
    /// The first address of each leg.
    pub legs: Vec<u64>,
}

impl Part {
    /// The address of byte `at` of this part, and how many follow it there.
    fn place(&self, at: u64) -> Option<(u64, u64)> {
        let legs = self.legs.len() as u64;
        if legs == 1 {
            return Some((self.legs.first()?.checked_add(at)?, self.len.checked_sub(at)?));
        }
        let (turn, into) = (at / self.stripe, at % self.stripe);
        let leg = self.legs.get((turn % legs) as usize)?;
        let address = leg.checked_add(turn / legs * self.stripe)?.checked_add(into)?;
        Some((address, (self.stripe - into).min(self.len - at)))
    }

    /// One past the last address of any leg, or `None` if the part makes no sense.
    fn end(&self) -> Option<u64> {
        let legs = self.legs.len() as u64;
        if self.len == 0 || legs == 0 || self.legs.len() > MAX_LEGS || legs > 1 && self.stripe == 0 {
            return None;
        }
        let span = match legs {
            1 => self.len,
            _ => self.len.div_ceil(self.stripe).div_ceil(legs).checked_mul(self.stripe)?,
        };
        self.legs.iter().try_fold(0, |end, leg| Some(leg.checked_add(span)?.max(end)))
    }
}

/// Whether a volume at these addresses can be made of these parts: as long as they are together, and behind all of them, so
/// that no volume contains itself.
pub fn fits(range: ByteRange, parts: &[Part]) -> bool {
    let len = parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.len));
    parts.len() <= MAX_PARTS
        && len == Some(range.count().get())
        && parts.iter().all(|part| part.end().is_some_and(|end| end <= range.start()))
}

struct Volume {
    range: ByteRange,
    made: Made,
}

/// What gives a volume its bytes.
enum Made {
    /// Parts of what lies before it, and where each begins in the volume.
    Parts(Vec<u64>, Vec<Part>),
    /// What takes more than that.
    Way(Way),
}

/// Bytes of a thin volume that lie one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The first in the volume.
    pub at: u64,
    /// How many.
    pub len: u64,
    /// The address of the first.
    pub below: u64,
}

/// How a volume that takes more than arithmetic gets its bytes.
pub(crate) enum Way {
    /// It is decrypted.
    Opened(Box<Opened>),
    /// It is mapped: in order, without overlap, each below the volume's own addresses.
    Mapped(Vec<Stretch>),
}

/// Times volumes are added: what is put together, what was opened of that, what is put together of that in turn, and so on.
const ROUNDS: usize = 8;

/// The disks and the volumes made of them, as one source of blocks.
pub struct Space {
    disks: Arc<dyn BlockSource>,
    /// Filled one after the other; addresses ascend.
    rounds: [OnceLock<Vec<Volume>>; ROUNDS],
}

/// Where bytes of the space are in the end.
enum Place<'a> {
    /// So many from this address of the disks on.
    Disk(u64, u64),
    /// So many from a place in the content of an encrypted volume on.
    Opened(&'a Opened, u64, u64),
    /// So many zeros that were never written.
    Zero(u64),
}

impl Space {
    /// Only the disks.
    pub fn new(disks: Arc<dyn BlockSource>) -> Self {
        Self { disks, rounds: Default::default() }
    }

    /// Adds volumes behind all there are; each must [`fits`] and all must be in ascending order of their addresses.
    pub fn add(&self, volumes: impl IntoIterator<Item = (ByteRange, Vec<Part>)>) {
        let volumes = volumes.into_iter().map(|(range, parts)| {
            let mut at = 0;
            let start = |part: &Part| {
                at += part.len;
                at - part.len
            };
            Volume { range, made: Made::Parts(parts.iter().map(start).collect(), parts) }
        });
        self.fill(volumes.collect());
    }

    /// Adds volumes that were decrypted or mapped behind all there are, in ascending order of their addresses.
    pub(crate) fn add_opened(&self, volumes: Vec<(ByteRange, Way)>) {
        self.fill(volumes.into_iter().map(|(range, way)| Volume { range, made: Made::Way(way) }).collect());
    }

    /// Whether volumes can still be added twice.
    pub(crate) fn has_room(&self) -> bool {
        self.rounds.iter().filter(|round| round.get().is_none()).count() >= 2
    }

    fn fill(&self, mut volumes: Vec<Volume>) {
        if volumes.is_empty() {
            return;
        }
        for round in &self.rounds {
            match round.set(volumes) {
                Ok(()) => return,
                Err(back) => volumes = back,
            }
        }
    }

    fn volume(&self, address: u64) -> Option<&Volume> {
        let rounds = self.rounds.iter().map_while(OnceLock::get);
        let volumes =
            rounds.into_iter().find(|round| round.last().is_some_and(|last| address < last.range.end()))?;
        let volume = volumes.get(volumes.partition_point(|volume| volume.range.end() <= address))?;
        (volume.range.start() <= address).then_some(volume)
    }

    /// Adds the bytes of the disks that these addresses stand for.
    ///
    /// # Errors
    /// `OutOfRange` if there is nothing at one of them.
    pub fn on_disks(&self, range: ByteRange, disks: &mut RangeSet) -> Result<()> {
        // of an encrypted volume whole sectors; each step leads to lower addresses
        let mut ahead = vec![range];
        while let Some(range) = ahead.pop() {
            let mut at = range.start();
            while at < range.end() {
                let count = match self.resolve(at, range.end() - at)? {
                    Place::Disk(address, count) => {
                        disks.insert(ByteRange::between(address, address + count));
                        count
                    }
                    Place::Opened(opened, from, count) => {
                        let sector = u64::from(opened.sector);
                        let (start, end) = (from - from % sector, (from + count).next_multiple_of(sector));
                        ahead.push(ByteRange::between(opened.below + start, opened.below + end));
                        count
                    }
                    Place::Zero(count) => count,
                };
                at += count;
            }
        }
        Ok(())
    }

    /// Where the bytes from `address` on are, in one piece of at most this length.
    fn resolve(&self, mut address: u64, mut len: u64) -> Result<Place<'_>> {
        // every step leads to lower addresses, so this ends
        while address >= self.disks.size().get() {
            let volume = self.volume(address).ok_or_else(|| outside(address))?;
            let at = address - volume.range.start();
            let place = match &volume.made {
                Made::Parts(starts, parts) => {
                    let part = starts.partition_point(|start| *start <= at).checked_sub(1);
                    part.and_then(|part| parts.get(part)?.place(at - starts.get(part)?))
                }
                Made::Way(Way::Opened(opened)) => {
                    return Ok(Place::Opened(opened, at, len.min(volume.range.end() - address)));
                }
                Made::Way(Way::Mapped(stretches)) => {
                    let place = stretches.partition_point(|stretch| stretch.at + stretch.len <= at);
                    match stretches.get(place) {
                        Some(stretch) if stretch.at <= at => {
                            let into = at - stretch.at;
                            Some((
                                stretch.below + into,
                                (stretch.len - into).min(volume.range.end() - address),
                            ))
                        }
                        next => {
                            let end = next.map_or(u64::MAX, |next| next.at).min(volume.range.count().get());
                            return Ok(Place::Zero(len.min(end - at)));
                        }
                    }
                }
            };
            let (below, count) =
                place.filter(|(below, _)| *below < address).ok_or_else(|| outside(address))?;
            (address, len) = (below, len.min(count));
        }
        Ok(Place::Disk(address, len.min(self.disks.size().get() - address)))
    }

    /// Fills `buf` with decrypted bytes from `from` on, which are within the content.
    fn read_opened(&self, opened: &Opened, from: u64, buf: &mut [u8]) -> Result<()> {
        let sector = u64::from(opened.sector);
        let before = from % sector;
        let end = from + buf.len() as u64;
        if before == 0 && end.is_multiple_of(sector) {
            self.read_at(ByteOffset::new(opened.below + from), buf)?;
            opened.decrypt(from, buf);
            return Ok(());
        }
        let start = from - before;
        let mut whole = vec![0; (end.next_multiple_of(sector) - start) as usize];
        self.read_at(ByteOffset::new(opened.below + start), &mut whole)?;
        opened.decrypt(start, &mut whole);
        buf.copy_from_slice(&whole[before as usize..before as usize + buf.len()]);
        Ok(())
    }
}

fn outside(address: u64) -> Error {
    Error::OutOfRange { offset: address, count: 1, size: address }
}

impl BlockSource for Space {
    fn size(&self) -> ByteCount {
        let rounds = self.rounds.iter().map_while(OnceLock::get);
        let last = rounds.filter_map(|round| round.last()).last();
        last.map_or_else(|| self.disks.size(), |volume| ByteCount::new(volume.range.end()))
    }

    fn read_at(&self, offset: ByteOffset, mut buf: &mut [u8]) -> Result<()> {
        check_range(offset, buf.len() as u64, self.size())?;
        let mut at = offset.get();
        while !buf.is_empty() {
            let place = self.resolve(at, buf.len() as u64)?;
            let (Place::Disk(_, count) | Place::Opened(_, _, count) | Place::Zero(count)) = place;
            let (now, rest) = buf.split_at_mut(count as usize);
            match place {
                Place::Disk(address, _) => self.disks.read_at(ByteOffset::new(address), now)?,
                Place::Opened(opened, from, _) => self.read_opened(opened, from, now)?,
                Place::Zero(_) => now.fill(0),
            }
            (buf, at) = (rest, at + count);
        }
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size())?;
        let mut at = range.start();
        let mut stopped = false;
        // turns of stripes that are alike are told as one extent
        let mut pending: Option<(u64, ExtentKind)> = None;
        let mut tell = |start: u64, kind: ExtentKind| {
            match pending {
                Some((_, known)) if known == kind => {}
                Some((from, known)) => {
                    let told = Extent { range: ByteRange::between(from, start), kind: known };
                    pending = Some((start, kind));
                    stopped = visit(told).is_break();
                }
                None => pending = Some((start, kind)),
            }
            if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let mut flow = ControlFlow::Continue(());
        while at < range.end() && flow.is_continue() {
            at += match self.resolve(at, range.end() - at)? {
                Place::Disk(address, count) => {
                    let below = ByteRange::between(address, address + count);
                    self.disks.extents(below, &mut |extent| {
                        flow = tell(at + (extent.range.start() - address), extent.kind);
                        flow
                    })?;
                    count
                }
                // zeros below are noise when decrypted
                Place::Opened(_, _, count) => {
                    flow = tell(at, ExtentKind::Data);
                    count
                }
                Place::Zero(count) => {
                    flow = tell(at, ExtentKind::Hole);
                    count
                }
            };
        }
        if let (Some((from, kind)), false) = (pending, stopped) {
            block::visit_last(ByteRange::between(from, range.end()), kind, visit);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{BlockDevice, MemoryDisk};

    #[test]
    fn bytes_of_volumes_are_found_below() {
        let disk = MemoryDisk::new(ByteCount::new(4096));
        let bytes: Vec<u8> = (0..4096_u32).map(|i| (i / 16) as u8).collect();
        disk.write_at(ByteOffset::ZERO, &bytes).unwrap();
        let space = Space::new(Arc::new(disk));
        let striped = vec![
            Part { len: 64, stripe: 16, legs: vec![0, 1024] },
            Part { len: 32, stripe: 0, legs: vec![2048] },
        ];
        let above = vec![Part { len: 40, stripe: 0, legs: vec![4096 + 48] }];
        let (first, second) = (ByteRange::between(4096, 4096 + 96), ByteRange::between(8192, 8232));
        assert!(fits(first, &striped) && fits(second, &above));
        assert!(!fits(first, &above), "another length");
        assert!(!fits(ByteRange::between(4100, 4140), &above), "made of itself");
        space.add([(first, striped), (second, above)]);
        let read = |at, len| {
            let mut buf = vec![0; len];
            space.read_at(ByteOffset::new(at), &mut buf).map(|()| buf)
        };
        let expected: Vec<u8> = [0_u8, 64, 1, 65, 128, 129].iter().flat_map(|byte| [*byte; 16]).collect();
        assert_eq!(read(4096, 96).unwrap(), expected);
        assert_eq!(read(8192, 40).unwrap(), expected[48..88]);
        assert!(read(5000, 8).is_err(), "between the volumes is nothing");
        assert!(read(8230, 8).is_err());
    }

    #[test]
    fn parts_without_sense_are_refused() {
        let range = ByteRange::between(1 << 20, (1 << 20) + 64);
        for part in [
            Part { len: 64, stripe: 0, legs: vec![0, 64] },
            Part { len: 64, stripe: 16, legs: vec![] },
            Part { len: 64, stripe: 16, legs: vec![0, u64::MAX] },
            Part { len: 64, stripe: u64::MAX, legs: vec![0, 1] },
            Part { len: 64, stripe: 0, legs: vec![(1 << 20) - 63] },
        ] {
            assert!(!fits(range, std::slice::from_ref(&part)), "{part:?}");
        }
    }
}
