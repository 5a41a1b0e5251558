//! One sweep, and taking one back.

use std::collections::{HashMap, HashSet};

use block::sync::lock;
use block::{ByteCount, Kind};

use crate::check::Damage;
use crate::front::{Front, QUARANTINE};
use crate::gate::Deletion;
use crate::index::INDEX_PACKS;
use crate::inner::Inner;
use crate::name::{Address, Shelf};
use crate::progress::Progress;
use crate::reach::packs_in_use;
use crate::sweep::quarantine::{MAX_QUARANTINE_LEN, MAX_ROWS};
use crate::sweep::{Quarantine, Quarantined, SweepReport, SweepRun};
use crate::{Error, Result, SweepId, Vault};

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
        let used = packs_in_use(vault, held, progress)?;
        Ok((packs, used))
    });
    let (packs, used) = match marked {
        Ok(marked) => marked,
        Err(error) => {
            vault.pins.end(Vec::new());
            return Err(error);
        }
    };
    let mut report = SweepReport::default();
    let known: HashSet<Address> =
        earlier.iter().flat_map(|(_, list)| &list.packs).map(|one| one.pack).collect();
    let is_new = |(pack, _): &(Address, u64)| !used.contains(pack) && !known.contains(pack);
    let mut fresh: Vec<(Address, u64)> = packs.into_iter().filter(is_new).collect();
    fresh.truncate(MAX_ROWS);
    let bytes = |packs: &[(Address, u64)]| packs.iter().map(|(_, len)| len).sum::<u64>();
    let allowed = if fresh.is_empty() { Ok(()) } else { ask(fresh.len(), bytes(&fresh), false) };
    if let Err(refused) = allowed {
        vault.pins.end(Vec::new());
        return Err(refused);
    }
    let settled = settle(whole, &earlier, &used, &ask, &mut report);
    let fresh = vault.pins.end(if settled.is_ok() { fresh } else { Vec::new() });
    settled?;
    if !fresh.is_empty() {
        put(vault, &fresh, &mut report)?;
    }
    Ok(report)
}

/// Writes down what is in quarantine from now on. If that fails nothing is.
fn put(vault: &Inner, packs: &[(Address, u64)], report: &mut SweepReport) -> Result<()> {
    let mut rows: Vec<Quarantined> = packs.iter().map(|&(pack, len)| Quarantined { pack, len }).collect();
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
    let address = written.inspect_err(|_| vault.pins.release(packs.iter().map(|(pack, _)| pack)))?;
    report.run = Some(SweepId::from_bytes(*address.id.as_bytes()));
    report.quarantined = list.packs.iter().map(|one| one.pack.name(Shelf::Packs)).collect();
    report.quarantined_bytes = ByteCount::new(list.packs.iter().map(|one| one.len).sum());
    Ok(())
}

/// Deletes what earlier runs put into quarantine and still nothing reaches.
fn settle(
    whole: &Vault,
    earlier: &[(Address, Quarantine)],
    used: &HashSet<Address>,
    ask: &dyn Fn(usize, u64, bool) -> Result<()>,
    report: &mut SweepReport,
) -> Result<()> {
    let vault: &Inner = &whole.inner;
    let is_used = |one: &&Quarantined| used.contains(&one.pack) || vault.pins.is_pinned(&one.pack);
    let all = || earlier.iter().flat_map(|(_, list)| &list.packs);
    let (kept, gone): (Vec<&Quarantined>, Vec<&Quarantined>) = all().partition(is_used);
    if earlier.is_empty() {
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
    for (address, _) in earlier {
        vault.delete(&address.name(Shelf::Quarantine))?;
    }
    vault.pins.release(all().map(|one| &one.pack));
    report.deleted = gone.iter().map(|one| one.pack.name(Shelf::Packs)).collect();
    report.deleted_bytes = ByteCount::new(bytes);
    report.released = kept.iter().map(|one| one.pack.name(Shelf::Packs)).collect();
    Ok(())
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
