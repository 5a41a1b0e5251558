//! The chain file: `images/layers/docs/chain.md`.

use crate::BLOCK;
use crate::bytes::{Fields, Why, header_with, sealed_by_crc};

/// A sealed layer, as the chain records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// Number of its data file.
    pub number: u64,
    /// Number of its map file.
    pub map: u64,
    /// The last epoch in it.
    pub top: u64,
    /// Number of its sums file; 0 for none.
    pub sums: u64,
    /// Whether the sums are whole.
    pub sums_whole: bool,
    /// Blocks its map covers.
    pub blocks: u64,
    /// Blocks its data file has.
    pub file_blocks: u64,
}

/// A fold under way, as the chain records it: `images/layers/docs/consolidation.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fold {
    /// Number of the layer that is taken apart.
    pub source: u64,
    /// Number of the layer that takes its blocks.
    pub target: u64,
    /// Blocks below this one have moved.
    pub folded: u64,
}

/// A seal, as the chain records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Its epoch.
    pub epoch: u64,
    /// The state's id.
    pub state: [u8; 16],
    /// The id of the state before; zeros for none.
    pub parent: [u8; 16],
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Bytes of the disk then.
    pub size: u64,
    /// Whether it is a recovery point.
    pub is_point: bool,
    /// Whether something stands on it.
    pub is_pinned: bool,
    /// Number of its change map.
    pub changes: u64,
    /// Members of its group, as disk and state.
    pub group: Vec<([u8; 16], [u8; 16])>,
}

/// What the disk stands on, as the chain records it: `images/layers/docs/base.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// The id of its content.
    pub state: [u8; 16],
    /// Bytes of it that the disk shows.
    pub size: u64,
    /// Number of the layer that takes what is brought of it; 0 for none.
    pub hydrated: u64,
}

/// A chain file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Id of the disk.
    pub disk: [u8; 16],
    /// How often the file was rewritten.
    pub generation: u64,
    /// Bytes of the disk.
    pub size: u64,
    /// After an orderly close the checksum of the committed map's top level.
    pub clean: Option<u32>,
    /// The next number for a file.
    pub next: u64,
    /// Number of the active layer.
    pub active: u64,
    /// What the disk stands on.
    pub base: Option<Base>,
    /// The fold under way.
    pub fold: Option<Fold>,
    /// Sealed layers, oldest first.
    pub layers: Vec<Layer>,
    /// Seals, oldest first.
    pub seals: Vec<Seal>,
}

impl Chain {
    /// Blocks of the disk.
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK)
    }

    /// Reads a chain file and holds it against what its document says must be so.
    ///
    /// # Errors
    /// What is not so.
    pub fn read(bytes: &[u8]) -> Result<Self, Why> {
        let body = sealed_by_crc(bytes)?;
        let mut fields = Fields::new(body);
        let has_base = header_with(&mut fields, b"chai", 1)? == 1;
        let disk = fields.id()?;
        let (generation, size) = (fields.u64()?, fields.u64()?);
        let _nonce = fields.id()?;
        let clean = fields.u64()?;
        let (next, active) = (fields.u64()?, fields.u64()?);
        let (source, target, folded) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (layers, seals) = (fields.number::<4>()?, fields.number::<4>()?);
        let mut chain = Self {
            disk,
            generation,
            size,
            clean: (clean >> 32 & 1 == 1).then_some(clean as u32),
            next,
            active,
            base: None,
            fold: (source != 0).then_some(Fold { source, target, folded }),
            layers: Vec::new(),
            seals: Vec::new(),
        };
        for _ in 0..layers {
            chain.layers.push(layer(&mut fields)?);
        }
        for _ in 0..seals {
            chain.seals.push(seal(&mut fields)?);
        }
        if has_base {
            chain.base = Some(Base { state: fields.id()?, size: fields.u64()?, hydrated: fields.u64()? });
        }
        match fields.left() {
            0 => chain.judged(),
            left => Err(format!("{left} bytes follow its last record")),
        }
    }

    fn judged(self) -> Result<Self, Why> {
        let is_size = |size: u64| (1..=1 << 46).contains(&size);
        if !is_size(self.size) || !self.seals.iter().all(|seal| is_size(seal.size)) {
            return Err("names a size that no disk has".to_owned());
        }
        if self.base.is_some_and(|base| !is_size(base.size)) {
            return Err("stands on a base of a size that no disk has".to_owned());
        }
        for pair in self.layers.windows(2) {
            if pair[0].top >= pair[1].top {
                return Err(format!("layer {} ends no later than the one before", pair[1].number));
            }
        }
        for pair in self.seals.windows(2) {
            if pair[0].epoch >= pair[1].epoch {
                return Err(format!("epoch {} comes after {}", pair[1].epoch, pair[0].epoch));
            }
        }
        for number in self.numbers() {
            if number == 0 || number >= self.next {
                return Err(format!("names file {number}, and the next number is {}", self.next));
            }
        }
        for seal in self.seals.iter().filter(|seal| seal.is_point || seal.is_pinned) {
            if !self.layers.iter().any(|layer| layer.top == seal.epoch) {
                return Err(format!("point {} has no layer", seal.epoch));
            }
        }
        if let Some(fold) = self.fold {
            let place = |number| self.layers.iter().position(|layer| layer.number == number);
            match (place(fold.source), place(fold.target)) {
                (Some(source), Some(target)) if source.abs_diff(target) == 1 => {
                    if self.is_needed(&self.layers[source.min(target)]) {
                        return Err("folds a state that is needed".to_owned());
                    }
                }
                _ => {
                    return Err(format!(
                        "folds {} into {}, which are no neighbours",
                        fold.source, fold.target
                    ));
                }
            }
        }
        Ok(self)
    }

    /// The layer that takes what is brought of the base, and its blocks: `images/layers/docs/hydrate.md`.
    pub fn hydrated(&self) -> Option<(u64, u64)> {
        self.base.filter(|base| base.hydrated != 0).map(|base| (base.hydrated, base.size.div_ceil(BLOCK)))
    }

    /// Whether the state at the top of this layer is a recovery point or pinned.
    pub fn is_needed(&self, layer: &Layer) -> bool {
        self.seals.iter().any(|seal| seal.epoch == layer.top && (seal.is_point || seal.is_pinned))
    }

    /// Every number a file has.
    pub fn numbers(&self) -> Vec<u64> {
        let mut numbers = vec![self.active];
        numbers.extend(self.layers.iter().flat_map(|layer| [layer.number, layer.map]));
        numbers.extend(self.layers.iter().map(|layer| layer.sums).filter(|&sums| sums != 0));
        numbers.extend(self.seals.iter().map(|seal| seal.changes));
        numbers.extend(self.hydrated().map(|(number, _)| number));
        numbers
    }
}

fn layer(fields: &mut Fields<'_>) -> Result<Layer, Why> {
    let (number, map, top) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (sums, flags) = (fields.u64()?, fields.u64()?);
    if flags > 1 || sums == 0 && flags != 0 {
        return Err(format!("layer {number} has the flags {flags:#x} and the sums file {sums}"));
    }
    let (blocks, file_blocks) = (fields.u64()?, fields.u64()?);
    if file_blocks == 0 || file_blocks > blocks || blocks > 1 << 34 {
        return Err(format!("layer {number} has {blocks} blocks and a file of {file_blocks}"));
    }
    Ok(Layer { number, map, top, sums, sums_whole: flags == 1, blocks, file_blocks })
}

fn seal(fields: &mut Fields<'_>) -> Result<Seal, Why> {
    let epoch = fields.u64()?;
    let (state, parent) = (fields.id()?, fields.id()?);
    let (time_ms, size, _blocked_ns) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (flags, changes) = (fields.u64()?, fields.u64()?);
    let members = fields.number::<4>()?;
    if members > 256 {
        return Err(format!("the group of epoch {epoch} has {members} members"));
    }
    let mut group = Vec::new();
    for _ in 0..members {
        group.push((fields.id()?, fields.id()?));
    }
    if flags > 7 {
        return Err(format!("epoch {epoch} has the unknown flags {flags:#x}"));
    }
    let (is_point, is_pinned) = (flags & 1 == 1, flags & 2 == 2);
    Ok(Seal { epoch, state, parent, time_ms, size, is_point, is_pinned, changes, group })
}
