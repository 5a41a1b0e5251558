//! A daemon of the demo's own.

use crate::failure::{Failure, Result};
use control::{Client, Kind};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running daemon; it is asked to stop when this is dropped.
pub struct Daemon {
    child: Child,
    client: Client,
    log: PathBuf,
}

impl Daemon {
    /// Starts the daemon that was built beside this program, else the one in PATH, and waits until it serves.
    pub fn start(state: &Path) -> Result<Self> {
        let log = state.with_extension("log");
        let failed = |error| Failure::host("start blockd", &error);
        let mut child = Command::new(program())
            .arg("serve")
            .arg("--state")
            .arg(state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).map_err(failed)?)
            // an interrupt at the terminal is ours to handle
            .process_group(0)
            .spawn()
            .map_err(|error| {
                failed(error).with_help(
                    "blockd is looked for beside blockctl and in PATH; build it with `cargo build`",
                )
            })?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line).map_err(failed)?;
        }
        let client = Client::new(state.join("api.sock"))?;
        let daemon = Self { child, client, log };
        if line.trim() == "ready" { Ok(daemon) } else { Err(daemon.failure("did not become ready")) }
    }

    /// Speaks to it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop and waits for its end.
    pub fn stop(mut self) -> Result<()> {
        let status = self.terminate().map_err(|error| Failure::host("stop blockd", &error))?;
        if status.success() { Ok(()) } else { Err(self.failure(&format!("ended with {status}"))) }
    }

    fn terminate(&mut self) -> std::io::Result<std::process::ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        self.child.wait()
    }

    fn failure(&self, what: &str) -> Failure {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = said
            .lines()
            .rfind(|line| line.starts_with("error: "))
            .or(said.lines().last())
            .unwrap_or("nothing");
        Failure::new(Kind::Io, format!("blockd {what}; it said: {last}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.terminate() {
            eprintln!("warning: blockd (process {}) still runs: {error}", self.child.id());
        }
    }
}

fn program() -> PathBuf {
    let sibling = std::env::current_exe().ok().map(|own| own.with_file_name("blockd"));
    sibling.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("blockd"))
}
