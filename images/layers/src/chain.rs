//! The chain file: the one small file, replaced atomically, that says what a disk consists of. What it does not name
//! does not exist. Format: `docs/chain.md`.

use block::{
    ByteCount, Cursor, DiskId, Epoch, Error, FileHeader, Generation, HEADER_LEN, MAX_DISK_SIZE, Malformed,
    Result, StateId, Time,
};

const HEADER: FileHeader = FileHeader::new(*b"chai", 1);

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
    /// Whether it is a recovery point of the instant tier. Otherwise only its change map is left.
    pub is_point: bool,
    /// Number of the map file that says what changed in this epoch.
    pub changes: u64,
    /// All members of the group sealed at the same instant, this disk among them; empty for a point of its own.
    pub group: Vec<(DiskId, StateId)>,
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

    /// The newest seal.
    pub(crate) fn newest(&self) -> Option<&EpochRecord> {
        self.epochs.last()
    }

    /// Whether the state at the top of this layer must stay readable.
    pub(crate) fn is_boundary(&self, layer: &LayerRecord) -> bool {
        let found = self.epochs.binary_search_by_key(&layer.top_epoch, |epoch| epoch.epoch);
        found.is_ok_and(|place| self.epochs[place].is_point)
    }

    /// Every number in use.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let layers = self.layers.iter().flat_map(|layer| [layer.layer, layer.map]);
        layers.chain(self.epochs.iter().map(|epoch| epoch.changes)).chain([self.active])
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = HEADER.encode().to_vec();
        bytes.extend(self.disk.as_bytes());
        bytes.extend(self.generation.get().to_le_bytes());
        bytes.extend(self.size.get().to_le_bytes());
        bytes.extend(self.nonce);
        bytes.extend(self.clean.map_or(0, |crc| CLEAN | u64::from(crc)).to_le_bytes());
        bytes.extend(self.next_number.to_le_bytes());
        bytes.extend(self.active.to_le_bytes());
        bytes.extend((self.layers.len() as u32).to_le_bytes());
        bytes.extend((self.epochs.len() as u32).to_le_bytes());
        for layer in &self.layers {
            for field in [layer.layer, layer.map, layer.top_epoch.get()] {
                bytes.extend(field.to_le_bytes());
            }
        }
        self.epochs.iter().for_each(|epoch| epoch.encode(&mut bytes));
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    /// Reads the stored form. `what` names the file in errors.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are no chain or contradict themselves, `Unsupported` for another version.
    pub fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        FileHeader::check(bytes, &HEADER, what)?;
        let damaged = |malformed: Malformed| Error::corrupt(what, Some(malformed.at as u64), malformed.why);
        let split = bytes.len().checked_sub(4).filter(|&split| split >= HEADER_LEN);
        let (body, crc) = bytes.split_at(split.ok_or_else(|| Error::corrupt(what, None, "cut short"))?);
        if crc32fast::hash(body).to_le_bytes() != crc {
            return Err(Error::corrupt(what, None, "the checksum disagrees"));
        }
        let mut cursor = Cursor::new(body);
        cursor.bytes(HEADER_LEN).map_err(damaged)?;
        let chain = Self::decode_body(&mut cursor).map_err(damaged)?;
        chain.check().map_err(|why| Error::corrupt(what, None, why))?;
        Ok(chain)
    }

    fn decode_body(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let mut chain = Self {
            disk: DiskId::from_bytes(cursor.array()?),
            generation: Generation::new(cursor.u64()?),
            size: ByteCount::new(cursor.u64()?),
            nonce: cursor.array()?,
            clean: Some(cursor.u64()?).filter(|word| word & CLEAN != 0).map(|word| word as u32),
            next_number: cursor.u64()?,
            active: cursor.u64()?,
            layers: Vec::new(),
            epochs: Vec::new(),
        };
        let layers = cursor.count_u32(MAX_LAYERS, 24)?;
        let epochs = cursor.count_u32(MAX_EPOCHS, EpochRecord::MIN_LEN)?;
        for _ in 0..layers {
            let (layer, map, top_epoch) = (cursor.u64()?, cursor.u64()?, Epoch::new(cursor.u64()?));
            chain.layers.push(LayerRecord { layer, map, top_epoch });
        }
        for _ in 0..epochs {
            chain.epochs.push(EpochRecord::decode(cursor)?);
        }
        cursor.end()?;
        Ok(chain)
    }

    /// What the decoder promises beyond well-formed fields.
    fn check(&self) -> Result<(), &'static str> {
        let sizes = self.epochs.iter().map(|epoch| epoch.size).chain([self.size]);
        if sizes.into_iter().any(|size| size == ByteCount::ZERO || size.get() > MAX_DISK_SIZE) {
            return Err("a size is no disk's size");
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
        if self.epochs.iter().any(|epoch| epoch.is_point && !has_layer(epoch)) {
            return Err("a recovery point has no layer");
        }
        Ok(())
    }
}

impl EpochRecord {
    /// Epoch, state, parent, time, size, seal time, flags, changes, group length.
    const MIN_LEN: usize = 8 + 16 + 16 + 8 + 8 + 8 + 8 + 8 + 4;

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.epoch.get().to_le_bytes());
        bytes.extend(self.state.as_bytes());
        bytes.extend(self.parent.as_ref().map_or(&NO_STATE, StateId::as_bytes));
        for field in
            [self.time.unix_ms, self.size.get(), self.seal_ns, u64::from(self.is_point), self.changes]
        {
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
            is_point: cursor.u64()? == 1,
            changes: cursor.u64()?,
            group: Vec::new(),
        };
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
            changes: 3,
            group: vec![(DiskId::from_bytes([0xd1; 16]), StateId::from_bytes([0x51; 16]))],
        };
        Chain {
            disk: DiskId::from_bytes([0xd1; 16]),
            generation: Generation::new(3),
            size: ByteCount::new(40_960),
            nonce: [0xee; 16],
            clean: None,
            next_number: 4,
            active: 2,
            layers: vec![LayerRecord { layer: 1, map: 3, top_epoch: Epoch::new(1) }],
            epochs: vec![record],
        }
    }

    #[test]
    fn round_trips_and_any_flipped_bit_is_seen() {
        let bytes = example().encode();
        assert_eq!(Chain::decode(&bytes, "c").ok(), Some(example()));
        for bit in 0..bytes.len() * 8 {
            let mut hurt = bytes.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            assert!(Chain::decode(&hurt, "c").is_err(), "bit {bit}");
        }
    }

    #[test]
    fn chains_that_contradict_themselves_are_refused() {
        let spoil: [fn(&mut Chain); 6] = [
            |chain| chain.size = ByteCount::ZERO,
            |chain| chain.next_number = 3,
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
        assert_eq!(shown, example().encode()[..112]);
    }
}
