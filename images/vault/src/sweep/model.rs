//! A model of everything that may meet a sweep: backups that hit and upload and commit, readers, deletions, undoing, packs written anew,
//! and ends of the process, each cut into the calls the real ones make and mixed at random. The pins are the real ones; the store is sets of
//! numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use block::ByteCount;
use block::sync::Arc;
use sim::Rng;

use super::{Pinned, Pins, RootPin};
use crate::manifest::{Ref, Shape};
use crate::name::{Address, ApplianceId, BlobId, Spot};

type Pack = u64;
type Id = u64;
/// Places: a pack and a content of it.
type Refs = BTreeSet<(Pack, u64)>;

fn address(pack: Pack) -> Address {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&pack.to_be_bytes());
    Address { appliance: ApplianceId::from_bytes([1; 8]), id: BlobId::from_bytes(id) }
}

/// A tree is the number of the point it was made for.
fn tree(of: Id) -> Ref {
    Ref::Stored(Spot { pack: address(of), entry: 0, chunk: 0 })
}

fn shape() -> Shape {
    Shape::new(ByteCount::new(1))
}

fn number_of(pack: Address) -> Pack {
    pack.id.as_bytes()[..8].iter().fold(0, |id, byte| id << 8 | Pack::from(*byte))
}

fn number(of: Ref) -> Id {
    match of {
        Ref::Stored(spot) => number_of(spot.pack),
        _ => unreachable!("every tree has a place"),
    }
}

/// What outlives the process.
#[derive(Default)]
struct Store {
    // each holds some chunks: their contents
    packs: BTreeMap<Pack, BTreeSet<u64>>,
    points: BTreeMap<Id, Refs>,
    // by the old pack: where each content went
    moved: BTreeMap<Pack, BTreeMap<u64, Pack>>,
    // by run
    quarantine: BTreeMap<Id, Vec<Pack>>,
    // which pack was last known to hold a content; never cleaned, as hooks in a cache are
    hooks: HashMap<u64, Pack>,
    // what each tree ever made reaches: nodes are immutable
    trees: HashMap<Id, Refs>,
    next: u64,
}

impl Store {
    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn put(&mut self, pack: Pack, contents: BTreeSet<u64>) {
        self.hooks.extend(contents.iter().map(|content| (*content, pack)));
        self.packs.insert(pack, contents);
    }

    fn is_whole(&self, tree: Id) -> bool {
        self.trees[&tree].iter().all(|&(pack, content)| self.can_be_read(pack, content))
    }

    /// As a reader does: the old pack, and where its content went if that is gone.
    fn can_be_read(&self, pack: Pack, content: u64) -> bool {
        let is_here = self.packs.get(&pack).is_some_and(|contents| contents.contains(&content));
        let next = || self.moved.get(&pack).and_then(|moved| moved.get(&content));
        is_here || next().is_some_and(|next| self.can_be_read(*next, content))
    }
}

/// A backup between two of its calls.
struct Writer {
    base: Option<Id>,
    held: Option<RootPin>,
    pinned: Pinned,
    wanted: Vec<u64>,
    relies_on: Refs,
    // pinned, and to be looked at
    looked_up: Option<(u64, Pack)>,
    // in the pack being filled
    open: BTreeSet<u64>,
    to_put: Option<(BTreeSet<u64>, Pack)>,
    step: u8,
}

impl Writer {
    fn new(pins: &Arc<Pins>, base: Option<Id>, wanted: Vec<u64>) -> Self {
        let pinned = Pinned::new(pins.clone());
        let (relies_on, open) = (Refs::new(), BTreeSet::new());
        Self { base, held: None, pinned, wanted, relies_on, looked_up: None, open, to_put: None, step: 0 }
    }

    /// The next call. True if it has ended.
    fn go_on(&mut self, store: &mut Store, pins: &Arc<Pins>) -> bool {
        match (self.step, self.base) {
            // the point is read, then its tree held, then the point is looked for again
            (0, Some(base)) => {
                if !store.points.contains_key(&base) {
                    return true;
                }
            }
            (1, Some(base)) => self.held = Some(pins.root(shape(), tree(base))),
            (2, Some(base)) => {
                if !store.points.contains_key(&base) {
                    return true;
                }
                self.relies_on.extend(&store.trees[&base]);
            }
            _ => return self.chunk(store),
        }
        self.step += 1;
        false
    }

    fn chunk(&mut self, store: &mut Store) -> bool {
        if let Some((content, pack)) = self.looked_up.take() {
            match store.packs.get(&pack).is_some_and(|contents| contents.contains(&content)) {
                true => drop(self.relies_on.insert((pack, content))),
                false => drop(self.open.insert(content)),
            }
        } else if let Some((contents, pack)) = self.to_put.take() {
            store.put(pack, contents.clone());
            self.relies_on.extend(contents.into_iter().map(|content| (pack, content)));
        } else if self.open.len() > 2 || (self.wanted.is_empty() && !self.open.is_empty()) {
            let pack = store.fresh();
            self.pinned.pin(address(pack));
            self.to_put = Some((std::mem::take(&mut self.open), pack));
        } else if let Some(content) = self.wanted.pop() {
            match store.hooks.get(&content) {
                Some(pack) if self.pinned.pin(address(*pack)) => self.looked_up = Some((content, *pack)),
                _ => drop(self.open.insert(content)),
            }
        } else {
            let id = store.fresh();
            store.trees.insert(id, self.relies_on.clone());
            store.points.insert(id, self.relies_on.clone());
            return true;
        }
        false
    }
}

/// A sweep between two of its calls.
#[derive(Default)]
struct Sweep {
    earlier: BTreeMap<Id, Vec<Pack>>,
    packs: Vec<Pack>,
    points: Vec<Id>,
    moved: BTreeSet<Pack>,
    named: BTreeSet<Pack>,
    used: BTreeMap<Pack, BTreeSet<u64>>,
    gone: Vec<Pack>,
    needless: Vec<Pack>,
    fresh: Vec<Pack>,
    sparse: Vec<Pack>,
    // where needed contents of which packs went
    lists: Vec<(Pack, BTreeMap<u64, Pack>)>,
    quarantined: Vec<Pack>,
    step: u8,
}

impl Sweep {
    fn mark(&mut self, store: &Store, refs: &Refs) {
        for &(mut pack, content) in refs {
            while self.moved.contains(&pack) {
                self.named.insert(pack);
                match store.moved[&pack].get(&content) {
                    Some(next) => pack = *next,
                    // relied on beside the move: the pack itself is needed
                    None => break,
                }
            }
            self.used.entry(pack).or_default().insert(content);
        }
    }

    fn go_on(&mut self, store: &mut Store, pins: &Pins) -> bool {
        match self.step {
            0 => {
                self.earlier = store.quarantine.clone();
                self.moved = store.moved.keys().copied().collect();
                for (_, held) in pins.begin() {
                    self.mark(store, &store.trees[&number(held)]);
                }
            }
            1 => self.packs = store.packs.keys().copied().collect(),
            2 => self.points = store.points.keys().copied().collect(),
            3 => {
                let Some(point) = self.points.pop() else {
                    for (_, held) in pins.new_roots() {
                        self.mark(store, &store.trees[&number(held)]);
                    }
                    self.step += 1;
                    return false;
                };
                if let Some(refs) = store.points.get(&point) {
                    self.mark(store, refs);
                }
                return false;
            }
            4 => self.judge(store, pins),
            5 => {
                if let Some(pack) = self.gone.pop() {
                    store.packs.remove(&pack);
                    return false;
                }
            }
            6 => {
                if let Some(pack) = self.needless.pop() {
                    store.moved.remove(&pack);
                    return false;
                }
            }
            7 => {
                self.earlier.keys().for_each(|run| drop(store.quarantine.remove(run)));
                let all: Vec<Address> = self.earlier.values().flatten().map(|pack| address(*pack)).collect();
                pins.release(&all);
            }
            8 => {
                let both = self.fresh.iter().chain(&self.sparse).map(|pack| (address(*pack), 1)).collect();
                let free: BTreeSet<Pack> =
                    pins.end(both).into_iter().map(|(pack, _)| number_of(pack)).collect();
                self.fresh.retain(|pack| free.contains(pack));
                self.sparse.retain(|pack| free.contains(pack));
                self.quarantined = std::mem::take(&mut self.fresh);
            }
            9 => {
                if !self.sparse.is_empty() {
                    self.copy(store);
                    return false;
                }
            }
            10 => {
                if let Some((pack, list)) = self.lists.pop() {
                    store.moved.insert(pack, list);
                    self.quarantined.push(pack);
                    return false;
                }
            }
            _ => {
                if !self.quarantined.is_empty() {
                    let run = store.fresh();
                    store.quarantine.insert(run, std::mem::take(&mut self.quarantined));
                }
                return true;
            }
        }
        self.step += 1;
        false
    }

    fn judge(&mut self, store: &Store, pins: &Pins) {
        let known: BTreeSet<Pack> = self.earlier.values().flatten().copied().collect();
        let is_dead = |pack: &&Pack| !self.used.contains_key(pack) && !pins.is_pinned(&address(**pack));
        self.gone = known.iter().filter(is_dead).copied().collect();
        let is_needless = |pack: &&Pack| !self.named.contains(pack) && !store.packs.contains_key(pack);
        self.needless = self.moved.iter().filter(is_needless).copied().collect();
        let others = self.packs.iter().filter(|pack| !known.contains(pack));
        for pack in others {
            match self.used.get(pack) {
                None => self.fresh.push(*pack),
                Some(used) if used.len() < store.packs[pack].len() && !self.moved.contains(pack) => {
                    self.sparse.push(*pack);
                }
                Some(_) => {}
            }
        }
    }

    /// Up to two packs' needed contents go to a new one.
    fn copy(&mut self, store: &mut Store) {
        let target = store.fresh();
        let some: Vec<Pack> = self.sparse.drain(..self.sparse.len().min(2)).collect();
        let mut contents = BTreeSet::new();
        for pack in some {
            let needed = &self.used[&pack];
            contents.extend(needed);
            self.lists.push((pack, needed.iter().map(|content| (*content, target)).collect()));
        }
        store.put(target, contents);
    }
}

/// A reader: opened by a point that was there after its tree was held.
struct Reader {
    tree: Id,
    _held: RootPin,
    is_open: bool,
}

/// What lives in the process.
struct Process {
    pins: Arc<Pins>,
    writers: Vec<Writer>,
    readers: Vec<Reader>,
    sweep: Option<Sweep>,
}

impl Process {
    /// Starts: what is in quarantine is read from the store.
    fn start(store: &Store) -> Self {
        let pins = Arc::new(Pins::default());
        pins.quarantine(store.quarantine.values().flatten().map(|pack| address(*pack)));
        Self { pins, writers: Vec::new(), readers: Vec::new(), sweep: None }
    }
}

#[derive(Default)]
struct Seen {
    committed: u64,
    hits: u64,
    deleted: u64,
    undone: u64,
    moved: u64,
    crashes: u64,
    steps: u64,
}

fn pick<T: Copy>(rng: &mut Rng, of: impl Iterator<Item = T>) -> Option<T> {
    let all: Vec<T> = of.collect();
    all.get(rng.below(all.len().max(1) as u64) as usize).copied()
}

/// One history.
fn history(seed: u64, seen: &mut Seen) {
    let mut rng = Rng::new(seed);
    let mut store = Store::default();
    let mut process = Process::start(&store);
    for _ in 0..240 + rng.below(240) {
        seen.steps += 1;
        let running = process.writers.len() as u64;
        match rng.below(36) {
            0..=1 if running < 3 => {
                let base = pick(&mut rng, store.points.keys().copied()).filter(|_| rng.chance(1, 2));
                let wanted = (0..1 + rng.below(5)).map(|_| rng.below(7)).collect();
                process.writers.push(Writer::new(&process.pins, base, wanted));
            }
            2..=10 if running > 0 => {
                let at = rng.below(running) as usize;
                let writer = &mut process.writers[at];
                seen.hits += u64::from(writer.looked_up.is_some());
                let before = store.points.len();
                if writer.go_on(&mut store, &process.pins) {
                    seen.committed += (store.points.len() - before) as u64;
                    process.writers.swap_remove(at);
                }
            }
            11..=13 => {
                if let Some(point) = pick(&mut rng, store.points.keys().copied()) {
                    store.points.remove(&point);
                }
            }
            14..=32 => {
                let (before, lists) = (store.packs.len(), store.moved.len());
                let sweep = process.sweep.get_or_insert_with(Sweep::default);
                if sweep.go_on(&mut store, &process.pins) {
                    process.sweep = None;
                }
                seen.deleted += before.saturating_sub(store.packs.len()) as u64;
                seen.moved += store.moved.len().saturating_sub(lists) as u64;
            }
            33 if process.sweep.is_none() => {
                if let Some(run) = pick(&mut rng, store.quarantine.keys().copied()) {
                    let packs: Vec<Address> =
                        store.quarantine.remove(&run).into_iter().flatten().map(address).collect();
                    process.pins.release(&packs);
                    seen.undone += 1;
                }
            }
            34 => {
                let opened = pick(&mut rng, store.points.keys().copied());
                process.readers.extend(opened.map(|tree_of| Reader {
                    tree: tree_of,
                    _held: process.pins.root(shape(), tree(tree_of)),
                    is_open: false,
                }));
                if rng.chance(1, 2) && process.readers.len() > 1 {
                    process.readers.remove(0);
                }
            }
            35 if rng.chance(1, 8) => {
                process = Process::start(&store);
                seen.crashes += 1;
            }
            _ => {
                // the second look of a reader at its point
                process.readers.retain_mut(|reader| {
                    reader.is_open = reader.is_open || store.points.contains_key(&reader.tree);
                    reader.is_open
                });
            }
        }
        for point in store.points.keys() {
            assert!(store.is_whole(*point), "seed {seed}: swept what point {point} needs");
        }
        for reader in process.readers.iter().filter(|reader| reader.is_open) {
            assert!(store.is_whole(reader.tree), "seed {seed}: swept what is read of {}", reader.tree);
        }
    }
}

/// The long form checks a million and a half.
#[test]
fn no_interleaving_deletes_what_is_needed() {
    let count = if std::env::var_os("BLOCKD_SOAK").is_some() { 1_500_000 } else { 8_000 };
    let mut seen = Seen::default();
    (0..count).for_each(|seed| history(seed, &mut seen));
    let Seen { committed, hits, deleted, undone, moved, crashes, steps } = seen;
    println!(
        "{count} interleavings of {steps} steps: {committed} commits, {hits} hits, {deleted} packs deleted, {moved} written anew, {undone} runs undone, {crashes} crashes"
    );
    assert!(committed > count && hits > count && deleted > count && moved > count / 8, "too little happened");
    assert!(undone > count / 20 && crashes > count / 10, "too little was undone or cut");
}
