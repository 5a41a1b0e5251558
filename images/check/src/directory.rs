//! A disk's directory as it lies there, and what its states read, worked out block by block.

use crate::active::{Owner, committed};
use crate::bytes::Why;
use crate::chain::{Chain, Layer};
use crate::map::{Map, inspect_map, laid_over, without};
use crate::{BLOCK, State};
use block::sync::Arc;
use block::{Kind, Media, MediaFile, OpenHow};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Bytes of a layer in one file.
const SEGMENT: u64 = 8 << 40;
/// A chain, map or journal longer than this is not read into memory.
const LIMIT: u64 = 1 << 30;

/// Something that is not as the documents say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub why: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.file, self.why)
    }
}

/// A disk's directory.
pub struct Directory<'a> {
    media: &'a dyn Media,
    dir: String,
    /// What the disk consists of.
    pub chain: Chain,
    /// The data file read last: whoever walks a layer reads many blocks of one.
    open: RefCell<Option<(String, Arc<dyn MediaFile>)>>,
}

impl<'a> Directory<'a> {
    /// Reads the chain of the directory.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(media: &'a dyn Media, dir: &str) -> Result<Self, Finding> {
        let file = join(dir, "chain");
        let finding = |why| Finding { file: file.clone(), why };
        let bytes = media.read_whole(&file, LIMIT).map_err(|error| finding(unread(&error)))?;
        let chain = Chain::read(&bytes).map_err(finding)?;
        Ok(Self { media, dir: dir.to_owned(), chain, open: RefCell::new(None) })
    }

    /// The names in the directory.
    pub(crate) fn names(&self) -> Result<Vec<String>, Finding> {
        let listed = self.media.list(&self.dir);
        let listed = listed.map_err(|error| Finding { file: self.dir.clone(), why: unread(&error) })?;
        Ok(listed.into_iter().map(|entry| entry.name).collect())
    }

    pub(crate) fn path(&self, number: u64, ending: &str) -> String {
        join(&self.dir, &format!("{number:016x}.{ending}"))
    }

    pub(crate) fn open_file(&self, number: u64, ending: &str) -> Result<Arc<dyn MediaFile>, Finding> {
        let file = self.path(number, ending);
        self.media.open(&file, OpenHow::Read).map_err(|error| Finding { file, why: unread(&error) })
    }

    pub(crate) fn read(&self, number: u64, ending: &str) -> Result<Vec<u8>, Finding> {
        let file = self.path(number, ending);
        self.media.read_whole(&file, LIMIT).map_err(|error| Finding { file, why: unread(&error) })
    }

    /// A map of this disk that covers so many blocks.
    ///
    /// # Errors
    /// What is wrong with its file.
    pub fn map(&self, number: u64, blocks: u64) -> Result<Map, Finding> {
        let bytes = self.read(number, "map")?;
        let read = inspect_map(&bytes).and_then(|(head, map)| {
            let ours = (head.disk, head.number, head.blocks);
            if ours == (self.chain.disk, number, blocks) {
                Ok(map)
            } else {
                Err("is the map of another disk, place or size".to_owned())
            }
        });
        read.map_err(|why| Finding { file: self.path(number, "map"), why })
    }

    /// The blocks a sealed layer has now: those that a fold under way has moved count for the layer it moves them to.
    ///
    /// # Errors
    /// What is wrong with a map.
    pub fn layer_map(&self, layer: &Layer) -> Result<Map, Finding> {
        let own = self.map(layer.map, layer.blocks)?;
        let Some(fold) = self.chain.fold else { return Ok(own) };
        if layer.number == fold.source {
            return Ok(own.part(fold.folded, u64::MAX));
        }
        let source = self.chain.layers.iter().find(|source| source.number == fold.source);
        let Some(source) = source.filter(|_| layer.number == fold.target) else { return Ok(own) };
        let moved = self.map(source.map, source.blocks)?.part(0, fold.folded);
        Ok(if source.top < layer.top { laid_over(&moved, &own) } else { laid_over(&own, &moved) })
    }

    /// The blocks that some state which is kept reads from a sealed layer. If its own state is not kept, those that the
    /// next newer layer has too are read by nobody: a fold may have been writing there.
    pub(crate) fn read_from(&self, layer: &Layer) -> Result<Map, Finding> {
        let mut read = self.layer_map(layer)?;
        let newer = self.chain.layers.iter().filter(|newer| newer.top > layer.top);
        let mut last = layer;
        for newer in newer {
            if self.chain.is_needed(last) {
                break;
            }
            read = without(&read, &self.layer_map(newer)?);
            last = newer;
        }
        Ok(read)
    }

    /// The committed states of the active layer.
    ///
    /// # Errors
    /// What is wrong with its files.
    pub fn active(&self) -> Result<Map, Finding> {
        self.committed(self.chain.active, self.chain.blocks(), self.chain.clean)
    }

    /// The committed states of a layer with a journal.
    pub(crate) fn committed(&self, layer: u64, blocks: u64, clean: Option<u32>) -> Result<Map, Finding> {
        let wrong = |why| Finding { file: self.path(layer, "committed"), why };
        let journal = self.read(layer, "journal")?;
        let file = self.open_file(layer, "committed")?;
        let length = file.size().map_err(|error| wrong(unread(&error)))?;
        let read = |at, count| {
            let mut bytes = vec![0; count as usize];
            file.read_at(at, &mut bytes).map_err(|error| unread(&error))?;
            Ok(bytes)
        };
        let owner = Owner { disk: self.chain.disk, layer, blocks, clean };
        committed(&owner, length, read, &journal).map_err(wrong)
    }

    /// Holds what was brought of the base against the base, and gives how many blocks that are.
    ///
    /// # Errors
    /// What differs, or is wrong with a file.
    pub fn hydrated(&self, base: &[u8]) -> Result<u64, Finding> {
        let Some((layer, blocks)) = self.chain.hydrated() else { return Ok(0) };
        let map = self.committed(layer, blocks, None)?;
        let mut count = 0;
        for (block, expected) in (0..blocks).zip(base.chunks(BLOCK as usize)) {
            let found = match map.get(block) {
                State::Absent => continue,
                state if state.has_bytes() => self.block(layer, block)?,
                _ => vec![0; BLOCK as usize],
            };
            count += 1;
            // of the block that the base shown ends in, only what is shown
            let shown =
                (self.chain.base.map_or(0, |base| base.size) - block * BLOCK).min(expected.len() as u64);
            if found[..shown as usize] != expected[..shown as usize] {
                let why = format!("holds another block {block} than the base");
                return Err(Finding { file: self.path(layer, "layer"), why });
            }
        }
        Ok(count)
    }

    /// Reads a block of a layer.
    pub(crate) fn block(&self, layer: u64, block: u64) -> Result<Vec<u8>, Finding> {
        let (segment, at) = (block * BLOCK / SEGMENT, block * BLOCK % SEGMENT);
        let ending = if segment == 0 { "layer".to_owned() } else { format!("layer{segment}") };
        let file = self.path(layer, &ending);
        let mut open = self.open.borrow_mut();
        if open.as_ref().is_none_or(|(path, _)| *path != file) {
            *open = Some((file.clone(), self.open_file(layer, &ending)?));
        }
        let mut bytes = vec![0; BLOCK as usize];
        let read = open.as_ref().map_or(Ok(()), |(_, open)| open.read_at(at, &mut bytes));
        read.map_err(|error| Finding { file, why: unread(&error) })?;
        Ok(bytes)
    }

    /// The data files of a layer of so many blocks, each with the length it must have.
    pub(crate) fn segments(&self, blocks: u64) -> Vec<(String, u64)> {
        let length = blocks * BLOCK;
        let segment = |at: u64| {
            let ending = if at == 0 { "layer".to_owned() } else { format!("layer{at}") };
            (ending, (length - at * SEGMENT).min(SEGMENT))
        };
        (0..length.div_ceil(SEGMENT)).map(segment).collect()
    }

    /// What a state reads, all of it: the one sealed with this epoch, or, for `None`, what a disk that lost power comes
    /// back with. `base` is what the disk stands on; empty if on nothing.
    ///
    /// # Errors
    /// What is wrong with a file it needs.
    pub fn content(&self, epoch: Option<u64>, base: &[u8]) -> Result<Vec<u8>, Finding> {
        let mut layers: Vec<(u64, Map)> = Vec::new();
        let below = |layer: &&Layer| epoch.is_none_or(|epoch| layer.top <= epoch);
        for layer in self.chain.layers.iter().filter(below) {
            layers.push((layer.number, self.layer_map(layer)?));
        }
        if epoch.is_none() {
            layers.push((self.chain.active, self.active()?));
        }
        let of_seal = |epoch| self.chain.seals.iter().find(|seal| seal.epoch == epoch).map(|seal| seal.size);
        let size = epoch.and_then(of_seal).unwrap_or(self.chain.size);
        let base = &base[..base.len().min(self.chain.base.map_or(0, |base| base.size as usize))];
        let mut content = Vec::new();
        for block in 0..size.div_ceil(BLOCK) {
            match layers.iter().rev().find(|(_, map)| map.get(block) != State::Absent) {
                Some((layer, map)) if map.get(block).has_bytes() => {
                    content.extend(self.block(*layer, block)?)
                }
                Some(_) => {}
                None => content.extend(base.chunks(BLOCK as usize).nth(block as usize).into_iter().flatten()),
            }
            content.resize((block + 1) as usize * BLOCK as usize, 0);
        }
        content.truncate(size as usize);
        Ok(content)
    }

    /// The blocks changed after one epoch (`None`: ever) up to another.
    ///
    /// # Errors
    /// What is wrong with a change map.
    pub fn changed(&self, after: Option<u64>, until: u64) -> Result<BTreeSet<u64>, Finding> {
        let mut changed = BTreeSet::new();
        let within = |epoch: u64| after.is_none_or(|after| epoch > after) && epoch <= until;
        for seal in self.chain.seals.iter().filter(|seal| within(seal.epoch)) {
            let map = self.map(seal.changes, seal.size.div_ceil(BLOCK))?;
            for run in map.runs.iter().filter(|run| run.state.is_change()) {
                changed.extend(run.first..run.past);
            }
        }
        Ok(changed)
    }
}

pub(crate) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

pub(crate) fn unread(error: &block::Error) -> Why {
    match error.kind() {
        Kind::NotFound => "is missing".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}
