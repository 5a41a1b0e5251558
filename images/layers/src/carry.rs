//! The sums of blocks that a fold moves: they go with their blocks, unread, so that damage older than the fold is still
//! found after it.

use crate::chain::{LayerRecord, SumsRecord};
use crate::disk::Disk;
use crate::sums::{SumsFile, each_page};
use crate::{FrozenMap, Result};
use block::sync::lock;
use block::{OpenHow, planted};

impl Disk {
    /// Gives one layer the sums of the blocks that a fold moves into it from another, durably: what the chain is to say
    /// of its sums from the moment the blocks are there. They overwrite only sums of blocks that nobody reads from that
    /// layer. Called again for the same blocks after a crash, it does the same again.
    pub(crate) fn carry_sums(
        &self,
        source: LayerRecord,
        target: LayerRecord,
        moved: &FrozenMap,
    ) -> Result<Option<SumsRecord>> {
        let place = self.place();
        let open = |number, layer: LayerRecord, how| SumsFile::open(&place, number, layer.file_blocks, how);
        let from = source.sums.map(|sums| open(sums.number, source, OpenHow::Read)).transpose()?;
        let (number, to) = match (target.sums, &from) {
            (None, None) => return Ok(None),
            (Some(sums), _) => (sums.number, open(sums.number, target, OpenHow::Write)?),
            (None, Some(_)) => {
                let number = lock(&self.roots).chain.take_number();
                (number, SumsFile::create(&place, number, target.file_blocks)?)
            }
        };
        let writing = lock(&self.summing);
        if !planted!("fold-forgets-sums") {
            move_sums(moved, from.as_ref(), &to)?;
        }
        drop(writing);
        to.sync().map_err(|error| self.poisoned(error))?;
        if target.sums.is_none() {
            self.env.media.sync_dir(&self.dir).map_err(|error| self.failed_sync(error))?;
        }
        let is_whole = |layer: LayerRecord| layer.sums.is_some_and(|sums| sums.is_whole);
        Ok(Some(SumsRecord { number, is_whole: is_whole(source) && is_whole(target) }))
    }
}

/// Takes the sums of the moved blocks that have bytes from one file to the other; none where there are none.
fn move_sums(moved: &FrozenMap, from: Option<&SumsFile>, to: &SumsFile) -> block::Result<()> {
    each_page(moved, |page, runs| {
        let old = from.map(|from| from.read_page(page)).transpose()?;
        let mut new = to.read_page(page)?;
        for at in runs.iter().flat_map(|&(at, count)| at..at + count) {
            new.set(at, old.as_ref().and_then(|old| old.get(at)));
        }
        to.write_page(page, &mut new)?;
        Ok(true)
    })
    .map(|_all| ())
}
