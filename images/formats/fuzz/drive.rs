//! Any bytes as an image: an error, or a disk whose beginning and end can be walked and read.

use block::{BlockDevice, ByteCount, ByteOffset, ByteRange, MemoryDisk};
use formats::Format;
use std::ops::ControlFlow;
use std::sync::Arc;

const WINDOW: u64 = 1 << 20;

pub fn drive(bytes: &[u8], format: Format) {
    let file = MemoryDisk::new(ByteCount::new(bytes.len() as u64));
    file.write_at(ByteOffset::ZERO, bytes).expect("as large as the bytes");
    let Ok(disk) = formats::read("image", Arc::new(file), format) else { return };
    let size = disk.size().get();
    for start in [0, size.saturating_sub(WINDOW)] {
        let range = ByteRange::between(start, size.min(start + WINDOW));
        let mut end = start;
        let walked = disk.extents(range, &mut |extent| {
            assert!(extent.range.start() == end && !extent.range.is_empty());
            end = extent.range.end();
            ControlFlow::Continue(())
        });
        assert!(walked.is_err() || end == range.end());
        let mut buf = vec![0; range.count().get() as usize];
        // damage is found while reading, too
        let _damaged = disk.read_at(range.offset(), &mut buf).is_err();
    }
}
