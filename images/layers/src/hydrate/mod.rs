//! Hydration: what a disk stands on is brought into a layer of its own, in the background and in small pieces; once all
//! of it is there the base is released. Orders, and why guests and hydration never meet: `docs/hydrate.md`.

mod layer;
mod release;

pub(crate) use layer::HydratedLayer;

use crate::base::Ground;
use crate::chain::{BaseRecord, Chain};
use crate::disk::Disk;
use crate::names::Numbered;
use crate::{Error, Result};
use block::sync::{Arc, lock};
use block::{BLOCK_SIZE, ByteCount, ByteOffset, ExtentKind, planted};
use std::ops::ControlFlow;

/// Extents are asked for so far ahead where the base is empty: 1 GiB.
const AHEAD_BLOCKS: u64 = 1 << 18;

/// What a piece of hydration did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hydrating {
    /// Nothing to bring now: the disk stands on nothing, hydration has not begun, or the last pieces are on their way.
    Idle,
    /// So many bytes were read from the base; none where it is empty.
    Working(ByteCount),
    /// All of the base is here: it can be released.
    Whole,
}

/// How far hydration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HydrationProgress {
    /// Bytes of the base that the disk shows.
    pub total: ByteCount,
    /// Bytes of it that need not be asked of the base any more.
    pub done: ByteCount,
    /// Those of them that take space.
    pub copied: ByteCount,
}

impl Disk {
    pub(crate) fn ground(&self) -> Option<Arc<Ground>> {
        self.view.load().below.ground.clone()
    }

    /// From now on [`hydrate_step`](Self::hydrate_step) brings what the disk stands on. Durable when this returns; done again it
    /// does nothing.
    ///
    /// # Errors
    /// What the host reports; `WrongBase` if the disk stands on nothing.
    pub fn begin_hydration(&self) -> Result<()> {
        self.check()?;
        let mut roots = lock(&self.roots);
        let (Some(ground), Some(record)) = (self.ground(), roots.chain.base) else {
            return Err(Error::WrongBase { disk: self.id, why: "it stands on nothing".to_owned() });
        };
        if ground.hydrated().is_some() {
            return Ok(());
        }
        let number = roots.chain.take_number();
        let begun = self.make_hydrated(&record, number).and_then(|hydrated| {
            let record = BaseRecord { hydrated: Some(number), ..record };
            let next = Chain { base: Some(record), ..roots.chain.clone() };
            self.commit_chain(&mut roots, next)?;
            Ok(hydrated)
        });
        match begun {
            Ok(hydrated) => ground.hydrate_into(hydrated),
            Err(error) => {
                if self.check().is_ok() {
                    self.remove_layer(number, record.size.blocks());
                    self.remove_files(&[Numbered::Committed(number), Numbered::Journal(number)]);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn make_hydrated(&self, record: &BaseRecord, number: u64) -> Result<Arc<HydratedLayer>> {
        let hydrated = HydratedLayer::create(&self.place(), record, number)?;
        self.env.media.sync_dir(&self.dir).map_err(|error| self.failed_sync(error))?;
        Ok(hydrated)
    }

    /// Brings a little of what the disk stands on, at most 1 MiB of bytes: what readers missed first, then the rest from the
    /// front. Any number of threads may call this at a time, at their own pace; it holds up no request of a guest. What
    /// it brought is durable after [`settle_hydration`](Self::settle_hydration).
    ///
    /// # Errors
    /// What the base or the host reports; `NoSpace` heals. The step may be repeated.
    pub fn hydrate_step(&self) -> Result<Hydrating> {
        let Some(ground) = self.ground() else { return Ok(Hydrating::Idle) };
        let Some(hydrated) = ground.hydrated() else { return Ok(Hydrating::Idle) };
        let shard = hydrated.layer.in_flight.enter();
        let done = self.check().and_then(|()| self.bring_next(&ground, hydrated));
        hydrated.layer.in_flight.leave(shard);
        done
    }

    /// From now on a reader that misses blocks brings the window around them itself, as the chunks it had decoded for it are in
    /// memory just then; or leaves that to [`hydrate_step`](Self::hydrate_step). Nothing before hydration began.
    pub fn hydrate_on_read(&self, is_eager: bool) {
        if let Some(ground) = self.ground()
            && let Some(hydrated) = ground.hydrated()
        {
            hydrated.bring_on_read(is_eager);
        }
    }

    /// Brings a window that a reader has just missed. What fails is left to the next step, which says why.
    pub(crate) fn bring_missed(&self, ground: &Ground) {
        let Some(hydrated) = ground.hydrated().filter(|hydrated| hydrated.asks_readers()) else { return };
        let shard = hydrated.layer.in_flight.enter();
        if self.check().is_ok()
            && let Some((first, past)) = hydrated.next_wanted()
            && let Err(error) = self.bring(ground, hydrated, first, past)
        {
            tracing::debug!(%error, "what was read is not kept");
        }
        hydrated.layer.in_flight.leave(shard);
    }

    fn bring_next(&self, ground: &Ground, hydrated: &HydratedLayer) -> Result<Hydrating> {
        match hydrated.next_piece() {
            Some((first, past)) => Ok(Hydrating::Working(self.bring(ground, hydrated, first, past)?)),
            None if hydrated.present().0 == hydrated.present().1 => Ok(Hydrating::Whole),
            None => Ok(Hydrating::Idle),
        }
    }

    /// Brings blocks of one stripe. Where all of them are empty, what follows and is empty too is noted with them.
    fn bring(&self, ground: &Ground, hydrated: &HydratedLayer, first: u64, past: u64) -> Result<ByteCount> {
        let piece = ground.bytes_of(first, past);
        let absent = hydrated.absent(first, past);
        let mut data = Vec::new();
        ground.source().extents(piece, &mut |extent| {
            if extent.kind == ExtentKind::Data {
                data.push(extent.range);
            }
            ControlFlow::Continue(())
        })?;
        if data.is_empty() {
            let past = past.max(empty_until(ground, past)?);
            hydrated.put_zeros(first, past)?;
            return Ok(ByteCount::ZERO);
        }
        let mut bytes = hydrated.take_memory(((past - first) * BLOCK_SIZE) as usize);
        let (mut read, mut at) = (0, 0);
        for range in data {
            let within = (range.start() - piece.start()) as usize..(range.end() - piece.start()) as usize;
            bytes[at..within.start].fill(0);
            at = within.end;
            ground.source().read_at(ByteOffset::new(range.start()), &mut bytes[within])?;
            read += range.count().get();
        }
        bytes[at..].fill(0);
        for (run_first, run_past) in absent {
            let within =
                ((run_first - first) * BLOCK_SIZE) as usize..((run_past - first) * BLOCK_SIZE) as usize;
            self.take_in(hydrated, run_first, &bytes[within])?;
        }
        hydrated.give_memory(bytes);
        Ok(ByteCount::new(read))
    }

    /// Takes whole blocks in, those of zeros without their bytes.
    fn take_in(&self, hydrated: &HydratedLayer, first: u64, bytes: &[u8]) -> Result<()> {
        let is_zero = |block: &[u8]| block.iter().all(|&byte| byte == 0);
        let blocks: Vec<bool> = bytes.chunks(BLOCK_SIZE as usize).map(is_zero).collect();
        let mut at = 0;
        while at < blocks.len() {
            let count = blocks[at..].iter().take_while(|zero| **zero == blocks[at]).count();
            let from = first + at as u64;
            if blocks[at] {
                hydrated.put_zeros(from, from + count as u64)?;
            } else {
                self.env.budget.take(count as u64 * BLOCK_SIZE)?;
                hydrated.put(from, &bytes[at * BLOCK_SIZE as usize..(at + count) * BLOCK_SIZE as usize])?;
            }
            at += count;
        }
        Ok(())
    }

    /// Makes durable what was brought so far.
    ///
    /// # Errors
    /// As a flush.
    pub fn settle_hydration(&self) -> Result<()> {
        let Some(ground) = self.ground() else { return Ok(()) };
        let Some(hydrated) = ground.hydrated() else { return Ok(()) };
        let _one_at_a_time = lock(&hydrated.settling);
        self.check()?;
        if planted!("settled-without-data-sync") {
            return self.commit_unsynced(&hydrated.layer);
        }
        self.commit_layer(&hydrated.layer)
    }

    /// How far hydration is; none before it began, and after the base was released. Cost: a look at the whole map.
    pub fn hydration(&self) -> Option<HydrationProgress> {
        let ground = self.ground()?;
        let copied = ByteCount::new(ground.hydrated()?.layer.map.bytes());
        let (done, total) = done_of(&ground)?;
        Some(HydrationProgress { total, done, copied })
    }

    /// Bytes of the base that need not be asked of it any more, as [`hydration`](Self::hydration) says, without a look at the map.
    pub fn hydrated(&self) -> Option<ByteCount> {
        Some(done_of(&*self.ground()?)?.0)
    }

    /// Whether the disk stands on something.
    pub fn stands(&self) -> bool {
        self.view.load().below.ground.is_some()
    }
}

/// Bytes of a base that are here, and all that are shown of it.
fn done_of(ground: &Ground) -> Option<(ByteCount, ByteCount)> {
    let (present, blocks) = ground.hydrated()?.present();
    let total = ground.bytes_of(0, blocks).end();
    Some((ByteCount::new((present * BLOCK_SIZE).min(total)), ByteCount::new(total)))
}

/// How far the base is surely empty from a block on; looks at most so far ahead.
fn empty_until(ground: &Ground, first: u64) -> Result<u64> {
    let ahead = ground.bytes_of(first, (first + AHEAD_BLOCKS).min(ground.blocks()));
    if ahead.is_empty() {
        return Ok(first);
    }
    let mut until = ahead.start();
    ground.source().extents(ahead, &mut |extent| {
        if extent.kind == ExtentKind::Data {
            return ControlFlow::Break(());
        }
        until = extent.range.end();
        ControlFlow::Continue(())
    })?;
    // the last block may end with the base
    let is_all = until == ground.bytes_of(0, ground.blocks()).end();
    Ok(if is_all { ground.blocks() } else { until / BLOCK_SIZE })
}
