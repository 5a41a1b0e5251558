//! The map journal of the active layer: which states a flush made durable, appended in real blocks set aside when the
//! layer began. Format and recovery rule: `docs/journal.md`.

use crate::state::{BlockState, PAGE_WORDS};
use block::sync::Arc;
use block::{
    ByteCount, ByteRange, Cursor, DiskId, Entropy, Error, FileHeader, HEADER_LEN, Malformed, Media,
    MediaFile, OpenHow, Result, planted,
};

const HEADER: FileHeader = FileHeader::new(*b"jrnl", 1);
/// Where records begin: after the header, disk id, layer number and length.
const FIRST_RECORD: u64 = 64;
/// The room a journal has at least: one record of two entries.
const MIN_ROOM: u64 = 64;
/// The longest journal that is valid; bounds what a replay reads into memory.
const MAX_JOURNAL_BYTES: u64 = FIRST_RECORD + (64 << 20);
const RECORD_HEAD: usize = 24;
const ENTRY_LEN: usize = 16;
const KIND_FILL: u64 = 1 << 63;

/// A committed change of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A word of a spelled-out page has this value.
    Word {
        /// Number of the page.
        page: u32,
        /// Number of the word within it.
        word: u16,
        /// The states of its 32 blocks.
        value: u64,
    },
    /// All blocks of a page have this state.
    Fill {
        /// Number of the page.
        page: u32,
        /// The state.
        state: BlockState,
    },
}

impl Entry {
    fn encode(self) -> [u64; 2] {
        match self {
            Self::Word { page, word, value } => [u64::from(page) << 16 | u64::from(word), value],
            Self::Fill { page, state } => [KIND_FILL | u64::from(page) << 16, state as u64],
        }
    }

    fn decode(place: u64, value: u64, pages: usize) -> Option<Self> {
        let page = u32::try_from((place & !KIND_FILL) >> 16).ok().filter(|&page| (page as usize) < pages)?;
        let word = place as u16;
        match (place & KIND_FILL != 0, word, value) {
            (true, 0, 0..=3) => Some(Self::Fill { page, state: BlockState::from_bits(value) }),
            (false, word, value) if usize::from(word) < PAGE_WORDS => Some(Self::Word { page, word, value }),
            _ => None,
        }
    }
}

/// The journal, open for appending.
pub(crate) struct Journal {
    file: Arc<dyn MediaFile>,
    /// Distinguishes the records since the last checkpoint from older ones further on in the file.
    round: u64,
    sequence: u32,
    at: u64,
    end: u64,
}

impl Journal {
    /// Makes the file, with all its blocks.
    pub(crate) fn create(
        media: &dyn Media,
        path: &str,
        disk: DiskId,
        layer: u64,
        room: ByteCount,
    ) -> Result<Arc<dyn MediaFile>> {
        let file = media.open(path, OpenHow::Truncate)?;
        let len = FIRST_RECORD + room.get().clamp(MIN_ROOM, MAX_JOURNAL_BYTES - FIRST_RECORD);
        file.allocate(ByteRange::between(0, len))?;
        let mut head = HEADER.encode().to_vec();
        head.extend(disk.as_bytes());
        head.extend(layer.to_le_bytes());
        head.extend(len.to_le_bytes());
        file.write_at(0, &head)?;
        file.sync()?;
        Ok(file)
    }

    /// Reads what was committed since the last checkpoint, in order.
    pub(crate) fn replay(
        file: &dyn MediaFile,
        path: &str,
        disk: DiskId,
        layer: u64,
        pages: usize,
    ) -> Result<Vec<Entry>> {
        let len = file.size()?;
        if !(FIRST_RECORD..=MAX_JOURNAL_BYTES).contains(&len) {
            return Err(Error::corrupt(path, None, format!("{len} bytes is no journal's length")));
        }
        let mut bytes = vec![0; len as usize];
        file.read_at(0, &mut bytes)?;
        FileHeader::check(&bytes, &HEADER, path)?;
        let mut cursor = Cursor::new(&bytes[HEADER_LEN..]);
        let owner = (|| Ok::<_, Malformed>((cursor.array()?, cursor.u64()?, cursor.u64()?)))();
        if owner != Ok((*disk.as_bytes(), layer, len)) {
            return Err(Error::corrupt(
                path,
                Some(HEADER_LEN as u64),
                "belongs to another disk or layer, or is cut short",
            ));
        }
        Ok(read_records(&bytes[FIRST_RECORD as usize..], pages))
    }

    /// Begins appending at the start. Everything in the file before must be in the committed map already.
    pub(crate) fn open(file: Arc<dyn MediaFile>, entropy: &dyn Entropy) -> Result<Self> {
        let end = file.size()?;
        let mut journal = Self { file, round: 0, sequence: 0, at: FIRST_RECORD, end };
        journal.restart(entropy)?;
        Ok(journal)
    }

    /// Begins again at the start, after a checkpoint. The first old record is made none, durably, before anything is
    /// written over the others: torn records would leave some of the old ones to be replayed without those after them.
    pub(crate) fn restart(&mut self, entropy: &dyn Entropy) -> Result<()> {
        let mut head = [0; RECORD_HEAD];
        self.file.read_at(FIRST_RECORD, &mut head)?;
        if head != [0; RECORD_HEAD] && !planted!("journal-begun-over-its-records") {
            self.file.write_at(FIRST_RECORD, &[0; RECORD_HEAD])?;
            self.file.sync()?;
        }
        let mut round = [0; 8];
        entropy.fill(&mut round)?;
        self.round = u64::from_le_bytes(round);
        self.sequence = 0;
        self.at = FIRST_RECORD;
        Ok(())
    }

    /// Appends as many of the entries as fit, as one record, and says how many. Durable after
    /// [`sync`](Self::sync).
    pub(crate) fn append(&mut self, entries: &[Entry]) -> Result<usize> {
        let room = (self.end - self.at).saturating_sub(RECORD_HEAD as u64) as usize / ENTRY_LEN;
        let taken = room.min(entries.len());
        if taken == 0 {
            return Ok(0);
        }
        let record = encode_record(self.round, self.sequence, &entries[..taken]);
        self.file.write_at(self.at, &record)?;
        self.at += record.len() as u64;
        self.sequence += 1;
        Ok(taken)
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}

fn encode_record(round: u64, sequence: u32, entries: &[Entry]) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_HEAD + entries.len() * ENTRY_LEN);
    record.extend(round.to_le_bytes());
    record.extend(sequence.to_le_bytes());
    record.extend((entries.len() as u32).to_le_bytes());
    record.extend([0; 8]);
    for word in entries.iter().flat_map(|entry| entry.encode()) {
        record.extend(word.to_le_bytes());
    }
    let crc = crc32fast::hash(&record);
    record[16..20].copy_from_slice(&crc.to_le_bytes());
    record
}

/// Reads records from the start of `bytes` for as long as they are whole, of one round and in sequence. The first
/// thing that is not such a record is where the journal ended; that is how a torn append looks, not an error.
/// Entries that name a page past `pages` end the journal too.
pub fn read_records(bytes: &[u8], pages: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    let (mut round, mut sequence) = (None, 0);
    while let Some((head, found, used)) = read_record(rest, pages) {
        if round.is_some_and(|round| round != head.0) || head.1 != sequence {
            break;
        }
        round = Some(head.0);
        sequence += 1;
        entries.extend(found);
        rest = &rest[used..];
    }
    entries
}

fn read_record(bytes: &[u8], pages: usize) -> Option<((u64, u32), Vec<Entry>, usize)> {
    let mut cursor = Cursor::new(bytes);
    let head = (cursor.u64().ok()?, cursor.u32().ok()?);
    let count = cursor.u32().ok()? as usize;
    let crc = cursor.u32().ok()?;
    cursor.u32().ok().filter(|&reserved| reserved == 0)?;
    let body = cursor.bytes(count.checked_mul(ENTRY_LEN)?).ok().filter(|_| count > 0)?;
    let used = cursor.position();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..16]);
    hasher.update(&[0; 8]);
    hasher.update(body);
    if hasher.finalize() != crc {
        return None;
    }
    let mut cursor = Cursor::new(body);
    let mut next = || Entry::decode(cursor.u64().ok()?, cursor.u64().ok()?, pages);
    let entries = (0..count).map(|_| next()).collect::<Option<Vec<_>>>()?;
    Some((head, entries, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Entry> {
        vec![
            Entry::Word { page: 1, word: 511, value: u64::MAX },
            Entry::Fill { page: 0, state: BlockState::Zero },
        ]
    }

    #[test]
    fn records_of_one_round_in_sequence_are_read_and_nothing_after() {
        let mut bytes = encode_record(7, 0, &sample());
        bytes.extend(encode_record(7, 1, &sample()[..1]));
        let whole = bytes.len();
        bytes.extend(encode_record(6, 2, &sample()));
        bytes.extend([0; 100]);
        assert_eq!(read_records(&bytes, 2).len(), 3);
        assert_eq!(read_records(&bytes[..whole - 1], 2).len(), 2, "a torn record ends the journal");
        assert_eq!(read_records(&bytes, 1), [], "a page past the end is no entry");
    }

    #[test]
    fn any_flipped_bit_ends_the_journal() {
        let bytes = encode_record(7, 0, &sample());
        for bit in 0..bytes.len() * 8 {
            let mut hurt = bytes.clone();
            hurt[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_records(&hurt, 2), [], "bit {bit}");
        }
    }
}
