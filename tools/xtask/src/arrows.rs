//! The arrows of the design: which of our crates may depend on which.
//!
//! Only normal and build dependencies count; tests may use what they like. `sim` is for tests alone, so no arrow
//! leads to it. A new crate has no arrows until it is written down here.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::command::{cargo, output};

/// Each crate of ours with those it may depend on; `blockd-block`, the vocabulary, is free to all that name it.
const ARROWS: &[(&str, &[&str])] = &[
    ("blockd-block", &[]),
    ("blockd-control", &[]),
    ("blockd-sim", &["blockd-block"]),
    ("blockd-nbd", &["blockd-block"]),
    ("blockd-layers", &["blockd-block"]),
    // it judges what layers writes, so it shares nothing with it
    ("blockd-check", &["blockd-block"]),
    ("blockd-vault", &["blockd-block"]),
    ("blockd-formats", &["blockd-block"]),
    ("blockd-mount", &["blockd-block", "blockd-nbd"]),
    ("blockd-machines", &["blockd-block"]),
    (
        "blockd",
        &[
            "blockd-block",
            "blockd-control",
            "blockd-formats",
            "blockd-layers",
            "blockd-machines",
            "blockd-nbd",
            "blockd-vault",
        ],
    ),
    (
        "blockctl",
        &[
            "blockd-block",
            "blockd-check",
            "blockd-control",
            "blockd-formats",
            "blockd-layers",
            "blockd-machines",
            "blockd-mount",
            "blockd-nbd",
            "blockd-vault",
        ],
    ),
    ("blockd-bench", &["blockd-block", "blockd-control", "blockd-nbd"]),
    ("xtask", &[]),
];

/// Programs, the only crates whose errors may be `anyhow`'s.
const PROGRAMS: &[&str] = &["blockd", "blockctl", "blockd-bench", "xtask"];

/// Checks the workspace as cargo describes it.
///
/// # Errors
/// Names every dependency that follows no arrow.
pub fn check() -> Result<()> {
    let text = output(&mut cargo(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata = serde_json::from_str(&text)?;
    let violations = violations(&metadata);
    if !violations.is_empty() {
        bail!("the arrows of the design are broken:\n  {}", violations.join("\n  "));
    }
    println!("{} crates keep the arrows of the design", list(&metadata, "packages").len());
    Ok(())
}

/// Every broken arrow in the answer of `cargo metadata --no-deps`, as one line each.
fn violations(metadata: &Value) -> Vec<String> {
    let packages = list(metadata, "packages");
    let ours: BTreeSet<&str> = packages.iter().map(|package| text(package, "name")).collect();
    packages.iter().flat_map(|package| violations_of(package, &ours)).collect()
}

fn violations_of(package: &Value, ours: &BTreeSet<&str>) -> Vec<String> {
    let name = text(package, "name");
    let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
        return vec![format!("{name} is a new crate: write its arrows into tools/xtask/src/arrows.rs")];
    };
    let needed = list(package, "dependencies").iter().filter(|dependency| text(dependency, "kind") != "dev");
    needed.filter_map(|dependency| broken(name, text(dependency, "name"), allowed, ours)).collect()
}

fn broken(name: &str, dependency: &str, allowed: &[&str], ours: &BTreeSet<&str>) -> Option<String> {
    if ours.contains(dependency) && !allowed.contains(&dependency) {
        return Some(format!("{name} must not depend on {dependency}"));
    }
    (dependency == "anyhow" && !PROGRAMS.contains(&name))
        .then(|| format!("{name} is a library: its errors are its own type, not anyhow's"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// A text field; what is absent or null reads as the empty text.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<Value> =
            dependencies.iter().map(|(name, kind)| json!({ "name": name, "kind": kind })).collect();
        json!({ "name": name, "dependencies": dependencies })
    }

    fn check(packages: &[Value]) -> Vec<String> {
        violations(&json!({ "packages": packages }))
    }

    #[test]
    fn the_workspace_keeps_its_arrows() {
        super::check().unwrap();
    }

    #[test]
    fn a_planted_arrow_between_the_tiers_is_named() {
        let found = check(&[
            package("blockd-block", &[]),
            package("blockd-layers", &[("blockd-block", None), ("blockd-vault", None)]),
            package("blockd-vault", &[("blockd-block", None), ("blake3", None)]),
        ]);
        assert_eq!(found, ["blockd-layers must not depend on blockd-vault"]);
    }

    #[test]
    fn the_simulation_is_for_tests_only() {
        let sim = package("blockd-sim", &[]);
        assert!(check(&[sim.clone(), package("blockd-layers", &[("blockd-sim", Some("dev"))])]).is_empty());
        let found = check(&[sim, package("blockd-layers", &[("blockd-sim", None)])]);
        assert_eq!(found, ["blockd-layers must not depend on blockd-sim"]);
    }

    #[test]
    fn a_build_dependency_is_an_arrow() {
        let found =
            check(&[package("blockd-vault", &[]), package("blockd-nbd", &[("blockd-vault", Some("build"))])]);
        assert_eq!(found, ["blockd-nbd must not depend on blockd-vault"]);
    }

    #[test]
    fn an_unknown_crate_and_anyhow_in_a_library_are_named() {
        let found = check(&[package("blockd-extra", &[]), package("blockd-nbd", &[("anyhow", None)])]);
        assert!(found[0].starts_with("blockd-extra is a new crate"), "{found:?}");
        assert!(found[1].starts_with("blockd-nbd is a library"), "{found:?}");
    }
}
