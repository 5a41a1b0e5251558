//! The chain file: the one small file, replaced atomically, that says what a disk consists of. What it does not name
//! does not exist. Format: `docs/chain.md`.

use block::{
    BLOCK_SIZE, ByteCount, Cursor, DiskId, Epoch, Error, FileHeader, Generation, HEADER_LEN, MAX_DISK_SIZE,
    Malformed, Result, StateId, Time,
};

/// The feature of a disk that stands on a base: a reader that does not know it would read zeros instead.
const ON_A_BASE: u32 = 1;

const HEADER: FileHeader = FileHeader { incompatible: ON_A_BASE, ..FileHeader::new(*b"chai", 1) };

/// Most layers a chain can have: an owner index entry names one in 15 bits.
pub(crate) const MAX_LAYERS: usize = 32_000;
/// Most epochs a disk remembers: at one point a minute, almost two years.
pub(crate) const MAX_EPOCHS: usize = 1_000_000;
/// Most disks one group point can span.
pub const MAX_GROUP: usize = 256;
/// The longest chain file that is valid: every limit reached at once would be longer, but no disk has that history.
pub const MAX_CHAIN_BYTES: u64 = 256 << 20;

const NO_STATE: [u8; 16] = [0; 16];
/// Marks an orderly close; the low half of the word is the checksum.
const CLEAN: u64 = 1 << 32;

/// A sealed layer: its bytes and its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerRecord {
    /// Number of the layer's data file.
    pub layer: u64,
    /// Number of its map file.
    pub map: u64,
    /// The last epoch whose writes are in it.
    pub top_epoch: Epoch,
    /// Its sums, once somebody began to make them.
    pub sums: Option<SumsRecord>,
    /// Blocks its map covers: those of the largest disk it ever was a layer of.
    pub blocks: u64,
    /// Blocks its data file has, at most `blocks`. Further ones have no bytes here.
    pub file_blocks: u64,
}

/// The sums of a sealed layer; see `docs/sums.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SumsRecord {
    /// Number of the sums file.
    pub number: u64,
    /// Whether every block that has bytes has its sum.
    pub is_whole: bool,
}

impl LayerRecord {
    /// Data file, map file, top epoch, sums file, flags, blocks, blocks of the data file.
    const LEN: usize = 8 * 7;
    /// The sums are whole.
    const WHOLE_SUMS: u64 = 1;

    /// The record of a layer that this seal ended.
    pub(crate) fn sealed(layer: u64, map: u64, seal: &EpochRecord) -> Self {
        let blocks = seal.size.blocks();
        Self { layer, map, top_epoch: seal.epoch, sums: None, blocks, file_blocks: blocks }
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        let [sums, flags] = self.sums.map_or([0, 0], |sums| [sums.number, u64::from(sums.is_whole)]);
        let epoch = self.top_epoch.get();
        for field in [self.layer, self.map, epoch, sums, flags, self.blocks, self.file_blocks] {
            bytes.extend(field.to_le_bytes());
        }
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let (layer, map, top_epoch) = (cursor.u64()?, cursor.u64()?, Epoch::new(cursor.u64()?));
        let sums = match (cursor.u64()?, cursor.u64()?) {
            (0, 0) => None,
            (number @ 1.., flags @ 0..=Self::WHOLE_SUMS) => {
                Some(SumsRecord { number, is_whole: flags == Self::WHOLE_SUMS })
            }
            _ => return Err(cursor.malformed("a layer's sums are no sums")),
        };
        let (blocks, file_blocks) = (cursor.u64()?, cursor.u64()?);
        Ok(Self { layer, map, top_epoch, sums, blocks, file_blocks })
    }
}

/// A fold under way: one of two neighbours is taken apart, the other takes its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldRecord {
    /// Number of the layer that is taken apart.
    pub source: u64,
    /// Number of the layer that takes its blocks.
    pub target: u64,
    /// Blocks below this one have moved: of the two, only the target has them.
    pub folded: u64,
}

/// A seal, remembered for as long as somebody may ask what changed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochRecord {
    /// Which seal of the disk.
    pub epoch: Epoch,
    /// The state sealed.
    pub state: StateId,
    /// The state sealed before it.
    pub parent: Option<StateId>,
    /// When.
    pub time: Time,
    /// The disk's size at that time.
    pub size: ByteCount,
    /// How long writes were blocked, in nanoseconds.
    pub seal_ns: u64,
    /// Whether it is a recovery point of the instant tier. If it is not kept either, only its change map is left.
    pub is_point: bool,
    /// Whether something stands on the state: it stays readable, point or not, and its layer is never written.
    pub is_pinned: bool,
    /// Whether it was a recovery point and was deleted. Other states without a point never were one.
    pub is_deleted: bool,
    /// Number of the map file that says what changed in this epoch.
    pub changes: u64,
    /// All members of the group sealed at the same instant, this disk among them; empty for a point of its own.
    pub group: Vec<(DiskId, StateId)>,
}

/// What a disk stands on; see `docs/base.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseRecord {
    /// Which content.
    pub state: StateId,
    /// Bytes of it that the disk shows.
    pub size: ByteCount,
    /// Number of the layer that takes what is brought of it, once that began; see `docs/hydrate.md`.
    pub hydrated: Option<u64>,
}

/// What the chain file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Which disk.
    pub disk: DiskId,
    /// Counts the rewrites of this file.
    pub generation: Generation,
    /// The disk's size.
    pub size: ByteCount,
    /// Drawn at every open; ties the live map to it.
    pub nonce: [u8; 16],
    /// Set if the disk was closed in order: the checksum of the committed map's top level. The journal says nothing
    /// more then.
    pub clean: Option<u32>,
    /// The next number for a layer or a map.
    pub next_number: u64,
    /// Number of the active layer.
    pub active: u64,
    /// What lies below the oldest layer, if the disk stands on something.
    pub base: Option<BaseRecord>,
    /// The fold under way, if blocks have moved.
    pub fold: Option<FoldRecord>,
    /// Sealed layers, oldest first.
    pub layers: Vec<LayerRecord>,
    /// Seals, oldest first.
    pub epochs: Vec<EpochRecord>,
}

impl Chain {
    /// Takes a number for a new layer or map.
    pub(crate) fn take_number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// The generation of the next rewrite.
    pub(crate) fn next_generation(&self) -> Generation {
        Generation::new(self.generation.get() + 1)
    }

    /// The newest seal.
    pub(crate) fn newest(&self) -> Option<&EpochRecord> {
        self.epochs.last()
    }

    /// The epoch of the next seal, unless the disk is sealed together with one that is further on.
    pub fn next_epoch(&self) -> Epoch {
        Epoch::new(self.newest().map_or(1, |newest| newest.epoch.get() + 1))
    }

    /// The seal at the top of this layer, if the disk still remembers it.
    pub(crate) fn top(&self, layer: &LayerRecord) -> Option<&EpochRecord> {
        let found = self.epochs.binary_search_by_key(&layer.top_epoch, |epoch| epoch.epoch);
        found.ok().map(|place| &self.epochs[place])
    }

    /// Place of the layer with this number.
    pub(crate) fn place_of(&self, layer: u64) -> Option<usize> {
        self.layers.iter().position(|record| record.layer == layer)
    }

    /// Whether the state at the top of this layer must stay readable.
    pub(crate) fn is_boundary(&self, layer: &LayerRecord) -> bool {
        self.top(layer).is_some_and(|epoch| epoch.is_point || epoch.is_pinned)
    }

    /// Fails if no layer or no seal can be added.
    ///
    /// # Errors
    /// `TooMany`.
    pub(crate) fn check_room(&self) -> crate::Result<()> {
        let counts = [(self.layers.len(), "layers", MAX_LAYERS), (self.epochs.len(), "seals", MAX_EPOCHS)];
        match counts.into_iter().find(|(count, _, limit)| count >= limit) {
            Some((_, what, limit)) => Err(crate::Error::TooMany { disk: self.disk, what, limit }),
            None => Ok(()),
        }
    }

    /// Every number in use.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let sums = |layer: &LayerRecord| layer.sums.map(|sums| sums.number);
        let layers =
            self.layers.iter().flat_map(move |layer| [layer.layer, layer.map].into_iter().chain(sums(layer)));
        let hydrated = self.base.and_then(|base| base.hydrated);
        layers.chain(self.epochs.iter().map(|epoch| epoch.changes)).chain([self.active]).chain(hydrated)
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let incompatible = if self.base.is_some() { ON_A_BASE } else { 0 };
        let mut bytes = FileHeader { incompatible, ..HEADER }.encode().to_vec();
        bytes.extend(self.disk.as_bytes());
        bytes.extend(self.generation.get().to_le_bytes());
        bytes.extend(self.size.get().to_le_bytes());
        bytes.extend(self.nonce);
        bytes.extend(self.clean.map_or(0, |crc| CLEAN | u64::from(crc)).to_le_bytes());
        bytes.extend(self.next_number.to_le_bytes());
        bytes.extend(self.active.to_le_bytes());
        let fold = self.fold.map_or([0; 3], |fold| [fold.source, fold.target, fold.folded]);
        fold.iter().for_each(|field| bytes.extend(field.to_le_bytes()));
        bytes.extend((self.layers.len() as u32).to_le_bytes());
        bytes.extend((self.epochs.len() as u32).to_le_bytes());
        self.layers.iter().for_each(|layer| layer.encode(&mut bytes));
        self.epochs.iter().for_each(|epoch| epoch.encode(&mut bytes));
        if let Some(base) = &self.base {
            bytes.extend(base.state.as_bytes());
            bytes.extend(base.size.get().to_le_bytes());
            bytes.extend(base.hydrated.unwrap_or(0).to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    /// Reads the stored form. `what` names the file in errors.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are no chain or contradict themselves, `Unsupported` for another version.
    pub fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let header = FileHeader::check(bytes, &HEADER, what)?;
        let damaged = |malformed: Malformed| Error::corrupt(what, Some(malformed.at as u64), malformed.why);
        let split = bytes.len().checked_sub(4).filter(|&split| split >= HEADER_LEN);
        let (body, crc) = bytes.split_at(split.ok_or_else(|| Error::corrupt(what, None, "cut short"))?);
        if crc32fast::hash(body).to_le_bytes() != crc {
            return Err(Error::corrupt(what, None, "the checksum disagrees"));
        }
        let mut cursor = Cursor::new(body);
        cursor.bytes(HEADER_LEN).map_err(damaged)?;
        let has_base = header.incompatible & ON_A_BASE != 0;
        let chain = Self::decode_body(&mut cursor, has_base).map_err(damaged)?;
        chain.check().map_err(|why| Error::corrupt(what, None, why))?;
        Ok(chain)
    }

    fn decode_body(cursor: &mut Cursor<'_>, has_base: bool) -> Result<Self, Malformed> {
        let mut chain = Self {
            disk: DiskId::from_bytes(cursor.array()?),
            generation: Generation::new(cursor.u64()?),
            size: ByteCount::new(cursor.u64()?),
            nonce: cursor.array()?,
            clean: Some(cursor.u64()?).filter(|word| word & CLEAN != 0).map(|word| word as u32),
            next_number: cursor.u64()?,
            active: cursor.u64()?,
            base: None,
            fold: FoldRecord::decode(cursor)?,
            layers: Vec::new(),
            epochs: Vec::new(),
        };
        let layers = cursor.count_u32(MAX_LAYERS, LayerRecord::LEN)?;
        let epochs = cursor.count_u32(MAX_EPOCHS, EpochRecord::MIN_LEN)?;
        for _ in 0..layers {
            chain.layers.push(LayerRecord::decode(cursor)?);
        }
        for _ in 0..epochs {
            chain.epochs.push(EpochRecord::decode(cursor)?);
        }
        if has_base {
            let (state, size) = (StateId::from_bytes(cursor.array()?), ByteCount::new(cursor.u64()?));
            // no layer has the number 0
            let hydrated = Some(cursor.u64()?).filter(|&number| number != 0);
            chain.base = Some(BaseRecord { state, size, hydrated });
        }
        cursor.end()?;
        Ok(chain)
    }

    /// What the decoder promises beyond well-formed fields.
    fn check(&self) -> Result<(), &'static str> {
        let sizes = self.epochs.iter().map(|epoch| epoch.size).chain([self.size]);
        let sizes = sizes.chain(self.base.map(|base| base.size));
        if sizes.into_iter().any(|size| size == ByteCount::ZERO || size.get() > MAX_DISK_SIZE) {
            return Err("a size is no disk's size");
        }
        let fits = |layer: &LayerRecord| {
            (1..=layer.blocks).contains(&layer.file_blocks) && layer.blocks <= MAX_DISK_SIZE / BLOCK_SIZE
        };
        if !self.layers.iter().all(fits) {
            return Err("a layer's length is no layer's length");
        }
        if !self.epochs.is_sorted_by(|a, b| a.epoch < b.epoch) {
            return Err("epochs are out of order");
        }
        if !self.layers.is_sorted_by(|a, b| a.top_epoch < b.top_epoch) {
            return Err("layers are out of order");
        }
        if self.numbers().any(|number| number >= self.next_number) {
            return Err("a file has a number not yet given");
        }
        let has_layer = |epoch: &EpochRecord| {
            self.layers.binary_search_by_key(&epoch.epoch, |layer| layer.top_epoch).is_ok()
        };
        if self.epochs.iter().any(|epoch| (epoch.is_point || epoch.is_pinned) && !has_layer(epoch)) {
            return Err("a recovery point has no layer");
        }
        self.check_fold()
    }

    fn check_fold(&self) -> Result<(), &'static str> {
        let Some(fold) = self.fold else { return Ok(()) };
        match (self.place_of(fold.source), self.place_of(fold.target)) {
            (Some(source), Some(target)) if source.abs_diff(target) == 1 => {
                let older = &self.layers[source.min(target)];
                if self.is_boundary(older) { Err("a fold takes a state that is needed") } else { Ok(()) }
            }
            _ => Err("a fold is not of two neighbours"),
        }
    }
}

impl FoldRecord {
    /// No layer has the number 0.
    fn decode(cursor: &mut Cursor<'_>) -> Result<Option<Self>, Malformed> {
        let (source, target, folded) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
        Ok((source != 0).then_some(Self { source, target, folded }))
    }
}

impl EpochRecord {
    const POINT: u64 = 1;
    const PINNED: u64 = 2;
    const DELETED: u64 = 4;

    /// The seal after the newest one of a disk, which makes no point.
    pub(crate) fn after(chain: &Chain, state: StateId, time: Time, size: ByteCount, changes: u64) -> Self {
        Self {
            epoch: chain.next_epoch(),
            state,
            parent: chain.newest().map(|newest| newest.state),
            time,
            size,
            seal_ns: 0,
            is_point: false,
            is_pinned: false,
            is_deleted: false,
            changes,
            group: Vec::new(),
        }
    }

    /// Epoch, state, parent, time, size, seal time, flags, changes, group length.
    const MIN_LEN: usize = 8 + 16 + 16 + 8 + 8 + 8 + 8 + 8 + 4;

    fn flags(&self) -> u64 {
        let set = |is_set: bool, flag: u64| if is_set { flag } else { 0 };
        set(self.is_point, Self::POINT)
            | set(self.is_pinned, Self::PINNED)
            | set(self.is_deleted, Self::DELETED)
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.epoch.get().to_le_bytes());
        bytes.extend(self.state.as_bytes());
        bytes.extend(self.parent.as_ref().map_or(&NO_STATE, StateId::as_bytes));
        for field in [self.time.unix_ms, self.size.get(), self.seal_ns, self.flags(), self.changes] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend((self.group.len() as u32).to_le_bytes());
        for (disk, state) in &self.group {
            bytes.extend(disk.as_bytes());
            bytes.extend(state.as_bytes());
        }
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let mut record = Self {
            epoch: Epoch::new(cursor.u64()?),
            state: StateId::from_bytes(cursor.array()?),
            parent: Some(cursor.array()?).filter(|parent| *parent != NO_STATE).map(StateId::from_bytes),
            time: Time { unix_ms: cursor.u64()? },
            size: ByteCount::new(cursor.u64()?),
            seal_ns: cursor.u64()?,
            is_point: false,
            is_pinned: false,
            is_deleted: false,
            changes: 0,
            group: Vec::new(),
        };
        let flags = cursor.u64()?;
        if flags & !(Self::POINT | Self::PINNED | Self::DELETED) != 0 {
            return Err(cursor.malformed(format!("a seal has the unknown flags {flags:#x}")));
        }
        record.is_point = flags & Self::POINT != 0;
        record.is_pinned = flags & Self::PINNED != 0;
        record.is_deleted = flags & Self::DELETED != 0;
        record.changes = cursor.u64()?;
        for _ in 0..cursor.count_u32(MAX_GROUP, 32)? {
            record.group.push((DiskId::from_bytes(cursor.array()?), StateId::from_bytes(cursor.array()?)));
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Chain {
        let record = EpochRecord {
            epoch: Epoch::new(1),
            state: StateId::from_bytes([0x51; 16]),
            parent: None,
            time: Time { unix_ms: 1_700_000_000_000 },
            size: ByteCount::new(40_960),
            seal_ns: 50_000,
            is_point: true,
            is_pinned: false,
            is_deleted: false,
            changes: 3,
            group: vec![(DiskId::from_bytes([0xd1; 16]), StateId::from_bytes([0x51; 16]))],
        };
        Chain {
            disk: DiskId::from_bytes([0xd1; 16]),
            generation: Generation::new(3),
            size: ByteCount::new(40_960),
            nonce: [0xee; 16],
            clean: None,
            next_number: 5,
            active: 2,
            base: None,
            fold: None,
            layers: vec![LayerRecord {
                layer: 1,
                map: 3,
                top_epoch: Epoch::new(1),
                sums: Some(SumsRecord { number: 4, is_whole: true }),
                blocks: 10,
                file_blocks: 10,
            }],
            epochs: vec![record],
        }
    }

    #[test]
    fn round_trips_and_any_flipped_bit_is_seen() {
        let bytes = example().encode();
        assert_eq!(Chain::decode(&bytes, "c").ok(), Some(example()));
        for hydrated in [None, Some(1)] {
            let base =
                BaseRecord { state: StateId::from_bytes([0xba; 16]), size: ByteCount::new(4097), hydrated };
            let on_a_base = Chain { base: Some(base), ..example() };
            assert_eq!(Chain::decode(&on_a_base.encode(), "c").ok(), Some(on_a_base));
        }
        for bit in 0..bytes.len() * 8 {
            let mut hurt = bytes.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            assert!(Chain::decode(&hurt, "c").is_err(), "bit {bit}");
        }
    }

    /// A chain with three layers, of which the older two are folded.
    fn folding() -> Chain {
        let mut chain = example();
        chain.next_number = 9;
        chain.epochs[0].is_point = false;
        chain.layers.extend([(4, 5, 2), (6, 7, 3)].map(|(layer, map, top)| LayerRecord {
            layer,
            map,
            top_epoch: Epoch::new(top),
            sums: None,
            blocks: 10,
            file_blocks: 10,
        }));
        chain.fold = Some(FoldRecord { source: 1, target: 4, folded: 3 });
        chain
    }

    #[test]
    fn a_fold_is_of_neighbours_whose_older_state_nobody_needs() {
        for (source, target) in [(1, 4), (4, 1)] {
            let mut chain = folding();
            chain.fold = Some(FoldRecord { source, target, folded: 3 });
            assert_eq!(Chain::decode(&chain.encode(), "c").ok(), Some(chain));
        }
        let spoil: [fn(&mut Chain); 4] = [
            |chain| chain.epochs[0].is_point = true,
            |chain| chain.epochs[0].is_pinned = true,
            |chain| chain.fold = Some(FoldRecord { source: 1, target: 6, folded: 0 }),
            |chain| chain.fold = Some(FoldRecord { source: 8, target: 6, folded: 0 }),
        ];
        for (number, spoil) in spoil.iter().enumerate() {
            let mut chain = folding();
            spoil(&mut chain);
            assert!(Chain::decode(&chain.encode(), "c").is_err(), "spoiled {number}");
        }
    }

    #[test]
    fn chains_that_contradict_themselves_are_refused() {
        let spoil: [fn(&mut Chain); 10] = [
            |chain| {
                let (state, size) = (StateId::from_bytes([1; 16]), ByteCount::new(1));
                chain.base = Some(BaseRecord { state, size, hydrated: Some(5) })
            },
            |chain| {
                let state = StateId::from_bytes([1; 16]);
                chain.base = Some(BaseRecord { state, size: ByteCount::ZERO, hydrated: None })
            },
            |chain| chain.layers[0].file_blocks = 11,
            |chain| chain.layers[0].blocks = MAX_DISK_SIZE / BLOCK_SIZE + 1,
            |chain| chain.size = ByteCount::ZERO,
            |chain| chain.next_number = 4,
            |chain| chain.layers.clear(),
            |chain| chain.epochs.push(chain.epochs[0].clone()),
            |chain| chain.layers.push(chain.layers[0]),
            |chain| chain.epochs[0].size = ByteCount::new(MAX_DISK_SIZE + 1),
        ];
        for (number, spoil) in spoil.iter().enumerate() {
            let mut chain = example();
            spoil(&mut chain);
            assert!(Chain::decode(&chain.encode(), "c").is_err(), "spoiled {number}");
        }
    }

    /// The bytes shown in docs/chain.md.
    #[test]
    fn the_documented_bytes_are_the_real_ones() {
        let shown: Vec<u8> = include_str!("../docs/chain.md")
            .lines()
            .filter_map(|line| line.strip_prefix("    0"))
            .flat_map(|line| line.split_whitespace().skip(1).take(16))
            .map(|byte| u8::from_str_radix(byte, 16).expect("a hex byte"))
            .collect();
        assert_eq!(shown, example().encode()[..136]);
    }
}
