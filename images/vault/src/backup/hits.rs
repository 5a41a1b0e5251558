//! What a deduplication hit relies on is looked at before it is relied on. Specified in `docs/overview.md`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use block::Kind;

use crate::cache::Cache;
use crate::index::{Index, Spot};
use crate::inner::Inner;
use crate::name::{Address, ContentId, Shelf};
use crate::pack::Trailer;
use crate::{Error, Result};

/// Trailers kept from one hit to the next: at most 25 MiB, usually a fiftieth of that.
const KEPT_TRAILERS: usize = 64;
/// After the first, one hit in this many in a pack is read and decoded.
const SAMPLE: u64 = 64;

/// The packs a job has looked at.
pub(crate) struct Hits {
    trailers: Cache<Address, Arc<Trailer>>,
    bad: HashSet<Address>,
    seen: HashMap<Address, u64>,
}

impl Hits {
    pub(crate) fn new() -> Self {
        Self { trailers: Cache::new(KEPT_TRAILERS), bad: HashSet::new(), seen: HashMap::new() }
    }

    /// Whether the content is in a pack that this job may rely on.
    pub(crate) fn relies_on(&mut self, vault: &Inner, index: &Index, id: &ContentId) -> Result<bool> {
        for spot in index.find(id) {
            if block::planted!("vault-dedup-unverified") {
                return Ok(true);
            }
            if self.bad.contains(&spot.pack.address) {
                continue;
            }
            match self.check(vault, &spot) {
                Ok(()) => return Ok(true),
                Err(error) if error.is_damage() => drop(self.bad.insert(spot.pack.address)),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn check(&mut self, vault: &Inner, spot: &Spot) -> Result<()> {
        let Spot { entry, pack } = spot;
        let name = pack.address.name(Shelf::Packs);
        let trailer = match self.trailers.get(&pack.address) {
            Some(trailer) => trailer,
            None => self.look(vault, spot, &name)?,
        };
        if trailer.get(entry.number) != Some((entry.offset, &entry.record)) {
            return Err(Error::damaged(&name, "trailer", format!("entry {} is another", entry.number)));
        }
        let seen = self.seen.entry(pack.address).or_default();
        *seen += 1;
        match *seen % SAMPLE {
            1 => vault.read_spot(spot).map(drop),
            _ => Ok(()),
        }
    }

    /// Reads the head of a pack: it is there, has its length, and its trailer authenticates.
    fn look(&mut self, vault: &Inner, spot: &Spot, name: &str) -> Result<Arc<Trailer>> {
        let pack = spot.pack;
        let size = vault.store.size(name).map_err(|error| match error.kind() {
            Kind::NotFound => {
                Error::Missing { blob: name.to_owned(), needed_for: "deduplication".to_owned() }
            }
            _ => Error::store("read", name)(error),
        })?;
        if size.get() != pack.len {
            return Err(Error::damaged(name, "length", format!("{size} bytes, {} expected", pack.len)));
        }
        let head = vault.pack_head(pack.address, pack.len)?;
        let trailer = Arc::new(head.trailer);
        self.trailers.put(pack.address, trailer.clone());
        Ok(trailer)
    }
}
