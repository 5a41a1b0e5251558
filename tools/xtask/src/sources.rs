//! The sources of Debian packages whose own test programs judge us and are packaged nowhere: fetched and unpacked once,
//! below the target folder, where the tests look for them.
//!
//! A line is `name/suite`: what is newer in a later suite is taken from there.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::{program, run};
use crate::demo::target_folder;
use crate::packages;

/// What the tests compile.
pub const TEST: &str = include_str!("../sources.txt");

/// Makes sure every source of `list` lies unpacked in `target/sources/NAME`.
///
/// # Errors
/// A source is missing and we are not root, or fetching it fails; nothing is skipped silently.
pub fn ensure(list: &str) -> Result<()> {
    let folder = target_folder().join("sources");
    let missing: Vec<_> =
        packages::names(list).map(packages::split).filter(|(name, _)| !folder.join(name).is_dir()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !packages::is_root()? {
        let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
        bail!("sources of Debian packages are missing: {}\nhelp: run this once as root", names.join(", "));
    }
    for suite in missing.iter().filter_map(|(_, suite)| *suite) {
        packages::add_suite(suite, "deb-src")?;
    }
    run(&mut program("apt-get", ["update"]))?;
    missing.iter().try_for_each(|(name, suite)| fetch(&folder, name, *suite))
}

/// Fetches one source; its folder appears only once it is whole.
fn fetch(folder: &Path, name: &str, suite: Option<&str>) -> Result<()> {
    let fetched = folder.join(format!("{name}.fetched"));
    if fetched.exists() {
        fs::remove_dir_all(&fetched).with_context(|| fetched.display().to_string())?;
    }
    fs::create_dir_all(&fetched).with_context(|| fetched.display().to_string())?;
    let wanted = suite.map_or(name.to_owned(), |suite| format!("{name}/{suite}"));
    run(program("apt-get", ["source", "--download-only", &wanted]).current_dir(&fetched))?;
    let entries = fs::read_dir(&fetched)?.collect::<Result<Vec<_>, _>>()?;
    let described =
        entries.iter().map(fs::DirEntry::path).find(|path| path.extension() == Some("dsc".as_ref()));
    let described = described.with_context(|| format!("apt-get source {wanted} brought no description"))?;
    let unpacked = fetched.join(name);
    run(program("dpkg-source", ["--no-check", "--extract"]).arg(described).arg(&unpacked))?;
    run(&mut program("mv", [&unpacked, &folder.join(name)]))?;
    fs::remove_dir_all(&fetched).with_context(|| fetched.display().to_string())
}
