//! The Debian packages that demo and tests call: installed if we are root, named with one line otherwise.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::command::{output, program, run};

/// What the demo calls.
pub const DEMO: &str = include_str!("../packages-demo.txt");
/// What the tests and benchmarks call, mostly independent programs that judge our answers.
pub const TEST: &str = include_str!("../packages.txt");

/// Makes sure every package of `list` (one name a line) is installed.
///
/// # Errors
/// Packages are missing and we are not root, or apt-get fails; nothing is skipped silently.
pub fn ensure(list: &str) -> Result<()> {
    let wanted: Vec<&str> = names(list).collect();
    let missing = missing(&wanted, &installed(&wanted)?);
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root()? {
        bail!(
            "Debian packages are missing\nhelp: sudo apt-get install --no-install-recommends {}",
            missing.join(" ")
        );
    }
    run(&mut program("apt-get", ["update"]))?;
    let install = ["install", "--yes", "--no-install-recommends"];
    run(program("apt-get", install).args(&missing).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn missing<'a>(wanted: &[&'a str], installed: &BTreeSet<String>) -> Vec<&'a str> {
    wanted.iter().filter(|name| !installed.contains(**name)).copied().collect()
}

/// Which of the wanted packages dpkg calls installed.
fn installed(wanted: &[&str]) -> Result<BTreeSet<String>> {
    let mut query = program("dpkg-query", ["--show", "--showformat", "${Package} ${db:Status-Status}\n"]);
    // dpkg-query fails if any name is unknown to it, and still answers for the others
    let answer = query.args(wanted).output();
    let Ok(answer) = answer else {
        bail!("dpkg-query cannot be started: this needs Debian, or its packages by other means: {wanted:?}");
    };
    Ok(parse_status(&String::from_utf8_lossy(&answer.stdout)))
}

fn parse_status(text: &str) -> BTreeSet<String> {
    let installed = |line: &str| line.strip_suffix(" installed").map(str::to_owned);
    text.lines().filter_map(installed).collect()
}

fn is_root() -> Result<bool> {
    Ok(output(&mut program("id", ["-u"]))?.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_package_counts_as_missing() {
        let installed = parse_status("fio installed\nfuse3 config-files\n");
        assert_eq!(missing(&["fio", "fuse3", "strace"], &installed), ["fuse3", "strace"]);
    }

    #[test]
    fn lists_are_sorted_and_name_each_package_once() {
        for list in [DEMO, TEST] {
            let names: Vec<&str> = names(list).collect();
            assert!(!names.is_empty());
            assert!(names.is_sorted_by(|a, b| a < b), "not sorted, or a name twice: {names:?}");
        }
    }
}
