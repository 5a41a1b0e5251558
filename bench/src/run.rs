//! Running a recovery point: how soon a disk is there, how soon its first block, how fast random reads of a vault's point
//! are beside qemu-nbd on a compressed qcow2 of the same data, and hydration beside a plain restore.
//!
//! The data is what lies in the host's `/usr`, so that it compresses as data does. The disk is sparse and of 1 TiB.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use block::{BlockDevice, BlockSource, ByteOffset};
use control::{BackupRequest, DeletePointQuery, RestoreRequest, RunRequest, RunState, Tier};

use crate::appliance::{Appliance, Setting, now};
use crate::fio::{self, Access};
use crate::report::spread;
use crate::server::{self, Server};

/// Options of the workload.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each cell of random reads
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// MiB of data on the disk
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(64..))]
    size_mib: u64,
    /// GiB of the disk, which is sparse
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=16384))]
    disk_gib: u64,
    /// Runs that are started to see how long that takes
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Measure only these parts
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Starts, Part::FirstBlocks, Part::Reads, Part::Hydration])]
    only: Vec<Part>,
    /// Of random reads measure only these
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Cell::Run, Cell::Cold, Cell::Warm])]
    cells: Vec<Cell>,
    #[command(flatten)]
    setting: Setting,
}

/// A part of the workload.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Starts,
    FirstBlocks,
    Reads,
    Hydration,
}

/// What random reads are of.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Cell {
    /// A run, nothing decoded before, data larger than the cache
    Run,
    /// The point itself, nothing decoded before, data larger than the cache
    Cold,
    /// The point itself, working set in the cache
    Warm,
}

impl Cell {
    fn what(self) -> &'static str {
        match self {
            Self::Run => "a run, nothing decoded before, data larger than the cache",
            Self::Cold => "the point itself, nothing decoded before, data larger than the cache",
            Self::Warm => "the point itself, working set in the cache",
        }
    }
}

const DISK: &str = "big";
const STORED: &str = "big@1";
const INSTANT: &str = "big@2";
/// Memory for decoded chunks where the data is not to fit in it.
const SMALL_CACHE: u64 = 64 << 20;
const STEP: usize = 4 << 20;
const LIMIT: Duration = Duration::from_secs(600);

/// Measures and prints the tables.
///
/// # Errors
/// A program is missing, the daemon does not come up, or something fails.
pub fn run(options: &Options) -> Result<()> {
    let mut stage = Stage::new(options)?;
    options.only.iter().try_for_each(|part| match part {
        Part::Starts => stage.starts(),
        Part::FirstBlocks => stage.first_blocks(),
        Part::Reads => stage.random_reads(),
        Part::Hydration => stage.hydration(),
    })
}

struct Stage<'a> {
    options: &'a Options,
    appliance: Appliance,
    raw: PathBuf,
    qcow2: PathBuf,
    bytes: u64,
    names: u32,
}

impl<'a> Stage<'a> {
    /// The disk, with its data in a vault's point and in an instant one, and the same data as a qcow2.
    fn new(options: &'a Options) -> Result<Self> {
        let mut appliance = Appliance::start(&options.setting)?;
        let (raw, qcow2) =
            (appliance.state().with_extension("raw"), appliance.state().with_extension("qcow2"));
        let bytes = gather(&raw, options.size_mib << 20)?;
        appliance.configure(&format!("cache-bytes = {SMALL_CACHE}\n"))?;
        let uri = appliance.create(DISK, options.disk_gib << 30)?.uri;
        fill(&raw, &uri)?;
        let request = BackupRequest { item: DISK.to_owned(), ..BackupRequest::default() };
        let job = appliance.client().backup(&request)?;
        finished(&appliance, &job.id)?;
        appliance.snapshot(DISK)?;
        let instant = DeletePointQuery::from(Tier::Instant);
        appliance.client().delete_point(STORED, &instant)?;
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd"]);
        server::run(convert.arg(&raw).arg(&qcow2))?;
        println!("{} MiB of data on a disk of {} GiB\n", bytes >> 20, options.disk_gib);
        Ok(Self { options, appliance, raw, qcow2, bytes, names: 0 })
    }

    fn run(&mut self, point: &str, hydrate: bool) -> Result<String> {
        self.names += 1;
        let name = format!("run-{}", self.names);
        let request = RunRequest { point: point.to_owned(), name: name.clone(), hydrate };
        self.appliance.client().run(&request)?;
        Ok(name)
    }

    /// How long it takes until a disk runs.
    fn starts(&mut self) -> Result<()> {
        println!("| disk of {} GiB runs from | median | longest |\n|---|---|---|", self.options.disk_gib);
        for point in [INSTANT, STORED] {
            let mut took = Vec::new();
            for _ in 0..self.options.runs {
                self.appliance.server()?.wait_until_idle()?;
                let began = now();
                let name = self.run(point, false)?;
                took.push(ms(began));
                self.appliance.client().discard(&name)?;
            }
            let (_, middle, longest) = spread(took).context("no run")?;
            let tier = if point == INSTANT { "an instant point" } else { "a point in a vault" };
            println!("| {tier} | {middle:.1} ms | {longest:.1} ms |");
        }
        Ok(())
    }

    /// How long the first block takes that is read of a run, by a daemon that has just started and decoded nothing.
    fn first_blocks(&mut self) -> Result<()> {
        let mut took = Vec::new();
        for round in 0..self.options.runs {
            self.appliance.restart()?;
            let name = self.run(STORED, false)?;
            let uri = self.appliance.client().disk(&name)?.uri;
            let client = nbd::Client::connect(&uri.parse()?, 1)?;
            let at = self.bytes / u64::from(self.options.runs) * u64::from(round) / 4096 * 4096;
            let began = now();
            client.read_at(ByteOffset::new(at), &mut [0; 4096])?;
            took.push(ms(began));
            drop(client);
            self.delete(&name)?;
        }
        let (_, middle, longest) = spread(took).context("no run")?;
        println!("\nfirst block of a run from a vault: median {middle:.1} ms, longest {longest:.1} ms\n");
        Ok(())
    }

    /// A client that has just left may still count as connected for a moment.
    fn delete(&self, name: &str) -> Result<()> {
        let began = now();
        while let Err(error) = self.appliance.client().delete_disk(name) {
            if began.elapsed() > LIMIT {
                return Err(error.into());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Random reads of the vault's point beside qemu-nbd on the qcow2.
    fn random_reads(&mut self) -> Result<()> {
        println!(
            "| 4 KiB random reads, depth 32, of `qemu-nbd` on a zstd qcow2 | ratio | blockd | qemu-nbd |\n|---|---|---|---|"
        );
        for &cell in &self.options.cells {
            let span = if cell == Cell::Warm { SMALL_CACHE / 2 } else { self.bytes };
            let (mut ratios, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
            for round in 0..self.options.rounds {
                let mut pair = [0.0; 2];
                for turn in 0..2 {
                    let subject = (round as usize + turn) % 2;
                    pair[subject] =
                        if subject == 0 { self.ours(span, cell)? } else { self.theirs(span, cell)? };
                }
                ratios.push(pair[0] / pair[1]);
                ours.push(pair[0]);
                theirs.push(pair[1]);
            }
            let (low, middle, high) = spread(ratios).context("no round")?;
            let of = |values| spread(values).map_or(0.0, |(_, middle, _)| middle);
            println!(
                "| {} | **{middle:.2}** ({low:.2}–{high:.2}) | {:.0}/s | {:.0}/s |",
                cell.what(),
                of(ours),
                of(theirs)
            );
        }
        Ok(())
    }

    fn ours(&mut self, span: u64, cell: Cell) -> Result<f64> {
        self.appliance.restart()?;
        if cell != Cell::Run {
            let uri = self.appliance.client().point(STORED)?.uri;
            return self.cell(&uri, span, cell);
        }
        let name = self.run(STORED, true)?;
        let uri = self.appliance.client().disk(&name)?.uri;
        let measured = self.cell(&uri, span, cell)?;
        self.delete(&name)?;
        Ok(measured)
    }

    fn theirs(&self, span: u64, cell: Cell) -> Result<f64> {
        let dir = self.raw.parent().context("a folder")?;
        let server = Server::qemu(dir, &self.qcow2, "qcow2")?;
        self.cell(server.uri(), span, cell)
    }

    fn cell(&self, uri: &str, span: u64, cell: Cell) -> Result<f64> {
        if cell == Cell::Warm {
            fio::run(uri, span, 1, Access { again: false, seconds: None, ..Access::read_in_order(1) })?;
        }
        Ok(fio::run(uri, span, 1, Access::read(self.options.seconds))?.iops)
    }

    /// A run that is promoted at once beside a restore of the same point.
    fn hydration(&mut self) -> Result<()> {
        let (mut ratios, mut hydrated, mut restored) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.options.rounds {
            let mut pair = [0.0; 2];
            for turn in 0..2 {
                self.appliance.restart()?;
                self.appliance.settle()?;
                let began = now();
                let subject = (round as usize + turn) % 2;
                let name = if subject == 0 { self.hydrate()? } else { self.restore()? };
                pair[subject] = (self.bytes >> 20) as f64 / began.elapsed().as_secs_f64();
                self.appliance.client().delete_disk(&name)?;
            }
            ratios.push(pair[0] / pair[1]);
            hydrated.push(pair[0]);
            restored.push(pair[1]);
        }
        let (low, middle, high) = spread(ratios).context("no round")?;
        let of = |values| spread(values).map_or(0.0, |(_, middle, _)| middle);
        println!(
            "\nhydration until independent, of a restore of the same point: **{middle:.2}** ({low:.2}–{high:.2}); {:.0} MiB/s and {:.0} MiB/s",
            of(hydrated),
            of(restored)
        );
        Ok(())
    }

    fn hydrate(&mut self) -> Result<String> {
        let (name, began) = (self.run(STORED, true)?, now());
        let client = self.appliance.client();
        client.promote(&name).map(drop).or_else(|error| match client.run_status(&name)?.state {
            RunState::Independent => Ok(()),
            _ => Err(error),
        })?;
        while client.run_status(&name)?.state != RunState::Independent {
            if began.elapsed() > LIMIT {
                bail!("{name} is not independent after {LIMIT:?}");
            }
            sleep(Duration::from_millis(5));
        }
        Ok(name)
    }

    fn restore(&mut self) -> Result<String> {
        self.names += 1;
        let name = format!("restored-{}", self.names);
        let request = RestoreRequest { point: STORED.to_owned(), to: name.clone(), ..Default::default() };
        let job = self.appliance.client().restore(&request)?;
        finished(&self.appliance, &job.id)?;
        Ok(name)
    }
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}

fn finished(appliance: &Appliance, id: &str) -> Result<()> {
    let job = appliance.client().follow(id, &mut |_| {})?;
    match job.error {
        None => Ok(()),
        Some(error) => bail!("{}", error.message),
    }
}

/// The host's files in `/usr`, one after the other, until there are enough.
fn gather(raw: &Path, bytes: u64) -> Result<u64> {
    let mut to = File::create(raw).with_context(|| raw.display().to_string())?;
    let (mut left, mut dirs) = (bytes, vec![PathBuf::from("/usr")]);
    while let Some(dir) = dirs.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(&dir)?.collect::<std::io::Result<_>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let kind = entry.file_type()?;
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() && left > 0 {
                left -= std::io::copy(&mut File::open(entry.path())?.take(left), &mut to)?;
            }
        }
    }
    // whole blocks
    let written = (bytes - left) / 4096 * 4096;
    to.set_len(written)?;
    to.flush()?;
    Ok(written)
}

fn fill(raw: &Path, uri: &str) -> Result<()> {
    let client = nbd::Client::connect(&uri.parse()?, 1)?;
    let (mut file, mut buf, mut at) = (File::open(raw)?, vec![0; STEP], 0);
    loop {
        let count = file.read(&mut buf)?;
        if count == 0 {
            return Ok(client.flush()?);
        }
        client.write_at(ByteOffset::new(at), &buf[..count])?;
        at += count as u64;
    }
}
