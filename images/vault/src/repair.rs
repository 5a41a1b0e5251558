//! Repair of damaged packs by chunk: what is needed of them is written anew, and what is damaged comes from wherever a chunk of that
//! fingerprint is: another pack of the vault, the disk, its recovery points on the host. Specified in `docs/moved.md`.

use std::collections::{HashMap, HashSet};

use block::sync::{Arc, lock};
use block::{BlockSource, ByteOffset, DiskId};

use crate::backup::Known;
use crate::check::Damage;
use crate::chunk::{CHUNK_SIZE, fingerprint};
use crate::frames::FrameFront;
use crate::inner::Inner;
use crate::manifest::{Ref, Shape};
use crate::moved::{Needed, Rewrite};
use crate::name::{Address, Fingerprint, Shelf, Spot};
use crate::progress::Progress;
use crate::{Error, Result};

/// Places of one chunk that are remembered, to look for it on a disk.
const MAX_PLACES: usize = 8;

/// What may have the content of a disk, or had it: the disk itself, then its recovery points. The next one is taken only for a chunk that
/// none before it has, and only bytes of the right fingerprint are used.
pub type Sources<'a> = dyn Fn(DiskId) -> DiskSources + 'a;
/// Those of one disk.
pub type DiskSources = Box<dyn Iterator<Item = Arc<dyn BlockSource>>>;

/// What a repair of damaged packs did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkRepair {
    /// Damaged packs whose needed content is whole again, in new packs; a sweep removes the old ones.
    pub packs: Vec<String>,
    /// Chunks that another pack of the vault had.
    pub from_vault: u64,
    /// Chunks that a disk or a recovery point on the host had.
    pub from_disks: u64,
    /// Damaged packs that stay so, and why.
    pub left: Vec<Damage>,
}

/// Sources of one disk that are opened: each costs memory for an index of the disk.
const MAX_SOURCES: usize = 32;

/// A place on a disk.
type DiskPlace = (DiskId, u64);

/// What is needed of damaged packs, and where on disks their chunks are.
struct Wanted<'a> {
    vault: &'a Inner,
    packs: HashMap<Address, Needed>,
    places: HashMap<Spot, Vec<DiskPlace>>,
    nodes: HashSet<Spot>,
}

pub(crate) fn run(vault: &Inner, sources: &Sources<'_>, progress: &dyn Progress) -> Result<ChunkRepair> {
    // no sweep beside this: it would judge packs that are being written
    let _one = lock(&vault.sweeping);
    let mut report = ChunkRepair::default();
    let mut packs = HashMap::new();
    for pack in vault.distrust.all() {
        if vault.moved(&pack)?.is_none() {
            packs.insert(pack, Needed::new());
        }
    }
    if packs.is_empty() {
        return Ok(report);
    }
    let mut wanted = Wanted { vault, packs, places: HashMap::new(), nodes: HashSet::new() };
    wanted.of_points(progress)?;
    let Wanted { packs, places, .. } = wanted;
    let mut packs: Vec<(Address, Needed)> =
        packs.into_iter().filter(|(_, needed)| !needed.is_empty()).collect();
    packs.sort_by_key(|(pack, _)| *pack);
    let mut rewrite = Rewrite::new(vault)?;
    let (known, disks) = (Known::new(vault), HashMap::new());
    let mut search = Search { vault, sources, places, known, looked_for: None, disks, found: [0; 2] };
    for (pack, needed) in &packs {
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        let before = search.found;
        match rewrite.take(*pack, needed, &mut |spot, prints, at| search.chunk(spot, prints, at)) {
            Err(error) if error.is_damage() => {
                search.found = before;
                report.left.push(Damage::of(&error, &pack.name(Shelf::Packs)));
            }
            done => done?,
        }
    }
    rewrite.commit()?;
    [report.from_vault, report.from_disks] = search.found;
    report.packs = rewrite.done.iter().map(|pack| pack.name(Shelf::Packs)).collect();
    Ok(report)
}

impl Wanted<'_> {
    fn of_points(&mut self, progress: &dyn Progress) -> Result<()> {
        for address in self.vault.addresses(Shelf::Points)? {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            match self.vault.point(address) {
                Ok(point) => {
                    let shape = Shape::new(point.about.size);
                    self.subtree(point.about.disk, shape, point.root, shape.root_level(), 0)?;
                }
                // nothing is known of what it needs; a check names it
                Err(error) if error.is_damage() => {}
                Err(Error::NoPoint(_) | Error::Unsupported(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn subtree(&mut self, disk: DiskId, shape: Shape, at: Ref, level: u8, index: u64) -> Result<()> {
        let Ref::Stored(spot) = at else { return Ok(()) };
        if !self.nodes.insert(spot) {
            return Ok(());
        }
        self.need(&spot, 1);
        let node = match self.vault.read_node(&spot, level, shape.refs(level, index)) {
            Ok(node) => node,
            Err(error) if error.is_damage() => return Ok(()),
            Err(error) => return Err(error),
        };
        for (number, count, what) in node.runs() {
            let number = index * Shape::width(level) + number;
            match (what, level) {
                (Ref::Stored(spot), 0) => self.chunks(disk, &spot, number, count),
                (_, 0) => {}
                _ => self.subtree(disk, shape, what, level - 1, number)?,
            }
        }
        Ok(())
    }

    fn chunks(&mut self, disk: DiskId, spot: &Spot, first: u64, count: u64) {
        let mut at = first;
        for (spot, count) in self.vault.places(spot, count) {
            if self.need(&spot, count) {
                for step in 0..count {
                    let chunk = spot.chunk.saturating_add(step as u8);
                    let places = self.places.entry(Spot { chunk, ..spot }).or_default();
                    if places.len() < MAX_PLACES {
                        places.push((disk, at + step));
                    }
                }
            }
            at += count;
        }
    }

    /// Whether these are of a pack that is damaged.
    fn need(&mut self, spot: &Spot, count: u64) -> bool {
        let Some(needed) = self.packs.get_mut(&spot.pack) else { return false };
        let bits = (u64::MAX >> (64 - count.clamp(1, 64))) << (spot.chunk & 63);
        *needed.entry(spot.entry).or_default() |= bits;
        true
    }
}

/// Where a chunk may be besides its place.
struct Search<'a> {
    vault: &'a Inner,
    sources: &'a Sources<'a>,
    places: HashMap<Spot, Vec<DiskPlace>>,
    known: Known,
    // the pack whose chunks were asked for in the index
    looked_for: Option<Address>,
    disks: HashMap<DiskId, Opened>,
    // in packs, on disks
    found: [u64; 2],
}

impl Search<'_> {
    /// Chunk `at` of a pack's, whose fingerprints are these.
    fn chunk(&mut self, spot: &Spot, prints: &[Fingerprint], at: usize) -> Result<Option<Vec<u8>>> {
        let Some(print) = prints.get(at) else { return Ok(None) };
        if self.looked_for.replace(spot.pack) != Some(spot.pack) {
            // what was stored together was stored together again
            self.known.look(self.vault, prints)?;
        }
        if let Some(raw) = self.in_packs(print)? {
            self.found[0] += 1;
            return Ok(Some(raw));
        }
        let raw = self.on_disks(spot, print);
        self.found[1] += u64::from(raw.is_some());
        Ok(raw)
    }

    fn in_packs(&mut self, print: &Fingerprint) -> Result<Option<Vec<u8>>> {
        let Some(spot) = self.known.find(self.vault, print)? else { return Ok(None) };
        let start = usize::from(spot.chunk) * CHUNK_SIZE as usize;
        let wanted = FrameFront { frame: (spot.pack, spot.entry), until: start + CHUNK_SIZE as usize };
        let frames = match self.vault.frames(&[wanted], true) {
            Ok(frames) => frames,
            Err(error) if error.is_damage() => return Ok(None),
            Err(error) => return Err(error),
        };
        let raw = frames.first().and_then(|raw| raw.get(start..start + CHUNK_SIZE as usize));
        Ok(raw.filter(|raw| fingerprint(&self.vault.keys, raw) == *print).map(<[u8]>::to_vec))
    }

    fn on_disks(&mut self, spot: &Spot, print: &Fingerprint) -> Option<Vec<u8>> {
        let places = self.places.get(spot)?;
        places.iter().find_map(|(disk, number)| {
            let opened = self.disks.entry(*disk);
            let opened = opened.or_insert_with(|| Opened { before: Vec::new(), rest: (self.sources)(*disk) });
            opened.find(&mut |source| {
                let start = number * CHUNK_SIZE;
                let len = source.size().get().saturating_sub(start).min(CHUNK_SIZE) as usize;
                let mut raw = vec![0; CHUNK_SIZE as usize];
                // one that cannot be read has it not
                source.read_at(ByteOffset::new(start), &mut raw[..len]).ok()?;
                (fingerprint(&self.vault.keys, &raw) == *print).then_some(raw)
            })
        })
    }
}

/// The sources of a disk that were asked for, and those that were not yet.
struct Opened {
    before: Vec<Arc<dyn BlockSource>>,
    rest: DiskSources,
}

impl Opened {
    fn find(&mut self, read: &mut dyn FnMut(&dyn BlockSource) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
        if let Some(found) = self.before.iter().find_map(|source| read(&**source)) {
            return Some(found);
        }
        while self.before.len() < MAX_SOURCES {
            let next = self.rest.next()?;
            let found = read(&*next);
            self.before.push(next);
            if found.is_some() {
                return found;
            }
        }
        None
    }
}
