//! The object store servers the tests talk to: from PyPI and npm, of pinned versions, in the user's cache. They outlive a
//! `cargo clean` and serve every checkout.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{output, program, run};

/// S3, in a Python environment of its own.
const MOTO: &str = "moto-5.2.5";
/// Azure Blob Storage, in a folder of npm's.
const AZURITE: &str = "azurite-3.35.0";

/// Makes sure both servers are there. Installing takes about a minute, once.
///
/// # Errors
/// Python or npm is missing, or a registry cannot be reached.
pub fn ensure() -> Result<()> {
    let folder = cache()?.join("blockd-servers");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    in_folder(&folder, MOTO, "bin/moto_server", moto)?;
    in_folder(&folder, AZURITE, "node_modules/.bin/azurite-blob", azurite)
}

fn cache() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    cache.or(home).context("neither XDG_CACHE_HOME nor HOME is set")
}

/// Installs into a folder that has its name only once it is complete.
fn in_folder(folder: &Path, name: &str, program: &str, install: fn(&Path) -> Result<()>) -> Result<()> {
    let path = folder.join(name);
    let complete = path.join(".complete");
    if complete.is_file() && path.join(program).exists() {
        return Ok(());
    }
    if path.exists() {
        std::fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
    }
    install(&path)?;
    std::fs::write(&complete, "").with_context(|| complete.display().to_string())
}

fn moto(path: &Path) -> Result<()> {
    // Debian's own Python, which packages.txt names with its venv
    run(&mut program("/usr/bin/python3", [OsStr::new("-m"), OsStr::new("venv"), path.as_os_str()]))?;
    let wanted = MOTO.replacen("moto-", "moto[server,s3]==", 1);
    run(program(path.join("bin/pip"), ["install", "--quiet", "--disable-pip-version-check"]).arg(wanted))
}

fn azurite(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| path.display().to_string())?;
    ensure_npm()?;
    let mut install = program("npm", ["install", "--no-fund", "--no-audit", "--loglevel=error", "--prefix"]);
    run(install.arg(path).arg(AZURITE.replacen("azurite-", "azurite@", 1)))
}

/// Any npm will do; where there is none, Debian's.
fn ensure_npm() -> Result<()> {
    if output(&mut program("npm", ["--version"])).is_ok() {
        return Ok(());
    }
    crate::packages::ensure("npm\n")
}
