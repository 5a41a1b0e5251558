//! Making, opening and destroying disks. Opening is recovery: it decides what to believe.

use crate::active::{Active, Place, Stored};
use crate::base::{Base, Ground};
use crate::chain::{Chain, EpochRecord, MAX_CHAIN_BYTES};
use crate::committed::CommittedFile;
use crate::data_file;
use crate::disk::{ChainFailure, Disk, Env, Opened, Parts, Unsealed, write_chain};
use crate::files::{MAX_OPEN, OpenFiles};
use crate::fold::layer_map;
use crate::hydrate::HydratedLayer;
use crate::identity::Identity;
use crate::live_map::LiveMap;
use crate::names::{self, Numbered};
use crate::owner::OwnerIndex;
use crate::view::{Below, Layer};
use crate::{Error, FrozenMap, Result};
use block::planted;
use block::sync::atomic::Ordering;
use block::sync::{Arc, lock};
use block::{ByteCount, DiskId, Generation, Kind, MAX_DISK_SIZE, Media, OpenHow, Session, StateId};

impl Disk {
    /// Makes a disk of zeros in a new directory `dir` of the media; its parent must exist.
    ///
    /// # Errors
    /// `BadSize`; `Conflict` if a disk is there already.
    pub fn create(env: &Env, dir: &str, id: DiskId, size: ByteCount) -> Result<Arc<Self>> {
        Self::create_on(env, dir, id, size, None)
    }

    /// Makes a disk that shows a base until it is written; past the end of the base it is zeros.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_on(
        env: &Env,
        dir: &str,
        id: DiskId,
        size: ByteCount,
        base: Option<&Base>,
    ) -> Result<Arc<Self>> {
        if size == ByteCount::ZERO || size.get() > MAX_DISK_SIZE {
            return Err(Error::BadSize { asked: size.get(), max: MAX_DISK_SIZE });
        }
        let media = &*env.media;
        media.create_dir(dir)?;
        let held = media.lock(&format!("{dir}/{}", names::LOCK))?;
        if media.list(dir)?.iter().any(|entry| entry.name == names::CHAIN) {
            let why = "there is a disk already".to_owned();
            return Err(block::Error::Conflict { what: dir.to_owned(), why }.into());
        }
        let session = media.session()?;
        let mut chain = Chain {
            disk: id,
            generation: Generation::new(1),
            size,
            nonce: [0; 16],
            clean: None,
            next_number: 1,
            active: 0,
            base: base.map(|base| base.record(size)),
            fold: None,
            layers: Vec::new(),
            epochs: Vec::new(),
        };
        env.entropy.fill(&mut chain.nonce)?;
        chain.active = chain.take_number();
        let place =
            Place { media, entropy: &*env.entropy, journal_room: env.journal_room, dir, disk: id, size };
        let active = Active::create(&place, chain.active)?;
        media.sync_dir(dir)?;
        write_chain(media, dir, &chain).map_err(ChainFailure::into_error)?;
        media.sync_dir(dir.rsplit_once('/').map_or("", |(parent, _)| parent))?;
        let files = OpenFiles::new(env.media.clone(), MAX_OPEN);
        let below = load_below(&place, files, Ground::of(&chain, base)?, &chain, &[])?;
        let disk = Disk::assemble(Parts {
            env: env.clone(),
            dir: dir.to_owned(),
            session,
            opened: Opened::Created,
            chain,
            active: active.clone(),
            below,
            unsealed: None,
            lock: held,
        });
        let roots = lock(&disk.roots);
        active.sign(disk.identity(&roots.chain), roots.chain.generation);
        drop(roots);
        disk.make_room();
        Ok(disk)
    }

    /// Opens the disk in `dir`, after whatever happened to it.
    ///
    /// # Errors
    /// `NotFound` if there is no such directory, `Conflict` if it is open elsewhere, `Corrupt` naming the file that is
    /// damaged or missing; nothing is changed then.
    pub fn open(env: &Env, dir: &str) -> Result<Arc<Self>> {
        Self::open_on(env, dir, None)
    }

    /// Opens a disk that stands on a base.
    ///
    /// # Errors
    /// As [`open`](Self::open); `WrongBase` if it was made on another one, on none, or on more than there is now. Nothing
    /// is changed then.
    pub fn open_on(env: &Env, dir: &str, base: Option<&Base>) -> Result<Arc<Self>> {
        let media = &*env.media;
        let path = format!("{dir}/{}", names::CHAIN);
        let held = match media.lock(&format!("{dir}/{}", names::LOCK)) {
            Err(error) if error.kind() == block::Kind::NotFound => {
                return Err(block::Error::NotFound { what: format!("disk {dir}") }.into());
            }
            held => held?,
        };
        let mut chain = read_chain(media, &path)?;
        let ground = Ground::of(&chain, base)?;
        let session = media.session()?;
        let place = Place {
            media,
            entropy: &*env.entropy,
            journal_room: env.journal_room,
            dir,
            disk: chain.disk,
            size: chain.size,
        };
        if let (Some(ground), Some(hydrated)) = (&ground, HydratedLayer::open(&place, &chain)?) {
            ground.hydrate_into(hydrated);
        }
        let files = OpenFiles::new(env.media.clone(), MAX_OPEN);
        let mut below = load_below(&place, files, ground, &chain, &[])?;
        let found = find_active(&place, &chain, session)?;
        let mut active = found.layer;
        let mut opened = if chain.clean.is_some() { Opened::Clean } else { Opened::Committed };
        let mut unsealed = None;
        if found.is_believed {
            opened = Opened::LiveMap;
            if let Some(next) = find_successor(&place, &chain, session)? {
                unsealed = Some(boundary(env, &mut chain, active.clone(), &next)?);
                below.pending.insert(0, active);
                active = next;
            }
        }
        let disk = Disk::assemble(Parts {
            env: env.clone(),
            dir: dir.to_owned(),
            session,
            opened,
            chain,
            active,
            below,
            unsealed,
            lock: held,
        });
        disk.settle()?;
        Ok(disk)
    }

    /// What the disk in `dir` stands on, without opening it; nothing once it released its base.
    ///
    /// # Errors
    /// As [`open`](Self::open), of its chain.
    pub fn base_of(env: &Env, dir: &str) -> Result<Option<StateId>> {
        let chain = read_chain(&*env.media, &format!("{dir}/{}", names::CHAIN))?;
        Ok(chain.base.map(|base| base.state))
    }

    /// Makes what was recovered the committed state of a new open: flush, then a fresh nonce, then sign.
    fn settle(&self) -> Result<()> {
        self.flush_commit()?;
        let mut roots = lock(&self.roots);
        let mut next = Chain { clean: None, ..roots.chain.clone() };
        self.env.entropy.fill(&mut next.nonce)?;
        // a crash between the chain and the signature must not make the next open doubt this map
        self.identity(&next).announce_nonce(self.view.load().active.map.memory());
        self.commit_chain(&mut roots, next)?;
        self.view.load().active.sign(self.identity(&roots.chain), roots.chain.generation);
        self.remove_garbage(&roots.chain)?;
        self.make_room();
        Ok(())
    }

    /// Removes what no chain names: leftovers of seals, folds and opens cut short.
    fn remove_garbage(&self, chain: &Chain) -> Result<()> {
        let media = &*self.env.media;
        let named: std::collections::BTreeSet<u64> = chain.numbers().collect();
        for entry in media.list(&self.dir)? {
            let keep = match Numbered::parse(&entry.name) {
                None => true,
                Some(Numbered::Data(number, _) | Numbered::Map(number) | Numbered::Sums(number)) => {
                    named.contains(&number)
                }
                Some(Numbered::Committed(number) | Numbered::Journal(number)) => {
                    number == chain.active || chain.base.is_some_and(|base| base.hydrated == Some(number))
                }
            };
            if !keep {
                media.remove(&format!("{}/{}", self.dir, entry.name))?;
            }
        }
        let (prefix, live) = (format!("{}-", self.id), names::live_map(self.id, chain.active));
        for name in media.list_volatile()? {
            if name.starts_with(&prefix) && name != live {
                media.remove_volatile(&name)?;
            }
        }
        Ok(())
    }

    /// Removes a disk that is not open, with everything it has. The chain goes first: without it the disk does not
    /// exist.
    ///
    /// # Errors
    /// `Conflict` if it is open; what the host reports, then the same call may be repeated.
    pub fn destroy(env: &Env, dir: &str) -> Result<()> {
        let media = &*env.media;
        let held = media.lock(&format!("{dir}/{}", names::LOCK))?;
        let path = format!("{dir}/{}", names::CHAIN);
        let entries = media.list(dir)?;
        if entries.iter().any(|entry| entry.name == names::CHAIN) {
            // a chain that cannot be read has no live map that could be found; a reboot forgets it
            if let Ok(chain) =
                media.read_whole(&path, MAX_CHAIN_BYTES).and_then(|bytes| Chain::decode(&bytes, &path))
            {
                for name in media.list_volatile()? {
                    if name.starts_with(&format!("{}-", chain.disk)) {
                        media.remove_volatile(&name)?;
                    }
                }
            }
            media.remove(&path)?;
            media.sync_dir(dir)?;
        }
        for entry in media.list(dir)? {
            media.remove(&format!("{dir}/{}", entry.name))?;
        }
        drop(held);
        media.remove(dir)?;
        Ok(media.sync_dir(dir.rsplit_once('/').map_or("", |(parent, _)| parent))?)
    }
}

/// Reads the chain of a disk whose directory exists.
fn read_chain(media: &dyn Media, path: &str) -> Result<Chain> {
    let bytes = media.read_whole(path, MAX_CHAIN_BYTES).map_err(|error| match error.kind() {
        Kind::NotFound => block::Error::corrupt(path, None, "it is missing, and the disk with it"),
        _ => error,
    })?;
    Ok(Chain::decode(&bytes, path)?)
}

/// Opens the sealed layers and builds their owner index, large enough for them and for a disk of the place's size.
/// A layer that is among the `known` stays the one it is: whoever reads it must go on learning of its sums.
pub(crate) fn load_below(
    place: &Place<'_>,
    files: Arc<OpenFiles>,
    ground: Option<Arc<Ground>>,
    chain: &Chain,
    known: &[Option<Arc<Layer>>],
) -> Result<Below> {
    let largest = chain.layers.iter().map(|layer| layer.blocks).max().unwrap_or(0);
    let index = OwnerIndex::new(place.media, largest.max(place.blocks()))?;
    let mut slots = Vec::with_capacity(chain.layers.len());
    for (at, record) in chain.layers.iter().enumerate() {
        let map = layer_map(place, chain, at)?;
        index.lay(&map, at as u16)?;
        let layer = match known.iter().flatten().find(|layer| layer.number == record.layer) {
            Some(layer) if !planted!("resize-opens-layers-anew") => layer.clone(),
            _ => Layer::open(place, &files, record)?,
        };
        layer.bytes.store(map.bytes(), Ordering::Relaxed);
        slots.push(Some(layer));
    }
    Ok(Below { pending: Vec::new(), index: Arc::new(index), slots, files, ground })
}

struct FoundActive {
    layer: Arc<Active>,
    is_believed: bool,
}

/// Opens the active layer: by its live map if that can be believed, else by what is committed.
fn find_active(place: &Place<'_>, chain: &Chain, session: Session) -> Result<FoundActive> {
    let number = chain.active;
    let Stored { file, committed, journal, states } = Stored::open(place, number, chain.clean)?;
    let believed = believed_map(place, chain, session, number, &committed)?;
    let is_believed = believed.is_some();
    let map = match believed {
        Some(map) => {
            map.mark_differences(&states);
            map
        }
        None => fresh_map(place, number, &committed, &states)?,
    };
    let layer = Active::assemble(place, number, file, map, committed, journal)?;
    Ok(FoundActive { layer, is_believed })
}

/// The live map of a layer, if there is one and it may be believed.
fn believed_map(
    place: &Place<'_>,
    chain: &Chain,
    session: Session,
    number: u64,
    committed: &Arc<CommittedFile>,
) -> Result<Option<LiveMap>> {
    let name = names::live_map(place.disk, number);
    if !place.media.list_volatile()?.contains(&name) {
        return Ok(None);
    }
    let memory = place.media.volatile(&name, LiveMap::memory_words(place.blocks()))?;
    let map = LiveMap::attach(memory, place.blocks(), committed.clone())?;
    let identity =
        Identity { disk: place.disk, layer: number, blocks: place.blocks(), session, nonce: chain.nonce };
    if !identity.believes(map.memory(), chain.generation) || !map.is_sound() {
        return Ok(None);
    }
    identity.take_over(map.memory(), chain.generation);
    map.reserve_spelled_out()?;
    Ok(Some(map))
}

/// A new live map with the committed states.
fn fresh_map(
    place: &Place<'_>,
    number: u64,
    committed: &Arc<CommittedFile>,
    states: &FrozenMap,
) -> Result<LiveMap> {
    let name = names::live_map(place.disk, number);
    place.media.remove_volatile(&name)?;
    let memory = place.media.volatile(&name, LiveMap::memory_words(place.blocks()))?;
    let map = LiveMap::attach(memory, place.blocks(), committed.clone())?;
    map.load(states)?;
    Ok(map)
}

/// The layer that took writes after the active one was frozen by a seal that never became durable, if there is one
/// and anything was written to it.
fn find_successor(place: &Place<'_>, chain: &Chain, session: Session) -> Result<Option<Arc<Active>>> {
    let prefix = format!("{}-", place.disk);
    for name in place.media.list_volatile()? {
        let number = name.strip_prefix(&prefix).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let Some(number) = number.filter(|&number| number > chain.active) else { continue };
        let Ok(file) = data_file::open(place, number, place.blocks(), OpenHow::Write) else { continue };
        let path = place.path(Numbered::Committed(number));
        let committed = CommittedFile::open(place.media, path, place.disk, number, place.blocks());
        let journal = place.media.open(&place.path(Numbered::Journal(number)), OpenHow::Write);
        let (Ok(committed), Ok(journal)) = (committed, journal) else { continue };
        let committed = Arc::new(committed);
        let Some(map) = believed_map(place, chain, session, number, &committed)? else { continue };
        if map.is_empty() {
            continue;
        }
        map.mark_differences(&FrozenMap::new(place.blocks()));
        return Ok(Some(Active::assemble(place, number, file, map, committed, journal)?));
    }
    Ok(None)
}

/// The boundary a seal cut short left between two layers. It becomes no point: nobody was told of one.
fn boundary(env: &Env, chain: &mut Chain, layer: Arc<Active>, next: &Active) -> Result<Unsealed> {
    chain.next_number = chain.next_number.max(next.number + 1);
    let map = chain.take_number();
    let state = StateId::random(&*env.entropy)?;
    let record = EpochRecord::after(chain, state, env.clock.now(), chain.size, map);
    Ok(Unsealed { layer, map, record })
}
