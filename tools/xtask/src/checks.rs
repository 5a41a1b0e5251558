//! The checks that are cargo's own: format, lints, documentation.

use anyhow::Result;

use crate::command::{cargo, run};

/// The sources are formatted as `.rustfmt.toml` says.
///
/// # Errors
/// A file is not, or rustfmt is not installed.
pub fn format() -> Result<()> {
    run(&mut cargo(["fmt", "--all", "--check"]))
}

/// No warning of the compiler or of clippy, tests and benchmarks included.
///
/// # Errors
/// There are warnings, or clippy is not installed.
pub fn lints() -> Result<()> {
    run(&mut cargo(["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"]))
}

/// The API documentation builds without a warning, such as a link to nothing.
///
/// # Errors
/// There are warnings.
pub fn api_docs() -> Result<()> {
    let args = ["doc", "--workspace", "--no-deps", "--locked", "--quiet"];
    run(cargo(args).env("RUSTDOCFLAGS", "--deny warnings"))
}
