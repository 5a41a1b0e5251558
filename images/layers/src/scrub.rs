//! Scrub: every byte of every sealed layer, every map, read and verified; what is hurt is named with the points that
//! have it.

use crate::chain::{Chain, FoldRecord, LayerRecord};
use crate::data_file;
use crate::disk::Disk;
use crate::fold::layer_map;
use crate::names::Numbered;
use crate::sums::{PAGE_SUMS, each_page};
use crate::verify::{Unread, check_blocks};
use crate::view::Layer;
use crate::{BlockState, FrozenMap, Result};
use block::{BLOCK_SIZE, ByteCount, ByteRange, Epoch, Kind};
use std::collections::BTreeSet;

/// Hurt ranges listed one by one; more are only counted.
const MAX_LISTED: usize = 10_000;

/// A range of a disk that is not what was sealed, or a file that says what is where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HurtRange {
    /// The file that is damaged.
    pub file: String,
    /// Bytes of the disk; all of it for the map of a layer, none for a map that only says what changed.
    pub range: ByteRange,
    /// What does not fit.
    pub why: String,
    /// The recovery points that have it.
    pub points: Vec<Epoch>,
    /// Whether the newest sealed state has it. The guest may have overwritten it since.
    pub is_live: bool,
}

impl HurtRange {
    /// Whether the other is the same damage, right after this.
    fn continues_in(&self, next: &Self) -> bool {
        let same = |hurt: &Self| (hurt.file.clone(), hurt.why.clone(), hurt.points.clone(), hurt.is_live);
        self.range.end() == next.range.start() && same(self) == same(next)
    }
}

/// What a scrub found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Sealed layers read.
    pub layers: u64,
    /// Bytes of them.
    pub bytes_read: ByteCount,
    /// Bytes that have no sums yet and so were not verified.
    pub unverified: ByteCount,
    /// What is hurt, at most 10,000 ranges.
    pub hurt: Vec<HurtRange>,
    /// Bytes hurt, all of them.
    pub bytes_hurt: ByteCount,
}

impl Disk {
    /// Bytes a scrub will read.
    ///
    /// # Errors
    /// `Corrupt` if a map is damaged.
    pub fn sealed_bytes(&self) -> Result<ByteCount> {
        let mut bytes = 0;
        for record in &self.damage.chain.load().layers {
            self.read_map(record.map, record.blocks)?.runs(|_, count, state| {
                bytes += if state.has_bytes() { count * BLOCK_SIZE } else { 0 };
            });
        }
        Ok(ByteCount::new(bytes))
    }

    /// Reads every sealed layer and every map. After every piece of at most 4 MiB, `turn` is called with its size; it may
    /// sleep, and returns whether to go on. Layers that a fold takes away meanwhile are looked at where they went.
    ///
    /// # Errors
    /// What the host reports, other than damage, which is the result.
    pub fn scrub(&self, turn: &mut dyn FnMut(ByteCount) -> bool) -> Result<Scrubbed> {
        let mut found = Scrubbed::default();
        let mut done = BTreeSet::new();
        loop {
            let chain = self.damage.chain.load();
            let next = chain.layers.iter().position(|record| !done.contains(&(record.layer, record.map)));
            let Some(at) = next else { break };
            let record = chain.layers[at];
            let mut here = Scrubbed::default();
            let read = self.scrub_layer(&chain, at, &mut here, turn);
            if (read.is_err() || !here.hurt.is_empty()) && self.has_moved(&chain, &record) {
                continue;
            }
            done.insert((record.layer, record.map));
            found.layers += 1;
            let map = Numbered::Map(record.map).path(&self.dir);
            for hurt in here.hurt.iter().filter(|hurt| hurt.file != map) {
                self.damage.remember(record.layer, hurt);
            }
            found.add(here);
            if !read? {
                return Ok(found);
            }
        }
        self.scrub_changes(&mut found)?;
        Ok(found)
    }

    /// Whether a fold has taken blocks out of this layer, or all of it, since the chain was this.
    fn has_moved(&self, before: &Chain, record: &LayerRecord) -> bool {
        let now = self.damage.chain.load();
        let is_source = |fold: FoldRecord| fold.source == record.layer;
        !now.layers.contains(record) || (now.fold != before.fold && now.fold.is_some_and(is_source))
    }

    fn scrub_layer(
        &self,
        chain: &Chain,
        at: usize,
        found: &mut Scrubbed,
        turn: &mut dyn FnMut(ByteCount) -> bool,
    ) -> Result<bool> {
        let record = &chain.layers[at];
        let map = match layer_map(&self.place(), chain, at) {
            Err(error) if error.kind() == Kind::Corrupt => {
                self.hurt_map(chain, at, &error.to_string(), found);
                return Ok(true);
            }
            map => map?,
        };
        let map = self.read_from_layer(chain, at, map)?;
        let layer = self.sealed_layer(record)?;
        let mut hurt = FrozenMap::new(map.blocks());
        let mut why = String::new();
        let went_on = each_page(&map, |page, runs| {
            let mut bytes = 0;
            for &(first, count) in runs {
                let first = page * PAGE_SUMS + first;
                for (block, reason) in hurt_blocks(&layer, first, count)? {
                    hurt.overlay(&FrozenMap::of_run(map.blocks(), block, 1, BlockState::Data));
                    why = reason;
                }
                bytes += count * BLOCK_SIZE;
            }
            found.bytes_read = ByteCount::new(found.bytes_read.get() + bytes);
            Ok::<_, crate::Error>(turn(ByteCount::new(bytes)))
        })?;
        if !layer.sums.are_whole() {
            found.unverified = found.bytes_read;
        }
        self.name_hurt(chain, at, hurt, &why, found);
        Ok(went_on)
    }

    /// What any state that is kept reads from the layer at `at`. If its own state is not kept, the blocks that the next
    /// newer layer has too are read by nobody: a fold may be writing there.
    fn read_from_layer(&self, chain: &Chain, at: usize, mut map: FrozenMap) -> Result<FrozenMap> {
        let unneeded = chain.layers[at..].iter().take_while(|layer| !chain.is_boundary(layer)).count();
        for newer in (at + 1..chain.layers.len()).take(unneeded) {
            map = map.without(&layer_map(&self.place(), chain, newer)?);
        }
        Ok(map)
    }

    /// Lists hurt blocks of a layer by the points that have them.
    fn name_hurt(&self, chain: &Chain, at: usize, hurt: FrozenMap, why: &str, found: &mut Scrubbed) {
        if hurt.is_empty() {
            return;
        }
        let number = chain.layers[at].layer;
        for part in self.damage.parts_seen(chain, at, hurt) {
            part.blocks.runs(|first, count, _| {
                let end = ((first + count) * BLOCK_SIZE).min(chain.size.get());
                found.list(HurtRange {
                    file: data_file::at(number, first * BLOCK_SIZE).path(&self.dir),
                    range: ByteRange::between(first * BLOCK_SIZE, end),
                    why: why.to_owned(),
                    points: part.points.clone(),
                    is_live: part.is_live,
                });
            });
        }
    }

    /// A map that cannot be read hurts every state above it.
    fn hurt_map(&self, chain: &Chain, at: usize, why: &str, found: &mut Scrubbed) {
        let record: &LayerRecord = &chain.layers[at];
        let above = chain.epochs.iter().filter(|epoch| epoch.is_point && epoch.epoch >= record.top_epoch);
        found.list(HurtRange {
            file: Numbered::Map(record.map).path(&self.dir),
            range: ByteRange::whole(chain.size),
            why: why.to_owned(),
            points: above.map(|epoch| epoch.epoch).collect(),
            is_live: true,
        });
    }

    /// Reads the change maps that are not a layer's map too.
    fn scrub_changes(&self, found: &mut Scrubbed) -> Result<()> {
        let chain = self.damage.chain.load();
        let of_layers: BTreeSet<u64> = chain.layers.iter().map(|record| record.map).collect();
        for epoch in chain.epochs.iter().filter(|epoch| !of_layers.contains(&epoch.changes)) {
            let map = self.read_map(epoch.changes, epoch.size.blocks());
            match self.damage.of_changes(epoch, map) {
                Err(error) if error.kind() == Kind::Corrupt => {}
                map => map.map(drop)?,
            }
        }
        for hurt in self.changes_damaged() {
            let is_listed = |listed: &HurtRange| listed.file == hurt.file;
            if !found.hurt.iter().any(is_listed) {
                let (range, points) = (ByteRange::between(0, 0), Vec::new());
                found.list(HurtRange { file: hurt.file, range, why: hurt.why, points, is_live: false });
            }
        }
        Ok(())
    }
}

/// The blocks of a run that disagree with their sums or cannot be read, each with why.
fn hurt_blocks(layer: &Layer, first: u64, count: u64) -> Result<Vec<(u64, String)>> {
    let mut bytes = vec![0; (count * BLOCK_SIZE) as usize];
    if layer.file.read_at(first * BLOCK_SIZE, &mut bytes).is_ok() {
        return blocks_that_disagree(layer, first, &bytes);
    }
    // the host cannot read some of it: find out which
    let mut hurt = Vec::new();
    for block in first..first + count {
        let whole = &mut bytes[..BLOCK_SIZE as usize];
        match layer.file.read_at(block * BLOCK_SIZE, whole) {
            Ok(()) => hurt.extend(blocks_that_disagree(layer, block, whole)?),
            Err(error) if error.kind() == Kind::Io => hurt.push((block, error.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(hurt)
}

fn blocks_that_disagree(layer: &Layer, first: u64, bytes: &[u8]) -> Result<Vec<(u64, String)>> {
    let mut hurt = Vec::new();
    let mut from = 0;
    while from < bytes.len() {
        match check_blocks(layer, first + from as u64 / BLOCK_SIZE, &bytes[from..]) {
            Ok(()) => break,
            Err(Unread::Host(error)) => return Err(error.into()),
            Err(Unread::Hurt(block, why)) => {
                hurt.push((block, why));
                from = ((block + 1 - first) * BLOCK_SIZE) as usize;
            }
        }
    }
    Ok(hurt)
}

impl Scrubbed {
    fn list(&mut self, hurt: HurtRange) {
        self.bytes_hurt = ByteCount::new(self.bytes_hurt.get() + hurt.range.count().get());
        if let Some(last) = self.hurt.last_mut()
            && last.continues_in(&hurt)
        {
            last.range = ByteRange::between(last.range.start(), hurt.range.end());
            return;
        }
        if self.hurt.len() < MAX_LISTED {
            self.hurt.push(hurt);
        }
    }

    fn add(&mut self, other: Self) {
        let sum = |a: ByteCount, b: ByteCount| ByteCount::new(a.get() + b.get());
        self.bytes_read = sum(self.bytes_read, other.bytes_read);
        self.unverified = sum(self.unverified, other.unverified);
        self.bytes_hurt = sum(self.bytes_hurt, other.bytes_hurt);
        let room = MAX_LISTED.saturating_sub(self.hurt.len());
        self.hurt.extend(other.hurt.into_iter().take(room));
    }
}
