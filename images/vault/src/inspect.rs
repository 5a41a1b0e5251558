//! Single blobs outside of any vault, shown and checked: for people who look at a store's files. Nothing else of the vault is needed;
//! without its key only what is readable without it is shown.

use block::{ByteCount, ByteRange, VaultId};

use crate::chunk::{Encoding, Kind};
use crate::front::{FRONT_LEN, Front, INDEX, PACK, POINT};
use crate::index::{MAX_INDEX_LEN, decode_blob, readable_counts};
use crate::key::Keys;
use crate::manifest::{MAX_POINT_LEN, Ref, decode_point};
use crate::name::Shelf;
use crate::pack::{FOOTER_LEN, Footer, MAX_PACK_LEN, open_entry, prove_frame, read_head, read_prints};
use crate::{Error, Result, VaultKey, VaultPoint};

/// The largest blob that can be shown.
pub const MAX_SHOWN: u64 = if MAX_PACK_LEN > MAX_INDEX_LEN { MAX_PACK_LEN } else { MAX_INDEX_LEN };

/// What every blob says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobFront {
    /// The vault it belongs to.
    pub vault: VaultId,
    /// Its name in the store.
    pub name: String,
    /// Its length.
    pub len: ByteCount,
}

impl BlobFront {
    fn of(front: &Front, shelf: Shelf, bytes: &[u8]) -> Self {
        let len = ByteCount::new(bytes.len() as u64);
        Self { vault: front.vault, name: front.address.name(shelf), len }
    }
}

/// A pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownPack {
    /// What it says of itself.
    pub front: BlobFront,
    /// Its frames and nodes.
    pub entries: u32,
    /// The chunks in its frames.
    pub chunks: u32,
    /// What its table says; none without the key.
    pub table: Option<Vec<ShownEntry>>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// An entry of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownEntry {
    /// Where it begins.
    pub offset: u32,
    /// Its sealed bytes.
    pub stored: u32,
    /// Its bytes before encoding.
    pub raw: u32,
    /// `frame` or `node`.
    pub kind: &'static str,
    /// `raw`, `zstd` or `lz4`.
    pub encoding: &'static str,
}

/// An index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownIndex {
    /// What it says of itself.
    pub front: BlobFront,
    /// Packs it names.
    pub packs: u32,
    /// Its hooks.
    pub hooks: u32,
    /// Names and lengths of the packs; none without the key.
    pub table: Option<Vec<(String, ByteCount)>>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// A recovery point's blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownPoint {
    /// What it says of itself.
    pub front: BlobFront,
    /// The point, and where the root of its tree lies, if it has data; none without the key.
    pub point: Option<(VaultPoint, Option<String>)>,
}

/// Shows a pack; with `check` every entry is opened and held against its fingerprints, as far as the key allows.
///
/// # Errors
/// [`Error::Damaged`] if front or footer are, [`Error::WrongKey`] if its bytes are whole and the key does not open it.
pub fn inspect_pack(bytes: &[u8], key: Option<&VaultKey>, check: bool) -> Result<ShownPack> {
    let front = Front::decode(bytes, PACK, "this pack")?;
    let about = BlobFront::of(&front, Shelf::Packs, bytes);
    let at = bytes.len().saturating_sub(FOOTER_LEN).max(FRONT_LEN);
    let (body, end) = bytes.split_at(at);
    let footer =
        Footer::decode(end, bytes.len() as u64).map_err(|why| Error::damaged(&about.name, "footer", why))?;
    let is_whole = crc32fast::hash(body) == footer.body_crc;
    let mut problems = Vec::new();
    if !is_whole {
        problems.push("the checksum of its body disagrees".to_owned());
    }
    let mut table = None;
    if let Some(key) = key {
        match opened(bytes, &front, &Keys::derive(key), check, &mut problems) {
            Ok(entries) => table = Some(entries),
            Err(error) if error.is_damage() && is_whole => {
                return Err(Error::WrongKey { vault: front.vault });
            }
            Err(error) if error.is_damage() => problems.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(ShownPack { front: about, entries: footer.entries, chunks: footer.chunks, table, problems })
}

fn opened(
    bytes: &[u8],
    front: &Front,
    keys: &Keys,
    check: bool,
    problems: &mut Vec<String>,
) -> Result<Vec<ShownEntry>> {
    let name = front.address.name(Shelf::Packs);
    let get = |range: ByteRange| {
        let part = bytes.get(range.start() as usize..range.end() as usize);
        part.map(<[u8]>::to_vec).ok_or_else(|| Error::damaged(&name, "length", "it is shorter than it says"))
    };
    let head = read_head(keys, front.vault, front.address, bytes.len() as u64, &get)?;
    let prints = read_prints(&head, &get)?;
    let mut shown = Vec::with_capacity(head.table.len());
    for (entry, number) in head.table.entries().zip(0..) {
        let record = entry.record;
        if check {
            let start = u64::from(entry.offset);
            let mut sealed = get(ByteRange::between(start, start + u64::from(record.stored)))?;
            let proven = open_entry(&head.key, &head.address, number, &record, &mut sealed)
                .and_then(|raw| prove_frame(keys, &head, &prints, number, &raw));
            problems.extend(proven.err().map(|error| error.to_string()));
        }
        shown.push(ShownEntry {
            offset: entry.offset,
            stored: record.stored,
            raw: record.raw,
            kind: match record.kind {
                Kind::Frame => "frame",
                Kind::Node => "node",
            },
            encoding: match record.encoding {
                Encoding::Raw => "raw",
                Encoding::Zstd => "zstd",
                Encoding::Lz4 => "lz4",
            },
        });
    }
    Ok(shown)
}

/// Shows an index. With the key all of it is opened, and so checked.
///
/// # Errors
/// As [`inspect_pack`].
pub fn inspect_index(bytes: &[u8], key: Option<&VaultKey>) -> Result<ShownIndex> {
    let front = Front::decode(bytes, INDEX, "this index")?;
    let about = BlobFront::of(&front, Shelf::Index, bytes);
    let (packs, hooks, is_whole) =
        readable_counts(bytes).map_err(|why| Error::damaged(&about.name, "footer", why))?;
    let mut problems = Vec::new();
    if !is_whole {
        problems.push("the checksum of its body disagrees".to_owned());
    }
    let mut table = None;
    if let Some(key) = key {
        match decode_blob(&Keys::derive(key), front.vault, front.address, bytes) {
            Ok(content) => {
                let rows = content.packs.iter();
                table =
                    Some(rows.map(|row| (row.address.name(Shelf::Packs), ByteCount::new(row.len))).collect());
            }
            Err(error) if error.is_damage() && is_whole => {
                return Err(Error::WrongKey { vault: front.vault });
            }
            Err(error) if error.is_damage() => problems.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(ShownIndex { front: about, packs, hooks, table, problems })
}

/// Shows the blob of a recovery point. Its tree lies in packs; a check of the vault follows it.
///
/// # Errors
/// [`Error::Damaged`] if it does not open: it has no checksum by which damage could be told from a wrong key.
pub fn inspect_point(bytes: &[u8], key: Option<&VaultKey>) -> Result<ShownPoint> {
    let front = Front::decode(bytes, POINT, "this manifest")?;
    let about = BlobFront::of(&front, Shelf::Points, bytes);
    if bytes.len() as u64 > MAX_POINT_LEN {
        return Err(Error::damaged(
            &about.name,
            "length",
            format!("at most {MAX_POINT_LEN} bytes are valid"),
        ));
    }
    let Some(key) = key else { return Ok(ShownPoint { front: about, point: None }) };
    let point =
        decode_point(&Keys::derive(key), front.vault, front.address, bytes).map_err(|error| match error {
            Error::Damaged { blob, place, why } => {
                Error::Damaged { blob, place, why: format!("{why}, or the key is another vault's") }
            }
            error => error,
        })?;
    let root = match point.root {
        Ref::Stored(spot) => Some(format!("{}, entry {}", spot.pack.name(Shelf::Packs), spot.entry)),
        Ref::Hole | Ref::Zero => None,
    };
    Ok(ShownPoint { front: about, point: Some((point.about, root)) })
}
