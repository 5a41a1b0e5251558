//! Damage that was found: naming the points a hurt block belongs to, and remembering it for whoever asks.

use crate::active::Place;
use crate::chain::{Chain, EpochRecord};
use crate::data_file;
use crate::disk::Env;
use crate::fold::layer_map;
use crate::names::Numbered;
use crate::scrub::HurtRange;
use crate::verify::Unread;
use crate::{BlockState, Error, FrozenMap, Result};
use block::sync::{Arc, Mutex, Published, lock};
use block::{BLOCK_SIZE, ByteRange, DiskId, Epoch, Kind};
use std::collections::BTreeMap;

/// Hurt blocks remembered one by one; a disk hurt worse than that is scrubbed, which lists ranges.
const MAX_REMEMBERED: usize = 1_000;

/// A block that is not what was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HurtBlock {
    /// The file its bytes are in.
    pub layer: String,
    /// Which block of the disk.
    pub block: u64,
    /// What does not fit.
    pub why: String,
    /// The recovery points that have it.
    pub points: Vec<Epoch>,
    /// Whether the disk had it when the newest layer was sealed. It may have been overwritten since.
    pub is_live: bool,
}

impl HurtBlock {
    /// The bytes of the disk it is.
    pub fn range(&self) -> ByteRange {
        ByteRange::between(self.block * BLOCK_SIZE, (self.block + 1) * BLOCK_SIZE)
    }
}

impl std::fmt::Display for HurtBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is damaged at block {}: {}; hurt: ", self.layer, self.block, self.why)?;
        let points = self.points.iter().map(|point| format!("point {point}"));
        let all: Vec<_> = points.chain(self.is_live.then(|| "the live disk".to_owned())).collect();
        f.write_str(if all.is_empty() { "nothing that is kept" } else { "" })?;
        f.write_str(&all.join(", "))
    }
}

/// A change map that cannot be read: nothing a disk or a point reads is hurt, but what changed in one epoch is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HurtMap {
    /// The file.
    pub file: String,
    /// The epoch.
    pub epoch: Epoch,
    /// What does not fit.
    pub why: String,
}

/// What a disk knows of its damage, shared with the readers of its points.
pub(crate) struct Damage {
    env: Env,
    dir: String,
    /// The chain as it was committed last. Readers cannot take it from behind the lock of the disk's roots: a seal that
    /// holds that lock may be waiting for them.
    pub(crate) chain: Published<Chain>,
    found: Mutex<BTreeMap<(u64, u64), HurtBlock>>,
    maps: Mutex<BTreeMap<u64, HurtMap>>,
}

impl Damage {
    pub(crate) fn new(env: Env, dir: String, chain: Chain) -> Self {
        let (found, maps) = (Mutex::default(), Mutex::default());
        Self { env, dir, chain: Published::new(Arc::new(chain)), found, maps }
    }

    /// The disk.
    pub(crate) fn disk(&self) -> DiskId {
        self.chain.load().disk
    }

    /// Makes an error of what could not be read of a layer, and remembers hurt blocks.
    pub(crate) fn name(&self, layer: u64, unread: Unread) -> block::Error {
        let (block, why) = match unread {
            Unread::Host(error) => return error,
            Unread::Hurt(block, why) => (block, why),
        };
        let disk = self.disk();
        if let Some(known) = lock(&self.found).get(&(layer, block)) {
            return Error::Hurt { disk, hurt: known.clone() }.into();
        }
        let (points, is_live) = self.who_has(layer, block);
        let layer_path = data_file::at(layer, block * BLOCK_SIZE).path(&self.dir);
        let hurt = HurtBlock { layer: layer_path, block, why, points, is_live };
        let mut found = lock(&self.found);
        if found.len() < MAX_REMEMBERED {
            found.insert((layer, block), hurt.clone());
        }
        Error::Hurt { disk, hurt }.into()
    }

    /// Remembers what a scrub found hurt in a layer.
    pub(crate) fn remember(&self, layer: u64, hurt: &HurtRange) {
        let blocks = hurt.range.start() / BLOCK_SIZE..hurt.range.end().div_ceil(BLOCK_SIZE);
        let mut found = lock(&self.found);
        for block in blocks {
            if found.len() >= MAX_REMEMBERED {
                return;
            }
            found.entry((layer, block)).or_insert_with(|| HurtBlock {
                layer: hurt.file.clone(),
                block,
                why: hurt.why.clone(),
                points: hurt.points.clone(),
                is_live: hurt.is_live,
            });
        }
    }

    /// The hurt blocks found since the disk was opened, at most a thousand.
    pub(crate) fn found(&self) -> Vec<HurtBlock> {
        lock(&self.found).values().cloned().collect()
    }

    /// Remembers that the change map of an epoch cannot be read, or that it can again.
    pub(crate) fn of_changes<T>(&self, epoch: &EpochRecord, read: Result<T>) -> Result<T> {
        match &read {
            Ok(_) => drop(lock(&self.maps).remove(&epoch.changes)),
            Err(error) if error.kind() == Kind::Corrupt => {
                let file = Numbered::Map(epoch.changes).path(&self.dir);
                let why = format!("{error}; what changed in epoch {} is not known", epoch.epoch);
                lock(&self.maps).insert(epoch.changes, HurtMap { file, epoch: epoch.epoch, why });
            }
            Err(_) => {}
        }
        read
    }

    /// The change maps found damaged since the disk was opened that it still remembers.
    pub(crate) fn maps(&self) -> Vec<HurtMap> {
        let chain = self.chain.load();
        let mut maps = lock(&self.maps);
        maps.retain(|number, _| chain.epochs.iter().any(|epoch| epoch.changes == *number));
        maps.values().cloned().collect()
    }

    /// The points that read this block from this layer, and whether the newest sealed state does.
    fn who_has(&self, layer: u64, block: u64) -> (Vec<Epoch>, bool) {
        let chain = self.chain.load();
        let Some(place) = chain.layers.iter().position(|record| record.layer == layer) else {
            // folded meanwhile: its points are those of the layer it went into, which names them when it is read
            return (Vec::new(), false);
        };
        let parts = self.parts_seen(
            &chain,
            place,
            FrozenMap::of_run(chain.layers[place].blocks, block, 1, BlockState::Data),
        );
        let points = parts.iter().flat_map(|part| part.points.clone()).collect();
        (points, parts.iter().any(|part| part.is_live))
    }

    /// Cuts blocks of the layer at `place` of the chain into parts by which states read them from it: each newer layer
    /// hides what it has itself.
    pub(crate) fn parts_seen(&self, chain: &Chain, place: usize, blocks: FrozenMap) -> Vec<Part> {
        let mut left = blocks;
        let mut parts = Vec::new();
        let from = chain.layers[place].top_epoch;
        for (at, newer) in chain.layers.iter().enumerate().skip(place + 1) {
            // a map that a fold just replaced hides nothing: rather a point too many is named than one too few
            let Ok(map) = layer_map(&self.place(chain), chain, at) else { break };
            let hidden = left.without(&left.without(&map));
            if !hidden.is_empty() {
                left = left.without(&map);
                parts.push(Part::new(chain, hidden, from, Some(newer.top_epoch)));
            }
            if left.is_empty() {
                return parts;
            }
        }
        parts.push(Part::new(chain, left, from, None));
        parts
    }

    fn place<'a>(&'a self, chain: &Chain) -> Place<'a> {
        Place {
            media: &*self.env.media,
            entropy: &*self.env.entropy,
            journal_room: self.env.journal_room,
            dir: &self.dir,
            disk: chain.disk,
            size: chain.size,
        }
    }
}

/// Blocks of a layer that the same states read from it.
pub(crate) struct Part {
    pub(crate) blocks: FrozenMap,
    pub(crate) points: Vec<Epoch>,
    /// Whether the newest sealed state is one of them.
    pub(crate) is_live: bool,
}

impl Part {
    /// States from this epoch on, up to the one before the other, or all.
    fn new(chain: &Chain, blocks: FrozenMap, from: Epoch, until: Option<Epoch>) -> Self {
        let has = |epoch: Epoch| epoch >= from && until.is_none_or(|until| epoch < until);
        let points = chain.epochs.iter().filter(|epoch| epoch.is_point && has(epoch.epoch));
        Self { blocks, points: points.map(|epoch| epoch.epoch).collect(), is_live: until.is_none() }
    }
}
