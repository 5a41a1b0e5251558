//! Reading messages. Nothing here believes a length or a number before it is checked.

use super::encrypted::luks;
use super::{
    Answer, FIRST_ASSEMBLED, KINDS, MAX_DISKS, MAX_FRAME, MAX_NAMES, MAX_OPENED, MAX_REMARKS, MAX_TEXT,
    MAX_VOLUMES, NO_KIND, NODE_KINDS, Needs, Question, Request, SCHEMES, Volume,
};
use crate::guest::{Entry, Listing, Node, Piece, Place, Space, Stamp};
use crate::guest::{
    MAX_ATTRIBUTE, MAX_ATTRIBUTE_NAME, MAX_ATTRIBUTE_NAMES, MAX_CONTENT, MAX_ENTRIES, MAX_INODE, MAX_LINK,
    MAX_NAME, MAX_PIECES, MAX_SECONDS, is_name,
};
use crate::volume::thin::{MAX_RUNS, Mapping, Run};
use crate::volume::{MAX_LEGS, MAX_PARTS, MAX_VOLUME_NAME, Part, Thin};
use block::{ByteCount, ByteOffset, ByteRange, Cursor, Kind, Malformed};

/// The rest of the message, at most `limit` bytes.
pub(super) fn rest(cursor: &mut Cursor<'_>, limit: usize) -> Result<Vec<u8>, Malformed> {
    let len = cursor.remaining();
    if len > limit {
        return Err(cursor.malformed(format!("{len} bytes, at most {limit} are valid")));
    }
    Ok(cursor.bytes(len)?.to_vec())
}

pub(super) fn bytes(cursor: &mut Cursor<'_>, limit: usize) -> Result<Vec<u8>, Malformed> {
    let len = cursor.count_u32(limit, 1)?;
    Ok(cursor.bytes(len)?.to_vec())
}

pub(super) fn flag(cursor: &mut Cursor<'_>) -> Result<bool, Malformed> {
    match cursor.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(cursor.malformed(format!("{other} where 0 or 1 belongs"))),
    }
}

pub(super) fn one_of<T: Copy>(cursor: &Cursor<'_>, all: &[T], place: u8) -> Result<T, Malformed> {
    all.get(usize::from(place)).copied().ok_or_else(|| cursor.malformed(format!("no such kind: {place}")))
}

pub(super) fn failure(cursor: &mut Cursor<'_>) -> Result<(Kind, String), Malformed> {
    let place = cursor.u8()?;
    Ok((one_of(cursor, &KINDS, place)?, cursor.text(MAX_TEXT)?.to_owned()))
}

pub(super) fn range(cursor: &mut Cursor<'_>) -> Result<ByteRange, Malformed> {
    let (start, len) = (cursor.u64()?, cursor.u64()?);
    let range = ByteRange::new(ByteOffset::new(start), ByteCount::new(len));
    range.ok_or_else(|| cursor.malformed(format!("{len} bytes from {start} on")))
}

fn inode(cursor: &mut Cursor<'_>) -> Result<u64, Malformed> {
    match cursor.u64()? {
        ino @ 0..=MAX_INODE => Ok(ino),
        ino => Err(cursor.malformed(format!("inode {ino}"))),
    }
}

pub(super) fn request(cursor: &mut Cursor<'_>) -> Result<Request, Malformed> {
    let volume = range(cursor)?;
    let question = match cursor.u8()? {
        1 => Question::Probe { disks: disks(cursor)?, opened: opened(cursor)? },
        2 => Question::Open,
        3 => Question::Node { ino: inode(cursor)? },
        4 => Question::Lookup { dir: inode(cursor)?, name: bytes(cursor, MAX_NAME)? },
        5 => Question::List { dir: inode(cursor)?, cookie: cursor.u64()?, with_nodes: flag(cursor)? },
        6 => Question::Link { ino: inode(cursor)? },
        7 => Question::Pieces { ino: inode(cursor)?, from: cursor.u64()?, to: cursor.u64()? },
        8 => Question::AttributeNames { ino: inode(cursor)? },
        9 => Question::Attribute { ino: inode(cursor)?, name: bytes(cursor, MAX_ATTRIBUTE_NAME)? },
        10 => Question::Content { ino: inode(cursor)?, at: cursor.u64()?, len: cursor.u32()? },
        11 => Question::Luks,
        12 => Question::Mapping { device: cursor.u32()?, from: cursor.u64()? },
        other => return Err(cursor.malformed(format!("no such question: {other}"))),
    };
    Ok(Request { volume, question })
}

pub(super) fn answer(cursor: &mut Cursor<'_>) -> Result<Answer, Malformed> {
    Ok(match cursor.u8()? {
        1 => probe(cursor)?,
        2 => Answer::Open {
            root: inode(cursor)?,
            space: Space {
                block_size: cursor.u32()?,
                blocks: cursor.u64()?,
                free: cursor.u64()?,
                inodes: cursor.u64()?,
                free_inodes: cursor.u64()?,
            },
            remark: cursor.text(MAX_TEXT)?.to_owned(),
        },
        3 => Answer::Node(node(cursor)?),
        4 => Answer::Lookup(maybe_node(cursor)?),
        5 => list(cursor)?,
        6 => match bytes(cursor, MAX_LINK)? {
            target if target.is_empty() || target.contains(&0) => return Err(cursor.malformed("no path")),
            target => Answer::Link(target),
        },
        7 => Answer::Pieces(many(cursor, MAX_PIECES, piece)?),
        8 => {
            let names = many(cursor, MAX_NAMES, attribute_name)?;
            if names.iter().map(|name| name.len() + 1).sum::<usize>() > MAX_ATTRIBUTE_NAMES {
                return Err(cursor.malformed("too many attribute names"));
            }
            Answer::AttributeNames(names)
        }
        9 => Answer::Attribute(bytes(cursor, MAX_ATTRIBUTE)?),
        10 => Answer::Content(bytes(cursor, MAX_CONTENT)?),
        11 => Answer::Luks(luks(cursor)?),
        12 => {
            let block = cursor.u64()?;
            let (continued, next) = (flag(cursor)?, cursor.u64()?);
            let runs = many(cursor, MAX_RUNS, |cursor| {
                Ok(Run { at: cursor.u64()?, data: cursor.u64()?, count: cursor.u64()? })
            })?;
            Answer::Mapping(Mapping { block, runs, next: continued.then_some(next) })
        }
        other => return Err(cursor.malformed(format!("no such answer: {other}"))),
    })
}

/// A count and as many items. Each item takes a byte at least, so a count cannot ask for more than the frame holds.
fn many<T>(
    cursor: &mut Cursor<'_>,
    limit: usize,
    item: impl Fn(&mut Cursor<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = usize::from(cursor.u16()?);
    if count > limit || count > cursor.remaining() {
        return Err(cursor.malformed(format!("{count} items, at most {limit} are valid")));
    }
    (0..count).map(|_| item(cursor)).collect()
}

fn disks(cursor: &mut Cursor<'_>) -> Result<Vec<u64>, Malformed> {
    let count = usize::from(cursor.u8()?);
    if count == 0 || count > MAX_DISKS {
        return Err(cursor.malformed(format!("{count} disks")));
    }
    (0..count).map(|_| cursor.u64()).collect()
}

fn opened(cursor: &mut Cursor<'_>) -> Result<Vec<ByteRange>, Malformed> {
    let count = usize::from(cursor.u8()?);
    if count > MAX_OPENED {
        return Err(cursor.malformed(format!("{count} volumes that were decrypted")));
    }
    (0..count).map(|_| range(cursor)).collect()
}

fn probe(cursor: &mut Cursor<'_>) -> Result<Answer, Malformed> {
    let schemes = many(cursor, MAX_DISKS, |cursor| {
        let place = cursor.u8()?;
        one_of(cursor, &SCHEMES, place)
    })?;
    let remarks = many(cursor, MAX_REMARKS, |cursor| Ok(cursor.text(MAX_TEXT)?.to_owned()))?;
    Ok(Answer::Probe { schemes, remarks, volumes: many(cursor, MAX_VOLUMES, volume)? })
}

fn volume(cursor: &mut Cursor<'_>) -> Result<Volume, Malformed> {
    let (number, name) = (cursor.u32()?, cursor.text(MAX_VOLUME_NAME + 8)?.to_owned());
    if number >= FIRST_ASSEMBLED + MAX_VOLUMES as u32 {
        return Err(cursor.malformed(format!("volume {number}")));
    }
    let named = is_name(name.as_bytes()) && name.bytes().any(|byte| !byte.is_ascii_digit());
    if !name.is_empty() && !named {
        return Err(cursor.malformed("no name of a volume"));
    }
    let range = range(cursor)?;
    let parts = many(cursor, MAX_PARTS, |cursor| {
        let (len, stripe) = (cursor.u64()?, cursor.u64()?);
        Ok(Part { len, stripe, legs: many(cursor, MAX_LEGS, |cursor| cursor.u64())? })
    })?;
    let (state, text) = (cursor.u8()?, cursor.text(MAX_TEXT)?.to_owned());
    let (content, needs) = match state {
        0 => (Err(text), None),
        1 => (Ok(text), None),
        2 => (Err(text), Some(Needs::Key)),
        3 => {
            let (metadata, data) = (self::range(cursor)?, self::range(cursor)?);
            let (device, len) = (cursor.u32()?, cursor.u64()?);
            if len == 0 || len > 1 << 60 {
                return Err(cursor.malformed(format!("a thin volume of {len} bytes")));
            }
            (Err(text), Some(Needs::Mapping(Thin { metadata, data, device, len })))
        }
        other => return Err(cursor.malformed(format!("a volume in state {other}"))),
    };
    Ok(Volume { number, name, range, parts, content, needs })
}

fn list(cursor: &mut Cursor<'_>) -> Result<Answer, Malformed> {
    let (continued, next) = (flag(cursor)?, cursor.u64()?);
    let pairs = many(cursor, MAX_ENTRIES, |cursor| {
        let ino = inode(cursor)?;
        let kind = match cursor.u8()? {
            NO_KIND => None,
            place => Some(one_of(cursor, &NODE_KINDS, place)?),
        };
        let next = cursor.u64()?;
        let len = usize::from(cursor.u16()?);
        let name = cursor.bytes(len)?.to_vec();
        if !is_name(&name) {
            return Err(cursor.malformed("no name"));
        }
        Ok((Entry { name, ino, kind, next }, maybe_node(cursor)?))
    })?;
    let (entries, nodes) = pairs.into_iter().unzip();
    Ok(Answer::List { listing: Listing { entries, next: continued.then_some(next) }, nodes })
}

fn piece(cursor: &mut Cursor<'_>) -> Result<Piece, Malformed> {
    let (at, len) = (cursor.u64()?, cursor.u64()?);
    let place = match cursor.u8()? {
        0 => Place::Volume(cursor.u64()?),
        1 => Place::Zero,
        2 => Place::Bytes(bytes(cursor, MAX_FRAME)?.into()),
        3 => Place::Coded,
        other => return Err(cursor.malformed(format!("no such place: {other}"))),
    };
    Ok(Piece { at, len, place })
}

fn attribute_name(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, Malformed> {
    let len = usize::from(cursor.u8()?);
    match cursor.bytes(len)? {
        name if name.is_empty() || name.contains(&0) => Err(cursor.malformed("no attribute name")),
        name => Ok(name.to_vec()),
    }
}

fn maybe_node(cursor: &mut Cursor<'_>) -> Result<Option<Node>, Malformed> {
    if flag(cursor)? { node(cursor).map(Some) } else { Ok(None) }
}

fn node(cursor: &mut Cursor<'_>) -> Result<Node, Malformed> {
    let ino = inode(cursor)?;
    let place = cursor.u8()?;
    let node = Node {
        ino,
        kind: one_of(cursor, &NODE_KINDS, place)?,
        perm: cursor.u16()?,
        uid: cursor.u32()?,
        gid: cursor.u32()?,
        nlink: cursor.u32()?,
        size: cursor.u64()?,
        blocks: cursor.u64()?,
        rdev: cursor.u32()?,
        atime: stamp(cursor)?,
        mtime: stamp(cursor)?,
        ctime: stamp(cursor)?,
        generation: cursor.u32()?,
    };
    if node.perm > 0o7777 || i64::try_from(node.size).is_err() {
        return Err(cursor.malformed(format!("permissions {:#o}, size {}", node.perm, node.size)));
    }
    Ok(node)
}

fn stamp(cursor: &mut Cursor<'_>) -> Result<Stamp, Malformed> {
    let (seconds, nanos) = (cursor.u64()?.cast_signed(), cursor.u32()?);
    if nanos >= 1_000_000_000 || seconds.unsigned_abs() > MAX_SECONDS {
        return Err(cursor.malformed(format!("a time of {seconds} s and {nanos} ns")));
    }
    Ok(Stamp { seconds, nanos })
}
