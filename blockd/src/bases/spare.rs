//! A recovery point that more than one place holds: where the nearest is damaged, another one has the same bytes.

use crate::error::{Error, Result, storage_kind};
use crate::vaults::Vaults;
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Kind, StateId, Stored, Visit};
use std::sync::{Arc, OnceLock};

type Find = dyn Fn() -> Result<Arc<dyn BlockSource>> + Send + Sync;

/// The other place, looked for when it is first needed.
pub struct Spare {
    find: Box<Find>,
    source: OnceLock<Arc<dyn BlockSource>>,
}

impl Spare {
    /// One that `find` finds.
    pub fn new(find: impl Fn() -> Result<Arc<dyn BlockSource>> + Send + Sync + 'static) -> Self {
        Self { find: Box::new(find), source: OnceLock::new() }
    }

    /// The copy of a state in any vault but this one.
    pub fn in_vaults(vaults: Option<&Arc<Vaults>>, state: StateId, but: Option<block::VaultId>) -> Self {
        let vaults = vaults.cloned();
        Self::new(move || {
            vaults.as_ref().map_or_else(|| Err(missing()), |vaults| copy_of(vaults, state, but))
        })
    }

    /// One that is open.
    pub fn open(source: Arc<dyn BlockSource>) -> Self {
        let spare = Self::new(|| Err(missing()));
        spare.source.get_or_init(|| source);
        spare
    }

    /// What it has.
    ///
    /// # Errors
    /// There is none, or what keeps it from being opened.
    pub fn source(&self) -> block::Result<&Arc<dyn BlockSource>> {
        if let Some(source) = self.source.get() {
            return Ok(source);
        }
        let found = (self.find)().map_err(|error| {
            let body = error.body();
            block::Error::refused(storage_kind(body.kind), "another copy", body.message)
        })?;
        Ok(self.source.get_or_init(|| found))
    }

    /// What came of a read: where that met damage, the bytes are read here. Whether they were.
    ///
    /// # Errors
    /// The damage, if nothing else has the bytes either; whatever else a read fails with.
    pub fn save(&self, read: block::Result<()>, offset: ByteOffset, buf: &mut [u8]) -> block::Result<bool> {
        let Err(error) = read else { return Ok(false) };
        self.instead(error, &mut |source| source.read_at(offset, buf)).map(|()| true)
    }

    /// What came of a look at extents, of which these are the rest, unless the visitor had enough: where it met damage they are
    /// looked up here.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_extents(
        &self,
        visited: block::Result<()>,
        rest: ByteRange,
        stopped: bool,
        visit: &mut Visit<'_>,
    ) -> block::Result<()> {
        match visited {
            Err(error) if !stopped && !rest.is_empty() => {
                self.instead(error, &mut |source| source.extents(rest, visit))
            }
            visited => visited,
        }
    }

    fn instead(
        &self,
        error: block::Error,
        act: &mut dyn FnMut(&dyn BlockSource) -> block::Result<()>,
    ) -> block::Result<()> {
        if !matches!(error.kind(), Kind::Corrupt | Kind::Io) {
            return Err(error);
        }
        // why it failed is the damage, not that nothing else has it either
        self.source().and_then(|source| act(&**source)).map_err(|of_spare| {
            tracing::debug!("nothing else has it either: {of_spare}");
            error
        })
    }
}

fn missing() -> Error {
    Error::not_found("another copy")
}

fn copy_of(vaults: &Vaults, state: StateId, but: Option<block::VaultId>) -> Result<Arc<dyn BlockSource>> {
    let mut last = missing();
    for named in vaults.all() {
        let Ok(vault) = named.vault() else { continue };
        let Ok(survey) = vault.survey() else { continue };
        let found = survey.points.iter().find(|point| point.state == state);
        let Some(point) = found.filter(|_| but != Some(vault.id())) else { continue };
        match named.image(&point.manifest, || format!("read what vault {} has of it", named.name)) {
            Ok(image) => return Ok(image),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A source whose damage is made good.
pub struct Spared {
    near: Arc<dyn BlockSource>,
    spare: Spare,
}

impl Spared {
    /// Reads from `near`, and from `spare` where that is damaged.
    pub fn new(near: Arc<dyn BlockSource>, spare: Spare) -> Self {
        Self { near, spare }
    }
}

impl BlockSource for Spared {
    fn size(&self) -> ByteCount {
        self.near.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        let read = self.near.read_at(offset, buf);
        self.spare.save(read, offset, buf).map(drop)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        let (mut from, mut stopped) = (range.start(), false);
        let visited = self.near.extents(range, &mut |extent| {
            from = extent.range.end();
            let flow = visit(extent);
            stopped = flow.is_break();
            flow
        });
        self.spare.save_extents(visited, ByteRange::between(from, range.end()), stopped, visit)
    }

    fn stored(&self, range: ByteRange) -> Option<Stored> {
        self.near.stored(range)
    }

    fn is_near(&self, range: ByteRange) -> bool {
        self.near.is_near(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::MemoryDisk;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn only_damage_is_made_good_and_the_copy_is_looked_for_once() {
        let looked = Arc::new(AtomicU32::new(0));
        let count = looked.clone();
        let spare = Spare::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(Arc::new(MemoryDisk::new(ByteCount::new(8))))
        });
        let mut buf = [7; 4];
        assert!(!spare.save(Ok(()), ByteOffset::ZERO, &mut buf).expect("it was read"));
        let closed = || Err(block::Error::refused(Kind::Unavailable, "a disk", "is closed"));
        assert!(spare.save(closed(), ByteOffset::ZERO, &mut buf).is_err());
        assert_eq!((looked.load(Ordering::SeqCst), buf), (0, [7; 4]));
        let damaged = || Err::<(), _>(block::Error::corrupt("a layer", None, "a checksum disagrees"));
        assert!(spare.save(damaged(), ByteOffset::ZERO, &mut buf).expect("saved"));
        assert_eq!(buf, [0; 4]);
        // past its end
        let failed = spare.save(damaged(), ByteOffset::new(6), &mut buf).expect_err("it has no more");
        assert_eq!((failed.kind(), looked.load(Ordering::SeqCst)), (Kind::Corrupt, 1));
        // what was visited is not visited again
        let mut seen = Vec::new();
        let mut visit = |extent: block::Extent| {
            seen.push(extent.range);
            std::ops::ControlFlow::Continue(())
        };
        let rest = ByteRange::between(5, 8);
        spare.save_extents(damaged(), rest, false, &mut visit).expect("saved");
        spare.save_extents(Ok(()), rest, false, &mut visit).expect("nothing to save");
        spare.save_extents(damaged(), rest, true, &mut visit).expect_err("nobody asks any more");
        assert_eq!(seen, [rest]);
        let none = Spare::in_vaults(None, StateId::from_bytes([1; 16]), None);
        assert_eq!(none.save(damaged(), ByteOffset::ZERO, &mut buf).expect_err("none").kind(), Kind::Corrupt);
    }
}
