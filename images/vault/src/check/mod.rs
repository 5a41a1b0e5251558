//! Checking a whole vault: every object is read, opened, decoded and compared with what others say of it.

mod packs;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use std::time::Duration;

use block::ByteCount;

use self::packs::Proof;
use crate::index::PackRow;
use crate::info::Info;
use crate::inner::Inner;
use crate::manifest::{Ref, Shape};
use crate::moved::MAX_MOVES;
use crate::name::{Address, ApplianceId, BlobId, INFO_NAME, Shelf, Spot};
use crate::progress::Progress;
use crate::{Error, ManifestId, Result};

/// Damage listed in one report; more is only counted. A vault that damaged needs no longer list.
const MAX_LISTED: usize = 10_000;

/// One damaged or missing object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The blob.
    pub blob: String,
    /// Which part of it.
    pub place: String,
    /// What does not fit.
    pub why: String,
}

impl Damage {
    /// The damage an error tells of; `blob` if it names none.
    pub(crate) fn of(error: &Error, blob: &str) -> Self {
        match error {
            Error::Damaged { blob, place, why } => {
                Self { blob: blob.clone(), place: place.clone(), why: why.clone() }
            }
            Error::Missing { blob, needed_for } => Self {
                blob: blob.clone(),
                place: "all of it".to_owned(),
                why: format!("it is missing, needed for {needed_for}"),
            },
            other => Self { blob: blob.to_owned(), place: "it".to_owned(), why: other.to_string() },
        }
    }
}

/// A recovery point that does not restore completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HurtPoint {
    /// The point.
    pub manifest: ManifestId,
    /// The item it is of, if its blob can be read.
    pub item: Option<String>,
    /// The first thing found wrong with it.
    pub why: String,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Recovery points looked at.
    pub points: u64,
    /// Packs read.
    pub packs: u64,
    /// Chunks and nodes opened and found right.
    pub entries: u64,
    /// Bytes read from the store.
    pub bytes_read: ByteCount,
    /// Damaged and missing objects, at most 10,000 of them.
    pub damage: Vec<Damage>,
    /// All damage found, listed or not.
    pub damage_count: u64,
    /// Packs that are damaged, by name. Later backups store what is in them anew.
    pub damaged_packs: Vec<String>,
    /// Points that do not restore completely.
    pub hurt: Vec<HurtPoint>,
    /// Bytes in packs that no point needs; unknown if a point cannot be followed to its end.
    pub unreferenced: Option<ByteCount>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.damage_count == 0 && self.hurt.is_empty()
    }
}

/// How packs are scrubbed.
pub struct Scrub<'a> {
    /// The pack behind which it goes on, as [`passed`](Self::passed) was told; from the first if there is none.
    pub after: Option<String>,
    /// At most so much is read, so that others are not held up.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Called before a pack is read: a store with copies proves each of them there. Gives the bytes that were read for it.
    pub coming: &'a dyn Fn(&str) -> Result<u64>,
    /// Told of every pack that was read.
    pub passed: &'a dyn Fn(&str),
}

impl<'a> Scrub<'a> {
    /// Reads again only packs that are known to be damaged.
    pub fn of_damaged(coming: &'a dyn Fn(&str) -> Result<u64>, passed: &'a dyn Fn(&str)) -> Self {
        let last =
            Address { appliance: ApplianceId::from_bytes([0xff; 8]), id: BlobId::from_bytes([0xff; 16]) };
        Self { after: Some(last.name(Shelf::Packs)), bytes_per_second: None, coming, passed }
    }
}

/// A pause of a scrub, after which it looks whether it was cancelled.
const LONGEST_NAP: Duration = Duration::from_millis(100);

struct Check<'a> {
    vault: &'a Inner,
    report: CheckReport,
    packs: HashMap<Address, Found>,
    // of a scrub that goes on: packs that it read before and found right
    passed: HashSet<Address>,
    // whose content is elsewhere: damage of them hurts nobody
    moved: HashSet<Address>,
    // nodes below which everything is right
    proven: HashSet<Spot>,
}

/// What a pack was found to hold.
struct Found {
    row: PackRow,
    hooks: HookSum,
    /// The chunks of each entry; none for a node.
    entries: Vec<Option<u8>>,
    /// Entries that do not open.
    bad: HashSet<u32>,
}

/// Tells lists of hooks apart without keeping them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct HookSum {
    count: u64,
    keys: u64,
}

impl HookSum {
    fn of(keys: impl Iterator<Item = u64>) -> Self {
        // an index has a key once a pack
        let keys: HashSet<u64> = keys.collect();
        Self { count: keys.len() as u64, keys: keys.iter().fold(0, |sum, key| sum ^ key) }
    }
}

pub(crate) fn run(vault: &Inner, progress: &dyn Progress) -> Result<CheckReport> {
    let mut check = Check::new(vault);
    // a backup beside this writes packs, then their index, then the point: what is listed in the opposite order finds
    // everything it relies on in the lists made after it
    let points = vault.addresses(Shelf::Points)?;
    let indexes = vault.addresses(Shelf::Index)?;
    check.info()?;
    check.moves()?;
    let packs = vault.sizes(Shelf::Packs)?;
    check.packs(&packs, progress, &mut |_| Ok(()), &mut |_, _| Ok(()))?;
    check.indexes(&indexes, progress)?;
    check.points(&points, progress)?;
    check.quarantine()?;
    if check.report.hurt.is_empty() {
        check.report.unreferenced = Some(crate::reach::of(vault, progress)?.unreferenced);
    }
    Ok(check.report)
}

/// A scrub: every pack is read and proven, at a pace, from where an earlier one ended; then the points that are hurt are named.
pub(crate) fn scrub(vault: &Inner, scrub: &Scrub<'_>, progress: &dyn Progress) -> Result<CheckReport> {
    let mut check = Check::new(vault);
    let points = vault.addresses(Shelf::Points)?;
    let after = scrub.after.as_deref().and_then(|name| Address::parse(Shelf::Packs, name));
    // what was found damaged before is read again, so that the points it hurts are known
    let is_left = |(pack, _): &(Address, u64)| Some(*pack) > after || vault.distrust.has(pack);
    let (left, passed): (Vec<_>, Vec<_>) = vault.sizes(Shelf::Packs)?.into_iter().partition(is_left);
    check.passed = passed.into_iter().map(|(pack, _)| pack).collect();
    check.moves()?;
    let clock = &*vault.env.clock;
    let (began, read) = (clock.monotonic_ns(), Cell::new(0));
    let mut coming = |pack: &Address| {
        read.set(read.get() + (scrub.coming)(&pack.name(Shelf::Packs))?);
        Ok(())
    };
    check.packs(&left, progress, &mut coming, &mut |pack, len| {
        if Some(*pack) > after {
            (scrub.passed)(&pack.name(Shelf::Packs));
        }
        read.set(read.get() + len);
        let Some(rate) = scrub.bytes_per_second else { return Ok(()) };
        let due = u128::from(read.get()) * 1_000_000_000 / u128::from(rate.get());
        loop {
            let passed = u128::from(clock.monotonic_ns().saturating_sub(began));
            let Some(left) = due.checked_sub(passed).filter(|left| *left > 0) else { return Ok(()) };
            stop_if(progress)?;
            let left = Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX));
            std::thread::sleep(left.min(LONGEST_NAP));
        }
    })?;
    check.points(&points, progress)?;
    Ok(check.report)
}

impl<'a> Check<'a> {
    fn new(vault: &'a Inner) -> Self {
        let report = CheckReport::default();
        let (passed, moved, proven) = (HashSet::new(), HashSet::new(), HashSet::new());
        Self { vault, report, packs: HashMap::new(), passed, moved, proven }
    }
}

impl Check<'_> {
    fn damage(&mut self, damage: Damage) {
        self.report.damage_count += 1;
        if self.report.damage.len() < MAX_LISTED {
            self.report.damage.push(damage);
        }
    }

    /// Notes damage; passes on what is no damage.
    fn note(&mut self, error: Error, blob: &str) -> Result<()> {
        if !error.is_damage() && !matches!(error, Error::Unsupported(_)) {
            return Err(error);
        }
        self.damage(Damage::of(&error, blob));
        Ok(())
    }

    /// The blob without which the vault does not open again.
    fn info(&mut self) -> Result<()> {
        let read = Info::load(&*self.vault.store)
            .and_then(|(info, bytes)| info.verify(&self.vault.keys, &bytes).map(|()| info.front.vault));
        match read {
            Ok(id) if id == self.vault.id => Ok(()),
            Ok(id) => {
                self.note(Error::damaged(INFO_NAME, "front", format!("it is of vault {id}")), INFO_NAME)
            }
            Err(Error::NoVault) => {
                let needed_for = "opening the vault".to_owned();
                self.note(Error::Missing { blob: INFO_NAME.to_owned(), needed_for }, INFO_NAME)
            }
            Err(Error::WrongKey { vault }) => {
                let why = format!("it is of vault {vault} and another key");
                self.note(Error::damaged(INFO_NAME, "front", why), INFO_NAME)
            }
            Err(error) => self.note(error, INFO_NAME),
        }
    }

    /// The lists of where the content of packs went.
    fn moves(&mut self) -> Result<()> {
        for pack in self.vault.addresses(Shelf::Moved)? {
            match self.vault.moved(&pack) {
                Ok(Some(_)) => drop(self.moved.insert(pack)),
                // swept since it was listed
                Ok(None) => {}
                Err(error) => self.note(error, &pack.name(Shelf::Moved))?,
            }
        }
        Ok(())
    }

    /// Reads these packs, and calls `coming` before and `passed` behind each.
    fn packs(
        &mut self,
        packs: &[(Address, u64)],
        progress: &dyn Progress,
        coming: &mut dyn FnMut(&Address) -> Result<()>,
        passed: &mut dyn FnMut(&Address, u64) -> Result<()>,
    ) -> Result<()> {
        let (vault, total) = (self.vault, packs.iter().map(|(_, len)| len).sum());
        let mut coming = |pack: &Address| stop_if(progress).and_then(|()| coming(pack));
        packs::each_proven(vault, packs, &mut coming, &mut |(pack, len), proof| {
            stop_if(progress)?;
            self.take(*pack, proof)?;
            progress.at(self.report.bytes_read, ByteCount::new(total));
            passed(pack, *len)
        })
    }

    /// Takes in what was found in a pack.
    fn take(&mut self, pack: Address, proof: Result<Proof>) -> Result<()> {
        let proof = match proof {
            // swept since it was listed; of a point that needs it all the same, that is said
            Err(Error::Missing { .. }) => Proof::default(),
            Err(error) if error.is_damage() => {
                Proof { damage: vec![Damage::of(&error, &pack.name(Shelf::Packs))], ..Proof::default() }
            }
            proof => proof?,
        };
        self.report.packs += u64::from(proof.bytes > 0);
        self.report.bytes_read = ByteCount::new(self.report.bytes_read.get() + proof.bytes);
        self.report.entries += proof.entries;
        self.packs.extend(proof.found.map(|found| (pack, found)));
        if proof.damage.is_empty() {
            self.vault.distrust.remove(&pack);
            return Ok(());
        }
        self.vault.distrust.add(pack);
        if !self.moved.contains(&pack) {
            self.report.damaged_packs.push(pack.name(Shelf::Packs));
            proof.damage.into_iter().for_each(|damage| self.damage(damage));
        }
        Ok(())
    }

    fn indexes(&mut self, indexes: &[Address], progress: &dyn Progress) -> Result<()> {
        for &address in indexes {
            stop_if(progress)?;
            let name = address.name(Shelf::Index);
            match self.vault.read_index(address) {
                Ok(content) => {
                    let mut keys: Vec<Vec<u64>> = vec![Vec::new(); content.packs.len()];
                    content.hooks.iter().for_each(|hook| keys[hook.pack as usize].push(hook.key));
                    for ((row, keys), number) in content.packs.iter().zip(keys).zip(0..) {
                        if let Some(why) = self.disagreement(row, HookSum::of(keys.into_iter())) {
                            let place = format!("pack table {number}");
                            self.damage(Damage { blob: name.clone(), place, why });
                        }
                    }
                }
                Err(error) => self.note(error, &name)?,
            }
        }
        Ok(())
    }

    /// Why an index and a pack do not agree.
    fn disagreement(&self, row: &PackRow, hooks: HookSum) -> Option<String> {
        let name = row.address.name(Shelf::Packs);
        match self.packs.get(&row.address) {
            // what is left of it nobody needs
            _ if self.moved.contains(&row.address) => None,
            None => Some(format!("it names {name}, which is missing or damaged")),
            Some(found) if found.row != *row => {
                Some(format!("it says {row:?} of {name}, which is {:?}", found.row))
            }
            Some(found) if found.hooks != hooks => Some(format!("it has other hooks than {name}")),
            Some(_) => None,
        }
    }

    /// The lists of what sweeps put aside.
    fn quarantine(&mut self) -> Result<()> {
        for address in self.vault.addresses(Shelf::Quarantine)? {
            match self.vault.read_quarantine(address) {
                // undone or settled since it was listed
                Ok(_) | Err(Error::Missing { .. }) => {}
                Err(error) => self.note(error, &address.name(Shelf::Quarantine))?,
            }
        }
        Ok(())
    }

    fn points(&mut self, points: &[Address], progress: &dyn Progress) -> Result<()> {
        for &address in points {
            stop_if(progress)?;
            self.report.points += 1;
            let manifest = ManifestId::from_bytes(*address.id.as_bytes());
            match self.vault.read_point(address) {
                Ok(point) => {
                    let shape = Shape::new(point.about.size);
                    if let Some(why) = self.tree(shape, point.root)? {
                        self.report.hurt.push(HurtPoint { manifest, item: Some(point.about.item), why });
                    }
                }
                // deleted since it was listed
                Err(Error::NoPoint(_)) => self.report.points -= 1,
                Err(error) => {
                    let why = error.to_string();
                    self.note(error, &address.name(Shelf::Points))?;
                    self.report.hurt.push(HurtPoint { manifest, item: None, why });
                }
            }
        }
        Ok(())
    }

    /// The first thing wrong with a tree.
    fn tree(&mut self, shape: Shape, root: Ref) -> Result<Option<String>> {
        match self.subtree(shape, root, shape.root_level(), 0) {
            Ok(()) => Ok(None),
            Err(error) if error.is_damage() => Ok(Some(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Follows what is below node `index` of a level, unless that was done for another point.
    fn subtree(&mut self, shape: Shape, at: Ref, level: u8, index: u64) -> Result<()> {
        let Ref::Stored(spot) = at else { return Ok(()) };
        if self.proven.contains(&spot) {
            return Ok(());
        }
        self.named(&spot, None)?;
        let node = self.vault.read_node(&spot, level, shape.refs(level, index))?;
        for (number, count, what) in node.runs() {
            match (what, level) {
                (Ref::Stored(chunks), 0) => self.named(&chunks, Some(count))?,
                (_, 0) => {}
                _ => self.subtree(shape, what, level - 1, index * Shape::width(level) + number)?,
            }
        }
        self.proven.insert(spot);
        Ok(())
    }

    /// Whether so many chunks, or a node, are in a place a tree names, or where they were moved from there, and can be read.
    fn named(&self, spot: &Spot, count: Option<u64>) -> Result<()> {
        let mut places = vec![(*spot, count.unwrap_or(1), 0)];
        while let Some((spot, of, moves)) = places.pop() {
            let here = self.in_place(&spot, count.map(|_| of));
            let next = match &here {
                Err(_) if moves < MAX_MOVES => {
                    self.vault.moved(&spot.pack)?.and_then(|moved| moved.follow(&spot, of))
                }
                _ => None,
            };
            match next {
                Some(next) => places.extend(next.into_iter().map(|(spot, of)| (spot, of, moves + 1))),
                None => here?,
            }
        }
        Ok(())
    }

    fn in_place(&self, spot: &Spot, count: Option<u64>) -> Result<()> {
        let name = spot.pack.name(Shelf::Packs);
        let wrong = |why: &str| Err(Error::damaged(&name, format!("entry {}", spot.entry), why));
        let Some(pack) = self.packs.get(&spot.pack) else {
            if self.passed.contains(&spot.pack) {
                return Ok(());
            }
            return Err(Error::Missing { blob: name, needed_for: "this point".to_owned() });
        };
        match (pack.entries.get(spot.entry as usize), count) {
            _ if pack.bad.contains(&spot.entry) => wrong("it cannot be read"),
            (Some(None), None) => Ok(()),
            (Some(Some(has)), Some(count)) if u64::from(spot.chunk) + count <= u64::from(*has) => Ok(()),
            _ => wrong("it is not what the point says"),
        }
    }
}

fn stop_if(progress: &dyn Progress) -> Result<()> {
    if progress.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}
