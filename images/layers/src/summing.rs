//! Making the sums of sealed layers, in the background and at the caller's pace. Order and resumption: `docs/sums.md`.

use crate::chain::{Chain, LayerRecord, SumsRecord};
use crate::data_file;
use crate::disk::{Disk, Roots};
use crate::sums::{PAGE_SUMS, SumsFile, each_page, sum_of};
use crate::view::Layer;
use crate::{Error, Result};
use block::sync::lock;
use block::{BLOCK_SIZE, ByteCount, MediaFile, OpenHow, planted};

/// Pages of sums written between two syncs: a crash costs reading a gigabyte again at most.
const SYNC_PAGES: u64 = 256;

impl Disk {
    /// Makes the sums that sealed layers lack, layer by layer. After every piece of at most 4 MiB read, `turn` is called
    /// with its size; it may sleep, and returns whether to go on. What was made stays made, also after a crash.
    ///
    /// Returns whether every sealed layer has its sums now.
    ///
    /// # Errors
    /// `NoSpace` heals. A failed sync poisons the disk.
    pub fn make_sums(&self, turn: &mut dyn FnMut(ByteCount) -> bool) -> Result<bool> {
        while let Some((record, sums)) = self.begin_sums()? {
            match self.sum_layer(&record, sums, turn) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                // a fold took the layer away meanwhile; what it has become comes next
                Err(_) if !self.damage.chain.load().layers.contains(&record) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The first layer whose sums are not whole, its sums file named by the chain.
    fn begin_sums(&self) -> Result<Option<(LayerRecord, SumsRecord)>> {
        self.check()?;
        // the common case, every second of a quiet disk's life, takes no lock
        if !self.damage.chain.load().layers.iter().any(lacks_sums) {
            return Ok(None);
        }
        let mut roots = lock(&self.roots);
        self.check()?;
        // what a fold is changing gets its sums from the fold, or afterwards
        let may_begin = |&at: &usize| {
            let layer = &roots.chain.layers[at];
            lacks_sums(layer) && !roots.is_folding(layer.layer)
        };
        let Some(at) = (0..roots.chain.layers.len()).find(may_begin) else { return Ok(None) };
        if let Some(sums) = roots.chain.layers[at].sums {
            return Ok(Some((roots.chain.layers[at], sums)));
        }
        let number = roots.chain.take_number();
        SumsFile::create(&self.place(), number, roots.chain.layers[at].file_blocks)?;
        self.env.media.sync_dir(&self.dir).map_err(|error| self.failed_sync(error))?;
        let sums = SumsRecord { number, is_whole: false };
        self.record_sums(&mut roots, at, sums)?;
        Ok(Some((roots.chain.layers[at], sums)))
    }

    /// Sums every block that has bytes and no sum. Returns whether it came to the end.
    fn sum_layer(
        &self,
        record: &LayerRecord,
        sums: SumsRecord,
        turn: &mut dyn FnMut(ByteCount) -> bool,
    ) -> Result<bool> {
        let place = self.place();
        let to = SumsFile::open(&place, sums.number, record.file_blocks, OpenHow::Write)?;
        let layer = data_file::open(&place, record.layer, record.file_blocks, OpenHow::Read)?;
        let mut written = 0;
        let went_on = each_page(&self.read_map(record.map, record.blocks)?, |page, runs| {
            let bytes = {
                let _writing = lock(&self.summing);
                self.check()?;
                sum_page(&*layer, &to, page, runs)?
            };
            written += u64::from(bytes > 0);
            if written % SYNC_PAGES == SYNC_PAGES - 1 {
                to.sync().map_err(|error| self.poisoned(error))?;
            }
            Ok::<_, Error>(bytes == 0 || turn(ByteCount::new(bytes)))
        })?;
        if !planted!("sums-called-whole-before-the-sync") {
            to.sync().map_err(|error| self.poisoned(error))?;
        }
        if went_on {
            self.finish_sums(record, sums.number)?;
        }
        Ok(went_on)
    }

    /// Calls the sums of a layer whole, unless a fold has changed it since: then they are looked at again.
    fn finish_sums(&self, record: &LayerRecord, number: u64) -> Result<()> {
        let mut roots = lock(&self.roots);
        match roots.chain.layers.iter().position(|layer| layer == record) {
            Some(at) if !roots.is_folding(record.layer) => {
                self.record_sums(&mut roots, at, SumsRecord { number, is_whole: true })
            }
            _ => Ok(()),
        }
    }

    /// Commits what the chain says of a layer's sums, and tells readers.
    fn record_sums(&self, roots: &mut Roots, at: usize, sums: SumsRecord) -> Result<()> {
        let mut next = roots.chain.clone();
        next.layers[at].sums = Some(sums);
        let number = next.layers[at].layer;
        self.commit_chain(roots, next)?;
        let view = self.view.load();
        match view.below.slots.iter().flatten().find(|layer| layer.number == number) {
            Some(layer) => self.learn_sums(&roots.chain, layer),
            None => Ok(()),
        }
    }

    /// Tells the readers of a layer what the chain says of its sums.
    pub(crate) fn learn_sums(&self, chain: &Chain, layer: &Layer) -> Result<()> {
        let record = chain.layers.iter().find(|record| record.layer == layer.number);
        let Some((record, sums)) = record.and_then(|record| Some((record, record.sums?))) else {
            return Ok(());
        };
        let files = self.view.load().below.files.clone();
        let open = || {
            let file = SumsFile::open(&self.place(), sums.number, record.file_blocks, OpenHow::Read)?;
            Ok(file.lazy(&files))
        };
        Ok(layer.sums.learn(open, sums.is_whole)?)
    }
}

fn lacks_sums(layer: &LayerRecord) -> bool {
    layer.sums.is_none_or(|sums| !sums.is_whole)
}

/// Sums the blocks of one page that have none. Gives the bytes read for it.
fn sum_page(layer: &dyn MediaFile, to: &SumsFile, page: u64, runs: &[(u64, u64)]) -> block::Result<u64> {
    let mut sums = to.read_page(page)?;
    let mut read = 0;
    for &(first, count) in runs {
        let lacking: Vec<u64> = (first..first + count).filter(|&at| sums.get(at).is_none()).collect();
        for run in lacking.chunk_by(|a, b| a + 1 == *b) {
            let mut bytes = vec![0; run.len() * BLOCK_SIZE as usize];
            layer.read_at((page * PAGE_SUMS + run[0]) * BLOCK_SIZE, &mut bytes)?;
            read += bytes.len() as u64;
            for (&at, block) in run.iter().zip(bytes.chunks_exact(BLOCK_SIZE as usize)) {
                sums.set(at, Some(sum_of(block)));
            }
        }
    }
    if read > 0 {
        to.write_page(page, &mut sums)?;
    }
    Ok(read)
}
