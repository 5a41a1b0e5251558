//! Map files: `images/layers/docs/map.md`. A map is held as its runs, so that a disk that was written in long stretches
//! costs little.

use crate::bytes::{Fields, Why, header, sealed_by_crc};
use std::collections::BTreeSet;

/// Blocks of a page.
pub(crate) const PAGE: u64 = 16_384;

/// Runs of one map kept in memory: 400 MB of them. A small file of compressed pages could ask for any number.
const MAX_RUNS: usize = 16 << 20;

/// What a layer knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing.
    Absent,
    /// Its bytes, brought from below.
    Hydrated,
    /// It is zeros.
    Zero,
    /// Its bytes, written.
    Data,
}

impl State {
    pub(crate) fn of(bits: u64) -> Self {
        [Self::Absent, Self::Hydrated, Self::Zero, Self::Data][(bits & 3) as usize]
    }

    /// Whether the bytes are in the layer's file.
    pub fn has_bytes(self) -> bool {
        matches!(self, Self::Hydrated | Self::Data)
    }

    /// Whether it counts as a change.
    pub fn is_change(self) -> bool {
        matches!(self, Self::Zero | Self::Data)
    }
}

/// Neighbouring blocks of one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub first: u64,
    /// The one after the last.
    pub past: u64,
    /// Their state, not absent.
    pub state: State,
}

/// What a map file says before its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapHead {
    /// Id of the disk.
    pub disk: [u8; 16],
    /// The file's own number.
    pub number: u64,
    /// Blocks of the disk.
    pub blocks: u64,
}

/// The blocks that have a state, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Map {
    /// The runs; no two neighbours could be one.
    pub runs: Vec<Run>,
}

impl Map {
    /// Adds blocks behind all others.
    pub(crate) fn push(&mut self, first: u64, past: u64, state: State) {
        match self.runs.last_mut() {
            _ if state == State::Absent || first >= past => {}
            Some(last) if last.past == first && last.state == state => last.past = past,
            _ => self.runs.push(Run { first, past, state }),
        }
    }

    /// The state of a block.
    pub fn get(&self, block: u64) -> State {
        let at = self.runs.partition_point(|run| run.past <= block);
        self.runs.get(at).filter(|run| run.first <= block).map_or(State::Absent, |run| run.state)
    }

    /// The blocks from the one to before the other.
    pub(crate) fn part(&self, first: u64, past: u64) -> Self {
        let mut part = Self::default();
        for run in &self.runs {
            part.push(run.first.max(first), run.past.min(past), run.state);
        }
        part
    }

    /// How many blocks have this state.
    pub fn count(&self, state: State) -> u64 {
        self.runs.iter().filter(|run| run.state == state).map(|run| run.past - run.first).sum()
    }

    /// Adds the blocks of a page spelled out in 4096 bytes.
    ///
    /// # Errors
    /// There are more runs than this program keeps in memory.
    pub(crate) fn push_words(&mut self, first: u64, blocks: u64, words: &[u8]) -> Result<(), Why> {
        if self.runs.len() > MAX_RUNS {
            return Err(format!("has more than {MAX_RUNS} runs of blocks, which is more than can be shown"));
        }
        for at in 0..PAGE.min(blocks.saturating_sub(first)) {
            let bits = words[(at / 4) as usize] >> (at % 4 * 2);
            self.push(first + at, first + at + 1, State::of(u64::from(bits)));
        }
        Ok(())
    }
}

/// One map over another: above decides, but what is only brought from below stays the change it was there.
pub(crate) fn laid_over(below: &Map, above: &Map) -> Map {
    let mut edges: BTreeSet<u64> = BTreeSet::new();
    edges.extend(below.runs.iter().chain(&above.runs).flat_map(|run| [run.first, run.past]));
    let edges: Vec<u64> = edges.into_iter().collect();
    let mut together = Map::default();
    for pair in edges.windows(2) {
        use State::{Absent, Data, Hydrated};
        let state = match (below.get(pair[0]), above.get(pair[0])) {
            (below, Absent) => below,
            (below, Hydrated) if below.is_change() => Data,
            (_, above) => above,
        };
        together.push(pair[0], pair[1], state);
    }
    together
}

/// The blocks of one map that another does not have.
pub(crate) fn without(map: &Map, other: &Map) -> Map {
    let mut edges: BTreeSet<u64> = BTreeSet::new();
    edges.extend(map.runs.iter().chain(&other.runs).flat_map(|run| [run.first, run.past]));
    let edges: Vec<u64> = edges.into_iter().collect();
    let mut left = Map::default();
    for pair in edges.windows(2).filter(|pair| other.get(pair[0]) == State::Absent) {
        left.push(pair[0], pair[1], map.get(pair[0]));
    }
    left
}

/// Reads a map file, whoever's it is.
///
/// # Errors
/// What is not as its document says.
pub fn inspect_map(bytes: &[u8]) -> Result<(MapHead, Map), Why> {
    let mut fields = Fields::new(sealed_by_crc(bytes)?);
    header(&mut fields, b"lmap")?;
    let head = MapHead { disk: fields.id()?, number: fields.u64()?, blocks: fields.u64()? };
    let pages = fields.number::<4>()?;
    let mut map = Map::default();
    let mut next = 0;
    for _ in 0..pages {
        let page = fields.number::<4>()?;
        if page < next || page >= head.blocks.div_ceil(PAGE) {
            return Err(format!("page {page} is out of order or past the end"));
        }
        next = page + 1;
        let (kind, _zero, length) = (fields.number::<1>()?, fields.number::<1>()?, fields.number::<2>()?);
        let payload = fields.take(length as usize)?;
        let first = page * PAGE;
        match (kind, length) {
            (1..=3, 0) => map.push(first, head.blocks.min(first + PAGE), State::of(kind)),
            (4, _) => map.push_words(first, head.blocks, &unpacked(payload, page)?)?,
            (5, 4096) => map.push_words(first, head.blocks, payload)?,
            _ => return Err(format!("page {page} has kind {kind} and {length} bytes")),
        }
    }
    match fields.left() {
        0 => Ok((head, map)),
        left => Err(format!("{left} bytes follow its last page")),
    }
}

fn unpacked(payload: &[u8], page: u64) -> Result<Vec<u8>, Why> {
    let raw = zstd::bulk::decompress(payload, 4096);
    raw.ok()
        .filter(|raw| raw.len() == 4096)
        .ok_or_else(|| format!("page {page} does not unpack to 4096 bytes"))
}
