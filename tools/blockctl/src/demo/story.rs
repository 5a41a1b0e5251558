//! How the story looks: a line and a time for every step; or one JSON object at its end.

use crate::demo::daemon::Daemon;
use crate::failure::{Failure, Result};
use crate::output::{Output, now};
use control::Kind;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Columns of the text before the time.
const WIDTH: usize = 92;

/// How often a waiting story looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// A story under way.
pub struct Story<'a> {
    output: &'a Output,
    state: PathBuf,
    begun: Instant,
    interrupted: Arc<AtomicBool>,
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    step: String,
    duration_ms: f64,
}

#[derive(Serialize)]
struct Told<'a> {
    steps: &'a [Step],
    duration_ms: f64,
}

impl<'a> Story<'a> {
    /// Begins; from here on an interrupt ends the story after the step under way, and everything is cleaned up.
    pub fn begin(output: &'a Output, dir: &Path) -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, interrupted.clone())
                .map_err(|error| Failure::host("take signals", &error))?;
        }
        let state = dir.join("state");
        if !output.is_json() {
            output.print(&format!("blockd demo, in {}\n\n", dir.display()))?;
        }
        Ok(Self { output, state, begun: now(), interrupted, steps: Vec::new() })
    }

    /// Does one step and says what was done and how long it took.
    pub fn step<T>(&mut self, work: impl FnOnce(&Output) -> Result<(T, String)>) -> Result<T> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Failure::new(Kind::Cancelled, "interrupted"));
        }
        let start = now();
        let (value, text) = work(self.output)?;
        let took = start.elapsed();
        if !self.output.is_json() {
            self.output.print(&format!("  {text:WIDTH$}  {:>9}", show(took)))?;
        }
        self.steps.push(Step { step: text, duration_ms: took.as_secs_f64() * 1000.0 });
        Ok(value)
    }

    /// The end of the story.
    pub fn end(&self) -> Result<()> {
        let took = self.begun.elapsed();
        if !self.output.is_json() {
            return self.output.print(&format!("\n  {:WIDTH$}  {:>9}", "all of it", show(took)));
        }
        self.output
            .answer(&Told { steps: &self.steps, duration_ms: took.as_secs_f64() * 1000.0 }, |_| String::new())
    }

    /// What to try now.
    pub fn invite(&self, daemon: &Daemon, first: &super::Pair) -> Result<()> {
        let own = std::env::current_exe().map_err(|error| Failure::host("find this program", &error))?;
        let own = own.display();
        let (state, disk, old) = (self.state.display(), super::DISK, &first.vault.name);
        eprintln!(
            "\nblockd keeps serving (process {}). In another terminal:\n
  export BLOCKD_STATE={state} PATH=$PATH:{}
  blockctl status
  blockctl point list
  blockctl disk changes {disk} --since {}
  nbdinfo \"$(blockctl disk uri {disk})\"
  mkdir -p /tmp/old && blockctl mount {old} /tmp/old && ls /tmp/old/files/0 && blockctl umount /tmp/old
  blockctl backup {disk}
  blockctl vault check main\n
Ctrl-C ends it and removes everything.",
            daemon.pid(),
            own.to_string().rsplit_once('/').map_or(".", |(dir, _)| dir),
            first.instant.name,
        );
        Ok(())
    }

    /// Waits for an interrupt.
    pub fn wait(&self) -> Result<()> {
        while !self.interrupted.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

fn show(took: Duration) -> String {
    let ms = took.as_secs_f64() * 1000.0;
    if ms < 100.0 { format!("{ms:.1} ms") } else { format!("{:.2} s", ms / 1000.0) }
}
