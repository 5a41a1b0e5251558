//! Recovery points, whichever tier holds them: finding one by its name, listing, making and deleting them.
//!
//! A point is one state of one disk. Its name is the disk's name and its number. Where two disks were called the same
//! one after the other, the number means the disk of today, and a point of the earlier one is called by its time.

use crate::catalog::Catalog;
use crate::disks::{Disks, Named};
use crate::error::{Doing, Error, Result};
use crate::names::{PointName, Which, rfc3339};
use crate::vaults::{NamedVault, Vaults};
use block::{BlockSource, ByteCount, DiskId, Epoch, StateId, Time};
use control::{Change, ChangeKind, Changes, Kind, Point, PointDeleted, Tier};
use layers::{Disk, Until};
use nbd::Uri;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use vault::ManifestId;

/// Both tiers.
pub struct Tiers {
    /// The disks, whose layers are the instant tier.
    pub disks: Disks,
    /// The vaults.
    pub vaults: Vaults,
    /// What checks have shown.
    pub catalog: Arc<Catalog>,
    /// Where exports are served.
    pub nbd_socket: PathBuf,
}

/// A recovery point and all that hold it.
#[derive(Clone)]
pub struct Held {
    /// Its name.
    pub name: String,
    /// The disk's name.
    pub item: String,
    /// The disk's id.
    pub disk: DiskId,
    /// Its state.
    pub state: StateId,
    parent: Option<StateId>,
    /// Its number.
    pub epoch: Epoch,
    /// When it was made.
    pub time: Time,
    /// Size of the disk then.
    pub size: ByteCount,
    seal_ns: Option<u64>,
    /// The disk whose layers hold it.
    pub instant: Option<Arc<Named>>,
    /// The vaults that hold it.
    pub copies: Vec<(Arc<NamedVault>, ManifestId)>,
}

impl Held {
    /// The tiers that hold it.
    pub fn tiers(&self) -> Vec<Tier> {
        let instant = self.instant.is_some().then_some(Tier::Instant);
        let vault = (!self.copies.is_empty()).then_some(Tier::Vault);
        instant.into_iter().chain(vault).collect()
    }

    /// Its content, from the instant tier if that holds it, else from a vault. The next holder is asked if one fails.
    ///
    /// # Errors
    /// The last holder's failure.
    pub fn source(&self) -> Result<Arc<dyn BlockSource>> {
        let doing = || format!("read {}", self.name);
        let mut last = None;
        if let Some(named) = &self.instant {
            match named.disk().and_then(|disk| disk.point_source(self.state).doing(doing)) {
                Ok(source) => return Ok(source),
                Err(error) => last = Some(error),
            }
        }
        for (named, manifest) in &self.copies {
            if let Some(error) = &last {
                tracing::warn!(point = self.name, "{}; asking vault {}", error.body().message, named.name);
            }
            match named.vault().and_then(|vault| vault.image(manifest).doing(doing)) {
                Ok(source) => return Ok(source),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::not_found(format!("point {}", self.name))))
    }
}

impl Tiers {
    /// The points of one item, or of all, oldest first within an item; and what could not be looked at.
    pub fn held(&self, item: Option<&str>) -> (Vec<Held>, Vec<String>) {
        let mut points: BTreeMap<(DiskId, StateId), Held> = BTreeMap::new();
        let disks = self.disks.all();
        for named in disks.iter().filter(|named| item.is_none_or(|item| item == named.name)) {
            let Ok(disk) = named.disk() else { continue };
            points.extend(disk.points().iter().map(|point| ((named.id, point.state), instant(named, point))));
        }
        let mut warnings = Vec::new();
        for vault in self.vaults.all() {
            let survey = match vault
                .vault()
                .and_then(|open| open.survey().doing(|| format!("vault {}", vault.name)))
            {
                Ok(survey) => survey,
                Err(error) => {
                    warnings.push(error.body().message);
                    continue;
                }
            };
            warnings.extend(survey.damaged.iter().map(|damage| {
                format!(
                    "vault {}: {} is damaged in its {}: {}",
                    vault.name, damage.blob, damage.place, damage.why
                )
            }));
            for point in survey.points {
                let alive = disks.iter().find(|named| named.id == point.disk);
                let name = alive.map_or(&point.item, |named| &named.name);
                if item.is_none_or(|item| item == name) {
                    let key = (point.disk, point.state);
                    let held = points.entry(key).or_insert_with(|| stored(name, &point));
                    held.copies.push((vault.clone(), point.manifest));
                }
            }
        }
        let mut points: Vec<Held> = points.into_values().collect();
        points.sort_by(|a, b| (&a.item, a.time, a.epoch).cmp(&(&b.item, b.time, b.epoch)));
        name_all(&mut points, &disks);
        (points, warnings)
    }

    /// The point a name means.
    ///
    /// # Errors
    /// `NotFound` naming disk or point, and what could not be looked at if that may be why.
    pub fn find(&self, name: &str) -> Result<Held> {
        let wanted = PointName::parse(name)?;
        let (points, warnings) = self.held(Some(&wanted.item));
        let named = self.disks.get(&wanted.item).ok();
        let alive = named.as_ref().map(|named| named.id);
        let chosen = choose(&points, wanted.which, alive);
        // what a disk that failed to open holds is not known: a vault may only have an older point
        let is_exact = chosen.is_some() && matches!(wanted.which, Which::Epoch(_));
        if let Some(Err(error)) = named.as_ref().filter(|_| !is_exact).map(|named| named.disk()) {
            return Err(error.with_help(
                "a point of it that a vault holds can be named by its number; `blockctl point list`",
            ));
        }
        if let Some(index) = chosen {
            return Ok(points[index].clone());
        }
        let error = Error::not_found(format!("point {name}"));
        Err(match (points.last(), warnings.first()) {
            (_, Some(warning)) => error.with_help(format!("not all could be looked at: {warning}")),
            (Some(last), None) => {
                error.with_help(format!("the newest point of {} is {}", wanted.item, last.name))
            }
            (None, None) if alive.is_none() => {
                error.with_help(format!("there is no disk {} either; `blockctl disk list`", wanted.item))
            }
            (None, None) => error.with_help(format!("`blockctl snapshot {}` makes the first", wanted.item)),
        })
    }

    /// Points as the API shows them.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn show(&self, points: &[Held]) -> Result<Vec<Point>> {
        let verified = self.catalog.verified()?;
        let show = |held: &Held| Point {
            name: held.name.clone(),
            disk: held.item.clone(),
            disk_id: held.disk.to_string(),
            epoch: held.epoch.get(),
            time: rfc3339(held.time),
            size: held.size.get(),
            tiers: held.tiers(),
            vaults: held.copies.iter().map(|(vault, _)| vault.name.clone()).collect(),
            consistency: "crash".to_owned(),
            verified: held
                .copies
                .iter()
                .any(|(vault, manifest)| verified.contains(&(vault.name.clone(), manifest.to_string()))),
            state: held.state.to_string(),
            parent: held.parent.map(|state| state.to_string()),
            seal_ns: held.seal_ns,
            uri: self.uri(&held.name),
        };
        Ok(points.iter().map(show).collect())
    }

    /// The NBD URI of an export.
    pub fn uri(&self, export: &str) -> String {
        Uri::unix(&self.nbd_socket, export).to_string()
    }

    /// Recovery point now, of all these disks at one instant.
    ///
    /// # Errors
    /// `NotFound` naming a disk; `Invalid` if none or one twice is named. No point is made then.
    pub fn snapshot(&self, names: &[String]) -> Result<Vec<Held>> {
        let named: Vec<Arc<Named>> = names.iter().map(|name| self.disks.get(name)).collect::<Result<_>>()?;
        let disks: Vec<&Disk> =
            named.iter().map(|named| named.disk().map(|disk| &**disk)).collect::<Result<_>>()?;
        if disks.is_empty() {
            return Err(Error::said(Kind::Invalid, "snapshot", "names no disk"));
        }
        if (1..names.len()).any(|last| names[..last].contains(&names[last])) {
            return Err(Error::said(Kind::Invalid, "snapshot", "names a disk twice"));
        }
        let points =
            layers::seal_group(&disks).doing(|| format!("take a recovery point of {}", names.join(", ")))?;
        Ok(named.iter().zip(&points).map(|(named, point)| instant(named, point)).collect())
    }

    /// The ranges of a disk that changed between two points, or from one until now.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` if the history does not lead from one to the other.
    pub fn changes(&self, disk: &str, since: Option<&str>, until: Option<&str>) -> Result<Changes> {
        let named = self.disks.get(disk)?;
        let find = |name: &str| {
            let held = self.find(name)?;
            if held.item == named.name {
                return Ok(held);
            }
            Err(Error::said(Kind::Invalid, format!("point {name}"), format!("is not one of disk {disk}")))
        };
        let (since, until) = (since.map(find).transpose()?, until.map(find).transpose()?);
        let end = until.as_ref().map_or(Until::Live, |held| Until::State(held.state));
        let changes = named
            .disk()?
            .changes(since.as_ref().map(|held| held.state), end)
            .doing(|| format!("find the changes of {disk}"))?;
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

    /// Deletes a point from a tier, or from all that hold it: vaults first, so that what fails half-way leaves the
    /// nearer copy.
    ///
    /// # Errors
    /// `NotFound` if that tier does not hold it. After a failure half-way the message says what is gone.
    pub fn delete_point(&self, name: &str, tier: Option<Tier>) -> Result<PointDeleted> {
        let held = self.find(name)?;
        let tiers: Vec<Tier> =
            held.tiers().into_iter().filter(|held| tier.is_none_or(|tier| tier == *held)).collect();
        if tiers.is_empty() {
            let why = format!("is not in the tier {}", tier.map_or("", tier_name));
            return Err(Error::said(Kind::NotFound, format!("point {}", held.name), why));
        }
        let doing = || format!("delete {}", held.name);
        let mut gone: Vec<String> = Vec::new();
        let partly = |error: Error, gone: &[String]| match gone {
            [] => error,
            gone => {
                let (kind, why) = (error.kind(), error.body().message);
                Error::said(kind, format!("point {} is gone from {} only", held.name, gone.join(", ")), why)
            }
        };
        if tiers.contains(&Tier::Vault) {
            for (vault, manifest) in &held.copies {
                vault
                    .vault()
                    .and_then(|open| open.delete_point(manifest).doing(doing))
                    .map_err(|error| partly(error, &gone))?;
                gone.push(format!("vault {}", vault.name));
            }
        }
        if tiers.contains(&Tier::Instant)
            && let Some(named) = &held.instant
        {
            named
                .disk()
                .and_then(|disk| disk.delete_point(held.state).doing(doing))
                .map_err(|error| partly(error, &gone))?;
        }
        let remaining = held.tiers().into_iter().filter(|tier| !tiers.contains(tier)).collect();
        Ok(PointDeleted { name: held.name.clone(), deleted: tiers, remaining })
    }
}

fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Instant => "instant",
        Tier::Vault => "vault",
    }
}

fn instant(named: &Arc<Named>, point: &layers::Point) -> Held {
    Held {
        name: format!("{}@{}", named.name, point.epoch),
        item: named.name.clone(),
        disk: named.id,
        state: point.state,
        parent: point.parent,
        epoch: point.epoch,
        time: point.time,
        size: point.size,
        seal_ns: Some(point.seal_ns),
        instant: Some(named.clone()),
        copies: Vec::new(),
    }
}

fn stored(item: &str, point: &vault::VaultPoint) -> Held {
    Held {
        name: format!("{item}@{}", point.epoch),
        item: item.to_owned(),
        disk: point.disk,
        state: point.state,
        parent: None,
        epoch: point.epoch,
        time: point.time,
        size: point.size,
        seal_ns: None,
        instant: None,
        copies: Vec::new(),
    }
}

/// Which of an item's points is meant. While a disk is alive under the name, numbers and `latest` mean its points only:
/// what `web@2` names must not change when the disk of today gets its second point.
fn choose(points: &[Held], which: Which, alive: Option<DiskId>) -> Option<usize> {
    let newest = |fits: &dyn Fn(&Held) -> bool| {
        let fitting = (0..points.len()).filter(|&index| fits(&points[index]));
        fitting.max_by_key(|&index| (points[index].time, points[index].epoch))
    };
    let is_todays = |held: &Held| alive.is_none_or(|alive| held.disk == alive);
    match which {
        Which::Epoch(epoch) => newest(&|held| held.epoch.get() == epoch && is_todays(held)),
        Which::Latest => newest(&is_todays),
        Which::At(time) => newest(&|held| held.time <= time),
    }
}

/// Gives every point the shortest name that means it.
fn name_all(points: &mut [Held], disks: &[Arc<Named>]) {
    for start in 0..points.len() {
        let item = points[start].item.clone();
        if start > 0 && points[start - 1].item == item {
            continue;
        }
        let count = points[start..].iter().take_while(|held| held.item == item).count();
        let group = &mut points[start..start + count];
        let alive = disks.iter().find(|named| named.name == item).map(|named| named.id);
        for index in 0..group.len() {
            if choose(group, Which::Epoch(group[index].epoch.get()), alive) != Some(index) {
                group[index].name = format!("{item}@{}", rfc3339(group[index].time));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(disk: u8, epoch: u64, unix_ms: u64) -> Held {
        Held {
            name: format!("web@{epoch}"),
            item: "web".to_owned(),
            disk: DiskId::from_bytes([disk; 16]),
            state: StateId::from_bytes([disk; 16]),
            parent: None,
            epoch: Epoch::new(epoch),
            time: Time { unix_ms },
            size: ByteCount::new(4096),
            seal_ns: None,
            instant: None,
            copies: Vec::new(),
        }
    }

    #[test]
    fn the_disk_of_today_goes_before_an_earlier_one_of_the_same_name() {
        let points = [held(1, 1, 10), held(1, 2, 20), held(2, 1, 30), held(2, 5, 40)];
        let (old, new) = (DiskId::from_bytes([1; 16]), DiskId::from_bytes([2; 16]));
        assert_eq!(choose(&points, Which::Epoch(1), Some(new)), Some(2));
        assert_eq!(choose(&points, Which::Epoch(1), Some(old)), Some(0));
        assert_eq!(choose(&points, Which::Epoch(2), Some(new)), None, "only by its time");
        assert_eq!(choose(&points, Which::Latest, Some(old)), Some(1));
        assert_eq!(choose(&points, Which::Latest, None), Some(3));
        assert_eq!(choose(&points, Which::At(Time { unix_ms: 29 }), Some(new)), Some(1));
        assert_eq!(choose(&points, Which::At(Time { unix_ms: 9 }), Some(new)), None);
        assert_eq!(choose(&points, Which::Epoch(9), Some(new)), None);
    }

    #[test]
    fn every_point_has_a_name_that_means_it() {
        let mut points = vec![held(1, 1, 1000), held(1, 2, 2000), held(2, 1, 3000)];
        name_all(&mut points, &[]);
        for (index, point) in points.iter().enumerate() {
            let name = PointName::parse(&point.name).expect("a name");
            assert_eq!(choose(&points, name.which, None), Some(index), "{}", point.name);
        }
        assert_eq!(points[0].name, "web@1970-01-01T00:00:01.000Z");
        assert_eq!(points[2].name, "web@1");
    }
}
