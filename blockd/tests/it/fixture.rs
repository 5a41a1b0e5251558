//! A daemon of a test's own.

use block::{BlockDevice, BlockSource, ByteOffset};
use control::{BackupRequest, Client, CreateDisk, Error, Job, JobState, Kind, RestoreRequest};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use tempfile::TempDir;

/// A state directory that leaves nothing behind, also not in shared memory.
pub struct State {
    dir: PathBuf,
    _made: Option<TempDir>,
}

impl State {
    pub fn new() -> Self {
        let made = tempfile::tempdir().expect("a temporary directory");
        Self { dir: made.path().to_owned(), _made: Some(made) }
    }

    /// One in a directory of the test's own.
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), _made: None }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn start(&self) -> Daemon {
        Daemon::start(&self.path())
    }

    /// Makes the vault `main` one in which deleting is final at once, from the next start on.
    pub fn make_lab(&self) {
        let path = self.file("vaults/main.vault");
        let text = fs::read_to_string(&path).expect("a vault's file");
        fs::write(path, text + "soft-delete-days = 0\n").expect("written");
    }

    /// The files below a directory of the state, by path.
    pub fn files(&self, below: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut dirs = vec![self.file(below)];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() { dirs.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    }
}

impl State {
    /// The directories of live maps in shared memory; at most one while nobody copies states.
    pub fn volatile(&self) -> Vec<PathBuf> {
        Self::volatile_of(&self.path())
    }

    /// The same for a state directory of another place.
    pub fn volatile_of(state: &Path) -> Vec<PathBuf> {
        let text = fs::read_to_string(state.join("state")).unwrap_or_default();
        let Some(id) = text.split('"').find(|part| part.len() == 32) else { return Vec::new() };
        let entries = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
        let ours =
            entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("blockd-{id}")));
        ours.map(|entry| entry.path()).collect()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for dir in self.volatile() {
            fs::remove_dir_all(dir).expect("live maps of the test");
        }
    }
}

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    child: Child,
    client: Client,
    log: PathBuf,
    lock: PathBuf,
}

impl Daemon {
    pub fn start(state: &Path) -> Self {
        Self::start_with(state, &[] as &[&str]).expect("the daemon becomes ready")
    }

    /// Starts it; the end of its log if it does not become ready.
    pub fn start_with(state: &Path, more: &[impl AsRef<OsStr>]) -> Result<Self, String> {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_blockd")), state, more)
    }

    /// Starts it by way of another program whose arguments are complete but for the daemon's.
    pub fn start_under(mut program: Command, state: &Path) -> Result<Self, String> {
        program.arg(env!("CARGO_BIN_EXE_blockd"));
        Self::spawn(program, state, &[] as &[&str])
    }

    fn spawn(mut program: Command, state: &Path, more: &[impl AsRef<OsStr>]) -> Result<Self, String> {
        let log = state.with_extension("log");
        let mut child = program
            .args(["serve", "--state"])
            .arg(state)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).expect("a log"))
            .process_group(0)
            .spawn()
            .expect("a process");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        let client = Client::new(state.join("api.sock")).expect("a client");
        let daemon = Self { child, client, log, lock: state.join("lock") };
        if line == "ready\n" { Ok(daemon) } else { Err(daemon.log()) }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn create(&self, name: &str, size: u64) {
        self.client
            .create_disk(&CreateDisk { name: name.to_owned(), size, fill: false, base: None })
            .expect("a disk");
    }

    pub fn snapshot(&self, name: &str) -> String {
        self.client.snapshot(&[name.to_owned()]).expect("a point").remove(0).name
    }

    pub fn export(&self, name: &str) -> nbd::Client {
        self.try_export(name).unwrap_or_else(|error| panic!("export {name}: {error}\n{}", self.log()))
    }

    pub fn try_export(&self, name: &str) -> Result<nbd::Client, nbd::Error> {
        let socket = self.client.socket().with_file_name("nbd.sock");
        nbd::Client::connect(&nbd::Uri::unix(socket, name), 1)
    }

    pub fn write(&self, name: &str, offset: u64, bytes: &[u8]) {
        self.export(name).write_at(ByteOffset::new(offset), bytes).expect("a write");
    }

    /// Everything an export holds.
    pub fn read(&self, name: &str) -> Vec<u8> {
        let export = self.export(name);
        let mut bytes = vec![0; export.size().get() as usize];
        export.read_at(ByteOffset::ZERO, &mut bytes).unwrap_or_else(|error| panic!("read {name}: {error}"));
        bytes
    }

    pub fn backup(&self, name: &str) -> Job {
        let request = BackupRequest { item: name.to_owned(), ..BackupRequest::default() };
        let job = self.client.backup(&request).expect("a job");
        self.finished(&job)
    }

    /// Waits for something that comes by itself, at most half a minute.
    pub fn eventually(&self, what: &str, mut is_so: impl FnMut(&Client) -> bool) {
        for _ in 0..600 {
            if is_so(&self.client) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{what}\n{}", self.log());
    }

    pub fn restore(&self, point: &str, to: &str) -> Job {
        let request =
            RestoreRequest { point: point.to_owned(), to: to.to_owned(), ..RestoreRequest::default() };
        let job = self.client.restore(&request).expect("a job");
        self.finished(&job)
    }

    pub fn finished(&self, job: &Job) -> Job {
        self.client.follow(&job.id, &mut |_| {}).expect("its end")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal");
    }

    /// SIGTERM, and the clean end.
    pub fn stop(mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("a signal");
        self.child.wait().expect("its end")
    }

    /// SIGKILL, to it and whatever it runs under.
    pub fn kill(self) {
        drop(self);
    }

    /// Waits until it ended by itself or somebody killed it.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_some()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // a group whose processes are gone already is what is wanted
        let _gone = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.child.wait().expect("its end");
        // a daemon under another program is not our child: its end is when its lock is free
        if let Ok(lock) = fs::File::open(&self.lock) {
            flock(&lock, FlockOperation::LockExclusive).expect("a lock");
        }
    }
}

/// Runs `blockd serve` to its end, which must come by itself.
pub fn refused(state: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blockd"));
    command.args(["serve", "--state"]).arg(state).args(more);
    command.output().expect("a process")
}

/// The kind and message of a request that must fail.
pub fn failure<T: std::fmt::Debug>(result: Result<T, Error>) -> (Kind, String) {
    let error = result.expect_err("must fail");
    (error.kind(), error.to_string())
}

/// The kind and message of a job that must fail.
pub fn job_failure(job: &Job) -> (Kind, String) {
    assert_eq!(job.state, JobState::Failed, "{job:?}");
    let error = job.error.clone().expect("a reason");
    (error.kind, error.message)
}

/// Numbers that look random and are the same for the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_le_bytes()[..piece.len()]);
        }
    }
}

/// Bytes that look random.
pub fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    Dice::new(seed).fill(&mut bytes);
    bytes
}
