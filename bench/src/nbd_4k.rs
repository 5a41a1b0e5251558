//! 4 KiB random reads and writes over NBD at queue depth 32, one and two connections.
//!
//! Every subject serves a disk of the same size, filled with incompressible data, from the same filesystem. blockd
//! tracks changes throughout. `first write` is a pass over every block right after a recovery point (blockd) or on
//! a fresh overlay (qcow2): the price of keeping the old content. The raw servers keep nothing, theirs is a plain
//! pass. `write again` is the same pass once more.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::fio::{self, Access};
use crate::report::{Report, Sample};
use crate::server::{self, Server};

const DISK: &str = "bench";
const BLOCKD: &str = "blockd";
const NBDKIT: &str = "nbdkit file";
const QEMU_RAW: &str = "qemu-nbd raw";
const QEMU_QCOW2: &str = "qemu-nbd qcow2";
const SUBJECTS: [&str; 4] = [BLOCKD, NBDKIT, QEMU_RAW, QEMU_QCOW2];
const CONNECTIONS: [u32; 2] = [1, 2];

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
        for connections in CONNECTIONS {
            measure(&mut field, options, round, connections, &mut report)?;
        }
    }
    println!("{}", report.markdown(BLOCKD));
    if let Some(path) = &options.json {
        std::fs::write(path, format!("{:#}\n", report.json())).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// One round at one number of connections: each cell goes through all subjects before the next cell begins.
fn measure(
    field: &mut Field,
    options: &Options,
    round: u32,
    connections: u32,
    report: &mut Report,
) -> Result<()> {
    let read = Access::Read { seconds: options.seconds };
    let write = Access::WriteEachBlockOnce;
    for (cell, access) in [("read", read), ("first write", write), ("write again", write)] {
        let mut order = SUBJECTS;
        if round % 2 == 1 {
            order.reverse();
        }
        for subject in order {
            if cell == "first write" {
                field.keep_content(subject)?;
            }
            server::run(Command::new("sync").arg("--file-system").arg(&field.dir))?;
            let label =
                format!("{cell}, {connections} connection{}", if connections == 1 { "" } else { "s" });
            eprintln!("round {round}: {label}: {subject}");
            report.samples.push(field.cell(subject, round, label, connections, access)?);
        }
    }
    Ok(())
}

fn facts(options: &Options) -> Result<Vec<(&'static str, String)>> {
    let kernel = server::run(Command::new("uname").arg("-r"))?;
    let filesystem = server::run(Command::new("stat").args(["-f", "-c", "%T"]).arg(&options.dir))?;
    let cores = std::thread::available_parallelism()?;
    Ok(vec![
        ("machine", format!("{cores} cores, Linux {kernel}, {filesystem}, client on the same cores")),
        ("disk", format!("{} MiB, page-cached, queue depth 32, unix socket", options.size_mib)),
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
    /// Absent only while its overlay is replaced.
    qcow2: Option<Server>,
    /// blockd's newest recovery point.
    point: Option<String>,
}

impl Field {
    fn start(options: &Options, dir: &Path) -> Result<Field> {
        let size_bytes = options.size_mib << 20;
        let (kit_file, raw_file, base_file) =
            (dir.join("kit.raw"), dir.join("qemu.raw"), dir.join("base.raw"));
        for file in [&kit_file, &raw_file, &base_file] {
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
            qcow2: Some(overlay(dir)?),
            point: None,
        };
        field.blockctl(&["disk", "create", DISK, "--size", &format!("{}M", options.size_mib)])?;
        for server in [&field.blockd, &field.nbdkit, &field.raw] {
            fill(server, size_bytes)?;
        }
        field.keep_content(BLOCKD)?;
        Ok(field)
    }

    fn server(&self, subject: &str) -> Result<&Server> {
        match subject {
            BLOCKD => Ok(&self.blockd),
            NBDKIT => Ok(&self.nbdkit),
            QEMU_RAW => Ok(&self.raw),
            _ => self.qcow2.as_ref().context("qemu-nbd did not come up again"),
        }
    }

    /// Lets a subject that can keep what it holds now: writes that follow are first writes.
    fn keep_content(&mut self, subject: &str) -> Result<()> {
        match subject {
            BLOCKD => {
                let before = self.point.take();
                self.point = Some(self.blockctl(&["snapshot", DISK])?);
                // one point is kept, so that the space used stays bounded over many rounds
                before.map_or(Ok(()), |point| self.blockctl(&["point", "delete", &point, "--yes"]).map(drop))
            }
            QEMU_QCOW2 => {
                drop(self.qcow2.take());
                self.qcow2 = Some(overlay(&self.dir)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn cell(
        &self,
        subject: &'static str,
        round: u32,
        cell: String,
        connections: u32,
        access: Access,
    ) -> Result<Sample> {
        let server = self.server(subject)?;
        let before = server.cpu_s()?;
        let measured = fio::run(server.uri(), self.size_bytes, connections, access)?;
        let cpu_us = (server.cpu_s()? - before) * 1e6 / measured.requests;
        Ok(Sample { round, cell, subject, iops: measured.iops, p99_us: measured.p99_us, cpu_us })
    }

    fn blockctl(&self, args: &[&str]) -> Result<String> {
        let text = server::run(Command::new(&self.blockctl).arg("--state").arg(&self.state).args(args))?;
        if args[0] == "snapshot" && !text.starts_with(DISK) {
            bail!("blockctl snapshot printed {text:?}, not the name of a point");
        }
        Ok(text)
    }
}

fn fill(server: &Server, size_bytes: u64) -> Result<()> {
    fio::run(server.uri(), size_bytes, 1, Access::Fill).map(drop)
}

/// Serves a fresh qcow2 overlay over the filled raw base; no server may have the old one open.
fn overlay(dir: &Path) -> Result<Server> {
    let (base, file) = (dir.join("base.raw"), dir.join("overlay.qcow2"));
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(base).arg(&file);
    server::run(&mut create)?;
    Server::qemu(dir, &file, "qcow2")
}
