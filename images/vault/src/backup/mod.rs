//! Transferring a delta into the vault. The order of writes and what is checked is specified in `docs/overview.md`.
//!
//! Reading, hashing, compressing and putting run in threads beside the one that decides what is new; see [`stages`]. What a job
//! holds in memory is bounded by the constants there, two packs under way and one being filled, the fingerprints of
//! [`known`], and some fifty bytes for each pack it relied on.

mod arrived;
mod job;
mod known;
mod plan;
mod stages;

use block::{ByteCount, Delta, DiskId, Epoch, StateId, Time};

use crate::inner::Inner;
use crate::manifest::{Point, PointKind, Shape, TreeBuilder, VaultPoint, check_item};
use crate::progress::Progress;
use crate::{Error, ManifestId, Result};

pub(crate) use arrived::Arrived;
pub use arrived::fuzz_decode as fuzz_arrived;
use job::Job;
pub(crate) use known::Known;
use stages::{Event, Stages};

/// A request to store one recovery point.
pub struct Backup<'a> {
    /// The protected item, 1 to 512 bytes.
    pub item: &'a str,
    /// The disk.
    pub disk: DiskId,
    /// The state of the disk that `delta.source` reads.
    pub state: StateId,
    /// The point in this vault that `delta` is a change of; `None` makes a full one, a delta against nothing.
    pub base: Option<ManifestId>,
    /// The state's number on its disk.
    pub epoch: Epoch,
    /// When the recovery point was made.
    pub time: Time,
    /// Size of the disk, which the source must have too.
    pub size: ByteCount,
    /// What to transfer. Outside of `changed` the content is the base's, or nothing if there is no base.
    pub delta: Delta,
    /// Told how far it is; may cancel.
    pub progress: &'a dyn Progress,
}

/// What a backup did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The new recovery point.
    pub manifest: ManifestId,
    /// Bytes the delta named.
    pub bytes_changed: ByteCount,
    /// Bytes read from the source: changed chunks, without those its extents call empty.
    pub bytes_read: ByteCount,
    /// Chunks stored.
    pub chunks_new: u64,
    /// Chunks the vault had already.
    pub chunks_reused: u64,
    /// Bytes put into the store, all objects together.
    pub bytes_stored: ByteCount,
}

/// Counted while a job runs.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    bytes_read: u64,
    chunks_new: u64,
    chunks_reused: u64,
    bytes_stored: u64,
}

fn check_request(request: &Backup<'_>) -> Result<()> {
    check_item(request.item)?;
    let size = request.size.get();
    if size > block::MAX_DISK_SIZE {
        return Err(Error::invalid(
            "the disk",
            format!("{size} bytes, at most {} fit", block::MAX_DISK_SIZE),
        ));
    }
    let found = request.delta.source.size();
    if found != request.size {
        return Err(Error::invalid("the source", format!("has {found} bytes where {size} were announced")));
    }
    Ok(())
}

pub(crate) fn run(vault: &Inner, request: &Backup<'_>) -> Result<Report> {
    check_request(request)?;
    if vault.options.self_contained && request.base.is_some() {
        return Err(Error::invalid(
            "the base",
            "each point of this vault holds all that it needs".to_owned(),
        ));
    }
    vault.list_arrived()?;
    let base = match &request.base {
        Some(id) => Some(vault.find_point(id)?.1),
        None => None,
    };
    // what the base reaches stays, whatever becomes of its point
    let _pin = base.as_ref().map(|base| vault.pins.root(Shape::new(base.about.size), base.root));
    if let Some(id) = request.base {
        // a sweep that did not see the pin saw the point, if it is still there
        vault.point_address(&id)?;
    }
    if let Some(base) = base.as_ref().filter(|base| base.about.disk != request.disk) {
        return Err(Error::invalid("the base", format!("is of the disk {}", base.about.disk)));
    }
    let shape = Shape::new(request.size);
    let base_tree = base.as_ref().map(|base| (base.root, Shape::new(base.about.size)));
    let plan =
        plan::changed_chunks(&request.delta.changed, base.as_ref().map(|b| b.about.size), request.size);
    let mut job = Job::new(vault, shape)?;
    let mut tree = TreeBuilder::new(shape, base_tree);
    let total = plan.iter().map(|chunks| shape.bytes(chunks)).sum();
    let mut drive = |stages: &mut Stages| follow(stages, &mut job, &mut tree, request.progress, total);
    if let Err(error) = stages::run(vault, &request.delta.source, shape, &plan, &mut drive) {
        // the first error says more than one of listing what is stored, without which it is only stored again
        job.give_up().ok();
        return Err(error);
    }
    let (root, address, counts) = job.close(tree)?;
    let about = VaultPoint {
        manifest: ManifestId::from_bytes(*address.id.as_bytes()),
        item: request.item.to_owned(),
        disk: request.disk,
        state: request.state,
        base: base.as_ref().map(|base| base.about.state),
        epoch: request.epoch,
        time: request.time,
        made: vault.env.clock.now(),
        size: request.size,
        kind: if base.is_some() { PointKind::Incremental } else { PointKind::Full },
        bytes_changed: request.delta.changed.clip(block::ByteRange::whole(request.size)).total(),
        bytes_read: ByteCount::new(counts.bytes_read),
        chunks_new: counts.chunks_new,
        chunks_reused: counts.chunks_reused,
        bytes_stored: ByteCount::new(counts.bytes_stored),
    };
    job.commit(address, Point { about, root })
}

/// Deals with what comes out of the pipeline until it is empty: all chunks are in the tree then, and all full packs stored.
fn follow(
    stages: &mut Stages,
    job: &mut Job<'_>,
    tree: &mut TreeBuilder,
    progress: &dyn Progress,
    total: u64,
) -> Result<()> {
    let mut done = 0;
    while let Some(event) = stages.next()? {
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        match event {
            Event::Batch(batch) => {
                done += job.take(stages, batch)?;
                progress.at(ByteCount::new(done), ByteCount::new(total));
            }
            Event::Read => job.close_frame(stages)?,
            Event::Encoded(frame) => job.place(&frame)?,
            Event::Stored(pack) => job.stored(pack)?,
        }
        job.settle(tree)?;
        job.put_full(stages)?;
    }
    Ok(())
}
