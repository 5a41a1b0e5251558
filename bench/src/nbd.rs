//! An NBD server beside its peers: random and sequential, deep and one at a time, flushed and not, cached and not.
//!
//! Every subject serves a disk of the same size, filled with incompressible data, from the same filesystem. blockd
//! tracks changes throughout. `first write` is a pass over blocks right after a recovery point (blockd), on a fresh
//! overlay (qcow2), or on a fresh sparse file (the raw servers): the price of the first touch. `write` is to
//! blocks touched before. `no data path` and `bare file` are no peers but what the client and the file system allow any
//! server: one that answers without looking, and one that makes one call a request to a sparse file and nothing else. The cells without a cache drop the host's cache first; beside the servers fio then reads
//! blockd's own file by io_uring, which is what the disk gives.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::fio::{self, Access};
use crate::report::{Report, Sample};
use crate::server::{self, Server};

const FOLD_POLL: std::time::Duration = std::time::Duration::from_millis(50);
const DISK: &str = "bench";
const BLOCKD: &str = "blockd";
const NBDKIT: &str = "nbdkit file";
const QEMU_RAW: &str = "qemu-nbd raw";
const QEMU_QCOW2: &str = "qemu-nbd qcow2";
const DIRECT: &str = "fio io_uring on blockd's file";
const NO_DATA: &str = "no data path";
const BARE_FILE: &str = "bare file";
const SUBJECTS: [&str; 7] = [BLOCKD, NBDKIT, QEMU_RAW, QEMU_QCOW2, BARE_FILE, NO_DATA, DIRECT];

/// What a cell needs before it begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing: blocks were touched, and the host has them in memory.
    Nothing,
    /// No block was touched since a point, or ever.
    Untouched,
    /// The host has nothing in memory.
    Uncached,
}

/// What is measured of every subject.
struct Cell {
    name: &'static str,
    connections: u32,
    before: Before,
    access: Access,
}

/// The cells, in their order; a first write comes before the write it is the first of.
fn cells(seconds: u32) -> Vec<Cell> {
    use Before::{Nothing, Uncached, Untouched};
    let cell = |name, rw, block_bytes, depth, connections, before, flushes| {
        // a pass over blocks nobody touched ends when all are touched, and cannot go on
        let seconds = if before != Untouched || flushes { Some(seconds) } else { None };
        Cell {
            name,
            connections,
            before,
            // what is read a second time without a cache comes from the cache
            access: Access { rw, block_bytes, depth, flushes, seconds, again: before == Nothing },
        }
    };
    const K4: u32 = 4 << 10;
    const K128: u32 = 128 << 10;
    vec![
        cell("4k read, depth 32", "randread", K4, 32, 1, Nothing, false),
        cell("4k first write, depth 32", "randwrite", K4, 32, 1, Untouched, false),
        cell("4k write, depth 32", "randwrite", K4, 32, 1, Nothing, false),
        cell("4k read, depth 32, 2 connections", "randread", K4, 32, 2, Nothing, false),
        cell("4k first write, depth 32, 2 connections", "randwrite", K4, 32, 2, Untouched, false),
        cell("4k write, depth 32, 2 connections", "randwrite", K4, 32, 2, Nothing, false),
        cell("4k read, depth 1", "randread", K4, 1, 1, Nothing, false),
        cell("128k sequential read, depth 8", "read", K128, 8, 1, Nothing, false),
        cell("128k sequential write, depth 8", "write", K128, 8, 1, Nothing, false),
        cell("4k first write and flush", "randwrite", K4, 1, 1, Untouched, true),
        cell("4k write and flush", "randwrite", K4, 1, 1, Nothing, true),
        cell("4k read uncached, depth 32", "randread", K4, 32, 1, Uncached, false),
    ]
}

/// Options of the workload.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds; the median over them is reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds a read cell lasts
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// MiB of each disk
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(16..))]
    size_mib: u64,
    /// Folder with blockd and blockctl
    #[arg(long, env = "BLOCKD_BIN_DIR", default_value = "target/release")]
    bin_dir: PathBuf,
    /// Folder on the filesystem to measure on
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Only cells whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Also write every sample to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Measures and prints the tables.
///
/// # Errors
/// A program is missing, a server does not come up, or a cell fails.
pub fn run(options: &Options) -> Result<()> {
    let place = TempDir::with_prefix_in("blockd-bench-", &options.dir)?;
    let mut field = Field::start(options, place.path())?;
    let mut report = Report { facts: facts(options)?, samples: Vec::new() };
    for round in 0..options.rounds {
        for cell in cells(options.seconds).iter().filter(|cell| cell.name.contains(&options.only)) {
            measure(&mut field, round, cell, &mut report)?;
        }
    }
    println!("{}", report.markdown(BLOCKD, &[BARE_FILE, NO_DATA]));
    if let Some(path) = &options.json {
        std::fs::write(path, format!("{:#}\n", report.json())).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// One cell of one round: all subjects, before the next cell begins.
fn measure(field: &mut Field, round: u32, cell: &Cell, report: &mut Report) -> Result<()> {
    let mut order = SUBJECTS;
    if round % 2 == 1 {
        order.reverse();
    }
    for subject in order {
        if !takes_part(subject, cell) {
            continue;
        }
        field.prepare(subject, cell)?;
        eprintln!("round {round}: {}: {subject}", cell.name);
        report.samples.push(field.cell(subject, round, cell)?);
    }
    Ok(())
}

/// The file itself is read where the cache is empty; servers that do less than a server must are asked nothing that waits
/// for the disk, which they would do in the worst way.
fn takes_part(subject: &str, cell: &Cell) -> bool {
    match subject {
        DIRECT => cell.before == Before::Uncached,
        NO_DATA | BARE_FILE => cell.before != Before::Uncached && !cell.access.flushes,
        _ => true,
    }
}

fn facts(options: &Options) -> Result<Vec<(&'static str, String)>> {
    let kernel = server::run(Command::new("uname").arg("-r"))?;
    let filesystem = server::run(Command::new("stat").args(["-f", "-c", "%T"]).arg(&options.dir))?;
    let cores = std::thread::available_parallelism()?;
    Ok(vec![
        ("machine", format!("{cores} cores, Linux {kernel}, {filesystem}, client on the same cores")),
        ("disk", format!("{} MiB, unix socket, structured replies", options.size_mib)),
        ("rounds", format!("{}; median, lowest and highest in parentheses", options.rounds)),
    ])
}

/// All subjects, running.
struct Field {
    dir: PathBuf,
    size_bytes: u64,
    blockctl: PathBuf,
    state: PathBuf,
    blockd: Server,
    nbdkit: Server,
    raw: Server,
    bare: Server,
    no_data: Server,
    /// Absent only while its overlay is replaced.
    qcow2: Option<Server>,
    /// blockd's newest recovery point.
    point: Option<String>,
    /// Whether it has come to rest after that point was made.
    is_settled: bool,
}

impl Field {
    fn start(options: &Options, dir: &Path) -> Result<Field> {
        let size_bytes = options.size_mib << 20;
        let file = |name| dir.join(name);
        let (kit_file, raw_file, base_file, bare_file) =
            (file("kit.raw"), file("qemu.raw"), file("base.raw"), file("bare.raw"));
        for file in [&kit_file, &raw_file, &base_file, &bare_file] {
            std::fs::File::create(file)?.set_len(size_bytes)?;
        }
        fill(&Server::qemu(dir, &base_file, "raw")?, size_bytes)?;
        let state = dir.join("state");
        std::fs::create_dir(&state)?;
        let mut field = Field {
            dir: dir.to_path_buf(),
            size_bytes,
            blockctl: options.bin_dir.join("blockctl"),
            blockd: Server::blockd(&options.bin_dir.join("blockd"), &state, DISK)?,
            state,
            nbdkit: Server::nbdkit(dir, &kit_file)?,
            raw: Server::qemu(dir, &raw_file, "raw")?,
            bare: Server::bare(dir, size_bytes, Some(&bare_file))?,
            no_data: Server::bare(dir, size_bytes, None)?,
            qcow2: Some(overlay(dir)?),
            point: None,
            is_settled: false,
        };
        field.blockctl(&["disk", "create", DISK, "--size", &format!("{}M", options.size_mib)])?;
        for server in [&field.blockd, &field.nbdkit, &field.raw, &field.bare] {
            fill(server, size_bytes)?;
        }
        field.make_untouched(BLOCKD)?;
        fill(&field.blockd, size_bytes)?;
        Ok(field)
    }

    fn server(&self, subject: &str) -> Result<&Server> {
        match subject {
            BLOCKD => Ok(&self.blockd),
            NBDKIT => Ok(&self.nbdkit),
            QEMU_RAW => Ok(&self.raw),
            BARE_FILE => Ok(&self.bare),
            NO_DATA => Ok(&self.no_data),
            _ => self.qcow2.as_ref().context("qemu-nbd did not come up again"),
        }
    }

    /// Brings a subject and the host into the state a cell begins in.
    fn prepare(&mut self, subject: &str, cell: &Cell) -> Result<()> {
        if cell.before == Before::Untouched {
            self.make_untouched(subject)?;
        }
        if !std::mem::replace(&mut self.is_settled, true) {
            // a point that was deleted to bound the space is no part of what is measured, nor are the new one's sums
            while !self.is_folded()? {
                std::thread::sleep(FOLD_POLL);
            }
            self.blockd.wait_until_idle()?;
        }
        server::run(Command::new("sync").arg("--file-system").arg(&self.dir))?;
        if cell.before == Before::Uncached {
            std::fs::write("/proc/sys/vm/drop_caches", "3")
                .context("dropping the host's cache needs root")?;
        }
        if cell.before == Before::Nothing && cell.access.rw == "randwrite" && cell.access.flushes {
            // the pass before it was cut short by its time: touch what is left
            fill(self.server(subject)?, self.size_bytes)?;
            server::run(Command::new("sync").arg("--file-system").arg(&self.dir))?;
        }
        Ok(())
    }

    /// Lets writes that follow be the first ones: after a point, on a fresh overlay, or on a fresh sparse file.
    fn make_untouched(&mut self, subject: &str) -> Result<()> {
        match subject {
            BLOCKD => {
                let before = self.point.take();
                self.is_settled = false;
                self.point = Some(self.blockctl(&["snapshot", DISK])?);
                // one point is kept, so that the space used stays bounded over many rounds
                before.map_or(Ok(()), |point| self.blockctl(&["point", "delete", &point, "--yes"]).map(drop))
            }
            QEMU_QCOW2 => {
                drop(self.qcow2.take());
                self.qcow2 = Some(overlay(&self.dir)?);
                Ok(())
            }
            NBDKIT => empty(&self.dir.join("kit.raw"), self.size_bytes),
            QEMU_RAW => empty(&self.dir.join("qemu.raw"), self.size_bytes),
            BARE_FILE => empty(&self.dir.join("bare.raw"), self.size_bytes),
            _ => Ok(()),
        }
    }

    fn cell(&self, subject: &'static str, round: u32, cell: &Cell) -> Result<Sample> {
        let name = cell.name.to_owned();
        if subject == DIRECT {
            let measured = fio::run_on_file(&self.largest_layer()?, cell.access)?;
            return Ok(sample(round, name, subject, &measured, 0.0));
        }
        let server = self.server(subject)?;
        let before = server.cpu_s()?;
        let measured = fio::run(server.uri(), self.size_bytes, cell.connections, cell.access)?;
        let cpu_us = (server.cpu_s()? - before) * 1e6 / measured.requests;
        Ok(sample(round, name, subject, &measured, cpu_us))
    }

    /// blockd's file with the most data: after a pass over the disk, all of it.
    fn largest_layer(&self) -> Result<PathBuf> {
        let mut largest = (0, None);
        for disk in std::fs::read_dir(self.state.join("disks"))?.collect::<Result<Vec<_>, _>>()? {
            if !disk.file_type()?.is_dir() {
                continue;
            }
            for file in std::fs::read_dir(disk.path())? {
                let file = file?;
                let allocated = std::os::unix::fs::MetadataExt::blocks(&file.metadata()?);
                if allocated > largest.0 {
                    largest = (allocated, Some(file.path()));
                }
            }
        }
        largest.1.context("blockd has no layer")
    }

    fn is_folded(&self) -> Result<bool> {
        let shown: serde_json::Value =
            serde_json::from_str(&self.blockctl(&["disk", "show", DISK, "--json"])?)?;
        Ok(shown.get("consolidation").is_none_or(serde_json::Value::is_null))
    }

    fn blockctl(&self, args: &[&str]) -> Result<String> {
        let text = server::run(Command::new(&self.blockctl).arg("--state").arg(&self.state).args(args))?;
        if args[0] == "snapshot" && !text.starts_with(DISK) {
            bail!("blockctl snapshot printed {text:?}, not the name of a point");
        }
        Ok(text)
    }
}

fn sample(round: u32, cell: String, subject: &'static str, measured: &fio::Measured, cpu_us: f64) -> Sample {
    let &fio::Measured { iops, p99_us, client_us, .. } = measured;
    Sample { round, cell, subject, iops, p99_us, cpu_us, client_us }
}

fn fill(server: &Server, size_bytes: u64) -> Result<()> {
    fio::run(server.uri(), size_bytes, 1, fio::FILL).map(drop)
}

/// Makes a file of a running server sparse again; what it serves stays as long.
fn empty(file: &Path, size_bytes: u64) -> Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(file)?;
    file.set_len(0)?;
    Ok(file.set_len(size_bytes)?)
}

/// Serves a fresh qcow2 overlay over the filled raw base; no server may have the old one open.
fn overlay(dir: &Path) -> Result<Server> {
    let (base, file) = (dir.join("base.raw"), dir.join("overlay.qcow2"));
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(base).arg(&file);
    server::run(&mut create)?;
    Server::qemu(dir, &file, "qcow2")
}
