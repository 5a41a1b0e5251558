//! Everything a decoder of foreign bytes can be asked, asked of any bytes at all. The property is that it answers: no
//! panic, no endless loop, no memory out of proportion. Shared by the tests and by the fuzz targets.

use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, MemoryDisk};
use mount::guest::{self, Guest, NodeKind, Place, recognise};
use mount::luks::{header, metadata};
use mount::parser::wire::{Answer, FromParser, ToParser};
use mount::partition::read_table;
use mount::volume::{self, Member, Space, thin};
use std::collections::HashSet;
use std::sync::Arc;

/// Inodes looked at of one filesystem.
const MAX_INODES: usize = 300;
/// Pages listed of one directory, and windows of one file.
const MAX_STEPS: usize = 40;

fn disk(bytes: &[u8]) -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new(ByteCount::new(bytes.len() as u64));
    disk.write_at(ByteOffset::ZERO, bytes).unwrap();
    Arc::new(disk)
}

/// A partition table is read, and is within the disk.
pub fn partitions(bytes: &[u8]) {
    let table = read_table(&*disk(bytes)).unwrap();
    assert!(table.partitions.is_sorted_by(|a, b| a.number < b.number));
    for partition in table.partitions {
        assert!(!partition.range.is_empty() && partition.range.end() <= bytes.len() as u64);
    }
}

/// A filesystem is opened and all its answers are asked for, up to a bound. How many inodes were looked at.
pub fn filesystem(volume: &Arc<dyn BlockSource>) -> usize {
    // whatever it says, opening must cope with it
    drop(recognise(&**volume));
    let Ok(fs) = guest::open(Arc::clone(volume)) else { return 0 };
    let (mut seen, mut left) = (HashSet::new(), vec![fs.root()]);
    while let Some(ino) = left.pop() {
        if seen.len() < MAX_INODES && seen.insert(ino) {
            visit(&*fs, ino, volume.size().get(), &mut left);
        }
    }
    seen.len()
}

/// The header of an encrypted volume is read, and what it says is possible.
pub fn luks(volume: &Arc<dyn BlockSource>) -> usize {
    let Ok(luks) = header::read(&**volume) else { return 0 };
    assert!(luks.is_possible(volume.size().get()));
    let told = FromParser::Answer(Answer::Luks(luks.clone()));
    assert_eq!(FromParser::decode(&told.encode()), Ok(told));
    luks.slots.len()
}

/// The text of a header of LUKS2, which a checksum keeps changed bytes away from.
pub fn luks_text(bytes: &[u8]) {
    if let Ok(luks) = metadata::luks2(bytes, 1 << 30)
        && luks.is_possible(1 << 30)
    {
        let told = FromParser::Answer(Answer::Luks(luks));
        assert_eq!(FromParser::decode(&told.encode()), Ok(told));
    }
}

/// The mapping of thin volumes is read to its end; what it says is possible. Checksums are made to fit, as whoever changes bytes on
/// purpose does.
pub fn thin(volume: &Arc<dyn BlockSource>) -> usize {
    let summed = Summed(Arc::clone(volume));
    let mut seen = 0;
    for device in [1, 2, 7] {
        let mut from = Some(0);
        for _ in 0..MAX_STEPS {
            let Some(at) = from else { break };
            let Ok(mapping) = thin::mapping(&summed, device, at) else { break };
            assert!(mapping.is_possible(at));
            seen += mapping.runs.len();
            let told = FromParser::Answer(Answer::Mapping(mapping.clone()));
            assert_eq!(FromParser::decode(&told.encode()), Ok(told));
            from = mapping.next;
        }
    }
    seen
}

/// A pool's metadata whose checksums fit, whatever is in its blocks.
struct Summed(Arc<dyn BlockSource>);

impl BlockSource for Summed {
    fn size(&self) -> ByteCount {
        self.0.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.0.read_at(offset, buf)?;
        let mix = if offset.get() == 0 { 160_774 } else { 121_107 };
        if buf.len() == 4096 {
            let sum = block::crc32c(!0, &buf[4..]) ^ mix;
            buf[..4].copy_from_slice(&sum.to_le_bytes());
        }
        Ok(())
    }

    fn extents(&self, range: block::ByteRange, visit: &mut block::Visit<'_>) -> block::Result<()> {
        self.0.extents(range, visit)
    }
}

/// Disks are put together, and what is made of them lies on them.
pub fn volumes(disks: &Arc<dyn BlockSource>) -> usize {
    let half = disks.size().get() / 2;
    let ranges = [(0, half), (half, disks.size().get())];
    let member = |(start, end)| Member { range: block::ByteRange::between(start, end), belongs: None };
    let found = volume::assemble(disks, &mut ranges.map(member)).unwrap();
    let readable = found.iter().filter_map(|found| Some((found.range, found.parts.clone().ok()?)));
    let readable: Vec<_> = readable.collect();
    assert!(readable.iter().all(|(range, parts)| volume::fits(*range, parts)));
    assert!(readable.is_sorted_by(|a, b| a.0.end() <= b.0.start()));
    let space = Space::new(Arc::clone(disks));
    space.add(readable.clone());
    for (range, _) in &readable {
        for at in [range.start(), range.start() + range.count().get() / 2, range.end() - 1] {
            // what lies outside the disks is an error, not another volume's bytes
            drop(space.read_at(ByteOffset::new(at), &mut [0]));
        }
    }
    readable.len()
}

fn visit(fs: &dyn Guest, ino: u64, volume: u64, left: &mut Vec<u64>) {
    if let Ok(names) = fs.attributes(ino) {
        for name in names {
            assert!((1..=255).contains(&name.len()));
            if let Ok(value) = fs.attribute(ino, &name) {
                assert!(value.len() <= mount::guest::MAX_ATTRIBUTE);
            }
        }
    }
    let Ok(node) = fs.node(ino) else { return };
    assert_eq!(node.ino, ino);
    match node.kind {
        NodeKind::Directory => list(fs, ino, left),
        NodeKind::File => content(fs, ino, node.size, volume),
        NodeKind::Symlink => {
            if let Ok(target) = fs.link(ino) {
                assert!((1..=mount::guest::MAX_LINK).contains(&target.len()));
            }
        }
        _ => {}
    }
}

fn list(fs: &dyn Guest, ino: u64, left: &mut Vec<u64>) {
    let mut cookie = 0;
    for _ in 0..MAX_STEPS {
        let Ok(page) = fs.list(ino, cookie) else { return };
        assert!(page.entries.len() <= mount::guest::MAX_ENTRIES);
        for entry in page.entries.into_iter().take(MAX_INODES) {
            assert!(mount::guest::is_name(&entry.name));
            left.push(entry.ino);
        }
        match page.next {
            Some(next) => {
                assert!(next > cookie, "a listing goes forward");
                cookie = next;
            }
            None => break,
        }
    }
    drop(fs.lookup(ino, b"no such name"));
}

fn content(fs: &dyn Guest, ino: u64, size: u64, volume: u64) {
    let mut at = 0;
    for _ in 0..MAX_STEPS {
        let Ok(pieces) = fs.pieces(ino, at, at.saturating_add(64 << 20)) else { return };
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { break };
        assert!(first.at <= at && last.at + last.len > at && last.at + last.len <= size);
        assert!(pieces.windows(2).all(|pair| pair[0].at + pair[0].len == pair[1].at));
        let inside = |at: u64, len: u64| at.checked_add(len).is_some_and(|end| end <= volume);
        assert!(pieces.iter().all(|piece| match piece.place {
            Place::Volume(at) => inside(at, piece.len),
            _ => true,
        }));
        if let Some(coded) = pieces.iter().find(|piece| piece.place == Place::Coded)
            && let Ok(bytes) = fs.content(ino, coded.at, 1 << 16)
        {
            assert!((1..=1 << 16).contains(&bytes.len()));
        }
        at = last.at + last.len;
    }
}

/// Messages in both directions: what decodes must encode to something that decodes to the same.
pub fn wire(bytes: &[u8]) {
    if let Ok(message) = ToParser::decode(bytes) {
        assert_eq!(ToParser::decode(&message.encode()), Ok(message));
    }
    if let Ok(message) = FromParser::decode(bytes) {
        assert_eq!(FromParser::decode(&message.encode()), Ok(message));
    }
}
