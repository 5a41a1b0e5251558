//! Everything the documents say must be so of a disk's directory, held against one.

use crate::bytes::Why;
use crate::chain::Layer;
use crate::directory::{Directory, Finding, unread};
use crate::layer::check_sums;
use crate::map::{Map, laid_over};
use crate::{BLOCK, State};
use block::Media;
use std::collections::BTreeSet;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Sealed layers.
    pub layers: u64,
    /// Seals remembered.
    pub seals: u64,
    /// Recovery points among them.
    pub points: u64,
    /// Blocks held against their sums.
    pub blocks_verified: u64,
    /// Blocks of sealed layers without sums.
    pub blocks_without_sums: u64,
    /// Files that the chain does not name: the next open removes them.
    pub unnamed: Vec<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Checks a disk's directory. With `deep`, every block of sealed layers is read and held against its sum.
pub fn check_directory(media: &dyn Media, dir: &str, deep: bool) -> Report {
    let directory = match Directory::open(media, dir) {
        Ok(directory) => directory,
        Err(finding) => return Report { findings: vec![finding], ..Report::default() },
    };
    let mut report = Report {
        layers: directory.chain.layers.len() as u64,
        seals: directory.chain.seals.len() as u64,
        points: directory.chain.seals.iter().filter(|seal| seal.is_point).count() as u64,
        ..Report::default()
    };
    let mut from = 0;
    for layer in &directory.chain.layers {
        sealed(&directory, layer, from, deep, &mut report);
        from = layer.top + 1;
    }
    let top = from.saturating_sub(1);
    if let Some(seal) = directory.chain.seals.iter().find(|seal| seal.epoch > top) {
        report.wrong("chain", format!("remembers epoch {}, and no layer holds it", seal.epoch));
    }
    ancestry(&directory, &mut report);
    active(&directory, &mut report);
    match unnamed(&directory) {
        Ok(names) => report.unnamed = names,
        Err(finding) => report.findings.push(finding),
    }
    report
}

impl Report {
    fn wrong(&mut self, file: impl Into<String>, why: impl Into<Why>) {
        self.findings.push(Finding { file: file.into(), why: why.into() });
    }

    fn take<T>(&mut self, found: Result<T, Finding>) -> Option<T> {
        found.map_err(|finding| self.findings.push(finding)).ok()
    }
}

/// A sealed layer: its files, and that its map says what the change maps of its epochs say together.
fn sealed(directory: &Directory<'_>, layer: &Layer, from: u64, deep: bool, report: &mut Report) {
    data_files(directory, layer.number, layer.file_blocks, report);
    let Some(map) = report.take(directory.map(layer.map, layer.blocks)) else { return };
    let mut together = Map::default();
    let mut is_whole = true;
    for seal in directory.chain.seals.iter().filter(|seal| (from..=layer.top).contains(&seal.epoch)) {
        match report.take(directory.map(seal.changes, seal.size.div_ceil(BLOCK))) {
            Some(changes) => together = laid_over(&together, &changes),
            None => is_whole = false,
        }
    }
    if is_whole && together != map {
        let why = format!("differs from what the change maps of epochs {from} to {} say together", layer.top);
        report.wrong(directory.path(layer.map, "map"), why);
    }
    let Some(read) = report.take(directory.read_from(layer)) else { return };
    let summed = check_sums(directory, layer, &read, deep);
    report.blocks_verified += summed.verified;
    report.blocks_without_sums += summed.without;
    report.findings.extend(summed.findings);
}

fn data_files(directory: &Directory<'_>, layer: u64, blocks: u64, report: &mut Report) {
    for (ending, length) in directory.segments(blocks) {
        let Some(file) = report.take(directory.open_file(layer, &ending)) else { continue };
        match file.size() {
            Ok(found) if found == length => {}
            Ok(found) => report.wrong(
                directory.path(layer, &ending),
                format!("is {found} bytes long, and the disk's blocks are {length}"),
            ),
            Err(error) => report.wrong(directory.path(layer, &ending), unread(&error)),
        }
    }
}

/// The parent of every seal is the one before it, or none where history began anew.
fn ancestry(directory: &Directory<'_>, report: &mut Report) {
    let seals = &directory.chain.seals;
    for pair in seals.windows(2).filter(|pair| ![pair[0].state, [0; 16]].contains(&pair[1].parent)) {
        report.wrong("chain", format!("epoch {} is not the child of epoch {}", pair[1].epoch, pair[0].epoch));
    }
    let states: BTreeSet<_> = seals.iter().map(|seal| seal.state).collect();
    if states.len() != seals.len() {
        report.wrong("chain", "two seals have the same state");
    }
    for seal in seals.iter().filter(|seal| !seal.group.is_empty()) {
        if !seal.group.contains(&(directory.chain.disk, seal.state)) {
            report.wrong("chain", format!("epoch {} is no member of its own group", seal.epoch));
        }
    }
}

fn active(directory: &Directory<'_>, report: &mut Report) {
    data_files(directory, directory.chain.active, directory.chain.blocks(), report);
    report.take(directory.active());
    if let Some((layer, blocks)) = directory.chain.hydrated() {
        data_files(directory, layer, blocks, report);
        if let Some(map) = report.take(directory.committed(layer, blocks, None))
            && map.count(State::Data) > 0
        {
            report.wrong(directory.path(layer, "committed"), "calls blocks of the base changed");
        }
    }
}

/// Numbered files that the chain does not name.
fn unnamed(directory: &Directory<'_>) -> Result<Vec<String>, Finding> {
    let named: BTreeSet<u64> = directory.chain.numbers().into_iter().collect();
    let is_unnamed = |name: &String| {
        let digits = name.split_once('.').map_or("", |(digits, _)| digits);
        digits.len() == 16 && u64::from_str_radix(digits, 16).is_ok_and(|number| !named.contains(&number))
    };
    Ok(directory.names()?.into_iter().filter(is_unnamed).collect())
}
