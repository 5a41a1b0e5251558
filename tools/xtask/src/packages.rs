//! The Debian packages that demo and tests call: installed if we are root, named with one line otherwise.
//!
//! A line is a name, or `name/suite` for one that must come from a suite of Debian that is not the host's main one: the
//! packages of qemu come from one build, and installing one of them from another suite would remove the others.

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
    let plain: Vec<&str> = wanted.iter().map(|entry| split(entry).0).collect();
    let missing = missing(&wanted, &installed(&plain)?);
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root()? {
        bail!("Debian packages are missing\nhelp: {}", lines_for_root(&missing)?);
    }
    let suites: BTreeSet<Option<&str>> = missing.iter().map(|entry| split(entry).1).collect();
    suites.iter().flatten().try_for_each(|suite| add_suite(suite, "deb"))?;
    run(&mut program("apt-get", ["update"]))?;
    for suite in suites {
        let of_suite = missing.iter().map(|entry| split(entry)).filter(|(_, of)| *of == suite);
        let mut install = program("apt-get", ["install", "--yes", "--no-install-recommends"]);
        if let Some(suite) = suite {
            install.args(["-t", suite]);
        }
        run(install.args(of_suite.map(|(name, _)| name)).env("DEBIAN_FRONTEND", "noninteractive"))?;
    }
    Ok(())
}

/// What somebody who may become root types: a line for each suite that apt does not know, and the one that installs.
fn lines_for_root(missing: &[&str]) -> Result<String> {
    let known = output(&mut program("apt-cache", ["policy"]))?;
    let suites: BTreeSet<&str> = missing.iter().filter_map(|entry| split(entry).1).collect();
    let unknown = suites.into_iter().filter(|suite| !known.contains(&format!("n={suite}")));
    let add = unknown.map(|suite| {
        format!(
            "echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian {suite} main' \
             | sudo tee /etc/apt/sources.list.d/{suite}.list && sudo apt-get update\n      "
        )
    });
    let add: String = add.collect();
    Ok(format!("{add}sudo apt-get install --no-install-recommends {}", missing.join(" ")))
}

/// An entry's name and suite.
pub fn split(entry: &str) -> (&str, Option<&str>) {
    match entry.split_once('/') {
        Some((name, suite)) => (name, Some(suite)),
        None => (entry, None),
    }
}

/// Names a suite to apt, unless it knows it: its packages (`deb`) or their sources (`deb-src`).
///
/// # Errors
/// apt cannot be asked or its settings cannot be written.
pub fn add_suite(suite: &str, kind: &str) -> Result<()> {
    if kind == "deb" && output(&mut program("apt-cache", ["policy"]))?.contains(&format!("n={suite}")) {
        return Ok(());
    }
    let source = format!(
        "Types: {kind}\nURIs: http://deb.debian.org/debian\nSuites: {suite}\nComponents: main\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    );
    Ok(std::fs::write(format!("/etc/apt/sources.list.d/{suite}-{kind}.sources"), source)?)
}

/// The entries of a list, one a line.
pub fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn missing<'a>(wanted: &[&'a str], installed: &BTreeSet<String>) -> Vec<&'a str> {
    wanted.iter().filter(|entry| !installed.contains(split(entry).0)).copied().collect()
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

/// Whether this process may install.
///
/// # Errors
/// It cannot be asked.
pub fn is_root() -> Result<bool> {
    Ok(output(&mut program("id", ["-u"]))?.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_package_counts_as_missing() {
        let installed = parse_status("fio installed\nfuse3 config-files\n");
        assert_eq!(missing(&["fio", "fuse3", "strace/sid"], &installed), ["fuse3", "strace/sid"]);
        assert_eq!(missing(&["fio/sid"], &installed), [""; 0]);
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
