//! How long writes are held up while a recovery point is taken, under a random-write load.
//!
//! Recovery points are taken one after another while fio writes 4 KiB blocks at random. The daemon says of each for how
//! long it blocked writes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::fio::{self, Access};
use crate::server::{self, Server};

const DISK: &str = "bench";

/// Options of the workload.
#[derive(clap::Args)]
pub struct Options {
    /// Recovery points to take
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    points: u32,
    /// GiB of the disk, which is sparse; the load writes to its first 256 MiB
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=16384))]
    size_gib: u64,
    /// Folder with blockd and blockctl
    #[arg(long, env = "BLOCKD_BIN_DIR", default_value = "target/release")]
    bin_dir: PathBuf,
    /// Folder on the filesystem to measure on
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
}

/// The load keeps to this much of the disk, so that the space used stays bounded.
const LOADED_BYTES: u64 = 256 << 20;

/// Measures and prints the table.
///
/// # Errors
/// A program is missing, the daemon does not come up, or the load ends before the points are taken.
pub fn run(options: &Options) -> Result<()> {
    let place = TempDir::with_prefix_in("blockd-bench-", &options.dir)?;
    let state = place.path().join("state");
    std::fs::create_dir(&state)?;
    let server = Server::blockd(&options.bin_dir.join("blockd"), &state, DISK)?;
    let control = Control { blockctl: options.bin_dir.join("blockctl"), state: &state };
    control.run(&["disk", "create", DISK, "--size", &format!("{}G", options.size_gib)])?;
    fio::run(server.uri(), LOADED_BYTES, 1, Access::Fill)?;

    let mut load = fio::background(server.uri(), LOADED_BYTES)?;
    let pauses: Result<Vec<f64>> = (0..options.points).map(|_| control.pause_us()).collect();
    let ended = load.try_wait()?;
    load.kill()?;
    load.wait()?;
    if let Some(status) = ended {
        bail!("fio ended before the points were taken: {status}");
    }
    print(options, pauses?);
    Ok(())
}

fn print(options: &Options, mut pauses: Vec<f64>) {
    pauses.sort_by(f64::total_cmp);
    let at = |percent: usize| pauses.get((pauses.len() - 1) * percent / 100).copied().unwrap_or_default();
    println!(
        "| disk | recovery points | writes held, median | 99th percentile | longest |\n|---|---|---|---|---|"
    );
    println!(
        "| {} GiB | {} | {:.0} µs | {:.0} µs | {:.0} µs |",
        options.size_gib,
        pauses.len(),
        at(50),
        at(99),
        at(100)
    );
}

struct Control<'a> {
    blockctl: PathBuf,
    state: &'a Path,
}

impl Control<'_> {
    fn run(&self, args: &[&str]) -> Result<String> {
        server::run(Command::new(&self.blockctl).arg("--state").arg(self.state).args(args))
    }

    /// Takes a recovery point, removes it again and says for how long writes were held, in microseconds.
    fn pause_us(&self) -> Result<f64> {
        let points: Value = serde_json::from_str(&self.run(&["snapshot", DISK, "--json"])?)?;
        let name = points[0]["name"].as_str().context("the new point has no name")?;
        self.run(&["point", "delete", name, "--yes"])?;
        Ok(points[0]["seal_ns"].as_f64().context("the new point has no seal_ns")? / 1000.0)
    }
}
