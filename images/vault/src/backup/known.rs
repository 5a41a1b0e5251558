//! The fingerprints of whole packs, loaded as a backup meets them. What a deduplication hit relies on is looked at before it is
//! relied on; specified in `docs/overview.md`.

use std::collections::{HashMap, HashSet};

use block::sync::lock;

use crate::Result;
use crate::chunk::Kind;
use crate::inner::Inner;
use crate::name::{Address, ByPrint, Fingerprint, Spot};
use crate::pack::{Finished, PackHead, Table, prove_frame};
use crate::sweep::Pinned;

/// Chunks whose fingerprints a job keeps: those of about 4 GiB, in some 50 MiB of memory.
const KEPT_CHUNKS: usize = 1 << 20;
/// Of the frames of a pack that are relied on, the first and every one of this many after it is read and compared.
const SAMPLE: usize = 64;

/// A pack whose fingerprints are loaded.
struct Loaded {
    address: Address,
    table: Table,
    prints: Vec<Fingerprint>,
    used: u64,
    /// What is needed to read its frames; none for a pack this job made itself.
    head: Option<PackHead>,
    relied_on: HashSet<u32>,
}

/// The packs a job has looked at.
pub(crate) struct Known {
    // everything this job relies on stays until it has ended
    pinned: Pinned,
    now: u64,
    chunks: usize,
    packs: Vec<Option<Loaded>>,
    places: HashMap<Address, u32>,
    // by key: which of `packs`, and which chunk of it
    keys: ByPrint<u64, (u32, u32)>,
    bad: HashSet<Address>,
}

impl Known {
    pub(crate) fn new(vault: &Inner) -> Self {
        Self {
            pinned: Pinned::new(vault.pins.clone()),
            now: 0,
            chunks: 0,
            packs: Vec::new(),
            places: HashMap::new(),
            keys: ByPrint::default(),
            bad: HashSet::new(),
        }
    }

    /// Loads the packs that may hold these chunks. Each must be there, authenticate and list what it holds, or it is not used in
    /// this job.
    pub(crate) fn look(&mut self, vault: &Inner, prints: &[Fingerprint]) -> Result<()> {
        if vault.options.self_contained {
            return Ok(());
        }
        for print in prints {
            if self.keys.contains_key(&print.key()) {
                continue;
            }
            let Some(pack) = lock(&vault.hooks).find(print.key(), &vault.distrust)? else { continue };
            if self.places.contains_key(&pack) || self.bad.contains(&pack) || !self.pinned.pin(pack) {
                continue;
            }
            match vault.pack_len(pack).and_then(|len| vault.pack_prints(pack, len)) {
                Ok((head, prints)) => self.insert(pack, head.table.clone(), prints, Some(head)),
                Err(error) if error.is_damage() => {
                    vault.distrust.witness(&error);
                    self.bad.insert(pack);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes in a pack of this job.
    pub(crate) fn add_own(&mut self, pack: Finished) {
        self.insert(pack.address, pack.table, pack.prints, None);
    }

    fn insert(&mut self, address: Address, table: Table, prints: Vec<Fingerprint>, head: Option<PackHead>) {
        self.now += 1;
        while self.chunks + prints.len() > KEPT_CHUNKS && self.forget_oldest() {}
        let place = self.packs.iter().position(Option::is_none).unwrap_or(self.packs.len());
        if place == self.packs.len() {
            self.packs.push(None);
        }
        self.chunks += prints.len();
        self.keys.extend(prints.iter().zip(0..).map(|(print, number)| (print.key(), (place as u32, number))));
        self.places.insert(address, place as u32);
        let relied_on = HashSet::new();
        self.packs[place] = Some(Loaded { address, table, prints, used: self.now, head, relied_on });
    }

    fn forget_oldest(&mut self) -> bool {
        let held = self.packs.iter().zip(0..).filter_map(|(pack, place)| Some((pack.as_ref()?.used, place)));
        let Some((_, oldest)) = held.min() else { return false };
        self.forget(oldest);
        true
    }

    fn forget(&mut self, place: u32) {
        let Some(pack) = self.packs.get_mut(place as usize).and_then(Option::take) else { return };
        self.chunks -= pack.prints.len();
        self.places.remove(&pack.address);
        for print in &pack.prints {
            if self.keys.get(&print.key()).is_some_and(|(of, _)| *of == place) {
                self.keys.remove(&print.key());
            }
        }
    }

    /// Where a chunk is that this job may rely on.
    pub(crate) fn find(&mut self, vault: &Inner, print: &Fingerprint) -> Result<Option<Spot>> {
        let Some(&(place, number)) = self.keys.get(&print.key()) else { return Ok(None) };
        self.now += 1;
        let Some(pack) = self.packs.get_mut(place as usize).and_then(Option::as_mut) else { return Ok(None) };
        if pack.prints.get(number as usize) != Some(print) {
            return Ok(None);
        }
        pack.used = self.now;
        let Some((entry, chunk)) = pack.table.of_chunk(number) else { return Ok(None) };
        // a read or a check beside this job may have found something since the pack was loaded
        if !vault.distrust.has(&pack.address) && pack.check(vault, entry)? {
            return Ok(Some(Spot { pack: pack.address, entry, chunk }));
        }
        self.bad.insert(pack.address);
        self.forget(place);
        Ok(None)
    }
}

impl Loaded {
    /// Reads a frame again, if it is its turn, and compares it with the fingerprints. False if the pack is damaged.
    fn check(&mut self, vault: &Inner, entry: u32) -> Result<bool> {
        let Some(head) = &self.head else { return Ok(true) };
        if block::planted!("vault-dedup-unverified") || !self.relied_on.insert(entry) {
            return Ok(true);
        }
        if self.relied_on.len() % SAMPLE != 1 {
            return Ok(true);
        }
        let raw = vault.read_entry(head, entry, Kind::Frame);
        match raw.and_then(|raw| prove_frame(&vault.keys, head, &self.prints, entry, &raw)) {
            Ok(()) => Ok(true),
            Err(error) if error.is_damage() => {
                vault.distrust.add(self.address);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
