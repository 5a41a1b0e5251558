//! How long writes are held up while a recovery point is taken, under a random-write load.
//!
//! Recovery points are taken one after another while fio writes 4 KiB blocks at random over NBD, of a small disk and of a
//! sparse one of 16 TiB. The daemon says of each for how long it blocked writes. Every write of the load is a first write
//! at some time, and the point before is deleted each time, so that folding goes on beside it.

use anyhow::{Context, Result, bail};

use crate::appliance::{Appliance, Setting};
use crate::fio;

/// Options of the workload.
#[derive(clap::Args)]
pub struct Options {
    /// Recovery points to take of each disk
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    points: u32,
    /// GiB of the disks, which are sparse; the load writes to the first 256 MiB of each
    #[arg(long, default_values_t = [1, 16384], value_parser = clap::value_parser!(u64).range(1..=16384))]
    size_gib: Vec<u64>,
    #[command(flatten)]
    setting: Setting,
}

/// The load keeps to this much of the disk, so that the space used stays bounded.
const LOADED_BYTES: u64 = 256 << 20;

/// Measures and prints the table.
///
/// # Errors
/// A program is missing, the daemon does not come up, or the load ends before the points are taken.
pub fn run(options: &Options) -> Result<()> {
    println!(
        "| disk | recovery points | writes held, median | 99th percentile | longest |\n|---|---|---|---|---|"
    );
    for &size_gib in &options.size_gib {
        let appliance = Appliance::start(&options.setting)?;
        let disk = format!("g{size_gib}");
        let uri = appliance.create(&disk, size_gib << 30)?.uri;
        fio::run(&uri, LOADED_BYTES, 1, fio::FILL)?;
        let mut load = fio::background(&uri, LOADED_BYTES)?;
        let pauses: Result<Vec<f64>> = (0..options.points).map(|_| pause_us(&appliance, &disk)).collect();
        let ended = load.try_wait()?;
        load.kill()?;
        load.wait()?;
        if let Some(status) = ended {
            bail!("fio ended before the points were taken: {status}");
        }
        print(size_gib, pauses?);
    }
    Ok(())
}

fn print(size_gib: u64, mut pauses: Vec<f64>) {
    pauses.sort_by(f64::total_cmp);
    let at = |percent: usize| pauses.get((pauses.len() - 1) * percent / 100).copied().unwrap_or_default();
    println!(
        "| {size_gib} GiB | {} | {:.0} µs | {:.0} µs | {:.0} µs |",
        pauses.len(),
        at(50),
        at(99),
        at(100)
    );
}

/// Takes a recovery point, removes it again and says for how long writes were held, in microseconds.
fn pause_us(appliance: &Appliance, disk: &str) -> Result<f64> {
    let point = appliance.snapshot(disk)?;
    appliance.delete(&point.name)?;
    Ok(point.seal_ns.context("the new point has no seal_ns")? as f64 / 1000.0)
}
