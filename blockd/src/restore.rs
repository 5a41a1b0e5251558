//! Restores: a recovery point as a new disk, from whichever tier holds it.
//!
//! The disk exists under its name only when every byte is on it and durable; what failed or was cut off leaves
//! nothing.

use crate::daemon::Daemon;
use crate::error::{Doing, Result};
use crate::jobs::{NewJob, Run};
use block::{BLOCK_SIZE, BlockDevice, BlockSource, ByteOffset, ByteRange, ExtentKind};
use control::{Job, RestoreRequest};
use std::ops::ControlFlow;

/// Bytes copied at a time: some dozens of chunks, small beside the daemon's memory.
const STEP: u64 = 4 << 20;

/// Extents are asked for in parts of this size, so that the list of a badly fragmented disk stays small.
const WINDOW: u64 = 1 << 30;

impl Daemon {
    /// A recovery point as a new disk, as a job.
    ///
    /// # Errors
    /// `NotFound` naming the point, `Conflict` if the disk's name is taken.
    pub fn restore(&self, request: &RestoreRequest) -> Result<Job> {
        let point = self.tiers().find(&request.point)?;
        // for the answer's sake; the job reserves the name itself
        drop(self.tiers().disks.reserve(&request.to)?);
        let new = NewJob {
            operation: "restore",
            item: point.item.clone(),
            key: format!("new disk {}", request.to),
            point: Some(point.name.clone()),
            vault: None,
            target: Some(request.to.clone()),
        };
        let (tiers, to) = (self.tiers().clone(), request.to.clone());
        self.jobs().start(new, move |run| {
            let source = point.source()?;
            let from = if point.instant.is_some() { None } else { point.copies.first() };
            run.update(|job| job.vault = from.map(|(vault, _)| vault.name.clone()));
            let doing = || format!("restore {} to {to}", point.name);
            let made = tiers.disks.create(&to, point.size, |disk| {
                copy(run, &*source, &**disk, &doing)?;
                disk.flush().doing(doing)
            });
            made.map(|_| ())
        })
    }
}

/// Copies what is not zero to a device of zeros.
fn copy(run: &Run, from: &dyn BlockSource, to: &dyn BlockDevice, doing: &dyn Fn() -> String) -> Result<()> {
    let size = from.size().get();
    run.update(|job| job.bytes_total = size);
    let mut buf = Vec::new();
    for start in (0..size).step_by(WINDOW as usize) {
        let window = ByteRange::between(start, size.min(start.saturating_add(WINDOW)));
        for range in data_in(from, window).doing(doing)? {
            for at in (range.start()..range.end()).step_by(STEP as usize) {
                run.go_on()?;
                buf.resize((range.end() - at).min(STEP) as usize, 0);
                from.read_at(ByteOffset::new(at), &mut buf).doing(doing)?;
                write_data(to, at, &buf).doing(doing)?;
                run.update(|job| {
                    job.bytes_read += buf.len() as u64;
                    job.bytes_done = at + buf.len() as u64;
                });
            }
        }
        run.update(|job| job.bytes_done = window.end());
    }
    Ok(())
}

/// The parts of a window that may hold something else than zeros.
fn data_in(from: &dyn BlockSource, window: ByteRange) -> block::Result<Vec<ByteRange>> {
    let mut data = Vec::new();
    from.extents(window, &mut |extent| {
        if extent.kind == ExtentKind::Data {
            data.push(extent.range);
        }
        ControlFlow::Continue(())
    })?;
    Ok(data)
}

/// Writes the runs of blocks that hold something else than zeros.
fn write_data(to: &dyn BlockDevice, at: u64, bytes: &[u8]) -> block::Result<()> {
    let step = BLOCK_SIZE as usize;
    let is_zero = |block: &[u8]| block.iter().all(|&byte| byte == 0);
    let mut start = 0;
    while start < bytes.len() {
        let blocks = bytes[start..].chunks(step);
        let zero = blocks.clone().next().is_some_and(is_zero);
        let run: usize = blocks.take_while(|block| is_zero(block) == zero).map(<[u8]>::len).sum();
        if !zero {
            to.write_at(ByteOffset::new(at + start as u64), &bytes[start..start + run])?;
        }
        start += run;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{ByteCount, MemoryDisk};

    #[test]
    fn only_what_is_not_zero_is_written_and_all_of_it() {
        let bytes: Vec<u8> = (0..10 * 4096 + 100).map(|i| u8::from((i / 4096) % 3 == 1) * 7).collect();
        let disk = MemoryDisk::new(ByteCount::new(bytes.len() as u64 + 512));
        write_data(&disk, 512, &bytes).expect("written");
        let mut back = vec![0; bytes.len()];
        disk.read_at(ByteOffset::new(512), &mut back).expect("read");
        assert_eq!(back, bytes);
    }
}
