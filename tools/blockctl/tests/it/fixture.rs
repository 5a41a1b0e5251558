//! A daemon and a state of a test's own, and commands against them.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// The daemon's program: built beside ours.
pub fn blockd() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_blockctl")).with_file_name("blockd");
    assert!(path.is_file(), "{} is missing: build it with `cargo build -p blockd`", path.display());
    path
}

/// A daemon on temporary state.
pub struct Stage {
    pub dir: TempDir,
    child: Child,
}

impl Stage {
    pub fn set() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let child = start(&dir);
        Self { dir, child }
    }

    /// Another daemon on the same state, once the first has ended.
    pub fn start_again(&mut self) {
        self.child.wait().expect("its end");
        self.child = start(&self.dir);
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal");
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("a command")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blockctl"));
        command.env("BLOCKD_STATE", self.dir.path().join("state")).args(arguments).stdin(Stdio::null());
        command
    }

    /// What a command that must succeed prints.
    pub fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Its JSON answer.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.text(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// The exit code of a command that must fail, and what it says.
    pub fn failure(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn start(dir: &TempDir) -> Child {
    let mut child = Command::new(blockd())
        .arg("serve")
        .arg("--state")
        .arg(dir.path().join("state"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a daemon");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    child
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        assert!(self.child.wait().expect("its end").success());
    }
}

/// A file of bytes that look random, with a hole behind.
pub fn image(path: &str, bytes: usize, size: u64) {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as u8
    };
    fs::write(path, (0..bytes).map(|_| next()).collect::<Vec<u8>>()).expect("an image");
    fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(size)).expect("its size");
}
