//! Every check in one run, cheap ones first. A failed check does not hide what the others find.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::command::{program, run as run_program};
use crate::{arrows, checks, deny, docs, fuzz, packages, servers, sources};

/// A hang is a failure: the tests are ended after this long.
const TEST_LIMIT_MINUTES: u32 = 50;

type Check = (&'static str, fn() -> Result<()>);

const CHECKS: &[Check] = &[
    ("format", checks::format),
    ("prose", docs::check),
    ("arrows", arrows::check),
    ("packages", || packages::ensure(packages::TEST)),
    ("servers", servers::ensure),
    ("sources", || sources::ensure(sources::TEST)),
    ("deny", deny::check),
    ("lints", checks::lints),
    ("api docs", checks::api_docs),
    ("fuzz folders", fuzz::check),
    ("tests", tests),
];

/// Runs every check and ends with a table of outcomes and times.
///
/// # Errors
/// Names the checks that failed.
pub fn run() -> Result<()> {
    let outcomes: Vec<_> = CHECKS.iter().map(|(name, check)| (*name, timed(name, *check))).collect();
    eprintln!("\n{:<14} {:>8}", "check", "seconds");
    for (name, (passed, time)) in &outcomes {
        eprintln!("{name:<14} {:>8.1}  {}", time.as_secs_f64(), if *passed { "passed" } else { "FAILED" });
    }
    let failed: Vec<&str> =
        outcomes.iter().filter(|(_, (passed, _))| !passed).map(|(name, _)| *name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "times a step of a development tool")]
fn timed(name: &str, check: fn() -> Result<()>) -> (bool, Duration) {
    eprintln!("\n== {name}");
    let start = Instant::now();
    let outcome = check();
    if let Err(error) = &outcome {
        eprintln!("error: {error:#}");
    }
    (outcome.is_ok(), start.elapsed())
}

/// `xtask test` as a process group of its own, so that a test that hangs is ended with all it started.
fn tests() -> Result<()> {
    let limit = format!("{TEST_LIMIT_MINUTES}m");
    let own = std::env::current_exe()?;
    run_program(program("timeout", ["--kill-after=30s", &limit]).arg(own).arg("test"))
}
