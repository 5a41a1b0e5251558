//! What folding deleted points costs a guest, and how fast it is without one.
//!
//! Each round seals a full disk, rewrites half of its blocks at random, seals again and deletes the first point: half of
//! the disk must be copied. A guest's cell is measured right before the deletion and again right after it, while the
//! fold is under way; what is left then is folded without a guest and timed.

use anyhow::{Result, bail};

use crate::appliance::{Appliance, Setting};
use crate::fio::{self, Access};
use crate::report::spread;

const DISK: &str = "bench";

/// Options of the workload.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds; the median over them is reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds a cell lasts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// MiB of the disk
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(64..))]
    size_mib: u64,
    #[command(flatten)]
    setting: Setting,
}

/// What one round showed.
struct Round {
    read_ratio: f64,
    write_ratio: f64,
    idle_mb_s: f64,
}

/// Measures and prints the table.
///
/// # Errors
/// The daemon or fio fails, or a fold is over before the guest's cell is.
pub fn run(options: &Options) -> Result<()> {
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        let appliance = Appliance::start(&options.setting)?;
        rounds.push(measure(&appliance, options)?);
        eprintln!("round {round} of {} is done", options.rounds);
    }
    println!("| while a fold is under way, as a multiple of without | median (lowest–highest) |\n|---|---|");
    line("99th percentile of 4 KiB random reads", &rounds, |round| round.read_ratio);
    line("99th percentile of 4 KiB random writes", &rounds, |round| round.write_ratio);
    println!("\n| without a guest | median (lowest–highest) |\n|---|---|");
    line("MB/s folded", &rounds, |round| round.idle_mb_s);
    Ok(())
}

fn line(name: &str, rounds: &[Round], field: fn(&Round) -> f64) {
    if let Some((low, mid, high)) = spread(rounds.iter().map(field).collect()) {
        println!("| {name} | **{mid:.2}** ({low:.2}–{high:.2}) |");
    }
}

fn measure(appliance: &Appliance, options: &Options) -> Result<Round> {
    let size_bytes = options.size_mib << 20;
    let uri = appliance.create(DISK, size_bytes)?.uri;
    let mut ratios = Vec::new();
    let mut idle_mb_s = 0.0;
    for access in [Access::read(options.seconds), Access::write(options.seconds)] {
        // a point that nothing was written before leaves nothing to fold
        fio::run(&uri, size_bytes, 1, fio::FILL)?;
        let first = appliance.snapshot(DISK)?;
        // half of the disk's blocks, every one once
        fio::run(&uri, size_bytes / 2, 1, fio::WRITE_EACH_BLOCK_ONCE)?;
        appliance.snapshot(DISK)?;
        appliance.settle()?;
        let without = fio::run(&uri, size_bytes, 1, access)?.p99_us;
        appliance.delete(&first.name)?;
        let with = fio::run(&uri, size_bytes, 1, access)?.p99_us;
        let Some(left) = appliance.client().disk(DISK)?.consolidation else {
            bail!("the fold was over before the cell was: --size-mib {} is too small", options.size_mib);
        };
        ratios.push(with / without);
        let left_bytes = (left.bytes_total - left.bytes_done) as f64;
        idle_mb_s = left_bytes / appliance.wait_until_folded(DISK)?.as_secs_f64() / 1e6;
    }
    Ok(Round { read_ratio: ratios[0], write_ratio: ratios[1], idle_mb_s })
}
