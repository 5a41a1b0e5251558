//! A model of everything that may meet a sweep: backups that hit and upload and commit, readers, deletions, undoing, and ends of the
//! process, each cut into the calls the real ones make and mixed at random. The pins are the real ones; the store is sets of numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use block::ByteCount;
use block::sync::Arc;
use sim::Rng;

use super::{Pinned, Pins, RootPin};
use crate::manifest::{Ref, Shape};
use crate::name::{Address, ApplianceId, BlobId, Spot};

type Pack = u64;
type Id = u64;

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

fn number(of: Ref) -> Id {
    match of {
        Ref::Stored(spot) => {
            spot.pack.id.as_bytes()[..8].iter().fold(0, |id, byte| id << 8 | Id::from(*byte))
        }
        _ => unreachable!("every tree has a place"),
    }
}

/// What outlives the process.
#[derive(Default)]
struct Store {
    // each holds one chunk: its content
    packs: BTreeMap<Pack, u64>,
    points: BTreeMap<Id, BTreeSet<Pack>>,
    // by run
    quarantine: BTreeMap<Id, Vec<Pack>>,
    // which pack was last known to hold a content; never cleaned, as hooks in a cache are
    hooks: HashMap<u64, Pack>,
    // what each tree ever made reaches: nodes are immutable
    trees: HashMap<Id, BTreeSet<Pack>>,
    next: u64,
}

impl Store {
    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn is_whole(&self, tree: Id) -> bool {
        self.trees[&tree].iter().all(|pack| self.packs.contains_key(pack))
    }
}

/// A backup between two of its calls.
struct Writer {
    base: Option<Id>,
    held: Option<RootPin>,
    pinned: Pinned,
    wanted: Vec<u64>,
    relies_on: BTreeSet<Pack>,
    // pinned, and to be looked at
    looked_up: Option<(u64, Pack)>,
    to_put: Option<(u64, Pack)>,
    step: u8,
}

impl Writer {
    fn new(pins: &Arc<Pins>, base: Option<Id>, wanted: Vec<u64>) -> Self {
        let pinned = Pinned::new(pins.clone());
        let relies_on = BTreeSet::new();
        Self { base, held: None, pinned, wanted, relies_on, looked_up: None, to_put: None, step: 0 }
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
            match store.packs.get(&pack) == Some(&content) {
                true => drop(self.relies_on.insert(pack)),
                false => self.upload(content, store),
            }
        } else if let Some((content, pack)) = self.to_put.take() {
            store.packs.insert(pack, content);
            store.hooks.insert(content, pack);
            self.relies_on.insert(pack);
        } else if let Some(content) = self.wanted.pop() {
            match store.hooks.get(&content) {
                Some(pack) if self.pinned.pin(address(*pack)) => self.looked_up = Some((content, *pack)),
                _ => self.upload(content, store),
            }
        } else {
            let id = store.fresh();
            store.trees.insert(id, self.relies_on.clone());
            store.points.insert(id, self.relies_on.clone());
            return true;
        }
        false
    }

    fn upload(&mut self, content: u64, store: &mut Store) {
        let pack = store.fresh();
        self.pinned.pin(address(pack));
        self.to_put = Some((content, pack));
    }
}

/// A sweep between two of its calls.
struct Sweep {
    earlier: BTreeMap<Id, Vec<Pack>>,
    packs: Vec<Pack>,
    points: Vec<Id>,
    used: BTreeSet<Pack>,
    gone: Vec<Pack>,
    step: u8,
}

impl Sweep {
    fn go_on(&mut self, store: &mut Store, pins: &Pins) -> bool {
        match self.step {
            0 => {
                self.earlier = store.quarantine.clone();
                for (_, held) in pins.begin() {
                    self.used.extend(&store.trees[&number(held)]);
                }
            }
            1 => self.packs = store.packs.keys().copied().collect(),
            2 => self.points = store.points.keys().copied().collect(),
            3 => {
                let Some(point) = self.points.pop() else {
                    for (_, held) in pins.new_roots() {
                        self.used.extend(&store.trees[&number(held)]);
                    }
                    self.step += 1;
                    return false;
                };
                self.used.extend(store.points.get(&point).into_iter().flatten());
                return false;
            }
            4 => {
                let all = self.earlier.values().flatten();
                let is_dead = |pack: &&Pack| !self.used.contains(pack) && !pins.is_pinned(&address(**pack));
                self.gone = all.filter(is_dead).copied().collect();
            }
            5 => {
                if let Some(pack) = self.gone.pop() {
                    store.packs.remove(&pack);
                    return false;
                }
            }
            6 => {
                self.earlier.keys().for_each(|run| drop(store.quarantine.remove(run)));
                let all: Vec<Address> = self.earlier.values().flatten().map(|pack| address(*pack)).collect();
                pins.release(&all);
            }
            7 => {
                let known: BTreeSet<Pack> = self.earlier.values().flatten().copied().collect();
                let is_new = |pack: &Pack| !self.used.contains(pack) && !known.contains(pack);
                let fresh =
                    self.packs.iter().copied().filter(is_new).map(|pack| (address(pack), 1)).collect();
                let fresh = pins.end(fresh);
                let rows = fresh
                    .iter()
                    .map(|(pack, _)| number(Ref::Stored(Spot { pack: *pack, entry: 0, chunk: 0 })));
                self.packs = rows.collect();
            }
            _ => {
                if !self.packs.is_empty() {
                    let run = store.fresh();
                    store.quarantine.insert(run, std::mem::take(&mut self.packs));
                }
                return true;
            }
        }
        self.step += 1;
        false
    }

    fn begun() -> Self {
        let (earlier, used) = (BTreeMap::new(), BTreeSet::new());
        Self { earlier, packs: Vec::new(), points: Vec::new(), used, gone: Vec::new(), step: 0 }
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
    for _ in 0..120 + rng.below(120) {
        seen.steps += 1;
        let running = process.writers.len() as u64;
        match rng.below(36) {
            0..=1 if running < 3 => {
                let base = pick(&mut rng, store.points.keys().copied()).filter(|_| rng.chance(1, 2));
                let wanted = (0..1 + rng.below(3)).map(|_| rng.below(5)).collect();
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
                let before = store.packs.len();
                let sweep = process.sweep.get_or_insert_with(Sweep::begun);
                if sweep.go_on(&mut store, &process.pins) {
                    process.sweep = None;
                }
                seen.deleted += (before - store.packs.len()) as u64;
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
    let Seen { committed, hits, deleted, undone, crashes, steps } = seen;
    println!(
        "{count} interleavings of {steps} steps: {committed} commits, {hits} hits, {deleted} packs deleted, {undone} runs undone, {crashes} crashes"
    );
    assert!(committed > count && hits > count && deleted > count, "too little happened");
    assert!(undone > count / 20 && crashes > count / 10, "too little was undone or cut");
}
