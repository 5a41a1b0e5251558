//! The stored form of an index. Specified in `docs/index.md`.

use block::{Cursor, Malformed, VaultId};

use crate::front::{FRONT_LEN, Front, INDEX};
use crate::index::{INDEX_PACKS, PackRow};
use crate::key::Keys;
use crate::name::{ADDRESS_LEN, Address, Shelf};
use crate::pack::{MAX_PACK_CHUNKS, MAX_PACK_ENTRIES, MAX_PACK_LEN};
use crate::seal::{BlobKey, Place, TAG_LEN};
use crate::{Error, Result};

const PART_PACKS: u8 = 1;
const PART_HOOKS: u8 = 2;

const ROW_LEN: usize = ADDRESS_LEN + 16;
const HOOK_LEN: usize = 12;
const FOOTER_LEN: usize = 16;
/// Hooks in a section, all but the last. Unit tests have several.
const SECTION: usize = if cfg!(test) { 256 } else { 8192 };
/// The most hooks an index blob has: every chunk of as many packs as a job lists at once.
const MAX_HOOKS: usize = INDEX_PACKS * MAX_PACK_CHUNKS;
/// No valid index blob is longer. A usual one has a few hundred KiB.
pub(crate) const MAX_INDEX_LEN: u64 =
    (INDEX_PACKS * ROW_LEN + MAX_HOOKS * HOOK_LEN + (MAX_HOOKS / SECTION + 2) * TAG_LEN + FRONT_LEN) as u64
        + FOOTER_LEN as u64;

/// The first half of a fingerprint that a pack has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hook {
    pub(crate) key: u64,
    /// A row of the pack table.
    pub(crate) pack: u32,
}

/// What an index blob says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct IndexContent {
    /// Ascending by address.
    pub(crate) packs: Vec<PackRow>,
    /// Ascending.
    pub(crate) hooks: Vec<Hook>,
}

impl IndexContent {
    /// The content that lists these packs with the keys of their hooks.
    pub(crate) fn of(mut packs: Vec<(PackRow, Vec<u64>)>) -> Self {
        packs.sort_by_key(|(row, _)| row.address);
        let hooks = packs
            .iter()
            .zip(0..)
            .flat_map(|((_, keys), pack)| keys.iter().map(move |&key| Hook { key, pack }));
        let mut hooks: Vec<Hook> = hooks.collect();
        hooks.sort_unstable();
        hooks.dedup();
        Self { packs: packs.into_iter().map(|(row, _)| row).collect(), hooks }
    }
}

fn row_bytes(row: &PackRow) -> [u8; ROW_LEN] {
    let mut bytes = [0; ROW_LEN];
    bytes[..24].copy_from_slice(&row.address.encode());
    bytes[24..32].copy_from_slice(&row.len.to_le_bytes());
    bytes[32..36].copy_from_slice(&row.entries.to_le_bytes());
    bytes[36..].copy_from_slice(&row.chunks.to_le_bytes());
    bytes
}

fn hook_bytes(hook: &Hook) -> [u8; HOOK_LEN] {
    let mut bytes = [0; HOOK_LEN];
    bytes[..8].copy_from_slice(&hook.key.to_le_bytes());
    bytes[8..].copy_from_slice(&hook.pack.to_le_bytes());
    bytes
}

/// How much is in a blob. Its seals cover these numbers, so that none can be cut off.
#[derive(Clone, Copy)]
struct Counts {
    packs: u32,
    hooks: u32,
}

impl Counts {
    fn bound(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.packs.to_le_bytes());
        bytes[4..].copy_from_slice(&self.hooks.to_le_bytes());
        bytes
    }

    /// The counts in a footer, which must be those of a blob of this length.
    fn decode(footer: &[u8], blob_len: usize) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(footer);
        let counts = Self { packs: cursor.u32()?, hooks: cursor.u32()? };
        let _body_crc = cursor.u32()?;
        if cursor.u32()? != crc32fast::hash(&footer[..12]) {
            return Err(cursor.malformed("its checksum disagrees"));
        }
        cursor.end()?;
        let (packs, hooks) = (counts.packs as usize, counts.hooks as usize);
        if !(1..=INDEX_PACKS).contains(&packs) || hooks > MAX_HOOKS {
            return Err(cursor.malformed(format!("no index has {packs} packs and {hooks} hooks")));
        }
        let sealed = packs * ROW_LEN + TAG_LEN + hooks * HOOK_LEN + hooks.div_ceil(SECTION) * TAG_LEN;
        match FRONT_LEN + sealed + FOOTER_LEN == blob_len {
            true => Ok(counts),
            false => Err(cursor.malformed(format!("it belongs to a blob of another length than {blob_len}"))),
        }
    }
}

/// What is readable without the key: packs, hooks, and whether the body is what its checksum says.
pub(crate) fn readable_counts(bytes: &[u8]) -> Result<(u32, u32, bool), Malformed> {
    let (body, footer) = bytes.split_at(bytes.len().saturating_sub(FOOTER_LEN));
    let counts = Counts::decode(footer, bytes.len())?;
    let body_crc = Cursor::new(&footer[8..]).u32()?;
    Ok((counts.packs, counts.hooks, crc32fast::hash(body) == body_crc))
}

/// The stored form of sorted content.
pub(crate) fn encode_blob(keys: &Keys, front: &Front, content: &IndexContent) -> Vec<u8> {
    let key = BlobKey::derive(keys, front);
    let counts = Counts { packs: content.packs.len() as u32, hooks: content.hooks.len() as u32 };
    let mut out = front.encode().to_vec();
    let rows: Vec<u8> = content.packs.iter().flat_map(row_bytes).collect();
    key.seal(Place::new(PART_PACKS, 0), &counts.bound(), &rows, &mut out);
    for (number, section) in (0..).zip(content.hooks.chunks(SECTION)) {
        let plain: Vec<u8> = section.iter().flat_map(hook_bytes).collect();
        key.seal(Place::new(PART_HOOKS, number), &counts.bound(), &plain, &mut out);
    }
    let mut footer = counts.bound().to_vec();
    footer.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    footer.extend_from_slice(&crc32fast::hash(&footer).to_le_bytes());
    out.extend_from_slice(&footer);
    out
}

/// Reads and verifies a whole index blob.
pub(crate) fn decode_blob(
    keys: &Keys,
    vault: VaultId,
    address: Address,
    bytes: &[u8],
) -> Result<IndexContent> {
    let name = address.name(Shelf::Index);
    let front = Front::expect(bytes, INDEX, vault, address, Shelf::Index)?;
    let (body, footer) = bytes.split_at(bytes.len().saturating_sub(FOOTER_LEN).max(FRONT_LEN));
    let counts = Counts::decode(footer, bytes.len()).map_err(|why| Error::damaged(&name, "footer", why))?;
    // the seals say where it is damaged; this one sum covers what they do not
    let body_crc = Cursor::new(&footer[8..]).u32().map_err(|why| Error::damaged(&name, "footer", why))?;
    let key = BlobKey::derive(keys, &front);
    let open = |place: &str, sealed_as: Place, range: std::ops::Range<usize>| {
        let mut sealed = body.get(range).unwrap_or_default().to_vec();
        let plain = key.open(sealed_as, &counts.bound(), &mut sealed);
        plain.map(<[u8]>::to_vec).map_err(|why| Error::damaged(&name, place, why))
    };
    let mut at = FRONT_LEN + counts.packs as usize * ROW_LEN + TAG_LEN;
    let rows = open("pack table", Place::new(PART_PACKS, 0), FRONT_LEN..at)?;
    let packs = decode_rows(&rows).map_err(|why| Error::damaged(&name, "pack table", why))?;
    let mut hooks = Vec::with_capacity(counts.hooks as usize);
    for number in 0..(counts.hooks as usize).div_ceil(SECTION) {
        let place = format!("hooks {number}");
        let end = at + SECTION.min(counts.hooks as usize - hooks.len()) * HOOK_LEN + TAG_LEN;
        let plain = open(&place, Place::new(PART_HOOKS, number as u64), at..end)?;
        decode_hooks(&plain, packs.len(), &mut hooks).map_err(|why| Error::damaged(&name, place, why))?;
        at = end;
    }
    match crc32fast::hash(body) == body_crc {
        true => Ok(IndexContent { packs, hooks }),
        false => Err(Error::damaged(&name, "footer", "the body's checksum disagrees")),
    }
}

fn decode_rows(bytes: &[u8]) -> Result<Vec<PackRow>, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let mut rows: Vec<PackRow> = Vec::with_capacity(bytes.len() / ROW_LEN);
    while cursor.remaining() > 0 {
        let address = Address::decode(&mut cursor)?;
        let row = PackRow { address, len: cursor.u64()?, entries: cursor.u32()?, chunks: cursor.u32()? };
        if rows.last().is_some_and(|last| last.address >= address) {
            return Err(cursor.malformed("packs out of order"));
        }
        if row.len > MAX_PACK_LEN
            || row.entries as usize > MAX_PACK_ENTRIES
            || row.chunks as usize > MAX_PACK_CHUNKS
        {
            return Err(cursor.malformed("a pack larger than packs are"));
        }
        rows.push(row);
    }
    Ok(rows)
}

fn decode_hooks(bytes: &[u8], packs: usize, hooks: &mut Vec<Hook>) -> Result<(), Malformed> {
    let mut cursor = Cursor::new(bytes);
    while cursor.remaining() > 0 {
        let hook = Hook { key: cursor.u64()?, pack: cursor.u32()? };
        if hook.pack as usize >= packs {
            return Err(cursor.malformed("a hook of no pack"));
        }
        if hooks.last().is_some_and(|last| *last >= hook) {
            return Err(cursor.malformed("hooks out of order"));
        }
        hooks.push(hook);
    }
    Ok(())
}

/// For fuzzing: decodes the opened sections of an index, as if `bytes` were each of them.
pub fn fuzz_decode(bytes: &[u8]) {
    if let Ok(rows) = decode_rows(bytes) {
        assert_eq!(rows.iter().flat_map(row_bytes).collect::<Vec<u8>>(), bytes);
    }
    let mut hooks = Vec::new();
    if decode_hooks(bytes, bytes.len(), &mut hooks).is_ok() {
        assert_eq!(hooks.iter().flat_map(hook_bytes).collect::<Vec<u8>>(), bytes);
    }
    if let Ok(counts) = Counts::decode(bytes, bytes.len()) {
        assert!(counts.packs > 0);
    }
}
