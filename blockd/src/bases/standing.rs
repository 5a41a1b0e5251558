//! A base whose source can be opened anew under the disk that stands on it: the disk below was recovered.

use super::Spare;
use block::sync::Published;
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Kind, Result, Stored, Visit};
use std::sync::Arc;
use std::time::Duration;

/// How often a source that was just given up is asked again, and how long it is waited in between: whoever reads should
/// not meet the moment between two opens of the disk below.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(20);

struct Current(Arc<dyn BlockSource>);

/// A recovery point of another disk, as that disk is open now.
pub struct Standing {
    now: Published<Current>,
    size: ByteCount,
    spare: Spare,
}

impl Standing {
    /// Begins with this source. What is damaged in it is read from the spare.
    pub fn new(source: Arc<dyn BlockSource>, spare: Spare) -> Self {
        let size = source.size();
        Self { now: Published::new(Arc::new(Current(source))), size, spare }
    }

    /// Reads go to this source from now on. It is the same content, opened anew.
    pub fn replace(&self, source: Arc<dyn BlockSource>) {
        self.now.store(Arc::new(Current(source)));
    }

    /// Does something with the source of now, and again with the next one if that was given up.
    fn patiently(&self, mut ask: impl FnMut(&dyn BlockSource) -> Result<()>) -> Result<()> {
        for _ in 0..TRIES {
            match ask(&*self.now.load().0) {
                Err(error) if error.kind() == Kind::Unavailable => std::thread::sleep(PAUSE),
                done => return done,
            }
        }
        ask(&*self.now.load().0)
    }
}

impl BlockSource for Standing {
    fn size(&self) -> ByteCount {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        let read = self.patiently(|source| source.read_at(offset, buf));
        self.spare.save(read, offset, buf).map(drop)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        self.now.load().0.extents(range, visit)
    }

    fn stored(&self, range: ByteRange) -> Option<Stored> {
        self.now.load().0.stored(range)
    }

    fn is_near(&self, range: ByteRange) -> bool {
        self.now.load().0.is_near(range)
    }
}
