//! Scrub of a disk: every sealed layer read and held against its checksums, as a job.

use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::jobs::{NewJob, Run, Urgency, disk_key};
use block::ByteCount;
use control::{DiskScrub, Hurt, Job, Kind};
use layers::{HurtBlock, HurtMap, HurtRange, Scrubbed};

/// The key of a disk's scrub: never two at a time.
fn scrub_key(disk: block::DiskId) -> String {
    format!("scrub {disk}")
}

impl Daemon {
    /// Reads and verifies everything sealed of a disk, as a job. Checksums still missing are made first.
    ///
    /// # Errors
    /// `NotFound`; why the disk does not serve.
    pub fn scrub_disk(&self, name: &str) -> Result<Job> {
        let named = self.tiers().disks.get(name)?;
        named.disk()?;
        let new = NewJob {
            operation: "scrub",
            urgency: Urgency::Upkeep,
            item: name.to_owned(),
            keys: vec![scrub_key(named.id)],
            reads: vec![disk_key(named.id)],
            ..NewJob::default()
        };
        self.jobs().start(new, move |run| {
            let doing = || format!("scrub disk {}", named.name);
            let disk = named.disk()?;
            run.update(|job| job.bytes_total = disk.sealed_bytes().map_or(0, ByteCount::get));
            disk.make_sums(&mut |_| !run.is_cancelled()).doing(doing)?;
            let found = disk.scrub(&mut |bytes| progress(run, bytes)).doing(doing)?;
            run.go_on()?;
            let found = show(&named.name, found);
            let broken = (!found.ok).then(|| broken(&named.name, &found));
            run.update(|job| job.scrub = Some(found));
            broken.map_or(Ok(()), Err)
        })
    }
}

/// What is damaged: bytes of the disk, and maps that only say what changed.
fn broken(disk: &str, found: &DiskScrub) -> Error {
    let maps = found.hurt.iter().filter(|hurt| hurt.is_record_of_changes()).count();
    let ranges = found.hurt.len() - maps;
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let mut what = Vec::new();
    if ranges > 0 {
        what.push(format!("{} bytes in {ranges} range{}", found.bytes_hurt, plural(ranges)));
    }
    if maps > 0 {
        what.push(format!("{maps} change map{}, which no data depends on,", plural(maps)));
    }
    let is = if ranges == 0 && maps == 1 { "is" } else { "are" };
    let why = format!("{} {is} damaged, see the job's `scrub`", what.join(" and "));
    Error::said(Kind::Corrupt, format!("disk {disk}"), why).with_help(match ranges {
        0 => "the data is whole; a backup that needs such a map reads the disk whole instead",
        _ => "restore what is hurt from a point that a vault holds",
    })
}

fn progress(run: &Run, bytes: ByteCount) -> bool {
    run.update(|job| {
        job.bytes_read += bytes.get();
        job.bytes_done = job.bytes_read.min(job.bytes_total);
    });
    !run.is_cancelled()
}

fn points(disk: &str, epochs: &[block::Epoch]) -> Vec<String> {
    epochs.iter().map(|epoch| format!("{disk}@{epoch}")).collect()
}

fn show(disk: &str, found: Scrubbed) -> DiskScrub {
    let hurt = |hurt: HurtRange| Hurt {
        file: hurt.file,
        offset: hurt.range.start(),
        length: hurt.range.count().get(),
        why: hurt.why,
        points: points(disk, &hurt.points),
        live: hurt.is_live,
    };
    DiskScrub {
        disk: disk.to_owned(),
        ok: found.hurt.is_empty(),
        layers: found.layers,
        bytes_read: found.bytes_read.get(),
        bytes_unverified: found.unverified.get(),
        bytes_hurt: found.bytes_hurt.get(),
        hurt: found.hurt.into_iter().map(hurt).collect(),
    }
}

/// Damage that reads have met, as the API shows it.
pub fn met(disk: &str, hurt: &HurtBlock) -> Hurt {
    Hurt {
        file: hurt.layer.clone(),
        offset: hurt.range().start(),
        length: hurt.range().count().get(),
        why: hurt.why.clone(),
        points: points(disk, &hurt.points),
        live: hurt.is_live,
    }
}

/// A change map found damaged, as the API shows it.
pub fn met_map(hurt: HurtMap) -> Hurt {
    Hurt { file: hurt.file, offset: 0, length: 0, why: hurt.why, points: Vec::new(), live: false }
}
