//! Making and deleting points, and what changed between them.

use super::{By, Held, Tiers, instant};
use crate::disks::Named;
use crate::error::{Error, Result};
use crate::gate::{self, stamp};
use crate::names::has_members;
use crate::vaults::NamedVault;
use block::Epoch;
use control::{Change, ChangeKind, Changes, DeletePointQuery, Kind, PointDeleted, Tier};
use layers::{Disk, Numbering, Until};
use std::sync::Arc;

impl Tiers {
    /// The first point of a disk gets a number that no vault holds under the disk's name: what somebody wrote down of an
    /// earlier disk of that name must not come to mean a point of this one.
    fn number_above_earlier(&self, named: &Named) -> Result<()> {
        let disk = named.disk()?;
        if disk.points().is_empty() {
            let (held, _) = self.held(Some(&named.name));
            let highest = held.iter().map(|held| held.epoch.get()).max();
            disk.number_from(Epoch::new(highest.unwrap_or(0) + 1));
        }
        Ok(())
    }

    /// Recovery point now, of all these disks, and of all disks of these machines and groups, at one instant. The disks of a
    /// machine or a group get the same number.
    ///
    /// # Errors
    /// `NotFound` naming a disk; `Invalid` if none or one twice is named. No point is made then.
    pub fn snapshot(&self, items: &[String]) -> Result<Vec<Held>> {
        let found = items.iter().map(|item| self.disks.of(item)).collect::<Result<Vec<_>>>()?;
        let named: Vec<Arc<Named>> = found.into_iter().flatten().collect();
        let disks: Vec<&Disk> =
            named.iter().map(|named| named.disk().map(|disk| &**disk)).collect::<Result<_>>()?;
        if disks.is_empty() {
            return Err(Error::said(Kind::Invalid, "snapshot", "names no disk"));
        }
        if let Some(twice) =
            (1..named.len()).find(|&last| named[..last].iter().any(|it| it.id == named[last].id))
        {
            return Err(Error::said(
                Kind::Invalid,
                "snapshot",
                format!("disk {} is named twice", named[twice].name),
            )
            .with_help("name each disk once, and no disk beside its machine or group"));
        }
        for named in &named {
            named.unreplaced()?;
            self.number_above_earlier(named)?;
        }
        let numbering = match items.iter().any(|item| has_members(item)) {
            true => Numbering::Common,
            false => Numbering::Own,
        };
        let points = layers::seal_group(&disks, numbering).map_err(|error| {
            let doing = format!("take a recovery point of {}", items.join(", "));
            match named.iter().find(|named| error.disk() == Some(named.id)) {
                Some(named) => named.failed(doing, error),
                None => Error::below(doing, error),
            }
        })?;
        Ok(named.iter().zip(&points).map(|(named, point)| instant(named, point)).collect())
    }

    /// The ranges of a disk that changed between two points, or from one until now.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` if the history does not lead from one to the other.
    pub fn changes(&self, disk: &str, since: Option<&str>, until: Option<&str>) -> Result<Changes> {
        let named = self.disks.get(disk)?;
        let find = |name: &str| {
            // `@3` is the disk's own
            let own = name.starts_with('@').then(|| format!("{disk}{name}"));
            let name = own.as_deref().unwrap_or(name);
            let held = self.find(name)?;
            if held.item == named.name {
                return Ok(held);
            }
            Err(Error::said(Kind::Invalid, format!("point {name}"), format!("is not one of disk {disk}"))
                .with_help(format!("`blockctl point list {disk}` shows its points")))
        };
        let (since, until) = (since.map(find).transpose()?, until.map(find).transpose()?);
        let end = until.as_ref().map_or(Until::Live, |held| Until::State(held.state));
        let changes = named
            .disk()?
            .changes(since.as_ref().map(|held| held.state), end)
            .map_err(|error| named.failed(format!("find the changes of {disk}"), error))?;
        let of = |kind, set: &block::RangeSet| -> Vec<Change> {
            set.iter()
                .map(|range| Change { offset: range.start(), length: range.count().get(), kind })
                .collect()
        };
        let mut ranges = of(ChangeKind::Data, &changes.data);
        ranges.extend(of(ChangeKind::Zero, &changes.zero));
        ranges.sort_by_key(|range| range.offset);
        Ok(Changes {
            disk: named.name.clone(),
            since: since.map(|held| held.name),
            until: until.map(|held| held.name),
            bytes: ranges.iter().map(|range| range.length).sum(),
            ranges,
        })
    }

    /// The vaults and archives that hold a point in one tier or in any; none if there is no such point.
    pub fn stores_of(&self, name: &str, tier: Option<Tier>) -> Vec<String> {
        let Ok(held) = self.find(name) else { return Vec::new() };
        let of_tier = |named: &NamedVault| {
            tier.is_none_or(|tier| tier == if named.archive { Tier::Archive } else { Tier::Vault })
        };
        held.stored().filter(|(named, _)| of_tier(named)).map(|(named, _)| named.name.clone()).collect()
    }

    /// Deletes a point from a tier, or from all that hold it: vaults first, so that what fails half-way leaves the
    /// nearer copy.
    ///
    /// # Errors
    /// `NotFound` if that tier does not hold it, `Refused` if only damaged copies would be left, unless that is asked for.
    /// After a failure half-way the message says what is gone.
    pub fn delete_point(&self, name: &str, query: &DeletePointQuery) -> Result<PointDeleted> {
        let tier = query.tier;
        let held = match self.find(name) {
            Err(error) if error.kind() == Kind::Corrupt && self.forget_lost(name)? => {
                return Ok(PointDeleted {
                    name: name.to_owned(),
                    deleted: vec![Tier::Vault],
                    remaining: Vec::new(),
                    until: None,
                });
            }
            found => found?,
        };
        gate::ask(&held.name, &self.vaults.marks().of(held.state), stamp(self.disks.env().clock.now()))?;
        let tiers: Vec<Tier> =
            held.tiers().into_iter().filter(|held| tier.is_none_or(|tier| tier == *held)).collect();
        if tiers.is_empty() {
            let why = format!("is not in the tier {}", tier.map_or("", Tier::name));
            return Err(Error::said(Kind::NotFound, format!("point {}", held.name), why)
                .with_help(format!("`blockctl point show {}` says which tiers hold it", held.name)));
        }
        if !query.last_copy {
            self.refuse_last_sound(&held, &tiers)?;
        }
        let mut gone: Vec<String> = Vec::new();
        let partly = |error: Error, gone: &[String]| match gone {
            [] => error,
            gone => {
                let (kind, why) = (error.kind(), error.body().message);
                Error::said(kind, format!("point {} is gone from {} only", held.name, gone.join(", ")), why)
            }
        };
        let mut until = None;
        let tier_of = |vault: &NamedVault| if vault.archive { Tier::Archive } else { Tier::Vault };
        for (vault, _) in held.stored().filter(|(vault, _)| tiers.contains(&tier_of(vault))) {
            let term = self.delete_from(&held, vault, &By::Request).map_err(|error| partly(error, &gone))?;
            until = until.max(term);
            gone.push(format!("{} {}", tier_of(vault).name(), vault.name));
        }
        if tiers.contains(&Tier::Instant) {
            self.delete_instant(&held).map_err(|error| partly(error, &gone))?;
        }
        let remaining = held.tiers().into_iter().filter(|tier| !tiers.contains(tier)).collect();
        Ok(PointDeleted {
            name: held.name.clone(),
            deleted: tiers,
            remaining,
            until: until.map(|until| until.to_string()),
        })
    }
}
