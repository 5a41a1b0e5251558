//! Writing the live disk: placing bytes in the active layer and keeping its map, which is the change map.
//!
//! A write that changes no block's state takes no lock. Every other change holds the stripe of its block from the
//! check to the map update. The map is set only after the bytes are in the file.

use crate::active::{Active, STRIPE_BLOCKS};
use crate::disk::{Disk, Pass};
use crate::gate::pause;
use crate::state::{BlockState, PAGE_BLOCKS, page_of};
use crate::view::{Layer, Locate, Place, read_place};
use block::sync::atomic::Ordering;
use block::sync::lock;
use block::{BLOCK_SIZE, BlockDevice, ByteOffset, ByteRange, Provision, Result, check_range, planted};

const STRIPE_BYTES: u64 = STRIPE_BLOCKS * BLOCK_SIZE;
const PAGE_BYTES: u64 = PAGE_BLOCKS * BLOCK_SIZE;

impl BlockDevice for Disk {
    fn write_at(&self, offset: ByteOffset, buf: &[u8]) -> Result<()> {
        let pass = self.enter()?;
        check_range(offset, buf.len() as u64, pass.size())?;
        let (start, end) = (offset.get(), offset.get() + buf.len() as u64);
        for (at, until) in pieces(start, end, STRIPE_BYTES) {
            self.write_piece(&pass, at, &buf[(at - start) as usize..(until - start) as usize])?;
        }
        Ok(())
    }

    fn zero(&self, range: ByteRange, provision: Provision) -> Result<()> {
        let pass = self.enter()?;
        check_range(range.offset(), range.count().get(), pass.size())?;
        let (start, end) = (range.start(), range.end());
        // bytes of blocks only partly inside are written as zeros; the blocks between become zero in the map
        let (first, past) = pass.whole_blocks(start, end);
        if first >= past {
            return self.write_zeros(&pass, start, end);
        }
        self.write_zeros(&pass, start, first * BLOCK_SIZE)?;
        self.zero_blocks(&pass, first, past, provision)?;
        self.write_zeros(&pass, (past * BLOCK_SIZE).min(end), end)
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        let pass = self.enter()?;
        check_range(range.offset(), range.count().get(), pass.size())?;
        let (first, past) = pass.whole_blocks(range.start(), range.end());
        if planted!("trim-not-tracked") {
            return Ok(());
        }
        if first < past { self.zero_blocks(&pass, first, past, Provision::Sparse) } else { Ok(()) }
    }

    fn flush(&self) -> Result<()> {
        Ok(self.flush_all()?)
    }
}

/// Cuts a byte range at multiples of `step`.
fn pieces(start: u64, end: u64, step: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut at = start;
    std::iter::from_fn(move || {
        let from = at;
        at = ((from / step + 1) * step).min(end);
        (from < end).then_some((from, at))
    })
}

impl Pass {
    /// The blocks wholly inside a byte range, as (first, past). The disk's last block ends where the disk ends.
    fn whole_blocks(&self, start: u64, end: u64) -> (u64, u64) {
        let past = if end == self.size().get() { end.div_ceil(BLOCK_SIZE) } else { end / BLOCK_SIZE };
        (start.div_ceil(BLOCK_SIZE), past)
    }
}

impl Disk {
    /// Writes bytes that lie within one stripe.
    fn write_piece(&self, pass: &Pass, at: u64, bytes: &[u8]) -> Result<()> {
        let active = pass.active();
        let first = at / BLOCK_SIZE;
        let count = (at + bytes.len() as u64).div_ceil(BLOCK_SIZE) - first;
        if cfg!(feature = "untracked") || active.map.all_data(first, count) {
            return active.file.write_at(at, bytes);
        }
        self.env.budget.take(active.map.lacking(first, count) * BLOCK_SIZE)?;
        active.map.prepare(first, count)?;
        let stripe = lock(active.stripe(first));
        if planted!("copy-up-without-lock") {
            drop(stripe);
            self.put(pass, at, bytes)?;
            return active.map.set(first, count, BlockState::Data);
        }
        if planted!("map-before-data") {
            active.map.set(first, count, BlockState::Data)?;
            return active.file.write_at(at, bytes);
        }
        self.put(pass, at, bytes)?;
        active.map.set(first, count, BlockState::Data)
    }

    /// Puts bytes into the active layer's file so that every block they touch is whole there. The caller holds the
    /// stripe.
    fn put(&self, pass: &Pass, at: u64, bytes: &[u8]) -> Result<()> {
        let end = at + bytes.len() as u64;
        let (whole_first, whole_past) = pass.whole_blocks(at, end);
        let (first, past) = (at / BLOCK_SIZE, end.div_ceil(BLOCK_SIZE));
        let file = &pass.active().file;
        let mut from = at;
        if first < whole_first {
            let until = end.min(whole_first * BLOCK_SIZE);
            self.put_part(pass, from, &bytes[..(until - at) as usize])?;
            from = until;
        }
        let until = end.min(whole_past.max(whole_first) * BLOCK_SIZE);
        if from < until {
            file.write_at(from, &bytes[(from - at) as usize..(until - at) as usize])?;
            from = until;
        }
        if from < end && whole_past < past {
            self.put_part(pass, from, &bytes[(from - at) as usize..])?;
        }
        Ok(())
    }

    /// Writes a part of one block: in place if the block is whole in the active layer, else together with the rest of
    /// it from below.
    fn put_part(&self, pass: &Pass, at: u64, bytes: &[u8]) -> Result<()> {
        let active = pass.active();
        let block = at / BLOCK_SIZE;
        let state = active.map.run(block, 1).0;
        if state.has_bytes() || planted!("sub-block-write-without-copy-up") {
            return active.file.write_at(at, bytes);
        }
        let mut whole = [0; BLOCK_SIZE as usize];
        if state == BlockState::Absent {
            self.read_below(pass, block, &mut whole)?;
        }
        let within = (at % BLOCK_SIZE) as usize;
        whole[within..within + bytes.len()].copy_from_slice(bytes);
        active.file.write_at(block * BLOCK_SIZE, &whole)
    }

    /// Reads a block as it is under the active layer. Layers just sealed may still have writers; their content counts
    /// only once they left, or the copy could miss a write that is acknowledged later.
    fn read_below(&self, pass: &Pass, block: u64, whole: &mut [u8]) -> Result<()> {
        for layer in
            pass.view().below.pending.iter().filter(|_| !planted!("copy-up-from-a-layer-with-writers"))
        {
            let mut turns = 0;
            while !layer.is_final.load(Ordering::Acquire) && !layer.in_flight.is_empty() {
                turns += 1;
                pause(turns);
            }
        }
        let (at, since) = (block * BLOCK_SIZE, self.seen.since());
        let sealed = |layer: &Layer, buf: &mut [u8]| self.read_sealed(layer, at, buf, since);
        match pass.view().below.locate(block, 1).0 {
            // the pass keeps this view's layer active, but a fold or a seal's index may be newer: ask again
            Place::Outdated => {
                let view = self.view.load();
                read_place(&view.below.locate(block, 1).0, at, whole, sealed)
            }
            place => read_place(&place, at, whole, sealed),
        }
    }

    fn write_zeros(&self, pass: &Pass, start: u64, end: u64) -> Result<()> {
        const ZEROS: [u8; BLOCK_SIZE as usize] = [0; BLOCK_SIZE as usize];
        for (at, until) in pieces(start, end, BLOCK_SIZE) {
            self.write_piece(pass, at, &ZEROS[..(until - at) as usize])?;
        }
        Ok(())
    }

    /// Makes whole blocks zero: whole map pages at once, the rest stripe by stripe.
    fn zero_blocks(&self, pass: &Pass, first: u64, past: u64, provision: Provision) -> Result<()> {
        let active = pass.active();
        if provision == Provision::Allocated {
            self.env.budget.take(active.map.lacking(first, past - first) * BLOCK_SIZE)?;
            active.file.allocate(ByteRange::between(first * BLOCK_SIZE, past * BLOCK_SIZE))?;
        }
        for (at, until) in pieces(first * BLOCK_SIZE, past * BLOCK_SIZE, PAGE_BYTES) {
            let (first, past) = (at / BLOCK_SIZE, until / BLOCK_SIZE);
            let reaches_end = past == pass.size().blocks();
            if first % PAGE_BLOCKS == 0 && (past % PAGE_BLOCKS == 0 || reaches_end) {
                zero_page(active, first, past, provision)?;
                continue;
            }
            for (at, until) in pieces(at, until, STRIPE_BYTES) {
                zero_run(active, at / BLOCK_SIZE, until / BLOCK_SIZE, provision)?;
            }
        }
        Ok(())
    }
}

/// Zeroes all blocks of a map page, without spelling the page out.
fn zero_page(active: &Active, first: u64, past: u64, provision: Provision) -> Result<()> {
    let _all: Vec<_> = active.stripes.iter().map(lock).collect();
    let held = bytes_held(active, first, past);
    active.map.fill_page(page_of(first), BlockState::Zero);
    punch(active, &held, provision)
}

/// Zeroes blocks of one stripe.
fn zero_run(active: &Active, first: u64, past: u64, provision: Provision) -> Result<()> {
    active.map.prepare(first, past - first)?;
    let _stripe = (!planted!("zero-without-the-lock")).then(|| lock(active.stripe(first)));
    let held = bytes_held(active, first, past);
    active.map.set(first, past - first, BlockState::Zero)?;
    // under the stripe: no write can have made these blocks data again
    punch(active, &held, provision)
}

/// The runs that have bytes in the layer's file, as (first, past): only they hold space to give back.
fn bytes_held(active: &Active, first: u64, past: u64) -> Vec<(u64, u64)> {
    let mut held = Vec::new();
    let mut block = first;
    while block < past {
        let (state, count) = active.map.run(block, past - block);
        if state.has_bytes() {
            held.push((block, block + count));
        }
        block += count;
    }
    held
}

fn punch(active: &Active, runs: &[(u64, u64)], provision: Provision) -> Result<()> {
    if provision == Provision::Allocated {
        return Ok(());
    }
    for &(first, past) in runs {
        let range = ByteRange::between(first * BLOCK_SIZE, past * BLOCK_SIZE);
        match active.file.punch(range) {
            // the zeros are in the map already; a host that cannot punch only keeps the space
            Err(error) if error.kind() == block::Kind::Unsupported => return Ok(()),
            done => done?,
        }
    }
    Ok(())
}
