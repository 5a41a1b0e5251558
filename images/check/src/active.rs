//! What is committed of the active layer: `images/layers/docs/journal.md`.

use crate::bytes::{Fields, Why, header};
use crate::map::{Map, PAGE, State};
use std::collections::BTreeMap;

/// A change the journal holds: a word of a page, or all of a page.
#[derive(Debug, Clone, Copy)]
enum Entry {
    Word(usize, u64),
    Fill(u64),
}

/// The journal's entries by page, in order; none of a file that ends with its header.
fn entries(bytes: &[u8], disk: [u8; 16], layer: u64, pages: u64) -> Result<BTreeMap<u64, Vec<Entry>>, Why> {
    let mut fields = Fields::new(bytes);
    header(&mut fields, b"jrnl")?;
    let (owner, number, length) = (fields.id()?, fields.u64()?, fields.u64()?);
    if (owner, number, length) != (disk, layer, bytes.len() as u64) {
        return Err("is another disk's or layer's, or is not as long as it says".to_owned());
    }
    let mut found: BTreeMap<u64, Vec<Entry>> = BTreeMap::new();
    let mut round = None;
    for sequence in 0.. {
        let Some((of_round, record)) = record(&mut fields, sequence, pages) else { break };
        if *round.get_or_insert(of_round) != of_round {
            break;
        }
        record.into_iter().for_each(|(page, entry)| found.entry(page).or_default().push(entry));
    }
    Ok(found)
}

/// The next record, if there is a whole one with this sequence.
fn record(fields: &mut Fields<'_>, sequence: u64, pages: u64) -> Option<(u64, Vec<(u64, Entry)>)> {
    let start = fields.rest();
    let (round, at) = (fields.u64().ok()?, fields.number::<4>().ok()?);
    let (count, crc, _zero) = (fields.number::<4>().ok()?, fields.number::<4>().ok()?, fields.take(4).ok()?);
    let body = fields.take(usize::try_from(count).ok()?.checked_mul(16)?).ok()?;
    let mut whole = start[..24 + body.len()].to_vec();
    whole[16..20].fill(0);
    if at != sequence || count == 0 || u64::from(crc32fast::hash(&whole)) != crc {
        return None;
    }
    let mut body = Fields::new(body);
    let entry = |body: &mut Fields<'_>| {
        let (place, value) = (body.u64().ok()?, body.u64().ok()?);
        let (page, word) = ((place & !(1 << 63)) >> 16, (place & 0xffff) as usize);
        match place >> 63 {
            1 if word == 0 && value < 4 && page < pages => Some((page, Entry::Fill(value))),
            0 if word < 512 && page < pages => Some((page, Entry::Word(word, value))),
            _ => None,
        }
    };
    let entries = (0..count).map(|_| entry(&mut body)).collect::<Option<Vec<_>>>()?;
    Some((round, entries))
}

/// Whose the files are, and what the chain says of them.
pub(crate) struct Owner {
    pub(crate) disk: [u8; 16],
    pub(crate) layer: u64,
    pub(crate) blocks: u64,
    /// After an orderly close the journal says nothing, and the top level has this checksum.
    pub(crate) clean: Option<u32>,
}

/// The committed states of the active layer: the map, of which `read` gives bytes, and over it the journal.
pub(crate) fn committed(
    owner: &Owner,
    length: u64,
    read: impl Fn(u64, u64) -> Result<Vec<u8>, Why>,
    journal: &[u8],
) -> Result<Map, Why> {
    let pages = owner.blocks.div_ceil(PAGE);
    let mut changes =
        entries(journal, owner.disk, owner.layer, pages).map_err(|why| format!("its journal {why}"))?;
    let tops_len = (pages * 8).next_multiple_of(4096);
    if length != 4096 + tops_len + pages * 4096 {
        return Err(format!("is {length} bytes long"));
    }
    head(&read(0, 68)?, owner)?;
    let tops = read(4096, tops_len)?;
    if let Some(crc) = owner.clean {
        changes.clear();
        if crc32fast::hash(&tops) != crc {
            return Err("its top level is not the one of the last close".to_owned());
        }
    }
    let mut found = Map::default();
    for (page, top) in (0..pages).zip(tops.chunks_exact(8)) {
        let top = Fields::new(top).u64()?;
        let healed = changes.remove(&page);
        let words = match (top & 0xffff_ffff, &healed) {
            (state @ 0..4, None) => {
                let first = page * PAGE;
                found.push(first, owner.blocks.min(first + PAGE), State::of(state));
                continue;
            }
            (state @ 0..4, Some(_)) => vec![state as u8 * 0x55; 4096],
            (4, _) => {
                let stored = read(4096 + tops_len + page * 4096, 4096)?;
                if healed.is_none() && u64::from(crc32fast::hash(&stored)) != top >> 32 {
                    return Err(format!("page {page} disagrees with its checksum"));
                }
                stored
            }
            (other, _) => return Err(format!("page {page} has the top word {other:#x}")),
        };
        found.push_words(page * PAGE, owner.blocks, &with_changes(words, healed.unwrap_or_default()))?;
    }
    Ok(found)
}

fn head(bytes: &[u8], owner: &Owner) -> Result<(), Why> {
    let mut fields = Fields::new(bytes);
    header(&mut fields, b"cmap")?;
    let found = (fields.id()?, fields.u64()?, fields.u64()?);
    let is_ours = found == (owner.disk, owner.layer, owner.blocks);
    if is_ours && fields.number::<4>()? == u64::from(crc32fast::hash(&bytes[..64])) {
        Ok(())
    } else {
        Err("is another disk's or layer's".to_owned())
    }
}

fn with_changes(mut words: Vec<u8>, changes: Vec<Entry>) -> Vec<u8> {
    for entry in changes {
        match entry {
            Entry::Fill(state) => words.fill(state as u8 * 0x55),
            Entry::Word(word, value) => words[word * 8..word * 8 + 8].copy_from_slice(&value.to_le_bytes()),
        }
    }
    words
}
