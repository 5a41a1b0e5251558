//! `blockctl inspect …`: a disk's files, dumped and checked without the daemon. The files are only read; of a disk that is
//! being served they show what is durable, which may change while they are looked at.

mod blobs;

use crate::cli::InspectVerb;
use crate::failure::{Failure, Result};
use crate::output::{Output, sheet, table};
use crate::size;
use block::linux::LinuxMedia;
use block::{DiskId, Media, StateId};
use check::{BLOCK, Directory, Finding, LayerReport, Map, MapHead, Report, State};
use control::Kind;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A file longer than this is no map.
const MAP_LIMIT_BYTES: u64 = 1 << 30;

/// Runs the verb.
pub fn run(verb: InspectVerb, output: &Output) -> Result<()> {
    match verb {
        InspectVerb::Map { file, check } => map(output, &file, check),
        InspectVerb::Layer { file, check } => layer(output, &file, check),
        InspectVerb::Disk { dir, check } => disk(output, &dir, check),
        InspectVerb::Pack { file, check, key } => blobs::pack(output, &file, &key, check),
        InspectVerb::Index { file, check, key } => blobs::index(output, &file, &key, check),
        InspectVerb::Manifest { file, check, key } => blobs::manifest(output, &file, &key, check),
    }
}

/// Blocks of one state.
#[derive(Serialize)]
struct Extent {
    offset: u64,
    length: u64,
    kind: &'static str,
}

#[derive(Serialize)]
struct Problem {
    file: String,
    why: String,
}

#[derive(Serialize)]
struct Shown {
    file: String,
    disk: String,
    number: u64,
    size_blocks: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sums_whole: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocks_verified: Option<u64>,
    bytes_data: u64,
    bytes_zero: u64,
    bytes_hydrated: u64,
    extents: Vec<Extent>,
    problems: Vec<Problem>,
}

impl Shown {
    fn new(file: &Path, head: MapHead, map: &Map) -> Self {
        let bytes = |state| map.count(state) * BLOCK;
        let extents = map.runs.iter().map(|run| Extent {
            offset: run.first * BLOCK,
            length: (run.past - run.first) * BLOCK,
            kind: kind(run.state),
        });
        Self {
            file: file.display().to_string(),
            disk: DiskId::from_bytes(head.disk).to_string(),
            number: head.number,
            size_blocks: head.blocks,
            top_epoch: None,
            active: None,
            sums_whole: None,
            blocks_verified: None,
            bytes_data: bytes(State::Data),
            bytes_zero: bytes(State::Zero),
            bytes_hydrated: bytes(State::Hydrated),
            extents: extents.collect(),
            problems: Vec::new(),
        }
    }

    fn text(&self) -> String {
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        let mut rows = vec![
            ("file", self.file.clone()),
            ("disk", self.disk.clone()),
            ("number", self.number.to_string()),
            ("blocks", self.size_blocks.to_string()),
            ("data", size::show(self.bytes_data)),
            ("zero", size::show(self.bytes_zero)),
            ("hydrated", size::show(self.bytes_hydrated)),
        ];
        rows.extend(self.active.map(|is| ("active", yes(is))));
        rows.extend(self.top_epoch.map(|epoch| ("top epoch", epoch.to_string())));
        rows.extend(self.sums_whole.map(|is| ("sums whole", yes(is))));
        rows.extend(self.blocks_verified.map(|blocks| ("verified", format!("{blocks} blocks"))));
        let row = |extent: &Extent| {
            vec![extent.offset.to_string(), extent.length.to_string(), extent.kind.to_owned()]
        };
        let extents = table(&[">offset", ">length", "kind"], self.extents.iter().map(row).collect());
        sheet(&rows) + &extents + &listed(&self.problems)
    }
}

fn kind(state: State) -> &'static str {
    match state {
        State::Absent => "absent",
        State::Hydrated => "hydrated",
        State::Zero => "zero",
        State::Data => "data",
    }
}

fn map(output: &Output, file: &Path, is_checked: bool) -> Result<()> {
    let (media, name) = beside(file)?;
    let files: &dyn Media = &media;
    let bytes = files.read_whole(&name, MAP_LIMIT_BYTES)?;
    let (head, map) = check::inspect_map(&bytes).map_err(|why| damaged(file, &why))?;
    let mut shown = Shown::new(file, head, &map);
    if is_checked {
        let directory = Directory::open(&media, "").map_err(failure)?;
        let of_chain = number_of(file)
            .filter(|number| directory.chain.numbers().contains(number))
            .map(|number| directory.map(number, head.blocks));
        match of_chain {
            Some(read) => shown.problems.extend(read.err().map(problem)),
            None => shown.problems.push(problem(Finding {
                file: name,
                why: "is not named by the chain beside it: it is a leftover".to_owned(),
            })),
        }
    }
    answer(output, file, &shown)
}

fn layer(output: &Output, file: &Path, is_checked: bool) -> Result<()> {
    let (media, _) = beside(file)?;
    let number = number_of(file)
        .ok_or_else(|| Failure::usage(format!("{}: is not called NUMBER.layer", file.display())))?;
    let report = check::inspect_layer(&media, "", number, is_checked).map_err(failure)?;
    let LayerReport { disk, blocks, map, findings, .. } = report;
    let mut shown = Shown::new(file, MapHead { disk, number, blocks }, &map);
    shown.top_epoch = report.top_epoch;
    shown.active = Some(report.is_active);
    shown.sums_whole = Some(report.sums_whole);
    shown.blocks_verified = is_checked.then_some(report.blocks_verified);
    shown.problems = findings.into_iter().map(problem).collect();
    answer(output, file, &shown)
}

fn answer(output: &Output, file: &Path, shown: &Shown) -> Result<()> {
    output.answer(shown, Shown::text)?;
    verdict(file, &shown.problems)
}

/// What the disk stands on. Where that is, the daemon knows.
#[derive(Serialize)]
struct BaseShown {
    state: String,
    size: u64,
}

#[derive(Serialize)]
struct DiskShown {
    dir: String,
    disk: String,
    size: u64,
    generation: u64,
    closed_in_order: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<BaseShown>,
    layers: Vec<u64>,
    points: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocks_verified: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocks_without_sums: Option<u64>,
    unnamed: Vec<String>,
    problems: Vec<Problem>,
}

fn disk(output: &Output, dir: &Path, is_checked: bool) -> Result<()> {
    if !dir.is_dir() {
        return Err(Failure::new(Kind::NotFound, format!("{}: is not a directory", dir.display()))
            .with_help("it is disks/ID in the daemon's state; `blockctl disk show NAME` prints the id"));
    }
    let media = LinuxMedia::new(dir, dir)?;
    let directory = Directory::open(&media, "").map_err(failure)?;
    let chain = &directory.chain;
    let report = if is_checked { check::check_directory(&media, "", true) } else { Report::default() };
    let shown = DiskShown {
        dir: dir.display().to_string(),
        disk: DiskId::from_bytes(chain.disk).to_string(),
        size: chain.size,
        generation: chain.generation,
        closed_in_order: chain.clean.is_some(),
        base: chain
            .base
            .map(|base| BaseShown { state: StateId::from_bytes(base.state).to_string(), size: base.size }),
        layers: chain.layers.iter().map(|layer| layer.number).collect(),
        points: chain.seals.iter().filter(|seal| seal.is_point).map(|seal| seal.epoch).collect(),
        blocks_verified: is_checked.then_some(report.blocks_verified),
        blocks_without_sums: is_checked.then_some(report.blocks_without_sums),
        unnamed: report.unnamed,
        problems: report.findings.into_iter().map(problem).collect(),
    };
    output.answer(&shown, text_of_disk)?;
    verdict(dir, &shown.problems)
}

fn text_of_disk(shown: &DiskShown) -> String {
    let numbers = |numbers: &[u64]| match numbers {
        [] => "none".to_owned(),
        numbers => numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" "),
    };
    let mut rows = vec![
        ("directory", shown.dir.clone()),
        ("disk", shown.disk.clone()),
        ("size", format!("{} ({} bytes)", size::show(shown.size), shown.size)),
        ("generation", shown.generation.to_string()),
        ("closed", if shown.closed_in_order { "in order" } else { "not, or it is open" }.to_owned()),
        ("layers", numbers(&shown.layers)),
        ("points", numbers(&shown.points)),
    ];
    rows.extend(
        shown.base.as_ref().map(|base| ("base", format!("{}, {} bytes of it", base.state, base.size))),
    );
    rows.extend(shown.blocks_verified.map(|blocks| ("verified", format!("{blocks} blocks"))));
    rows.extend(shown.blocks_without_sums.map(|blocks| ("no sums", format!("{blocks} blocks"))));
    rows.extend((!shown.unnamed.is_empty()).then(|| ("leftovers", shown.unnamed.join(" "))));
    sheet(&rows) + &listed(&shown.problems)
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{} {}\n", problem.file, problem.why)).collect()
}

fn problem(finding: Finding) -> Problem {
    Problem { file: finding.file, why: finding.why }
}

fn verdict(what: &Path, problems: &[Problem]) -> Result<()> {
    match problems {
        [] => Ok(()),
        [one] => Err(damaged(what, &format!("{} {}", one.file, one.why))),
        [one, more @ ..] => {
            Err(damaged(what, &format!("{} {}, and {} more problems", one.file, one.why, more.len())))
        }
    }
}

fn damaged(what: &Path, why: &str) -> Failure {
    Failure::new(Kind::Corrupt, format!("{}: {why}", what.display()))
}

fn failure(finding: Finding) -> Failure {
    Failure::new(Kind::Corrupt, finding.to_string())
}

/// The directory a file lies in, and its name there.
fn beside(file: &Path) -> Result<(LinuxMedia, String)> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name =
        name.ok_or_else(|| Failure::usage(format!("{}: is not the name of a file", file.display())))?;
    if !file.is_file() {
        return Err(Failure::new(Kind::NotFound, format!("{}: does not exist", file.display())));
    }
    let dir =
        file.parent().filter(|dir| !dir.as_os_str().is_empty()).map_or(PathBuf::from("."), Path::to_owned);
    Ok((LinuxMedia::new(&dir, &dir)?, name.to_owned()))
}

/// The number in the name of a disk's file.
fn number_of(file: &Path) -> Option<u64> {
    let name = file.file_name()?.to_str()?;
    let digits = name.split_once('.')?.0;
    u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 16)
}
