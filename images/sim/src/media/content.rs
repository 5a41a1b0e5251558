//! The bytes of one simulated file: a sparse map of pages whose copies share what they have in common.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// The unit of allocation of the simulated filesystem, in bytes.
pub(super) const PAGE: u64 = 4096;
/// Pages per chunk: one reference count guards this many, so copying a file costs little.
const CHUNK: u64 = 64;

type Page = Arc<[u8; PAGE as usize]>;

#[derive(Clone)]
struct Chunk([Option<Page>; CHUNK as usize]);

static EMPTY: LazyLock<Arc<Chunk>> = LazyLock::new(|| Arc::new(Chunk([const { None }; CHUNK as usize])));
static ZERO: LazyLock<Page> = LazyLock::new(|| Arc::new([0; PAGE as usize]));
static ALL_ZERO: LazyLock<Arc<Chunk>> =
    LazyLock::new(|| Arc::new(Chunk(std::array::from_fn(|_| Some(ZERO.clone())))));

/// A file's length and its allocated pages. A page that is not there is a hole.
#[derive(Clone, Default)]
pub(super) struct Content {
    len: u64,
    chunks: BTreeMap<u64, Arc<Chunk>>,
    allocated: u64,
}

/// Cuts a byte range at page borders: (page, first byte within it, bytes).
fn pieces(start: u64, end: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = start;
    std::iter::from_fn(move || {
        let within = at % PAGE;
        let count = (PAGE - within).min(end.checked_sub(at)?);
        let piece = (at / PAGE, within as usize, count as usize);
        at += count;
        (count > 0).then_some(piece)
    })
}

impl Content {
    /// The length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The allocated bytes.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.allocated * PAGE
    }

    fn page(&self, page: u64) -> Option<&Page> {
        self.chunks.get(&(page / CHUNK))?.0[(page % CHUNK) as usize].as_ref()
    }

    fn page_mut(&mut self, page: u64) -> &mut [u8; PAGE as usize] {
        let chunk = self.chunks.entry(page / CHUNK).or_insert_with(|| EMPTY.clone());
        let slot = &mut Arc::make_mut(chunk).0[(page % CHUNK) as usize];
        if slot.is_none() {
            self.allocated += 1;
        }
        Arc::make_mut(slot.get_or_insert_with(|| ZERO.clone()))
    }

    /// Fills the buffer; holes and bytes past the end are zeros.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) {
        let mut rest = buf;
        for (page, within, count) in pieces(offset, offset + rest.len() as u64) {
            let (piece, after) = rest.split_at_mut(count);
            match self.page(page) {
                Some(bytes) => piece.copy_from_slice(&bytes[within..within + count]),
                None => piece.fill(0),
            }
            rest = after;
        }
    }

    /// Writes, growing the file if needed.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (mut rest, end) = (bytes, offset + bytes.len() as u64);
        for (page, within, count) in pieces(offset, end) {
            let (piece, after) = rest.split_at(count);
            self.page_mut(page)[within..within + count].copy_from_slice(piece);
            rest = after;
        }
        if !bytes.is_empty() {
            self.len = self.len.max(end);
        }
    }

    /// Sets the length; what is cut off is gone.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.punch(len, u64::MAX);
        }
        self.len = len;
    }

    /// Turns the range into a hole; the length stays.
    pub(super) fn punch(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (first_whole, last_whole) = (start.div_ceil(PAGE), end / PAGE);
        if first_whole > last_whole {
            return self.clear(start, end);
        }
        self.clear(start, first_whole * PAGE);
        self.clear(last_whole * PAGE, end);
        self.forget(first_whole, last_whole);
    }

    /// Zeros bytes within one page, if it is there.
    fn clear(&mut self, start: u64, end: u64) {
        if start < end && self.page(start / PAGE).is_some() {
            let within = (start % PAGE) as usize;
            self.page_mut(start / PAGE)[within..within + (end - start) as usize].fill(0);
        }
    }

    /// Drops whole pages.
    fn forget(&mut self, first: u64, end: u64) {
        if first >= end {
            return;
        }
        let touched: Vec<u64> =
            self.chunks.range(first / CHUNK..=(end - 1) / CHUNK).map(|(&index, _)| index).collect();
        for index in touched {
            let base = index * CHUNK;
            let Some(chunk) = self.chunks.get_mut(&index) else { continue };
            let (from, to) = (first.max(base) - base, end.min(base + CHUNK) - base);
            let slots = &mut Arc::make_mut(chunk).0;
            let gone = slots[from as usize..to as usize].iter_mut().filter_map(Option::take).count();
            self.allocated -= gone as u64;
            if slots.iter().all(Option::is_none) {
                self.chunks.remove(&index);
            }
        }
    }

    /// Gives the range pages, growing the file if needed.
    pub(super) fn allocate(&mut self, start: u64, end: u64) {
        let (mut page, last) = (start / PAGE, end.div_ceil(PAGE));
        while page < last {
            if page % CHUNK == 0 && page + CHUNK <= last && !self.chunks.contains_key(&(page / CHUNK)) {
                self.chunks.insert(page / CHUNK, ALL_ZERO.clone());
                self.allocated += CHUNK;
                page += CHUNK;
                continue;
            }
            if self.page(page).is_none() {
                let chunk = self.chunks.entry(page / CHUNK).or_insert_with(|| EMPTY.clone());
                Arc::make_mut(chunk).0[(page % CHUNK) as usize] = Some(ZERO.clone());
                self.allocated += 1;
            }
            page += 1;
        }
        self.len = self.len.max(end);
    }

    /// How many bytes of pages the range lacks.
    pub(super) fn missing_bytes(&self, start: u64, end: u64) -> u64 {
        let (first, last) = (start / PAGE, end.div_ceil(PAGE));
        if first >= last {
            return 0;
        }
        let present: usize = self
            .chunks
            .range(first / CHUNK..=(last - 1) / CHUNK)
            .map(|(&index, chunk)| {
                let base = index * CHUNK;
                let (from, to) = (first.max(base) - base, last.min(base + CHUNK) - base);
                chunk.0[from as usize..to as usize].iter().flatten().count()
            })
            .sum();
        (last - first - present as u64) * PAGE
    }

    /// The allocated parts of the range that lie before the end of the file, ascending, as (start, end).
    pub(super) fn data_ranges(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let end = end.min(self.len);
        let mut found: Vec<(u64, u64)> = Vec::new();
        if start >= end {
            return found;
        }
        let chunks = self.chunks.range(start / PAGE / CHUNK..=(end - 1) / PAGE / CHUNK);
        let pages = chunks.flat_map(|(&index, chunk)| {
            let slots = chunk.0.iter().enumerate();
            slots.filter(|(_, page)| page.is_some()).map(move |(at, _)| index * CHUNK + at as u64)
        });
        for page in pages {
            let (from, to) = ((page * PAGE).max(start), ((page + 1) * PAGE).min(end));
            match found.last_mut() {
                _ if from >= to => {}
                Some(last) if last.1 == from => last.1 = to,
                _ => found.push((from, to)),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    fn read(content: &Content, offset: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0xaa; count];
        content.read(offset, &mut bytes);
        bytes
    }

    /// Every operation against a plain vector and a set of pages.
    #[test]
    fn agrees_with_a_plain_vector() {
        crate::for_seeds(0..40, |rng: &mut Rng| {
            let (mut content, mut plain) = (Content::default(), Vec::new());
            for _ in 0..60 {
                let (start, count) = (rng.below(600_000), rng.below(300_000));
                let end = start + count;
                match rng.below(4) {
                    0 => {
                        let bytes = rng.bytes(count as usize);
                        content.write(start, &bytes);
                        if count > 0 {
                            plain.resize(plain.len().max(end as usize), 0);
                            plain[start as usize..end as usize].copy_from_slice(&bytes);
                        }
                    }
                    1 => {
                        content.set_len(start);
                        plain.resize(start as usize, 0);
                    }
                    2 => {
                        content.punch(start, end);
                        let len = plain.len();
                        plain[(start as usize).min(len)..(end as usize).min(len)].fill(0);
                    }
                    _ => {
                        content.allocate(start, end);
                        plain.resize(plain.len().max(end as usize), 0);
                        assert_eq!(content.missing_bytes(start, end), 0);
                    }
                }
                assert_eq!(content.len(), plain.len() as u64);
                assert_eq!(read(&content, 0, plain.len()), plain);
                let data = content.data_ranges(0, u64::MAX);
                let holes = content.missing_bytes(0, content.len());
                assert!(data.windows(2).all(|pair| pair[0].1 < pair[1].0), "{data:?}");
                let counted: u64 = data.iter().map(|(start, end)| end.div_ceil(PAGE) - start / PAGE).sum();
                assert_eq!(counted * PAGE + holes, content.len().next_multiple_of(PAGE));
            }
        });
    }

    #[test]
    fn sixteen_tebibytes_of_hole_cost_nothing() {
        let mut content = Content::default();
        content.set_len(16 << 40);
        content.write((16 << 40) - 3, b"end");
        assert_eq!(content.allocated_bytes(), PAGE);
        assert_eq!(content.data_ranges(0, u64::MAX), [((16 << 40) - PAGE, 16 << 40)]);
        content.punch(0, 16 << 40);
        assert_eq!((content.len(), content.allocated_bytes()), (16 << 40, 0));
    }

    #[test]
    fn a_copy_keeps_its_bytes() {
        let mut content = Content::default();
        content.write(10, b"old");
        let copy = content.clone();
        content.write(10, b"new");
        assert_eq!((read(&copy, 10, 3), read(&content, 10, 3)), (b"old".to_vec(), b"new".to_vec()));
    }
}
