//! What a transfer copies, and what of the vault it builds on.

use crate::error::{Doing, Error, Result};
use crate::jobs::Run;
use crate::points::{Held, HurtCopies, Tiers};
use crate::vaults::NamedVault;
use block::{RangeSet, StateId};
use layers::{Changes, Disk, Until};
use std::collections::HashSet;
use std::sync::Arc;
use vault::{Vault, VaultPoint};

/// One point on its way: what there is to copy, and what the vault builds on.
pub struct Planned<'a> {
    /// The point.
    pub point: &'a Held,
    /// The disk whose layers hold it.
    pub disk: &'a Arc<Disk>,
    /// The point in the vault that is changed; none if everything is read.
    pub base: Option<VaultPoint>,
    /// What is read.
    pub changed: RangeSet,
    /// Bytes of it.
    pub bytes: u64,
    /// What there is to audit, if everything is read although the vault has a base.
    pub audit: Option<AuditOfFull>,
}

/// What a backup that reads everything could have built on.
pub struct AuditOfFull {
    /// The newest point of the disk in the vault.
    pub base: VaultPoint,
    /// What changed since.
    pub changed: RangeSet,
}

impl Planned<'_> {
    /// The base as people call it.
    pub fn base_name(&self) -> Option<String> {
        Some(named(self.point, self.base.as_ref()?))
    }
}

fn named(point: &Held, base: &VaultPoint) -> String {
    format!("{}@{}", point.item, base.epoch)
}

/// Says in the job what a person should know of how it went.
fn note(run: &Run, point: &Held, text: String) {
    tracing::warn!(point = point.name, "{text}");
    run.update(|job| {
        job.note = Some(match job.note.take() {
            Some(before) => format!("{before}; {text}"),
            None => text,
        });
    });
}

/// What to copy of each of these points.
///
/// # Errors
/// What disks or vault report. Damage of what says what changed is none: everything is read then.
pub fn plan_all<'a>(
    run: &Run,
    tiers: &Tiers,
    named: &NamedVault,
    points: &'a [Held],
    full: bool,
) -> Result<Vec<Planned<'a>>> {
    let into = Target { named, vault: named.vault()?, hurt: tiers.hurt()? };
    points.iter().map(|point| plan(run, &into, point, full)).collect()
}

/// What to copy instead, as nothing can be built on the base of this plan.
///
/// # Errors
/// As [`plan_all`].
pub fn replan<'a>(
    run: &Run,
    tiers: &Tiers,
    named: &NamedVault,
    former: &Planned<'a>,
    why: Unusable,
) -> Result<Planned<'a>> {
    let gone = former.base_name().unwrap_or_default();
    let into = Target { named, vault: named.vault()?, hurt: tiers.hurt()? };
    let anew = plan(run, &into, former.point, false)?;
    if let Unusable::Deleted = why {
        let on = anew.base_name().map_or_else(|| "read whole".to_owned(), |base| format!("built on {base}"));
        note(
            run,
            former.point,
            format!("{gone} was deleted from the vault before it could be built on: {on}"),
        );
    }
    Ok(anew)
}

/// Why nothing can be built on a base that was there when it was chosen.
#[derive(Clone, Copy)]
pub enum Unusable {
    /// It was deleted.
    Deleted,
    /// It turned out to be damaged; it is known to be from now on, and choosing anew says so.
    Damaged,
}

/// Where to, and what of it is known to be damaged.
struct Target<'a> {
    named: &'a NamedVault,
    vault: &'a Vault,
    hurt: HurtCopies,
}

fn plan<'a>(run: &Run, into: &Target<'_>, point: &'a Held, full: bool) -> Result<Planned<'a>> {
    let holder = point.instant.as_ref().ok_or_else(|| Error::not_found(&point.name))?;
    let disk = holder.disk()?;
    holder.check_base_bytes()?;
    let (found, audit) = match (full, base(into, point, disk)) {
        (true, Ok(Base::Found(base, changes))) => {
            (Base::Missing, Some(AuditOfFull { base, changed: changes.all() }))
        }
        // whatever keeps from building on something, everything is read
        (true, _) => (Base::Missing, None),
        (false, found) => (found?, None),
    };
    let (base, changed) = match found {
        Base::Found(base, changes) => (Some(base), changes.all()),
        Base::Missing => (None, everything(run, point, disk)?),
        Base::Foreign(newest) => {
            let newest = named(point, &newest);
            let why = "in the vault is no ancestor of this disk, which was rewound or copied: read whole";
            note(run, point, format!("{newest} {why}"));
            (None, everything(run, point, disk)?)
        }
        Base::Unknown(newest, why) => {
            let newest = named(point, &newest);
            note(run, point, format!("what changed since {newest} is not known: {why}: read whole"));
            (None, RangeSet::whole(point.size))
        }
        Base::Hurt(newest) => {
            let newest = named(point, &newest);
            let why = "is damaged in the vault, and what is built on it would be damaged too: read whole";
            note(run, point, format!("{newest} {why}"));
            (None, everything(run, point, disk)?)
        }
    };
    Ok(Planned { point, disk, base, bytes: changed.total().get(), changed, audit })
}

/// All that was ever written. Where that is not known it is the whole disk, of which the source says what is empty.
fn everything(run: &Run, point: &Held, disk: &Disk) -> Result<RangeSet> {
    match disk.changes(None, Until::State(point.state)) {
        Ok(changes) => Ok(changes.all()),
        Err(error) if error.kind() == block::Kind::Corrupt => {
            note(run, point, format!("what was ever written is not known: {error}: all blocks looked at"));
            Ok(RangeSet::whole(point.size))
        }
        Err(error) => Err(unknown(point, error)),
    }
}

fn unknown(point: &Held, error: layers::Error) -> Error {
    let doing = format!("find the changes of {}", point.name);
    match &point.instant {
        Some(holder) => holder.failed(doing, error),
        None => Error::below(doing, error),
    }
}

/// What a transfer builds on.
enum Base {
    /// The newest point of the disk in the vault, which its history leads back to, and what changed since.
    Found(VaultPoint, Changes),
    /// The vault has none of the disk, or the history no longer reaches back to any.
    Missing,
    /// The vault has a point of the disk that is no ancestor and newer than any that is: the disk was rewound, or its
    /// state directory was copied and the copy goes its own way. What either recorded since proves nothing about the
    /// other: everything is read and compared by its hash.
    Foreign(VaultPoint),
    /// The history leads back to the newest point in the vault, but what was recorded since is damaged, as said.
    Unknown(VaultPoint, String),
    /// The newest point in the vault is known to be damaged.
    Hurt(VaultPoint),
}

fn base(into: &Target<'_>, point: &Held, disk: &Disk) -> Result<Base> {
    let mut known = into.vault.points().doing(|| format!("find the base of {}", point.name))?;
    known.retain(|known| known.disk == point.disk && known.state != point.state);
    let history: HashSet<StateId> = disk.history().into_iter().collect();
    let is_foreign = |known: &VaultPoint| !history.contains(&known.state);
    known.sort_by_key(|known| (known.epoch, !is_foreign(known)));
    // a history that forgot its beginning is no reason to suspect an old point
    let oldest = known.iter().find(|known| !is_foreign(known)).map(|known| known.epoch);
    let newest = known.pop();
    match newest {
        None => Ok(Base::Missing),
        Some(newest) if is_foreign(&newest) => match oldest.is_some() || newest.epoch >= point.epoch {
            true => Ok(Base::Foreign(newest)),
            false => Ok(Base::Missing),
        },
        Some(newest) if into.hurt.has(into.named, &newest.manifest) => Ok(Base::Hurt(newest)),
        Some(newest) => match disk.changes(Some(newest.state), Until::State(point.state)) {
            Ok(changes) => Ok(Base::Found(newest, changes)),
            Err(layers::Error::NotAnAncestor { .. }) => Ok(Base::Foreign(newest)),
            Err(error) if error.kind() == block::Kind::Corrupt => {
                Ok(Base::Unknown(newest, error.to_string()))
            }
            Err(error) => Err(unknown(point, error)),
        },
    }
}
