//! Recovery points, whichever tier holds them: finding one by its name, listing, making and deleting them.
//!
//! A point is one state of one disk. Its name is the disk's name and its number. Where two disks were called the same
//! one after the other, the number means the disk of today, and a point of the earlier one is called by its time.

mod change;
mod damage;
mod deleted;
mod find;
mod shed;
mod suspect;
mod trouble;

pub use damage::HurtCopies;
pub use deleted::By;
pub use trouble::{Stored, Trouble};

use crate::audit_log::Audit;
use crate::bases::{Spare, Spared};
use crate::catalog::Catalog;
use crate::disks::{Disks, Named};
use crate::error::{Error, Result};
use crate::names::{is_of, rfc3339};
use crate::vaults::{NamedVault, Vaults};
use block::{BlockSource, ByteCount, DiskId, Epoch, StateId, Time};
use control::{Point, Tier};
use find::name_all;
use nbd::Uri;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use vault::{ManifestId, VaultPoint};

/// Both tiers.
pub struct Tiers {
    /// The disks, whose layers are the instant tier.
    pub disks: Disks,
    /// The vaults.
    pub vaults: Arc<Vaults>,
    /// What checks have shown.
    pub catalog: Arc<Catalog>,
    /// What was done.
    pub audit: Arc<Audit>,
    /// Where exports are served.
    pub nbd_socket: PathBuf,
    /// How many points were brought to vaults since the start.
    pub stored_count: AtomicU64,
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

    /// Its content, from the instant tier if that holds it, else from a vault. The next holder is asked if one fails, and for the
    /// blocks that are damaged in the instant tier.
    ///
    /// # Errors
    /// The last holder's failure.
    pub fn source(&self) -> Result<Arc<dyn BlockSource>> {
        match self.instant_source() {
            Ok(near) if self.copies.is_empty() => Ok(near),
            Ok(near) => Ok(Arc::new(Spared::new(near, self.clone().spare()))),
            Err(error) => self.stored_source(Some(error)),
        }
    }

    /// Its content as the instant tier has it.
    ///
    /// # Errors
    /// It does not, or its disk does not serve.
    pub fn instant_source(&self) -> Result<Arc<dyn BlockSource>> {
        let doing = || format!("read {}", self.name);
        let Some(named) = &self.instant else { return Err(Error::not_found(format!("point {}", self.name))) };
        named
            .disk()?
            .point_source(self.state)
            .map(|source| source as Arc<dyn BlockSource>)
            .map_err(|error| named.failed(doing(), error))
    }

    /// Its copies in vaults, for what is damaged nearer.
    pub fn spare(self) -> Spare {
        Spare::new(move || self.stored_source(None))
    }

    /// Its content from a vault; `last` is why nothing nearer has it.
    fn stored_source(&self, mut last: Option<Error>) -> Result<Arc<dyn BlockSource>> {
        let doing = || format!("read {}", self.name);
        if self.instant.is_none() {
            last = None;
        }
        for (named, manifest) in &self.copies {
            if let Some(error) = &last {
                tracing::warn!(point = self.name, "{}; asking vault {}", error.body().message, named.name);
            }
            match named.image(manifest, doing) {
                Ok(source) => return Ok(source),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::not_found(format!("point {}", self.name))))
    }
}

impl Tiers {
    /// The points of one item, or of all, oldest first within a disk; and what could not be looked at. Copies that were
    /// deleted are none.
    pub fn held(&self, item: Option<&str>) -> (Vec<Held>, Vec<Trouble>) {
        self.copies(item, false)
    }

    /// Points by their copies, or by those copies in vaults that were deleted and can come back.
    fn copies(&self, item: Option<&str>, deleted: bool) -> (Vec<Held>, Vec<Trouble>) {
        let mut points: BTreeMap<(DiskId, StateId), Held> = BTreeMap::new();
        let disks = self.disks.all();
        let is_of_item = |named: &&Arc<Named>| !deleted && item.is_none_or(|item| is_of(item, &named.name));
        for named in disks.iter().filter(is_of_item) {
            let Ok(disk) = named.disk() else { continue };
            points.extend(disk.points().iter().map(|point| ((named.id, point.state), instant(named, point))));
        }
        let mut trouble = Vec::new();
        for vault in self.vaults.all() {
            let (stored_points, not_in_order) = self.look_into(&vault);
            trouble.extend(not_in_order);
            let gone = self.vaults.marks().deleted_from(&vault.key());
            let is_gone = |point: &VaultPoint| gone.contains_key(&point.state);
            for point in stored_points.into_iter().filter(|point| is_gone(point) == deleted) {
                let alive = disks.iter().find(|named| named.id == point.disk);
                let name = alive.map_or(&point.item, |named| &named.name);
                if item.is_none_or(|item| is_of(item, name)) {
                    let key = (point.disk, point.state);
                    let held = points.entry(key).or_insert_with(|| stored(name, &point));
                    held.copies.push((vault.clone(), point.manifest));
                }
            }
        }
        let mut points: Vec<Held> = points.into_values().collect();
        points.sort_by(|a, b| (&a.item, a.time, a.epoch).cmp(&(&b.item, b.time, b.epoch)));
        name_all(&mut points, &disks);
        (points, trouble)
    }

    /// Points as the API shows them.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn show(&self, points: &[Held]) -> Result<Vec<Point>> {
        let (verified, hurt) = (self.catalog.verified()?, self.hurt()?);
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
            verified: held.copies.iter().any(|(vault, manifest)| {
                verified.contains(&(vault.name.clone(), manifest.to_string())) && !hurt.has(vault, manifest)
            }),
            damaged: hurt.of(held).map(|vault| vault.name.clone()).collect(),
            state: held.state.to_string(),
            parent: held.parent.map(|state| state.to_string()),
            seal_ns: held.seal_ns,
            uri: self.uri(&held.name),
            hold: self.vaults.marks().of(held.state).hold.map(|hold| hold.reason),
            suspect: self.vaults.marks().of(held.state).suspect.map(|suspicion| suspicion.why),
            policy: None,
            kept: Vec::new(),
        };
        Ok(points.iter().map(show).collect())
    }

    /// The NBD URI of an export.
    pub fn uri(&self, export: &str) -> String {
        Uri::unix(&self.nbd_socket, export).to_string()
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
