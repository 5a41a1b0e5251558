//! What a disk takes of the host.

use crate::Result;
use crate::disk::Disk;
use crate::names::Numbered;
use block::sync::atomic::Ordering;
use block::sync::lock;
use block::{ByteCount, OpenHow};
use std::collections::BTreeSet;

/// Bytes a disk takes on the host, and what is open of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// In layers: the blocks that have bytes. Of a fold under way, what has moved counts twice until it ends.
    pub data: ByteCount,
    /// In maps and journals: files, and the live map, which the host may write out. At most 64 MiB per TiB written for
    /// the live disk, and as much again for each recovery point that changed everything.
    pub maps: ByteCount,
    /// In owner indexes, of the live disk and of open sources: at most 512 MiB per TiB written, each. Memory that the host
    /// may write out to a file without a name; made anew at every open.
    pub index: ByteCount,
    /// How many layers there are, the active one included.
    pub layers: usize,
    /// Files of sealed layers that are open now.
    pub open_files: usize,
}

impl Disk {
    /// Bytes the disk takes on the host. Cost: one look at every map file.
    ///
    /// # Errors
    /// What the host reports.
    pub fn usage(&self) -> Result<Usage> {
        let (layers, maps) = {
            let chain = &lock(&self.roots).chain;
            let maps = chain.epochs.iter().map(|epoch| epoch.changes);
            let maps: BTreeSet<u64> = maps.chain(chain.layers.iter().map(|layer| layer.map)).collect();
            (chain.layers.len() + 1, maps)
        };
        let view = self.view.load();
        let sealed = view.below.slots.iter().flatten().map(|layer| layer.bytes.load(Ordering::Relaxed));
        let hydrated = view.below.ground.as_ref().and_then(|ground| ground.hydrated());
        let hydrated = hydrated.map(|hydrated| &hydrated.layer);
        let live = || std::iter::once(&view.active).chain(&view.below.pending).chain(hydrated);
        let data = sealed.sum::<u64>() + live().map(|layer| layer.map.bytes()).sum::<u64>();
        let mut map_bytes = self.env.journal_room.get();
        map_bytes += live().map(|layer| layer.map.memory_bytes()).sum::<u64>();
        for map in maps {
            match self.env.media.open(&Numbered::Map(map).path(&self.dir), OpenHow::Read) {
                // a fold replaced it meanwhile
                Err(error) if error.kind() == block::Kind::NotFound => {}
                file => map_bytes += file?.size()?,
            }
        }
        let index = view.below.index.memory_bytes() + self.sources.index_bytes();
        Ok(Usage {
            data: ByteCount::new(data),
            maps: ByteCount::new(map_bytes),
            index: ByteCount::new(index),
            layers,
            open_files: view.below.files.count(),
        })
    }
}
