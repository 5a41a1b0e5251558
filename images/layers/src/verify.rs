//! Reading blocks of sealed layers against their sums.

use crate::disk::Disk;
use crate::seen::Since;
use crate::sums::{SumsFile, sum_of, sum_pages};
use crate::view::Layer;
use block::sync::atomic::{AtomicBool, Ordering};
use block::{BLOCK_SIZE, Error, planted};
use std::sync::OnceLock;

/// What readers know of a layer's sums.
#[derive(Default)]
pub(crate) struct LayerSums {
    file: OnceLock<SumsFile>,
    is_whole: AtomicBool,
}

impl LayerSums {
    /// The sums of a layer as the chain names them; the file is open already.
    pub(crate) fn new(file: SumsFile, is_whole: bool) -> Self {
        Self { file: OnceLock::from(file), is_whole: AtomicBool::new(is_whole) }
    }

    /// Whether every block that has bytes has its sum.
    pub(crate) fn are_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire)
    }

    /// Tells readers of sums that came to be, or are whole now, or not any more.
    pub(crate) fn learn(
        &self,
        open: impl FnOnce() -> block::Result<SumsFile>,
        is_whole: bool,
    ) -> block::Result<()> {
        if self.file.get().is_none() {
            // only whoever holds the chain gets here, so it stays unset until this sets it
            let file = open()?;
            self.file.get_or_init(|| file);
        }
        self.is_whole.store(is_whole, Ordering::Release);
        Ok(())
    }
}

/// Why verified bytes could not be read.
pub(crate) enum Unread {
    /// The host failed.
    Host(Error),
    /// The block is not what was sealed, or its sum is not.
    Hurt(u64, String),
}

impl From<Error> for Unread {
    fn from(error: Error) -> Self {
        Self::Host(error)
    }
}

/// Checks whole blocks, the first of which has this number, against a layer's sums. Blocks that have none yet pass.
pub(crate) fn check_blocks(layer: &Layer, first: u64, bytes: &[u8]) -> Result<(), Unread> {
    let Some(file) = layer.sums.file.get().filter(|_| !planted!("checksum-not-checked")) else {
        return Ok(());
    };
    let is_whole = layer.sums.are_whole();
    let mut blocks = bytes.chunks_exact(BLOCK_SIZE as usize);
    let mut block = first;
    for (page, at, count) in sum_pages(first, bytes.len() as u64 / BLOCK_SIZE) {
        let sums = file.read_page(page)?;
        for (at, bytes) in (at..at + count).zip(&mut blocks) {
            match sums.get(at) {
                Some(sum) if sum != sum_of(bytes) => {
                    return Err(Unread::Hurt(block, "its checksum disagrees".to_owned()));
                }
                None if is_whole => {
                    let error =
                        file.damaged(Some(SumsFile::offset_of(page)), "the block's checksum is missing");
                    return Err(Unread::Hurt(block, error.to_string()));
                }
                _ => {}
            }
            block += 1;
        }
    }
    Ok(())
}

/// Reads bytes of a sealed layer and checks every block they touch.
pub(crate) fn read_verified(layer: &Layer, at: u64, buf: &mut [u8]) -> Result<(), Unread> {
    let end = at + buf.len() as u64;
    let (whole_start, whole_end) = (at.next_multiple_of(BLOCK_SIZE), end / BLOCK_SIZE * BLOCK_SIZE);
    if whole_start > whole_end {
        return read_part(layer, at, buf);
    }
    let (head, rest) = buf.split_at_mut((whole_start - at) as usize);
    let (middle, tail) = rest.split_at_mut((whole_end - whole_start) as usize);
    read_part(layer, at, head)?;
    if !middle.is_empty() {
        layer.file.read_at(whole_start, middle)?;
        check_blocks(layer, whole_start / BLOCK_SIZE, middle)?;
    }
    read_part(layer, whole_end, tail)
}

/// Reads a part of one block by way of the whole block.
fn read_part(layer: &Layer, at: u64, part: &mut [u8]) -> Result<(), Unread> {
    if part.is_empty() {
        return Ok(());
    }
    let mut whole = [0; BLOCK_SIZE as usize];
    let block = at / BLOCK_SIZE;
    layer.file.read_at(block * BLOCK_SIZE, &mut whole)?;
    check_blocks(layer, block, &whole)?;
    let within = (at % BLOCK_SIZE) as usize;
    part.copy_from_slice(&whole[within..within + part.len()]);
    Ok(())
}

impl Disk {
    /// Whether bytes of a sealed layer, as (start, end), are read as they are: they were verified since the disk was
    /// opened, or cannot be yet.
    pub(crate) fn is_verified(&self, layer: &Layer, start: u64, end: u64) -> bool {
        let first = start / BLOCK_SIZE;
        !layer.sums.are_whole() || self.seen.all(first, end.div_ceil(BLOCK_SIZE) - first)
    }

    /// Reads bytes of a sealed layer for the live disk: verified if it is the first time since the disk was opened or
    /// the blocks' owner changed. `since` was taken before the owner was looked up. Layers whose sums are not whole yet
    /// are read as they are.
    pub(crate) fn read_sealed(
        &self,
        layer: &Layer,
        at: u64,
        buf: &mut [u8],
        since: Since,
    ) -> block::Result<()> {
        let end = at + buf.len() as u64;
        if self.is_verified(layer, at, end) {
            return layer.file.read_at(at, buf);
        }
        let first = at / BLOCK_SIZE;
        let count = end.div_ceil(BLOCK_SIZE) - first;
        read_verified(layer, at, buf).map_err(|unread| self.damage.name(layer.number, unread))?;
        self.seen.mark(first, count, since);
        Ok(())
    }
}
