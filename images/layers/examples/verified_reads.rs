//! What verifying costs the live disk: nanoseconds a random 4 KiB read of a sealed layer in the page cache takes without
//! sums, at a block's first read since the open, and afterwards. Medians of several rounds on a disk of 256 MiB.
//! `cargo run --release -p blockd-layers --example verified_reads [DIR]`

use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, DiskId};
use layers::{Disk, Env, Result};
use std::sync::Arc;
use std::time::Instant;

const BLOCKS: u64 = 65_536;
const ROUNDS: usize = 9;

/// Every block once, in an order that looks random.
#[expect(clippy::disallowed_methods, reason = "measures real time")]
fn ns_a_read(disk: &Disk) -> Result<u64> {
    let mut buf = [0; 4096];
    let began = Instant::now();
    for number in 0..BLOCKS {
        let block = number * 40_503 % BLOCKS;
        disk.read_at(ByteOffset::new(block * 4096), &mut buf)?;
    }
    Ok(began.elapsed().as_nanos() as u64 / BLOCKS)
}

fn median(mut figures: Vec<u64>) -> u64 {
    figures.sort_unstable();
    figures[figures.len() / 2]
}

fn reopen(env: &Env, disk: Arc<Disk>) -> Result<Arc<Disk>> {
    disk.close()?;
    drop(disk);
    Disk::open(env, "d")
}

fn main() -> Result<()> {
    let under = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let host = |error: std::io::Error| block::Error::host("make", "a directory", None, error);
    let (dir, volatile) = (tempfile::tempdir_in(under).map_err(host)?, tempfile::tempdir().map_err(host)?);
    let env = Env::linux(dir.path(), volatile.path())?;
    let mut disk = Disk::create(&env, "d", DiskId::from_bytes([7; 16]), ByteCount::new(BLOCKS * 4096))?;
    for at in 0..BLOCKS / 256 {
        disk.write_at(ByteOffset::new(at << 20), &vec![at as u8; 1 << 20])?;
    }
    disk.seal()?;
    let without: Vec<u64> = (0..ROUNDS).map(|_| ns_a_read(&disk)).collect::<Result<_>>()?;
    disk.make_sums(&mut |_| true)?;
    let (mut first, mut after) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        disk = reopen(&env, disk)?;
        first.push(ns_a_read(&disk)?);
        after.push(ns_a_read(&disk)?);
    }
    println!("without sums      {:>6} ns", median(without));
    println!("at the first read {:>6} ns", median(first));
    println!("afterwards        {:>6} ns", median(after));
    Ok(())
}
