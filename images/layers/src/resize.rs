//! Resize: a seal that makes no point and after which the active layer has another length.
//!
//! 1. make the next layer, of the new length, and an owner index that reaches as far;
//! 2. bar writers and wait until those inside have left;
//! 3. sync the data; write the frozen map. If the disk shrinks, the map calls everything cut off zero: what layers
//!    below have there must not come back should the disk grow again;
//! 4. if the smaller of both sizes ends within a block, that block goes whole into the next layer, zeros after its end;
//! 5. commit the chain: size, map and next layer in one step;
//! 6. publish the next layer and admit writers.
//!
//! Whatever fails before 5, the disk has its old size and content, and writers go on where they were. Readers never
//! wait. A point keeps the size it was made with.

use crate::active::{Active, Place};
use crate::chain::{EpochRecord, LayerRecord};
use crate::disk::{ChainFailure, Disk, Roots};
use crate::names::Numbered;
use crate::open::load_below;
use crate::view::{Below, Layer, Locate, Place as Bytes, View, read_place};
use crate::{BlockState, Error, Result};
use block::sync::atomic::Ordering;
use block::sync::{Arc, lock};
use block::{BLOCK_SIZE, ByteCount, ByteRange, MAX_DISK_SIZE, StateId, planted};

/// What a resize prepared before writers had to wait.
struct Prepared {
    size: ByteCount,
    next: Arc<Active>,
    map: u64,
    below: Below,
}

impl Disk {
    /// Makes the disk larger or smaller. Bytes it gains are zeros, whatever was there before an earlier shrink; bytes it
    /// loses are gone for good, except from points. Writers wait for one sync; the change is durable when this returns.
    ///
    /// # Errors
    /// `BadSize`; `NoSpace`, which heals; `TooMany` at the limits of the chain. The size is the old one then.
    pub fn resize(&self, size: ByteCount) -> Result<()> {
        if size == ByteCount::ZERO || size.get() > MAX_DISK_SIZE {
            return Err(Error::BadSize { asked: size.get(), max: MAX_DISK_SIZE });
        }
        // most of what must be synced, while writers go on
        self.flush_all()?;
        let mut roots = lock(&self.roots);
        self.complete_seal(&mut roots)?;
        if roots.chain.size == size {
            return Ok(());
        }
        let mut prepared = self.prepare_resize(&mut roots, size)?;
        let old = self.view.load();
        self.bar_writers();
        if !planted!("resize-without-waiting-for-writers") {
            old.active.in_flight.wait_until_empty();
        }
        if let Err(error) = self.commit_resize(&mut roots, &old, &mut prepared) {
            let (size, is_sealing) = (old.size, old.is_sealing);
            let (active, below) = (old.active.clone(), old.below.clone());
            self.admit_writers(View { serial: 0, size, active, below, is_sealing });
            if self.check().is_ok() {
                self.discard_layer(prepared.next.number, prepared.map, size.blocks());
            }
            return Err(error);
        }
        let Prepared { next, below, .. } = prepared;
        self.admit_writers(View { serial: 0, size, active: next, below, is_sealing: false });
        self.seen.forget_all(size.blocks());
        self.give_back(&old, size);
        Ok(())
    }

    /// Makes all that can be made while writers go on.
    fn prepare_resize(&self, roots: &mut Roots, size: ByteCount) -> Result<Prepared> {
        roots.chain.check_room()?;
        let (number, map) = (roots.chain.take_number(), roots.chain.take_number());
        let place = Place { size, ..self.place() };
        let reach = Place { size: size.max(roots.chain.size), ..self.place() };
        let made = self.make_layer(&place, number, map);
        let Below { files, ground, slots, .. } = self.view.load().below.clone();
        let below = || load_below(&reach, files, ground, &roots.chain, &slots);
        let made = made.and_then(|next| Ok((next, below()?)));
        let (next, below) = made.inspect_err(|_| self.discard_layer(number, map, size.blocks()))?;
        Ok(Prepared { size, next, map, below })
    }

    /// Steps 3 to 5, while nobody writes.
    fn commit_resize(&self, roots: &mut Roots, old: &View, prepared: &mut Prepared) -> Result<()> {
        let (from, to) = (old.size, prepared.size);
        let mut frozen = old.active.map.freeze(&*self.env.media);
        if to.blocks() < from.blocks() && !planted!("shrink-without-zeros") {
            frozen.zero_from(to.blocks());
        }
        old.active.file.sync().map_err(|error| self.poisoned(error))?;
        self.write_map(prepared.map, &frozen)?;
        let sealed = Layer::unsummed(&self.place(), &prepared.below.files, old.active.number, from.blocks());
        sealed.bytes.store(frozen.bytes(), Ordering::Relaxed);
        prepared.below.index.lay(&frozen, prepared.below.slots.len() as u16)?;
        prepared.below.slots.push(Some(Arc::new(sealed)));
        if !planted!("resize-leaves-the-tail") {
            self.end_within_a_block(old, &prepared.next, from.min(to))?;
        }
        let mut next = roots.chain.clone();
        let state = StateId::random(&*self.env.entropy)?;
        let record = EpochRecord::after(&next, state, self.env.clock.now(), from, prepared.map);
        next.layers.push(LayerRecord::sealed(old.active.number, prepared.map, &record));
        next.epochs.push(record);
        next.size = to;
        next.active = prepared.next.number;
        // believed only if this very commit becomes durable
        prepared.next.sign(self.identity(&next), roots.chain.next_generation());
        self.try_commit(roots, next).map_err(|error| match error {
            ChainFailure::Before(error) => self.poisoned_unless_it_heals(error),
            // the new chain may stand, and it knows nothing of what would be written to the old layer from now on
            ChainFailure::After(error) => self.poisoned(error),
        })
    }

    /// Puts the block that the disk ends in, or ended in, into the next layer: what lies after the end in older layers
    /// is garbage, or was cut off.
    fn end_within_a_block(&self, old: &View, next: &Active, end: ByteCount) -> Result<()> {
        let (block, kept) = (end.get() / BLOCK_SIZE, (end.get() % BLOCK_SIZE) as usize);
        if kept == 0 {
            return Ok(());
        }
        let place = old.locate(block, 1).0;
        if matches!(place, Bytes::Zeros(_)) {
            return Ok(());
        }
        let mut whole = [0; BLOCK_SIZE as usize];
        read_place(&place, block * BLOCK_SIZE, &mut whole[..kept], |layer, buf| {
            self.read_sealed(layer, block * BLOCK_SIZE, buf, self.seen.since())
        })?;
        next.map.prepare(block, 1)?;
        next.file.write_at(block * BLOCK_SIZE, &whole)?;
        next.map.set(block, 1, BlockState::Data)?;
        self.commit_layer(next)
    }

    /// Forgets what only an active layer needs, and gives back what was cut off.
    fn give_back(&self, old: &View, size: ByteCount) {
        let layer = &old.active;
        self.remove_files(&[Numbered::Committed(layer.number), Numbered::Journal(layer.number)]);
        self.forget_live_map(layer.number);
        let cut = ByteRange::between(size.blocks() * BLOCK_SIZE, old.size.blocks() * BLOCK_SIZE);
        if !cut.is_empty()
            && let Err(error) = layer.file.punch(cut)
        {
            tracing::debug!(disk = %self.id, %error, "what was cut off keeps its space until a fold");
        }
    }
}
