//! Recovery points, whichever tier holds them: finding one by its name, listing, making and deleting them.
//!
//! A point is one state of one disk. Its name is the disk's name and its number. Where two disks were called the same
//! one after the other, the number means the disk of today, and a point of the earlier one is called by its time.

mod change;
mod damage;
mod deleted;
mod find;
mod listing;
mod shed;
mod suspect;
mod trouble;
mod view;

pub use damage::HurtCopies;
pub use deleted::By;
pub use listing::Listings;
pub use trouble::{Stored, Trouble};
pub use view::View;

use crate::audit_log::Audit;
use crate::bases::{Spare, Spared};
use crate::catalog::Catalog;
use crate::disks::{Disks, Named};
use crate::error::{Error, Result};
use crate::names::rfc3339;
use crate::vaults::{NamedVault, Vaults};
use block::{BlockSource, ByteCount, DiskId, Epoch, StateId, Time};
use control::{Consistency, Kind, Point, Tier};
use nbd::Uri;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use vault::ManifestId;

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
    /// What the vaults hold.
    pub listings: Listings,
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
    /// The archives that do: it is not read there, but brought back first.
    pub archived: Vec<(Arc<NamedVault>, ManifestId)>,
}

impl Held {
    /// The tiers that hold it.
    pub fn tiers(&self) -> Vec<Tier> {
        let instant = self.instant.is_some().then_some(Tier::Instant);
        let vault = (!self.copies.is_empty()).then_some(Tier::Vault);
        let archive = (!self.archived.is_empty()).then_some(Tier::Archive);
        instant.into_iter().chain(vault).chain(archive).collect()
    }

    /// Its copies in vaults and archives.
    pub fn stored(&self) -> impl Iterator<Item = &(Arc<NamedVault>, ManifestId)> {
        self.copies.iter().chain(&self.archived)
    }

    /// Its copy in a vault or an archive.
    pub fn stored_in(&self, vault: &str) -> Option<&ManifestId> {
        self.stored().find(|(named, _)| named.name == vault).map(|(_, manifest)| manifest)
    }

    /// Why no tier can read it: it is archived, or gone.
    pub fn unreadable(&self) -> Error {
        let what = format!("point {}", self.name);
        match self.archived.first() {
            Some((archive, _)) => {
                let why = format!(
                    "is in the archive {} and has to be brought back before it is read",
                    archive.name
                );
                Error::said(Kind::Unavailable, what, why)
                    .with_help(format!("`blockctl point rehydrate {} --for 7d`", self.name))
            }
            None => Error::not_found(what),
        }
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

    /// Its content from a vault, and what is damaged there from the next one or, at last, from an archive; `last` is why nothing
    /// nearer has it.
    fn stored_source(&self, last: Option<Error>) -> Result<Arc<dyn BlockSource>> {
        let last = last.filter(|_| self.instant.is_some());
        let (source, rest) = first_of(&self.name, &self.copies, last)
            .map_err(|last| last.unwrap_or_else(|| self.unreadable()))?;
        Ok(with_spares(&self.name, source, rest.iter().chain(&self.archived).cloned().collect()))
    }
}

type StoredCopy = (Arc<NamedVault>, ManifestId);
/// A copy that is open, and those behind it.
type OpenCopy<'a> = (Arc<dyn BlockSource>, &'a [StoredCopy]);

/// The first of these copies that opens, and those behind it; otherwise why the last did not.
fn first_of<'a>(
    point: &str,
    copies: &'a [StoredCopy],
    mut last: Option<Error>,
) -> std::result::Result<OpenCopy<'a>, Option<Error>> {
    for (at, (named, manifest)) in copies.iter().enumerate() {
        if let Some(error) = &last {
            tracing::warn!(point, "{}; asking vault {}", error.body().message, named.name);
        }
        match named.image(manifest, || format!("read {point}")) {
            Ok(source) => return Ok((source, &copies[at + 1..])),
            Err(error) => last = Some(error),
        }
    }
    Err(last)
}

/// What these copies have together: what is damaged in one is read from those behind it.
fn any_of(point: &str, copies: &[StoredCopy]) -> Result<Arc<dyn BlockSource>> {
    let (source, rest) = first_of(point, copies, None)
        .map_err(|last| last.unwrap_or_else(|| Error::not_found(format!("another copy of {point}"))))?;
    Ok(with_spares(point, source, rest.to_vec()))
}

fn with_spares(point: &str, source: Arc<dyn BlockSource>, others: Vec<StoredCopy>) -> Arc<dyn BlockSource> {
    if others.is_empty() {
        return source;
    }
    let point = point.to_owned();
    Arc::new(Spared::new(source, Spare::new(move || any_of(&point, &others))))
}

impl Tiers {
    /// The points of one item, or of all, oldest first within a disk; and what could not be looked at. Copies that were
    /// deleted are none.
    pub fn held(&self, item: Option<&str>) -> (Vec<Held>, Vec<Arc<Trouble>>) {
        let view = self.look();
        (view.held(item), view.trouble())
    }

    /// Points as the API shows them.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn show(&self, points: &[Held]) -> Result<Vec<Point>> {
        let (verified, hurt) = (self.catalog.verified()?, self.hurt()?);
        let show = |held: &Held| {
            let mark = self.vaults.marks().of(held.state);
            let quiesced = mark.quiesced.as_ref();
            Point {
                name: held.name.clone(),
                disk: held.item.clone(),
                disk_id: held.disk.to_string(),
                epoch: held.epoch.get(),
                time: rfc3339(held.time),
                size: held.size.get(),
                tiers: held.tiers(),
                vaults: held.copies.iter().map(|(vault, _)| vault.name.clone()).collect(),
                archives: held.archived.iter().map(|(vault, _)| vault.name.clone()).collect(),
                rehydrated_until: self.rehydrated_until(held).map(|until| until.to_string()),
                consistency: quiesced.map_or(Consistency::Crash, |quiesced| quiesced.level),
                consistency_why: quiesced.and_then(|quiesced| quiesced.why.clone()),
                frozen_ms: quiesced.and_then(|quiesced| quiesced.frozen_ms),
                verified: held.stored().any(|(vault, manifest)| {
                    verified.contains(&(vault.name.clone(), manifest.to_string()))
                        && !hurt.has(vault, manifest)
                }),
                damaged: hurt.of(held).map(|vault| vault.name.clone()).collect(),
                state: held.state.to_string(),
                parent: held.parent.map(|state| state.to_string()),
                seal_ns: held.seal_ns,
                uri: self.uri(&held.name),
                hold: mark.hold.map(|hold| hold.reason),
                keep_until: mark.keep_until.map(|until| until.to_string()),
                suspect: mark.suspect.map(|suspicion| suspicion.why),
                rehearsals: Vec::new(),
                policy: None,
                kept: Vec::new(),
            }
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
        archived: Vec::new(),
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
        archived: Vec::new(),
    }
}
