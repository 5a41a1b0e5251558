//! One sweep, and taking one back.

use std::collections::{HashMap, HashSet};

use block::sync::lock;
use block::{ByteCount, Kind};

use crate::check::Damage;
use crate::front::{Front, QUARANTINE};
use crate::gate::Deletion;
use crate::index::INDEX_PACKS;
use crate::inner::Inner;
use crate::moved::Rewrite;
use crate::name::{Address, Shelf};
use crate::progress::Progress;
use crate::reach::{Reached, in_use, share};
use crate::sweep::quarantine::{MAX_QUARANTINE_LEN, MAX_ROWS};
use crate::sweep::{Quarantine, Quarantined, SweepReport, SweepRun};
use crate::{Error, Result, SweepId, Vault};

/// A pack of which less than this is needed is written anew: a vault is never larger than a fresh one by more than the rest of it.
const LIVE_PERCENT: u64 = 80;

impl Inner {
    pub(crate) fn read_quarantine(&self, address: Address) -> Result<Quarantine> {
        let bytes = self.fetch(&address.name(Shelf::Quarantine), MAX_QUARANTINE_LEN)?;
        Quarantine::decode(&self.keys, self.id, address, &bytes)
    }

    /// Learns at open what is in quarantine. A damaged list is noted as damage; no sweep runs while it is there.
    pub(crate) fn load_quarantine(&mut self) -> Result<()> {
        for address in self.addresses(Shelf::Quarantine)? {
            match self.read_quarantine(address) {
                Ok(list) => self.pins.quarantine(list.packs.iter().map(|one| one.pack)),
                Err(error) if error.is_damage() => {
                    let damage = Damage::of(&error, &address.name(Shelf::Quarantine));
                    self.found_at_open.push(damage);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// All lists in the store. A damaged one is an error: what it names may be deleted by nobody who does not know it.
    pub(crate) fn quarantines(&self) -> Result<Vec<(Address, Quarantine)>> {
        let addresses = self.addresses(Shelf::Quarantine)?;
        addresses.into_iter().map(|address| Ok((address, self.read_quarantine(address)?))).collect()
    }

    /// The runs whose packs are in quarantine, oldest first.
    pub(crate) fn sweeps(&self) -> Result<Vec<SweepRun>> {
        let run = |(address, list): (Address, Quarantine)| SweepRun {
            run: SweepId::from_bytes(*address.id.as_bytes()),
            made: list.made,
            packs: list.packs.len() as u64,
            bytes: ByteCount::new(list.packs.iter().map(|one| one.len).sum()),
        };
        let mut runs: Vec<SweepRun> = self.quarantines()?.into_iter().map(run).collect();
        runs.sort_by_key(|run| (run.made, run.run));
        Ok(runs)
    }

    fn delete(&self, name: &str) -> Result<()> {
        match self.store.delete(name) {
            // of a run that was cut short
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            done => done.map_err(Error::store("delete", name)),
        }
    }
}

/// One writer alone: what another relies on cannot be seen from here.
fn check_alone(vault: &Vault) -> Result<()> {
    vault.may_sweep()?;
    match vault.writers()?.into_iter().find(|writer| !writer.own) {
        None => Ok(()),
        Some(other) => {
            let label = other.label.map_or_else(String::new, |label| format!(" ({label})"));
            let why = format!("appliance {}{label} is registered and may write to it too", other.appliance);
            Err(Error::Refused { what: "packs of a shared vault".to_owned(), why })
        }
    }
}

/// Sweeps once.
pub(crate) fn run(whole: &Vault, progress: &dyn Progress) -> Result<SweepReport> {
    let vault: &Inner = &whole.inner;
    let _one = lock(&vault.sweeping);
    check_alone(whole)?;
    let earlier = vault.quarantines()?;
    let ask = |packs: usize, bytes: u64, is_final: bool| {
        let what = Deletion::Packs { packs: packs as u64, bytes: ByteCount::new(bytes), is_final };
        vault.options.gate.may_delete(&what).map_err(|refusal| Error::Refused {
            what: if is_final { "packs in quarantine" } else { "packs nothing reaches" }.to_owned(),
            why: refusal.why,
        })
    };
    // packs before points: a pack put after this list is no candidate
    let held = vault.pins.begin();
    let marked = vault.sizes(Shelf::Packs).and_then(|packs| {
        let reached = in_use(vault, held, progress)?;
        let known = earlier.iter().flat_map(|(_, list)| &list.packs).map(|one| one.pack).collect();
        let found = candidates(vault, &packs, &reached, &known)?;
        let allowed = if found.len() == 0 { Ok(()) } else { ask(found.len(), found.bytes(), false) };
        allowed.map(|()| (reached, found))
    });
    let (reached, found) = match marked {
        Ok(marked) => marked,
        Err(error) => {
            vault.pins.end(Vec::new());
            return Err(error);
        }
    };
    let mut report = SweepReport::default();
    let settled = settle(whole, &earlier, &reached, &ask, &mut report);
    // those of both kinds that nobody pinned meanwhile can be relied on by nobody from here on
    let (fresh, sparse) = match settled.is_ok() {
        true => (found.fresh, found.sparse),
        false => (Vec::new(), Vec::new()),
    };
    let sparse_ones: HashSet<Address> = sparse.iter().map(|(pack, _)| *pack).collect();
    let (sparse, fresh): (Vec<_>, Vec<_>) = vault
        .pins
        .end(sparse.into_iter().chain(fresh).collect())
        .into_iter()
        .partition(|(pack, _)| sparse_ones.contains(pack));
    settled?;
    let (moved, compacted) = compact(vault, &sparse, &reached, &mut report, progress);
    let rows = rows(fresh, false).chain(rows(moved, true)).collect::<Vec<_>>();
    if !rows.is_empty() {
        put(vault, rows, &mut report)?;
    }
    compacted.map(|()| report)
}

/// What a run may take out of use.
#[derive(Default)]
struct Candidates {
    /// Nothing reaches them.
    fresh: Vec<(Address, u64)>,
    /// Much of them is reached by nothing, in the order they are reached.
    sparse: Vec<(Address, u64)>,
}

impl Candidates {
    fn len(&self) -> usize {
        self.fresh.len() + self.sparse.len()
    }

    fn bytes(&self) -> u64 {
        self.fresh.iter().chain(&self.sparse).map(|(_, len)| len).sum()
    }
}

fn candidates(
    vault: &Inner,
    packs: &[(Address, u64)],
    reached: &Reached<'_>,
    known: &HashSet<Address>,
) -> Result<Candidates> {
    let mut found = Candidates::default();
    let is_new = |pack: &Address| !reached.used.contains_key(pack) && !known.contains(pack);
    found.fresh.extend(packs.iter().filter(|(pack, _)| is_new(pack)).take(MAX_ROWS));
    let lengths: HashMap<Address, u64> = packs.iter().copied().collect();
    for pack in &reached.order {
        let (Some(&len), Some(needed)) = (lengths.get(pack), reached.used.get(pack)) else { continue };
        // one that is damaged is for a repair, one whose list lacks something stays for it
        let is_out = known.contains(pack) || reached.moved.contains_key(pack) || vault.distrust.has(pack);
        if is_out || found.len() >= MAX_ROWS {
            continue;
        }
        match share(vault, *pack, needed) {
            Ok(live) if live * 100 < len * LIVE_PERCENT => found.sparse.push((*pack, len)),
            Ok(_) => {}
            Err(error) if error.is_damage() => vault.distrust.witness(&error),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Writes what is needed of these packs anew, and gives those whose content is elsewhere by now; the others are as before.
fn compact(
    vault: &Inner,
    sparse: &[(Address, u64)],
    reached: &Reached<'_>,
    report: &mut SweepReport,
    progress: &dyn Progress,
) -> (Vec<(Address, u64)>, Result<()>) {
    let mut rewrite = match Rewrite::new(vault) {
        Ok(rewrite) => rewrite,
        Err(error) => {
            vault.pins.release(sparse.iter().map(|(pack, _)| pack));
            return (Vec::new(), Err(error));
        }
    };
    let all = sparse.iter().try_for_each(|(pack, _)| {
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        let Some(needed) = reached.used.get(pack) else { return Ok(()) };
        match rewrite.take(*pack, needed, &mut |_, _, _| Ok(None)) {
            // it stays where it is, for a repair
            Err(error) if error.is_damage() => {
                vault.distrust.witness(&error);
                Ok(())
            }
            done => done,
        }
    });
    let all = all.and_then(|()| rewrite.commit());
    let done: HashSet<Address> = rewrite.done.iter().copied().collect();
    report.bytes_rewritten = ByteCount::new(rewrite.bytes_stored);
    let (moved, left): (Vec<_>, Vec<_>) = sparse.iter().partition(|(pack, _)| done.contains(pack));
    vault.pins.release(left.iter().map(|(pack, _)| pack));
    (moved, all)
}

fn rows(packs: Vec<(Address, u64)>, is_moved: bool) -> impl Iterator<Item = Quarantined> {
    packs.into_iter().map(move |(pack, len)| Quarantined { pack, len, is_moved })
}

/// Writes down what is in quarantine from now on. If that fails nothing is.
fn put(vault: &Inner, mut rows: Vec<Quarantined>, report: &mut SweepReport) -> Result<()> {
    rows.sort_by_key(|one| one.pack);
    let list = Quarantine { made: vault.env.clock.now(), packs: rows };
    let written = vault.fresh_address().and_then(|address| {
        let front = Front::fresh(QUARANTINE, vault.id, address, &*vault.env.entropy)?;
        vault.put(&address.name(Shelf::Quarantine), &list.encode(&vault.keys, &front))?;
        match vault.read_quarantine(address)? == list {
            true => Ok(address),
            false => {
                Err(Error::damaged(&address.name(Shelf::Quarantine), "body", "the store gave back another"))
            }
        }
    });
    let address = written.inspect_err(|_| vault.pins.release(list.packs.iter().map(|one| &one.pack)))?;
    report.run = Some(SweepId::from_bytes(*address.id.as_bytes()));
    let of = |moved: bool| list.packs.iter().filter(move |one| one.is_moved == moved);
    report.quarantined = of(false).map(|one| one.pack.name(Shelf::Packs)).collect();
    report.rewritten = of(true).map(|one| one.pack.name(Shelf::Packs)).collect();
    report.quarantined_bytes = ByteCount::new(list.packs.iter().map(|one| one.len).sum());
    Ok(())
}

/// Deletes what earlier runs put into quarantine and still nothing reaches.
fn settle(
    whole: &Vault,
    earlier: &[(Address, Quarantine)],
    reached: &Reached<'_>,
    ask: &dyn Fn(usize, u64, bool) -> Result<()>,
    report: &mut SweepReport,
) -> Result<()> {
    let vault: &Inner = &whole.inner;
    let is_used =
        |one: &&Quarantined| reached.used.contains_key(&one.pack) || vault.pins.is_pinned(&one.pack);
    let all = || earlier.iter().flat_map(|(_, list)| &list.packs);
    let (kept, gone): (Vec<&Quarantined>, Vec<&Quarantined>) = all().partition(is_used);
    let lists = needless(vault, reached)?;
    if earlier.is_empty() && lists.is_empty() {
        return Ok(());
    }
    let bytes: u64 = gone.iter().map(|one| one.len).sum();
    ask(gone.len(), bytes, true)?;
    // whoever registered since relies on nothing these lists name, as long as they are there
    check_alone(whole)?;
    let dead: HashSet<Address> = gone.iter().map(|one| one.pack).collect();
    forget(vault, &dead)?;
    for pack in &dead {
        vault.delete(&pack.name(Shelf::Packs))?;
        vault.distrust.remove(pack);
    }
    for pack in &lists {
        vault.delete(&pack.name(Shelf::Moved))?;
    }
    for (address, _) in earlier {
        vault.delete(&address.name(Shelf::Quarantine))?;
    }
    vault.pins.release(all().map(|one| &one.pack));
    report.deleted = gone.iter().map(|one| one.pack.name(Shelf::Packs)).collect();
    report.deleted_bytes = ByteCount::new(bytes);
    report.released = kept.iter().map(|one| one.pack.name(Shelf::Packs)).collect();
    Ok(())
}

/// Lists of where packs went that are gone, and that no tree names: what is built later can name only what something names now.
fn needless(vault: &Inner, reached: &Reached<'_>) -> Result<Vec<Address>> {
    let unnamed = reached.moved.iter().filter(|(_, is_named)| !**is_named).map(|(pack, _)| *pack);
    let mut lists = Vec::new();
    for pack in unnamed {
        match vault.pack_len(pack) {
            Err(Error::Missing { .. }) => lists.push(pack),
            is_there => drop(is_there?),
        }
    }
    Ok(lists)
}

/// Replaces every index blob that names one of these packs by one that does not.
fn forget(vault: &Inner, dead: &HashSet<Address>) -> Result<()> {
    if dead.is_empty() {
        return Ok(());
    }
    let mut stale = Vec::new();
    let mut living = HashMap::new();
    for address in vault.addresses(Shelf::Index)? {
        let content = match vault.read_index(address) {
            Ok(content) => content,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error),
        };
        if !content.packs.iter().any(|row| dead.contains(&row.address)) {
            continue;
        }
        stale.push(address);
        let mut keys: Vec<Vec<u64>> = vec![Vec::new(); content.packs.len()];
        content.hooks.iter().for_each(|hook| keys[hook.pack as usize].push(hook.key));
        let rows = content.packs.into_iter().zip(keys).filter(|(row, _)| !dead.contains(&row.address));
        living.extend(rows.map(|(row, keys)| (row.address, (row, keys))));
    }
    let mut rest: Vec<_> = living.into_values().collect();
    rest.sort_by_key(|(row, _)| row.address);
    while !rest.is_empty() {
        let some = rest.drain(..rest.len().min(INDEX_PACKS)).collect();
        vault.put_index(some)?;
    }
    stale.iter().try_for_each(|address| vault.delete(&address.name(Shelf::Index)))
}

/// Takes a run back: its packs are as if it had not been.
pub(crate) fn undo(whole: &Vault, run: &SweepId) -> Result<u64> {
    let vault: &Inner = &whole.inner;
    let _one = lock(&vault.sweeping);
    check_alone(whole)?;
    let wanted = |(address, _): &(Address, Quarantine)| address.id.as_bytes() == run.as_bytes();
    let Some((address, list)) = vault.quarantines()?.into_iter().find(wanted) else {
        return Err(Error::NoSweep(*run));
    };
    vault.delete(&address.name(Shelf::Quarantine))?;
    vault.pins.release(list.packs.iter().map(|one| &one.pack));
    Ok(list.packs.len() as u64)
}
