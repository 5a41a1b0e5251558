//! The address space of all disks and of all that is put together from them.

use super::{MAX_LEGS, MAX_PARTS};
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
    /// Where each part begins in the volume.
    starts: Vec<u64>,
    parts: Vec<Part>,
}

/// The disks and the volumes made of them, as one source of blocks.
pub struct Space {
    disks: Arc<dyn BlockSource>,
    volumes: OnceLock<Vec<Volume>>,
}

impl Space {
    /// Only the disks.
    pub fn new(disks: Arc<dyn BlockSource>) -> Self {
        Self { disks, volumes: OnceLock::new() }
    }

    /// Adds the volumes, once; each must [`fits`] and all must be in ascending order of their addresses.
    pub fn add(&self, volumes: impl IntoIterator<Item = (ByteRange, Vec<Part>)>) {
        let volumes = volumes.into_iter().map(|(range, parts)| {
            let mut at = 0;
            let start = |part: &Part| {
                at += part.len;
                at - part.len
            };
            Volume { range, starts: parts.iter().map(start).collect(), parts }
        });
        self.volumes.get_or_init(|| volumes.collect());
    }

    /// Adds the bytes of the disks that these addresses stand for.
    ///
    /// # Errors
    /// `OutOfRange` if there is nothing at one of them.
    pub fn on_disks(&self, range: ByteRange, disks: &mut RangeSet) -> Result<()> {
        let mut at = range.start();
        while at < range.end() {
            let (address, count) = self.resolve(at, range.end() - at)?;
            disks.insert(ByteRange::between(address, address + count));
            at += count;
        }
        Ok(())
    }

    /// Where the bytes from `address` on are: on the disks, in one piece of this length.
    fn resolve(&self, mut address: u64, mut len: u64) -> Result<(u64, u64)> {
        // every step leads to lower addresses, so this ends
        while address >= self.disks.size().get() {
            let volumes = self.volumes.get().map(Vec::as_slice).unwrap_or_default();
            let volume = volumes.partition_point(|volume| volume.range.end() <= address);
            let found = volumes.get(volume).filter(|volume| volume.range.start() <= address);
            let (below, count) = found
                .and_then(|volume| {
                    let at = address - volume.range.start();
                    let part = volume.starts.partition_point(|start| *start <= at).checked_sub(1)?;
                    volume.parts.get(part)?.place(at - volume.starts.get(part)?)
                })
                .filter(|(below, _)| *below < address)
                .ok_or_else(|| outside(address))?;
            (address, len) = (below, len.min(count));
        }
        Ok((address, len.min(self.disks.size().get() - address)))
    }
}

fn outside(address: u64) -> Error {
    Error::OutOfRange { offset: address, count: 1, size: address }
}

impl BlockSource for Space {
    fn size(&self) -> ByteCount {
        let last = self.volumes.get().and_then(|volumes| volumes.last());
        last.map_or_else(|| self.disks.size(), |volume| ByteCount::new(volume.range.end()))
    }

    fn read_at(&self, offset: ByteOffset, mut buf: &mut [u8]) -> Result<()> {
        check_range(offset, buf.len() as u64, self.size())?;
        let mut at = offset.get();
        while !buf.is_empty() {
            let (address, count) = self.resolve(at, buf.len() as u64)?;
            let (now, rest) = buf.split_at_mut(count as usize);
            self.disks.read_at(ByteOffset::new(address), now)?;
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
        while at < range.end() && !stopped {
            let (address, count) = self.resolve(at, range.end() - at)?;
            self.disks.extents(ByteRange::between(address, address + count), &mut |extent| {
                let start = at + (extent.range.start() - address);
                match pending {
                    Some((_, kind)) if kind == extent.kind => {}
                    Some((from, kind)) => {
                        let told = Extent { range: ByteRange::between(from, start), kind };
                        pending = Some((start, extent.kind));
                        if visit(told).is_break() {
                            stopped = true;
                            return ControlFlow::Break(());
                        }
                    }
                    None => pending = Some((start, extent.kind)),
                }
                ControlFlow::Continue(())
            })?;
            at += count;
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
