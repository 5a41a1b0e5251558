//! The committed map of the active layer: what is surely durable, kept in place and healed by the journal. Format and
//! write order: `docs/journal.md`.

use crate::frozen::{FrozenMap, FrozenPage};
use crate::journal::Entry;
use crate::names::must_exist;
use crate::state::{BlockState, PAGE_WORDS, PageWords, page_count};
use block::sync::Arc;
use block::{
    ByteRange, Cursor, DiskId, Error, FileHeader, HEADER_LEN, Malformed, Media, MediaFile, OpenHow, Result,
};
use std::collections::BTreeMap;

const HEADER: FileHeader = FileHeader::new(*b"cmap", 1);
const PAGE_BYTES: u64 = PAGE_WORDS as u64 * 8;
/// Low half of a top word: the state all blocks share, or this for a spelled-out page. High half: the page's crc.
const PAGED: u64 = 4;

/// Bytes that the file of a disk of so many blocks takes from the start.
pub(crate) fn top_bytes(blocks: u64) -> u64 {
    PAGE_BYTES + (page_count(blocks) as u64 * 8).next_multiple_of(PAGE_BYTES)
}

/// The file.
pub(crate) struct CommittedFile {
    file: Arc<dyn MediaFile>,
    path: String,
    blocks: u64,
}

impl CommittedFile {
    fn top_offset(page: usize) -> u64 {
        PAGE_BYTES + page as u64 * 8
    }

    fn page_offset(&self, page: usize) -> u64 {
        top_bytes(self.blocks) + page as u64 * PAGE_BYTES
    }

    /// Makes the file: no block has a state. The top level has real blocks from the start, a page when it is spelled
    /// out.
    pub(crate) fn create(
        media: &dyn Media,
        path: String,
        disk: DiskId,
        layer: u64,
        blocks: u64,
    ) -> Result<Self> {
        let file = media.open(&path, OpenHow::Truncate)?;
        let committed = Self { file, path, blocks };
        committed.file.set_len(committed.page_offset(page_count(blocks)))?;
        committed.file.allocate(ByteRange::between(0, committed.page_offset(0)))?;
        let mut head = HEADER.encode().to_vec();
        head.extend(disk.as_bytes());
        head.extend(layer.to_le_bytes());
        head.extend(blocks.to_le_bytes());
        let crc = crc32fast::hash(&head);
        head.extend(crc.to_le_bytes());
        committed.file.write_at(0, &head)?;
        committed.file.sync()?;
        Ok(committed)
    }

    /// Opens the file of this disk and layer.
    pub(crate) fn open(
        media: &dyn Media,
        path: String,
        disk: DiskId,
        layer: u64,
        blocks: u64,
    ) -> Result<Self> {
        let file = must_exist(&path, media.open(&path, OpenHow::Write))?;
        let committed = Self { file, path, blocks };
        let expected = committed.page_offset(page_count(blocks));
        let len = committed.file.size()?;
        if len != expected {
            return Err(committed.damaged(None, format!("{len} bytes long, should be {expected}")));
        }
        let mut head = [0; HEADER_LEN + 36];
        committed.file.read_at(0, &mut head)?;
        FileHeader::check(&head, &HEADER, &committed.path)?;
        let mut cursor = Cursor::new(&head[HEADER_LEN..]);
        let fields =
            (|| Ok::<_, Malformed>((cursor.array()?, cursor.u64()?, cursor.u64()?, cursor.u32()?)))();
        let crc = crc32fast::hash(&head[..HEADER_LEN + 32]);
        if fields != Ok((*disk.as_bytes(), layer, blocks, crc)) {
            return Err(committed.damaged(Some(HEADER_LEN as u64), "belongs to another disk or layer"));
        }
        Ok(committed)
    }

    fn damaged(&self, offset: Option<u64>, why: impl Into<String>) -> Error {
        Error::corrupt(&self.path, offset, why)
    }

    /// Gives a page its real blocks, so that a checkpoint never needs room.
    pub(crate) fn reserve_page(&self, page: usize) -> Result<()> {
        let start = self.page_offset(page);
        self.file.allocate(ByteRange::between(start, start + PAGE_BYTES))
    }

    /// The committed states: this file, and over it the journal's entries.
    pub(crate) fn load(&self, media: &dyn Media, journal: &[Entry]) -> Result<FrozenMap> {
        let named = pages_of(journal);
        let mut map = FrozenMap::on(media, self.blocks);
        for page in 0..page_count(self.blocks) {
            self.load_page(page, named.get(&page).map_or(&[], Vec::as_slice), &mut map)?;
        }
        Ok(map)
    }

    fn load_page(&self, page: usize, entries: &[Entry], map: &mut FrozenMap) -> Result<()> {
        let mut top = [0; 8];
        self.file.read_at(Self::top_offset(page), &mut top)?;
        let top = u64::from_le_bytes(top);
        match top & 0xffff_ffff {
            PAGED => map.put_page(page, self.read_page(page, (top >> 32) as u32, !entries.is_empty())?),
            state @ 0..PAGED => map.put_uniform(page, BlockState::from_bits(state)),
            other => return Err(self.damaged(Some(Self::top_offset(page)), format!("top word {other:#x}"))),
        }
        if !entries.is_empty() {
            apply(map, page, entries);
        }
        Ok(())
    }

    /// Checksum of the top level. Together with the checksums in it, it covers everything the file says.
    pub(crate) fn top_crc(&self) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        let mut part = [0; PAGE_BYTES as usize];
        for offset in (PAGE_BYTES..self.page_offset(0)).step_by(PAGE_BYTES as usize) {
            self.file.read_at(offset, &mut part)?;
            hasher.update(&part);
        }
        Ok(hasher.finalize())
    }

    /// Checks the top level against the checksum of an orderly close.
    pub(crate) fn check_top(&self, crc: u32) -> Result<()> {
        if self.top_crc()? == crc {
            return Ok(());
        }
        Err(self.damaged(Some(PAGE_BYTES), "the top level is not the one of the last close"))
    }

    /// Reads a page. A page the journal names may be half a checkpoint: the journal heals it, its crc says nothing.
    fn read_page(&self, page: usize, crc: u32, healed: bool) -> Result<Box<PageWords>> {
        let mut bytes = [0; PAGE_BYTES as usize];
        let offset = self.page_offset(page);
        self.file.read_at(offset, &mut bytes)?;
        if !healed && crc32fast::hash(&bytes) != crc {
            return Err(self.damaged(Some(offset), "a page's checksum disagrees"));
        }
        let words = bytes.as_chunks::<8>().0;
        Ok(Box::new(std::array::from_fn(|index| u64::from_le_bytes(words[index]))))
    }

    /// Brings the journal's entries into this file, durably: pages first, then the top words that name them. A crash
    /// in between is healed by replaying the same journal, which must stay until this returned.
    pub(crate) fn checkpoint(&self, journal: &[Entry]) -> Result<()> {
        let mut tops = Vec::new();
        for (page, entries) in pages_of(journal) {
            let mut map = FrozenMap::new(self.blocks);
            self.load_page(page, &entries, &mut map)?;
            let top = match map.page(page) {
                None => BlockState::Absent as u64,
                Some(FrozenPage::Uniform(state)) => *state as u64,
                Some(content) => {
                    let bytes: Vec<u8> = content.words().iter().flat_map(|word| word.to_le_bytes()).collect();
                    self.file.write_at(self.page_offset(page), &bytes)?;
                    PAGED | u64::from(crc32fast::hash(&bytes)) << 32
                }
            };
            tops.push((page, top));
        }
        self.file.sync()?;
        for (page, top) in tops {
            self.file.write_at(Self::top_offset(page), &top.to_le_bytes())?;
        }
        self.file.sync()
    }
}

fn pages_of(entries: &[Entry]) -> BTreeMap<usize, Vec<Entry>> {
    let mut pages: BTreeMap<usize, Vec<Entry>> = BTreeMap::new();
    for &entry in entries {
        let (Entry::Word { page, .. } | Entry::Fill { page, .. }) = entry;
        pages.entry(page as usize).or_default().push(entry);
    }
    pages
}

fn apply(map: &mut FrozenMap, page: usize, entries: &[Entry]) {
    let mut words = map.page(page).map_or(Box::new([0; PAGE_WORDS]), FrozenPage::words);
    for entry in entries {
        match *entry {
            Entry::Word { word, value, .. } => words[usize::from(word)] = value,
            Entry::Fill { state, .. } => words.fill(state.filled_word()),
        }
    }
    map.put_page(page, words);
}
