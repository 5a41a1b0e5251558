//! A disk in memory whose bytes also lie in files, so that answers may be sent from there or fetched first. Which bytes
//! are far away, which the host has in memory, which are verified and which reads fail follows from one number.

use block::{
    BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, Error, Extent, ExtentKind, Kind, MediaFile,
    MemoryDisk, Provision, Result, Stored, Visit,
};
use std::io::Stdin;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Bytes lie together up to a multiple of this; what follows is in the other file.
pub const RUN: u64 = 20 << 10;

/// The other way of cutting: one file holds all.
const UNCUT: u64 = 1 << 31;

/// Where the first file begins, and how far the second is from it: an offset says which file and which byte of the disk
/// is meant.
const FILE_STEP: u64 = 1 << 32;

/// A stream of numbers that look like chance.
pub struct Luck(pub u64);

impl Luck {
    /// A number below `bound`.
    pub fn draw(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % bound
    }
}

fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// The disk.
pub struct Shelf {
    disk: Arc<MemoryDisk>,
    files: [Arc<Place>; 2],
    run: u64,
    seed: u64,
}

impl Shelf {
    /// One over `disk`.
    pub fn new(disk: Arc<MemoryDisk>, seed: u64) -> Self {
        let file = |number| Arc::new(Place { disk: disk.clone(), number, seed, stdin: std::io::stdin() });
        let run = if seed & 1 == 0 { RUN } else { UNCUT };
        Self { files: [file(1), file(2)], run, seed, disk }
    }

    /// The byte of the disk that is meant by an offset in a file.
    pub fn disk_offset(in_file: u64) -> u64 {
        in_file % FILE_STEP
    }

    fn holds_only_zeros(&self, range: ByteRange) -> bool {
        let mut bytes = vec![0; range.count().get() as usize];
        self.disk.read_at(range.offset(), &mut bytes).is_ok() && bytes.iter().all(|byte| *byte == 0)
    }
}

impl BlockSource for Shelf {
    fn size(&self) -> ByteCount {
        self.disk.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        let mut at = range.start();
        while at < range.end() {
            let piece = ByteRange::between(at, ((at / RUN + 1) * RUN).min(range.end()));
            let kind = if self.holds_only_zeros(piece) { ExtentKind::Zero } else { ExtentKind::Data };
            if visit(Extent { range: piece, kind }).is_break() {
                break;
            }
            at = piece.end();
        }
        Ok(())
    }

    /// With half of the seeds a quarter of the disk is far away.
    fn is_near(&self, range: ByteRange) -> bool {
        let mut pieces = range.start() / RUN..=(range.end() - 1) / RUN;
        self.seed & 4 == 0 || !pieces.any(|piece| mix(self.seed.wrapping_sub(piece)).is_multiple_of(4))
    }

    fn stored(&self, range: ByteRange) -> Option<Stored> {
        let run = range.start() / self.run;
        let count = ((run + 1) * self.run).min(self.size().get()) - range.start();
        let here = range.start()..range.end().min(range.start() + count);
        if self.holds_only_zeros(ByteRange::between(here.start, here.end)) {
            return None;
        }
        let file = &self.files[(run % 2) as usize];
        let is_verified = !mix(self.seed ^ run).is_multiple_of(16);
        let offset = file.number * FILE_STEP + range.start();
        Some(Stored { file: file.clone(), offset, count, is_verified, held: None })
    }
}

impl BlockDevice for Shelf {
    fn write_at(&self, offset: ByteOffset, buf: &[u8]) -> Result<()> {
        self.disk.write_at(offset, buf)
    }

    fn zero(&self, range: ByteRange, provision: Provision) -> Result<()> {
        self.disk.zero(range, provision)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.disk.discard(range)
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }
}

/// A file of the disk, of which the host has some blocks in memory.
struct Place {
    disk: Arc<MemoryDisk>,
    number: u64,
    seed: u64,
    /// Any descriptor will do: nobody here reads from it.
    stdin: Stdin,
}

impl Place {
    fn on_disk(&self, offset: u64) -> u64 {
        assert_eq!(offset / FILE_STEP, self.number, "the wrong file is asked");
        Shelf::disk_offset(offset)
    }
}

fn unused<T>(what: &str) -> Result<T> {
    Err(Error::refused(Kind::Unsupported, "a file of the fuzzer", what))
}

impl MediaFile for Place {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.disk.read_at(ByteOffset::new(self.on_disk(offset)), buf)
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        let range = ByteRange::between(offset, offset + buf.len() as u64);
        if self.is_cached(range) { self.read_at(offset, buf).map(|()| true) } else { Ok(false) }
    }

    fn is_cached(&self, range: ByteRange) -> bool {
        let pieces = self.on_disk(range.start()) / RUN..=(self.on_disk(range.end() - 1)) / RUN;
        // half of the seeds have all of it in memory, so that long reads are sent from there at times
        self.seed & 2 == 0
            || pieces.into_iter().all(|piece| mix(self.seed.wrapping_add(piece)).is_multiple_of(2))
    }

    fn write_at(&self, _offset: u64, _buf: &[u8]) -> Result<()> {
        unused("written past its disk")
    }

    fn sync(&self) -> Result<()> {
        unused("synced past its disk")
    }

    fn size(&self) -> Result<u64> {
        Ok(self.number * FILE_STEP + self.disk.size().get())
    }

    fn set_len(&self, _len: u64) -> Result<()> {
        unused("resized")
    }

    fn allocate(&self, _range: ByteRange) -> Result<()> {
        unused("allocated")
    }

    fn punch(&self, _range: ByteRange) -> Result<()> {
        unused("punched")
    }

    fn data_ranges(&self, _range: ByteRange) -> Result<Vec<ByteRange>> {
        unused("asked for its holes")
    }

    fn fast_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stdin.as_fd())
    }
}
