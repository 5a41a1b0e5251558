//! The point blob: the root record of a recovery point. Specified in `docs/manifest.md`.

use block::{ByteCount, Cursor, DiskId, Epoch, MAX_DISK_SIZE, Malformed, StateId, Time, VaultId};

use crate::chunk::CHUNK_SIZE;
use crate::front::{FRONT_LEN, Front, POINT};
use crate::key::Keys;
use crate::manifest::{Ref, Shape};
use crate::name::{ADDRESS_LEN, Address, Shelf, Spot};
use crate::seal::{BlobKey, Place, TAG_LEN};
use crate::{Error, ManifestId, Result};

const PART_BODY: u8 = 1;
/// The most bytes the name of an item has.
pub(crate) const MAX_ITEM_NAME: usize = 512;
const MAX_BODY: usize = 1024;
/// No valid point blob is longer.
pub(crate) const MAX_POINT_LEN: u64 = (FRONT_LEN + MAX_BODY + TAG_LEN) as u64;

/// How a recovery point came into the vault. It restores the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointKind {
    /// Everything was transferred.
    Full,
    /// What changed since a base was transferred.
    Incremental,
}

/// A recovery point in a vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultPoint {
    /// Its id in this vault.
    pub manifest: ManifestId,
    /// The protected item, as it was called at the backup.
    pub item: String,
    /// The disk it is a state of.
    pub disk: DiskId,
    /// The state.
    pub state: StateId,
    /// The state it was transferred as a change of; it does not need it to restore.
    pub base: Option<StateId>,
    /// The number of the state on its disk.
    pub epoch: Epoch,
    /// When the recovery point was made.
    pub time: Time,
    /// When this copy of it was committed.
    pub made: Time,
    /// Size of the disk.
    pub size: ByteCount,
    /// How it was transferred.
    pub kind: PointKind,
    /// Bytes the delta named.
    pub bytes_changed: ByteCount,
    /// Bytes read from the source.
    pub bytes_read: ByteCount,
    /// Chunks that were stored for it.
    pub chunks_new: u64,
    /// Chunks of it that the vault had already.
    pub chunks_reused: u64,
    /// Bytes put into the store for it.
    pub bytes_stored: ByteCount,
}

/// A point and the root of its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) about: VaultPoint,
    pub(crate) root: Ref,
}

/// The opened body of a point blob.
pub(crate) fn encode_body(point: &Point) -> Vec<u8> {
    let about = &point.about;
    let mut out = Vec::with_capacity(MAX_BODY);
    out.extend_from_slice(about.disk.as_bytes());
    out.extend_from_slice(about.state.as_bytes());
    out.push(u8::from(about.base.is_some()));
    out.extend_from_slice(about.base.map_or([0; 16], |state| *state.as_bytes()).as_slice());
    for number in [about.epoch.get(), about.time.unix_ms, about.made.unix_ms, about.size.get()] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&(CHUNK_SIZE as u32).to_le_bytes());
    out.push(u8::from(about.kind == PointKind::Incremental));
    out.push(Shape::new(about.size).root_level());
    out.push(point.root.code());
    match point.root {
        Ref::Stored(Spot { pack, entry, .. }) => {
            out.extend_from_slice(&pack.encode());
            out.extend_from_slice(&entry.to_le_bytes());
        }
        _ => out.extend_from_slice(&[0; ADDRESS_LEN + 4]),
    }
    let counts = [about.bytes_changed.get(), about.bytes_read.get(), about.chunks_new, about.chunks_reused];
    for count in counts.into_iter().chain([about.bytes_stored.get()]) {
        out.extend_from_slice(&count.to_le_bytes());
    }
    out.extend_from_slice(&(about.item.len() as u16).to_le_bytes());
    out.extend_from_slice(about.item.as_bytes());
    out
}

/// Checks the name of an item.
pub(crate) fn check_item(item: &str) -> Result<()> {
    match (1..=MAX_ITEM_NAME).contains(&item.len()) {
        true => Ok(()),
        false => Err(Error::invalid(
            format!("item {:?}", item.chars().take(64).collect::<String>()),
            format!("1 to {MAX_ITEM_NAME} bytes are valid"),
        )),
    }
}

/// The stored form of a point.
pub(crate) fn encode_point(keys: &Keys, front: &Front, point: &Point) -> Vec<u8> {
    let mut out = front.encode().to_vec();
    BlobKey::derive(keys, front).seal(Place::new(PART_BODY, 0), &[], &encode_body(point), &mut out);
    out
}

/// Reads and verifies a point blob.
pub(crate) fn decode_point(keys: &Keys, vault: VaultId, address: Address, bytes: &[u8]) -> Result<Point> {
    let name = address.name(Shelf::Points);
    let front = Front::expect(bytes, POINT, vault, address, Shelf::Points)?;
    let mut sealed = bytes[FRONT_LEN..].to_vec();
    let plain = BlobKey::derive(keys, &front)
        .open(Place::new(PART_BODY, 0), &[], &mut sealed)
        .map_err(|why| Error::damaged(&name, "body", why))?;
    decode_body(plain, ManifestId::from_bytes(*address.id.as_bytes()))
        .map_err(|why| Error::damaged(&name, "body", why))
}

fn decode_body(bytes: &[u8], manifest: ManifestId) -> Result<Point, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let c = &mut cursor;
    let disk = DiskId::from_bytes(c.array()?);
    let state = StateId::from_bytes(c.array()?);
    let base = decode_base(c)?;
    let epoch = Epoch::new(c.u64()?);
    let (time, made) = (Time { unix_ms: c.u64()? }, Time { unix_ms: c.u64()? });
    let size = ByteCount::new(c.u64()?);
    if size.get() > MAX_DISK_SIZE {
        return Err(c.malformed(format!("a disk of {size} bytes, at most {MAX_DISK_SIZE} are valid")));
    }
    let chunk_size = c.u32()?;
    if u64::from(chunk_size) != CHUNK_SIZE {
        return Err(c.malformed(format!("chunks of {chunk_size} bytes, {CHUNK_SIZE} expected")));
    }
    let kind = match c.u8()? {
        0 => PointKind::Full,
        1 => PointKind::Incremental,
        other => return Err(c.malformed(format!("{other} is no kind of point"))),
    };
    let root = decode_root(c, size)?;
    let [bytes_changed, bytes_read] = [ByteCount::new(c.u64()?), ByteCount::new(c.u64()?)];
    let (chunks_new, chunks_reused, bytes_stored) = (c.u64()?, c.u64()?, ByteCount::new(c.u64()?));
    let item = c.text(MAX_ITEM_NAME)?.to_owned();
    if item.is_empty() {
        return Err(c.malformed("the item has no name"));
    }
    c.end()?;
    #[rustfmt::skip]
    let about = VaultPoint {
        manifest, item, disk, state, base, epoch, time, made, size, kind,
        bytes_changed, bytes_read, chunks_new, chunks_reused, bytes_stored,
    };
    Ok(Point { about, root })
}

fn decode_base(c: &mut Cursor<'_>) -> Result<Option<StateId>, Malformed> {
    let (flag, id) = (c.u8()?, c.array()?);
    match flag {
        0 if id == [0; 16] => Ok(None),
        1 => Ok(Some(StateId::from_bytes(id))),
        _ => Err(c.malformed("the base is neither there nor not there")),
    }
}

fn decode_root(c: &mut Cursor<'_>, size: ByteCount) -> Result<Ref, Malformed> {
    let (level, kind) = (c.u8()?, c.u8()?);
    let place = c.bytes(ADDRESS_LEN + 4)?;
    let expected = Shape::new(size).root_level();
    if level != expected {
        return Err(c.malformed(format!("a root of level {level}, {expected} expected")));
    }
    match kind {
        0 if place == [0; ADDRESS_LEN + 4] => Ok(Ref::Hole),
        1 if place == [0; ADDRESS_LEN + 4] => Ok(Ref::Zero),
        2 => {
            let mut place = Cursor::new(place);
            Ok(Ref::Stored(Spot { pack: Address::decode(&mut place)?, entry: place.u32()?, chunk: 0 }))
        }
        _ => Err(c.malformed("the root is of no known kind")),
    }
}

/// For fuzzing: whatever decodes as the body of a point must encode to the same bytes.
pub fn fuzz_decode(bytes: &[u8]) {
    if let Ok(point) = decode_body(bytes, ManifestId::from_bytes([0; 16])) {
        assert_eq!(encode_body(&point), bytes);
    }
}
