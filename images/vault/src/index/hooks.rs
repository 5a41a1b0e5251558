//! The hooks of all index blobs, to ask which pack may have a chunk.
//!
//! Young hooks are in memory. With a cache they go to sorted files from time to time, and files of like size are united, so
//! memory stays flat however large the vault is and a question costs one read for each of a few files. The files are
//! only a cache: what is missing or damaged is made anew from the index blobs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use block::{Cursor, Failure, FileHeader, HEADER_LEN, Kind, Malformed, Media, VaultId};

use crate::distrust::Distrust;
use crate::index::run::{Run, merged};
use crate::index::{Hook, IndexContent};
use crate::name::{ADDRESS_LEN, Address};
use crate::{Error, Result};

/// Young hooks before they go to a file: those of some 40 GiB, in 24 MiB of memory. Unit tests reach it.
const YOUNG_HOOKS: usize = if cfg!(test) { 700 } else { 1 << 19 };
/// Index blobs whose hooks are young before they go to a file, so that few are read when the vault is opened.
const YOUNG_BLOBS: usize = 1024;
/// A file is united with the next older one if that has fewer than this many times its hooks.
const GROWTH: u64 = 4;
/// The file that says which files there are, and which index blobs are in them.
const STATE: &str = "hooks";
const FORMAT: [u8; 4] = *b"hkst";
const VERSION: u32 = 1;
/// More files than growth ever leaves.
const MAX_RUNS: usize = 64;
/// The most index blobs the state names: those of 500 TiB.
const MAX_COVERED: usize = 1 << 20;
const MAX_STATE_LEN: u64 = (HEADER_LEN + 32 + MAX_RUNS * 8 + MAX_COVERED * ADDRESS_LEN) as u64;

/// Hooks, and which packs they lead to.
#[derive(Default)]
pub(crate) struct Hooks {
    young: Young,
    // newest first
    runs: Vec<Run>,
    cache: Option<Cache>,
}

#[derive(Default)]
struct Young {
    packs: Vec<Address>,
    // the newest pack that has the key
    keys: HashMap<u64, u32>,
    blobs: Vec<Address>,
}

struct Cache {
    media: Arc<dyn Media>,
    vault: VaultId,
    next: u64,
    // index blobs whose hooks are in the files
    covered: HashSet<Address>,
}

impl Hooks {
    /// The hooks in the files of a cache. Damage costs reading the index blobs again.
    pub(crate) fn open(media: Arc<dyn Media>, vault: VaultId) -> Result<Self> {
        let mut cache = Cache { media, vault, next: 0, covered: HashSet::new() };
        let runs = match cache.load() {
            Ok(runs) => runs,
            Err(error) if error.is_damage() || matches!(error.kind(), Kind::NotFound | Kind::Unsupported) => {
                cache.covered.clear();
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        cache.clean(&runs)?;
        Ok(Self { young: Young::default(), runs, cache: Some(cache) })
    }

    /// Whether the hooks of an index blob are in already.
    pub(crate) fn covers(&self, index: &Address) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.covered.contains(index))
    }

    /// Takes in what a newer index blob says. A distrusted pack takes no key from another.
    pub(crate) fn add(&mut self, index: Address, content: &IndexContent, distrust: &Distrust) -> Result<()> {
        let first = self.young.packs.len() as u32;
        self.young.packs.extend(content.packs.iter().map(|row| row.address));
        let is_bad: Vec<bool> = content.packs.iter().map(|row| distrust.has(&row.address)).collect();
        for hook in &content.hooks {
            let row = first + hook.pack;
            match is_bad.get(hook.pack as usize) {
                Some(true) => drop(self.young.keys.entry(hook.key).or_insert(row)),
                _ => drop(self.young.keys.insert(hook.key, row)),
            }
        }
        self.young.blobs.push(index);
        match self.young.keys.len() >= YOUNG_HOOKS || self.young.blobs.len() >= YOUNG_BLOBS {
            true => self.settle(),
            false => Ok(()),
        }
    }

    /// A pack that has a chunk whose fingerprint has this key, and that is not distrusted.
    pub(crate) fn find(&mut self, key: u64, distrust: &Distrust) -> Result<Option<Address>> {
        let young = self.young.keys.get(&key).and_then(|row| self.young.packs.get(*row as usize));
        if let Some(pack) = young.filter(|pack| !distrust.has(pack)) {
            return Ok(Some(*pack));
        }
        for at in 0..self.runs.len() {
            match self.runs[at].find(key) {
                Ok(None) => {}
                Ok(Some(pack)) if distrust.has(&pack) => {}
                Err(error) if error.is_damage() => return self.drop_files().map(|()| None),
                found => return found,
            }
        }
        Ok(None)
    }

    /// Writes the young hooks to a file and unites files of like size.
    fn settle(&mut self) -> Result<()> {
        let Some(cache) = &mut self.cache else { return Ok(()) };
        let young = &self.young;
        let mut hooks: Vec<Hook> = young.keys.iter().map(|(&key, &pack)| Hook { key, pack }).collect();
        hooks.sort_unstable();
        let most = hooks.len() as u64;
        let mut packs = young.packs.iter().copied().map(Ok);
        let run = cache.write(most, &mut hooks.into_iter().map(Ok), &mut packs)?;
        self.runs.insert(0, run);
        while let [newer, older, ..] = &self.runs[..]
            && older.len() < GROWTH * newer.len()
        {
            match cache.unite(newer, older) {
                Ok(united) => drop(self.runs.splice(..2, [united])),
                Err(error) if error.is_damage() => return self.drop_files(),
                Err(error) => return Err(error),
            }
        }
        cache.covered.extend(&young.blobs);
        cache.store(&self.runs)?;
        self.young = Young::default();
        cache.clean(&self.runs)
    }

    /// Forgets the files, of which one is damaged. What they said is known again when the vault is opened next.
    fn drop_files(&mut self) -> Result<()> {
        self.runs.clear();
        let Some(cache) = &mut self.cache else { return Ok(()) };
        cache.covered.clear();
        cache.store(&[])?;
        cache.clean(&[])
    }
}

impl Cache {
    fn write(
        &mut self,
        most: u64,
        hooks: &mut dyn Iterator<Item = Result<Hook>>,
        packs: &mut dyn Iterator<Item = Result<Address>>,
    ) -> Result<Run> {
        let path = run_name(self.next);
        self.next += 1;
        Run::write(&*self.media, &path, self.vault, most, hooks, packs)
    }

    fn unite(&mut self, newer: &Run, older: &Run) -> Result<Run> {
        let first = u32::try_from(newer.packs()).unwrap_or(u32::MAX);
        let moved =
            older.hooks().map(|hook| hook.map(|hook| Hook { pack: hook.pack.saturating_add(first), ..hook }));
        let mut hooks = merged(newer.hooks(), moved);
        let rows = |run: &Run| 0..u32::try_from(run.packs()).unwrap_or(u32::MAX);
        let mut packs = rows(newer).map(|row| newer.pack(row)).chain(rows(older).map(|row| older.pack(row)));
        self.write(newer.len() + older.len(), &mut hooks, &mut packs)
    }

    fn store(&self, runs: &[Run]) -> Result<()> {
        let mut bytes = FileHeader::new(FORMAT, VERSION).encode().to_vec();
        bytes.extend_from_slice(self.vault.as_bytes());
        bytes.extend_from_slice(&(runs.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.covered.len() as u32).to_le_bytes());
        for run in runs {
            bytes.extend_from_slice(&run_number(&run.path).unwrap_or_default().to_le_bytes());
        }
        let mut covered: Vec<&Address> = self.covered.iter().collect();
        covered.sort_unstable();
        covered.iter().for_each(|address| bytes.extend_from_slice(&address.encode()));
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        self.media.replace(STATE, &bytes).map_err(Error::cache(STATE))
    }

    fn load(&mut self) -> Result<Vec<Run>> {
        let bytes = self.media.read_whole(STATE, MAX_STATE_LEN).map_err(Error::cache(STATE))?;
        FileHeader::check(&bytes, &FileHeader::new(FORMAT, VERSION), STATE).map_err(Error::cache(STATE))?;
        let (vault, runs, covered) =
            decode_state(&bytes).map_err(|why| Error::damaged(STATE, "list", why))?;
        if vault != self.vault {
            return Err(Error::damaged(STATE, "list", format!("it is of vault {vault}")));
        }
        self.next = runs.iter().max().map_or(0, |newest| newest.saturating_add(1));
        self.covered = covered;
        runs.iter().map(|number| Run::open(&*self.media, &run_name(*number), vault)).collect()
    }

    /// Removes files that are not in use: of a cut, or united into others.
    fn clean(&mut self, runs: &[Run]) -> Result<()> {
        for entry in self.media.list("").map_err(Error::cache(STATE))? {
            let Some(number) = run_number(&entry.name) else { continue };
            self.next = self.next.max(number.saturating_add(1));
            if !runs.iter().any(|run| run.path == entry.name) {
                self.media.remove(&entry.name).map_err(Error::cache(&entry.name))?;
            }
        }
        Ok(())
    }
}

fn run_name(number: u64) -> String {
    format!("{number:016x}.{STATE}")
}

fn run_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(STATE)?.strip_suffix('.').filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

fn decode_state(bytes: &[u8]) -> Result<(VaultId, Vec<u64>, HashSet<Address>), Malformed> {
    let mut cursor = Cursor::new(bytes);
    cursor.bytes(HEADER_LEN)?;
    let vault = VaultId::from_bytes(cursor.array()?);
    let (runs, covered) = (cursor.u32()? as usize, cursor.u32()? as usize);
    if runs > MAX_RUNS || covered > MAX_COVERED || cursor.remaining() != runs * 8 + covered * ADDRESS_LEN + 4
    {
        return Err(cursor.malformed(format!("{runs} files and {covered} index blobs do not fit here")));
    }
    let runs: Result<_, _> = (0..runs).map(|_| cursor.u64()).collect();
    let covered: Result<_, _> = (0..covered).map(|_| Address::decode(&mut cursor)).collect();
    let end = cursor.position();
    match cursor.u32()? == crc32fast::hash(&bytes[..end]) {
        true => Ok((vault, runs?, covered?)),
        false => Err(cursor.malformed("its checksum disagrees")),
    }
}

/// For fuzzing: the state.
pub fn fuzz_decode(bytes: &[u8]) {
    if let Ok((_, runs, covered)) = decode_state(bytes) {
        assert!(runs.len() * 8 + covered.len() * ADDRESS_LEN <= bytes.len() * 2);
    }
}
