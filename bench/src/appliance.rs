//! The daemon on temporary state, and what the workloads ask of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use control::{Client, CreateDisk, DeletePointQuery, Disk, Point};
use tempfile::TempDir;

use crate::server::{self, Server};

/// How long consolidation may take in any workload.
const FOLD_LIMIT: Duration = Duration::from_secs(600);
const FOLD_POLL: Duration = Duration::from_millis(10);

/// Where to find the programs and where to measure; the same for every workload of the daemon alone.
#[derive(clap::Args)]
pub struct Setting {
    /// Folder with blockd and blockctl
    #[arg(long, env = "BLOCKD_BIN_DIR", default_value = "target/release")]
    bin_dir: PathBuf,
    /// Folder on the filesystem to measure on
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
}

impl Setting {
    /// `blockctl` against a daemon.
    pub fn blockctl(&self, appliance: &Appliance) -> Command {
        let mut command = Command::new(self.bin_dir.join("blockctl"));
        command.arg("--state").arg(appliance.state());
        command
    }
}

/// A running daemon.
pub struct Appliance {
    program: PathBuf,
    client: Client,
    server: Option<Server>,
    // last, so that the daemon is gone before its state is
    place: TempDir,
}

impl Appliance {
    /// Starts the daemon of the setting on empty state.
    ///
    /// # Errors
    /// It is missing or does not come up.
    pub fn start(setting: &Setting) -> Result<Self> {
        Self::start_program(setting, &setting.bin_dir.join("blockd"))
    }

    /// Starts another build of the daemon.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_program(setting: &Setting, program: &Path) -> Result<Self> {
        let place = TempDir::with_prefix_in("blockd-bench-", &setting.dir)?;
        std::fs::create_dir(state(&place))?;
        let client = Client::new(state(&place).join("api.sock"))?;
        let mut appliance = Self { program: program.to_path_buf(), client, server: None, place };
        appliance.restart()?;
        Ok(appliance)
    }

    /// Kills the daemon, if it runs, and starts it again. How long that took until it answered about every disk.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart(&mut self) -> Result<Duration> {
        self.server = None;
        let began = now();
        self.server = Some(Server::blockd(&self.program, &state(&self.place), "")?);
        while self.client.disks().is_err() {
            if began.elapsed() > FOLD_LIMIT {
                bail!("{} does not answer", self.program.display());
            }
            sleep(Duration::from_millis(1));
        }
        Ok(began.elapsed())
    }

    /// Writes the daemon's configuration and starts it again with that.
    ///
    /// # Errors
    /// What the host reports; it does not come up.
    pub fn configure(&mut self, config: &str) -> Result<()> {
        std::fs::write(self.state().join("blockd.toml"), config)?;
        self.restart().map(drop)
    }

    /// The daemon's API.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The daemon's process.
    ///
    /// # Errors
    /// It did not come up again.
    pub fn server(&self) -> Result<&Server> {
        self.server.as_ref().context("the daemon did not come up again")
    }

    /// Its folder of disks.
    pub fn state(&self) -> PathBuf {
        state(&self.place)
    }

    /// The folder around its state, for what a workload makes beside it.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// Makes an empty disk.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn create(&self, name: &str, size_bytes: u64) -> Result<Disk> {
        Ok(self.client.create_disk(&CreateDisk {
            name: name.to_owned(),
            size: size_bytes,
            fill: false,
            base: None,
        })?)
    }

    /// Makes a recovery point.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn snapshot(&self, disk: &str) -> Result<Point> {
        self.client.snapshot(&[disk.to_owned()])?.pop().context("a snapshot without a point")
    }

    /// Deletes a recovery point.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn delete(&self, point: &str) -> Result<()> {
        self.client.delete_point(point, &DeletePointQuery::default()).map(drop).map_err(Into::into)
    }

    /// Waits until nothing of a disk is left to fold.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_until_folded(&self, disk: &str) -> Result<Duration> {
        let began = now();
        while self.client.disk(disk)?.consolidation.is_some() {
            if began.elapsed() > FOLD_LIMIT {
                bail!("disk {disk} is still folded after {FOLD_LIMIT:?}");
            }
            sleep(FOLD_POLL);
        }
        Ok(began.elapsed())
    }

    /// Brings everything written to the host's disk, so that the next cell does not pay for the last.
    ///
    /// # Errors
    /// sync fails.
    pub fn settle(&self) -> Result<()> {
        server::run(Command::new("sync").arg("--file-system").arg(self.place.path())).map(drop)
    }
}

fn state(place: &TempDir) -> PathBuf {
    place.path().join("state")
}

/// The moment something began.
#[expect(clippy::disallowed_methods, reason = "a workload times what it starts")]
pub fn now() -> Instant {
    Instant::now()
}
