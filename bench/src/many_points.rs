//! A disk with many recovery points beside one with a single point.
//!
//! Every block of both was written once, 4 KiB at a time in the same random order, so that their files differ by nothing
//! but the points: of the many-points disk each block has an owner drawn at random, which is as badly scattered as owners can
//! be. Reads are measured first, while nothing is written: all disks have an empty active layer. What the first read
//! of each block costs, which verifies it, is told apart. A third disk is folded to ten points and read; at last the
//! first two are written.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use block::{BlockDevice, ByteOffset};

use crate::appliance::{Appliance, Setting};
use crate::fio::{self, Access};
use crate::report::spread;

const ONE: &str = "one";
const MANY: &str = "many";
const FOLDED: &str = "folded";
/// Points that are left of the folded disk's.
const LEFT: usize = 10;
const BLOCK: u64 = 4096;

/// Options of the workload.
#[derive(clap::Args)]
pub struct Options {
    /// Recovery points of the disk that has many
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..))]
    points: u64,
    /// Rounds; the median over them is reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds a cell lasts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// MiB of each disk
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..))]
    size_mib: u64,
    #[command(flatten)]
    setting: Setting,
}

/// Measures and prints the tables.
///
/// # Errors
/// The daemon or fio fails.
pub fn run(options: &Options) -> Result<()> {
    let mut appliance = Appliance::start(&options.setting)?;
    let field = Field::make(&appliance, options)?;
    let opened = appliance.restart()?;
    let (read, in_order) = (Access::read(options.seconds), Access::read_in_order(options.seconds));
    println!("| {} points beside 1 | median (lowest–highest) |\n|---|---|", options.points);
    field.row(
        &appliance,
        "each block's first read, verified, 128 KiB sequential",
        &field.many,
        1,
        FIRST_READ,
    )?;
    field.row(&appliance, "4 KiB random read", &field.many, options.rounds, read)?;
    let descriptors = descriptors(appliance.server()?.pid(), &appliance.state().join("disks"))?;
    let name = "128 KiB sequential read over scattered owners";
    field.row(&appliance, name, &field.many, options.rounds, in_order)?;
    let memory = Memory::of(appliance.server()?.pid())?;
    let disk = appliance.client().disk(MANY)?;
    let (left, took) = fold(&appliance, &field.folded.points)?;
    fio::run(&field.folded.uri, field.size_bytes, 1, FIRST_READ)?;
    field.row(
        &appliance,
        &format!("the same, folded to {left} points"),
        &field.folded,
        options.rounds,
        in_order,
    )?;
    field.row(
        &appliance,
        "4 KiB random write",
        &field.many,
        options.rounds,
        Access::write(options.seconds),
    )?;
    println!("\n| the daemon with these disks | |\n|---|---|");
    println!("| killed, started, all disks open | {} ms |", opened.as_millis());
    println!("| descriptors of the disk with most, after random reads | {descriptors} |");
    println!("| memory of the process alone | {:.1} MiB |", memory.alone_mib);
    println!("| of it mapped from files, evictable | {:.1} MiB |", memory.mapped_mib);
    let mib = |bytes: Option<u64>| bytes.unwrap_or_default() as f64 / 1048576.0;
    println!(
        "| maps and owner index of the disk, on the host | {:.1} and {:.1} MiB |",
        mib(disk.maps),
        mib(disk.index)
    );
    println!("| folding {} points away | {:.1} s |", options.points - left, took.as_secs_f64());
    Ok(())
}

/// One pass over the disk.
const FIRST_READ: Access = Access { rw: "read", block_bytes: 128 << 10, depth: 32, ..fio::FILL };

/// Deletes all but ten of the points of the disk for it; says how many are left and how long it took.
fn fold(appliance: &Appliance, points: &[String]) -> Result<(u64, Duration)> {
    let every = points.len() / LEFT;
    for (place, point) in points.iter().enumerate() {
        if (place + 1) % every != 0 {
            appliance.delete(point)?;
        }
    }
    let took = appliance.wait_until_folded(FOLDED)?;
    Ok((appliance.client().disk(FOLDED)?.points, took))
}

/// The disks.
struct Field {
    size_bytes: u64,
    one: Scattered,
    many: Scattered,
    folded: Scattered,
}

/// A disk, and where it is found.
struct Scattered {
    uri: String,
    /// Oldest first.
    points: Vec<String>,
}

impl Field {
    fn make(appliance: &Appliance, options: &Options) -> Result<Self> {
        let size_bytes = options.size_mib << 20;
        let order = shuffled(size_bytes / BLOCK);
        let disk = |name, points| scattered(appliance, name, &order, points);
        let [one, many, folded] = [disk(ONE, 1)?, disk(MANY, options.points)?, disk(FOLDED, options.points)?];
        Ok(Self { size_bytes, one, many, folded })
    }

    /// Measures a disk and the one with a single point in turn and prints how it compares.
    fn row(
        &self,
        appliance: &Appliance,
        name: &str,
        disk: &Scattered,
        rounds: u32,
        access: Access,
    ) -> Result<()> {
        let mut ratios = Vec::new();
        for round in 0..rounds {
            let measure = |disk: &Scattered| {
                appliance.settle()?;
                appliance.server()?.wait_until_idle()?;
                Ok::<_, anyhow::Error>(fio::run(&disk.uri, self.size_bytes, 1, access)?.iops)
            };
            let (many, one) = if round % 2 == 0 {
                let many = measure(disk)?;
                (many, measure(&self.one)?)
            } else {
                let one = measure(&self.one)?;
                (measure(disk)?, one)
            };
            ratios.push(many / one);
        }
        let (low, mid, high) = spread(ratios).context("no round")?;
        println!("| {name} | **{mid:.2}** ({low:.2}–{high:.2}) |");
        Ok(())
    }
}

/// Makes a disk whose blocks are written in this order, with so many points evenly over it.
fn scattered(appliance: &Appliance, name: &str, order: &[u64], points: u64) -> Result<Scattered> {
    let uri = appliance.create(name, order.len() as u64 * BLOCK)?.uri;
    let disk = nbd::Client::connect(&uri.parse()?, 1)?;
    let mut made = Vec::new();
    for epoch in order.chunks(order.len().div_ceil(points as usize)) {
        for &block in epoch {
            disk.write_at(ByteOffset::new(block * BLOCK), &[block as u8 | 1; BLOCK as usize])?;
        }
        made.push(appliance.snapshot(name)?.name);
    }
    Ok(Scattered { uri, points: made })
}

/// All blocks in an order that is the same in every run.
fn shuffled(blocks: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..blocks).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for place in (1..order.len()).rev() {
        // xorshift: good enough to scatter, and no dependency
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(place, (state % (place as u64 + 1)) as usize);
    }
    order
}

/// Descriptors of a process that lead into a folder of `disks`: the most of any disk.
fn descriptors(pid: u32, disks: &Path) -> Result<usize> {
    let mut count = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // one that was closed meanwhile leads nowhere
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        if let Some(disk) = target.strip_prefix(disks).ok().and_then(|path| path.components().next()) {
            *count.entry(disk.as_os_str().to_owned()).or_default() += 1;
        }
    }
    count.into_values().max().context("no disk is open")
}

/// What a process holds in memory.
struct Memory {
    /// That only its end gives back.
    alone_mib: f64,
    /// That the host can write out or drop.
    mapped_mib: f64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path)?;
        let kib = |name: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).context(path.clone())?;
            Ok(line.trim().trim_end_matches("kB").trim().parse()?)
        };
        let mapped = kib("RssFile:")? + kib("RssShmem:")?;
        Ok(Self { alone_mib: kib("RssAnon:")? / 1024.0, mapped_mib: mapped / 1024.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_in_the_order_once() {
        let mut order = shuffled(1000);
        assert!(order.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count() < 20, "hardly shuffled");
        order.sort_unstable();
        assert!(order.into_iter().eq(0..1000));
    }
}
