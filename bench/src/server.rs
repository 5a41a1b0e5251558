//! The subjects: NBD servers started on a socket of ours and ended with us.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long a server may take to answer on its socket.
const START_LIMIT: Duration = Duration::from_secs(10);
const START_POLL: Duration = Duration::from_millis(20);
/// Two minutes of never resting that long.
const IDLE_TRIES: u32 = 100;
/// Longer than the second the daemon lets pass between two looks at what there is to do: the sums of a layer just sealed begin
/// within it, and read all of that.
const IDLE_POLL: Duration = Duration::from_millis(1200);
/// The unit of the CPU times in /proc; 100 on every Linux this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running server process.
pub struct Server {
    child: Child,
    uri: String,
}

impl Server {
    /// Starts a server that will listen on `socket` and serve `export` there.
    fn start(mut command: Command, socket: &Path, export: &str) -> Result<Server> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.with_context(|| format!("{name} cannot be started"))?;
        let uri = format!("nbd+unix:///{export}?socket={}", socket.display());
        let mut server = Server { child, uri };
        server.wait_until_listening(&name, socket)?;
        Ok(server)
    }

    /// nbdkit's file plugin on a raw file.
    ///
    /// # Errors
    /// nbdkit is missing or does not come up.
    pub fn nbdkit(dir: &Path, file: &Path) -> Result<Server> {
        let socket = dir.join("nbdkit.sock");
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(&socket).arg("file").arg(file);
        Server::start(command, &socket, "")
    }

    /// qemu-nbd on an image of `format`, with its fastest engine for host files.
    ///
    /// # Errors
    /// qemu-nbd is missing or does not come up.
    pub fn qemu(dir: &Path, file: &Path, format: &str) -> Result<Server> {
        let socket = dir.join(format!("qemu-{format}.sock"));
        let mut command = Command::new("qemu-nbd");
        command.args([
            "--persistent",
            "--shared=8",
            "--cache=writeback",
            "--aio=io_uring",
            "--discard=unmap",
        ]);
        command.arg(format!("--format={format}")).arg("--socket").arg(&socket).arg(file);
        Server::start(command, &socket, "")
    }

    /// Our [bare](crate::bare) server, on a file or on nothing.
    ///
    /// # Errors
    /// It does not come up.
    pub fn bare(dir: &Path, size_bytes: u64, file: Option<&Path>) -> Result<Server> {
        let socket = dir.join(if file.is_some() { "bare-file.sock" } else { "bare.sock" });
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bare-server").arg(format!("--size={size_bytes}")).arg("--socket").arg(&socket);
        if let Some(file) = file {
            command.arg("--file").arg(file);
        }
        Server::start(command, &socket, "")
    }

    /// The daemon on a state directory; `export` need not exist yet.
    ///
    /// # Errors
    /// blockd is missing or does not come up.
    pub fn blockd(program: &Path, state: &Path, export: &str) -> Result<Server> {
        let mut command = Command::new(program);
        command.arg("serve").arg("--state").arg(state).stderr(log(state)?);
        Server::start(command, &state.join("nbd.sock"), export)
    }

    /// Waits until it has used no CPU time for a while: what it does in the background, folds and checksums for instance,
    /// must not be in the next cell, whoever's cell it is.
    ///
    /// # Errors
    /// It is gone, or does not come to rest.
    pub fn wait_until_idle(&self) -> Result<()> {
        let mut before = self.cpu_s()?;
        for _ in 0..IDLE_TRIES {
            sleep(IDLE_POLL);
            let now = self.cpu_s()?;
            if now <= before {
                return Ok(());
            }
            before = now;
        }
        bail!("process {} does not come to rest", self.pid())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where the subject's export is found.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// CPU time the process has used so far, user and system, in seconds.
    ///
    /// # Errors
    /// The process is gone.
    pub fn cpu_s(&self) -> Result<f64> {
        let path = PathBuf::from(format!("/proc/{}/stat", self.child.id()));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        // the name in parentheses may hold spaces; times are the 12th and 13th field after it
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
        let (user, system) = ticks(11).zip(ticks(12)).with_context(|| path.display().to_string())?;
        Ok((user + system) / TICKS_PER_SECOND)
    }

    fn wait_until_listening(&mut self, name: &str, socket: &Path) -> Result<()> {
        let mut waited = Duration::ZERO;
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{name} ended before it listened: {status}");
            }
            if waited > START_LIMIT {
                bail!("{name} does not listen on {} after {START_LIMIT:?}", socket.display());
            }
            sleep(START_POLL);
            waited += START_POLL;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // the state is temporary: nothing to be gained from a clean stop, and nothing to do if it is gone already
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn log(state: &Path) -> Result<fs::File> {
    let path = state.with_extension("log");
    fs::File::create(&path).with_context(|| path.display().to_string())
}

/// Runs a program that must succeed and returns what it printed, trimmed.
///
/// # Errors
/// It cannot be started or fails; the error carries what it wrote.
pub fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{name} cannot be started"))?;
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
