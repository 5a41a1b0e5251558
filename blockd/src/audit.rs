//! Audits of change tracking: what it called unchanged is held against the vault, a part of it after each increment, all of it within
//! a term. The rules are in `docs/audit.md`.

use crate::catalog::Audited;
use crate::error::{Doing, Error, Result};
use crate::jobs::Run;
use crate::names::rfc3339;
use crate::points::{Held, Tiers};
use crate::transfer::{AuditOfFull, Unless};
use crate::vaults::NamedVault;
use block::{BlockSource, ByteRange, Kind, RangeSet, Time};
use control::{DiskAudit, EventKind};
use layers::Disk;
use std::sync::Arc;
use vault::ManifestId;

/// Every block is compared within this time; what is promised is 90 days, and a day without a backup may come between.
const TERM_MS: u64 = 80 * 24 * 3600 * 1000;
/// Compared after each increment, at least: so much takes some hundredths of a second.
const LEAST_BYTES: u64 = 16 << 20;

/// What is compared, and with what.
struct Audit<'a> {
    run: &'a Run,
    tiers: &'a Tiers,
    named: &'a NamedVault,
    point: &'a Held,
    // the point in the vault that must be equal
    with: ManifestId,
    source: Arc<dyn BlockSource>,
}

/// Compares a part of a point that was just stored as an increment with its copy, where the last audit ended.
///
/// # Errors
/// `Corrupt` if the vault has it otherwise: change tracking missed something. Everything was compared then, and nothing is built on the
/// copy any more. What keeps from comparing is none, but a note of the job.
pub fn of_increment(
    run: &Run,
    tiers: &Tiers,
    named: &NamedVault,
    point: &Held,
    disk: &Arc<Disk>,
    copy: ManifestId,
) -> Result<()> {
    let doing = || format!("audit {}", point.name);
    let source = disk.point_source(point.state).doing(doing)?;
    let audit = Audit { run, tiers, named, point, with: copy, source };
    let (now, size) = (point.time.unix_ms, point.size.get());
    let mut known =
        tiers.catalog.audited(&audit.disk(), &named.key())?.unwrap_or_else(|| Audited::begun(now));
    let passed = u128::from(now.saturating_sub(known.last_ms));
    let due = u64::try_from(u128::from(size) * passed / u128::from(TERM_MS)).unwrap_or(u64::MAX);
    let mut left = due.max(LEAST_BYTES).min(size);
    while left > 0 {
        // the disk may be smaller than it was
        let start = known.next_byte.min(size);
        let part = ByteRange::between(start, size.min(start.saturating_add(left)));
        let Some(missed) = audit.compare(part) else { return Ok(()) };
        if !missed.is_empty() {
            let whole = audit.compare(ByteRange::whole(point.size)).unwrap_or(missed);
            return Err(audit.alarm(&mut known, &whole));
        }
        left -= part.count().get();
        known.advance(part.end(), size, now);
    }
    tiers.catalog.set_audited(&audit.disk(), &named.key(), &known)
}

/// After a backup that read everything: compares what changed not since the newest point before it with that point.
///
/// # Errors
/// What the catalog reports. A miss is no error here, as the backup does not lack it: the job's note and `status` say so.
pub fn of_full(
    run: &Run,
    tiers: &Tiers,
    named: &NamedVault,
    point: &Held,
    disk: &Arc<Disk>,
    what: &AuditOfFull,
) -> Result<()> {
    if what.base.size != point.size {
        return Ok(());
    }
    let source = disk.point_source(point.state).doing(|| format!("audit {}", point.name))?;
    let audit = Audit { run, tiers, named, point, with: what.base.manifest, source };
    let mut clean = RangeSet::whole(point.size);
    clean.subtract(&what.changed);
    let mut missed = RangeSet::new();
    for range in clean.iter() {
        let Some(found) = audit.compare(range) else { return Ok(()) };
        // a comparison is of whole blocks, and so are changes but at the end of the disk
        missed.union(&found);
    }
    missed.subtract(&what.changed);
    let now = point.time.unix_ms;
    let mut known =
        tiers.catalog.audited(&audit.disk(), &named.key())?.unwrap_or_else(|| Audited::begun(now));
    if missed.is_empty() {
        known = Audited { whole_since_ms: Some(now), ..Audited::begun(now) };
        return tiers.catalog.set_audited(&audit.disk(), &named.key(), &known);
    }
    let said = audit.alarm(&mut known, &missed).body().message;
    run.update(|job| job.note = Some(said));
    Ok(())
}

impl Audit<'_> {
    fn disk(&self) -> String {
        self.point.disk.to_string()
    }

    /// What differs; nothing if it cannot be compared now, which the job says.
    fn compare(&self, range: ByteRange) -> Option<RangeSet> {
        let vault = self.named.vault().ok()?;
        match vault.compare(&self.with, &*self.source, range, &Unless(self.run)) {
            Ok(compared) => Some(compared.differing),
            Err(vault::Error::Cancelled) => None,
            Err(error) => {
                let text = format!("what change tracking calls unchanged could not be compared: {error}");
                tracing::warn!(point = self.point.name, "{text}");
                self.run.update(|job| {
                    job.note = Some(match job.note.take() {
                        Some(before) => format!("{before}; {text}"),
                        None => text,
                    });
                });
                None
            }
        }
    }

    /// Takes note of what was missed, so that nothing is built on the copy. Gives what there is to say.
    fn alarm(&self, known: &mut Audited, missed: &RangeSet) -> Error {
        let blocks = missed.total().get().div_ceil(block::BLOCK_SIZE);
        let first = missed.iter().next().map_or(0, ByteRange::start);
        let plural = if blocks == 1 { "" } else { "s" };
        let why = format!(
            "change tracking of {} missed {blocks} block{plural} (the first at byte {first}): vault {} has them as they were before",
            self.point.item, self.named.name
        );
        tracing::error!(point = self.point.name, "{why}");
        self.run.tell(EventKind::TrackingMiss, &self.point.item, &why);
        let now = self.point.time.unix_ms;
        *known = Audited { missed: known.missed + blocks, missed_ms: Some(now), ..Audited::begun(now) };
        self.named.witness(&self.with, Kind::Corrupt);
        let noted = self
            .tiers
            .catalog
            .add_missed(&self.named.name, &self.with.to_string())
            .and_then(|()| self.tiers.catalog.set_audited(&self.disk(), &self.named.key(), known));
        if let Err(error) = noted {
            tracing::error!("{}", error.body().message);
        }
        Error::said(control::Kind::Corrupt, format!("audit {}", self.point.name), why).with_help(format!(
            "the next backup of {} reads the whole disk; points since these blocks were last compared may lack them too \
             (`blockctl disk show {}`), and the instant tier has them",
            self.point.item, self.point.item
        ))
    }
}

impl Tiers {
    /// How far the audits of a disk are, one for each vault.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn audits(&self, disk: &str) -> Result<Vec<DiskAudit>> {
        let shown = |(vault, known): (String, Audited)| {
            let named = self.vaults.all().into_iter().find(|named| named.key() == vault);
            let stamp = |unix_ms| rfc3339(Time { unix_ms });
            DiskAudit {
                vault: named.map_or(vault, |named| named.name.clone()),
                compared_since: known.whole_since_ms.map(stamp),
                next_byte: known.next_byte,
                last: stamp(known.last_ms),
                missed: known.missed,
                missed_at: known.missed_ms.map(stamp),
            }
        };
        Ok(self.catalog.audits(disk)?.into_iter().map(shown).collect())
    }

    /// What a person should know of audits, one sentence each.
    pub fn audit_warning(&self, disk: &control::Disk) -> Option<String> {
        let found = disk.audits.iter().find(|audit| audit.missed > 0)?;
        let (at, plural) =
            (found.missed_at.as_deref().unwrap_or("?"), if found.missed == 1 { "" } else { "s" });
        Some(format!(
            "disk {}: an audit ({at}) found {} block{plural} that change tracking had missed; recovery points in vault {} may lack them \
             until every block was compared again",
            disk.name, found.missed, found.vault
        ))
    }
}
