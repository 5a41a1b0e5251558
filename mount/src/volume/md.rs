//! MD arrays with a superblock of version 1, levels linear, 0 and 1. Written from `md(4)` and the kernel's description of the
//! superblock.

use super::Part;
use crate::fields::{array, le16, le32, le64};
use crate::{Error, Result};
use block::{BlockSource, ByteOffset, ByteRange};

const SECTOR: u64 = 512;
const MAGIC: u32 = 0xa92b_4efc;
/// The superblock without the roles behind it.
const LEN: usize = 256;
/// Members of an array (`MD_SB_DISKS` of version 1).
const MAX_MEMBERS: u32 = 384;
const FEATURE_RESHAPE: u32 = 0x4;
const FEATURE_RECOVERY: u32 = 0x2;

/// What one member says of its array.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub array: [u8; 16],
    /// The name given to the array, with the host's before a colon.
    pub name: String,
    level: i32,
    features: u32,
    /// Bytes used on each member, where they are all alike.
    size: u64,
    chunk: u64,
    members: u32,
    /// Place of this member, `None` for a spare or a failed one.
    role: Option<u32>,
    events: u64,
    /// The content of this member, as addresses.
    data: ByteRange,
}

/// The superblock of a member that lies at `at` of the disks, or `None` if it is no member.
pub(super) fn read(volume: &dyn BlockSource, at: ByteRange) -> Result<Option<Superblock>> {
    let size = volume.size().get();
    let behind = (size / SECTOR).checked_sub(16).map(|sector| (sector & !7) * SECTOR);
    for place in [Some(4096), Some(0), behind].into_iter().flatten() {
        let mut bytes = vec![0; LEN];
        if place + LEN as u64 > size {
            continue;
        }
        volume.read_at(ByteOffset::new(place), &mut bytes)?;
        if le32(&bytes, 0)? != MAGIC || le32(&bytes, 4)? != 1 || le64(&bytes, 144)? != place / SECTOR {
            continue;
        }
        let members = le32(&bytes, 220)?;
        if members > MAX_MEMBERS || place + LEN as u64 + u64::from(members) * 2 > size {
            return Err(damaged(format!("it has places for {members} members")));
        }
        let mut roles = vec![0; members as usize * 2];
        volume.read_at(ByteOffset::new(place + LEN as u64), &mut roles)?;
        bytes.append(&mut roles);
        return decode(&bytes, at).map(Some);
    }
    Ok(None)
}

fn decode(bytes: &[u8], at: ByteRange) -> Result<Superblock> {
    if le32(bytes, 216)? != checksum(bytes)? {
        return Err(damaged("it does not fit its checksum"));
    }
    let sectors = |place| le64(bytes, place).map(|sectors| sectors.checked_mul(SECTOR));
    let (offset, len) = (sectors(128)?, sectors(136)?);
    let start = offset.and_then(|offset| offset.checked_add(at.start()));
    let end = start.zip(len).and_then(|(start, len)| start.checked_add(len));
    let (Some(start), Some(end)) = (start, end.filter(|end| *end <= at.end())) else {
        return Err(damaged("its data lies behind its end"));
    };
    let number = le32(bytes, 160)? as usize;
    let role = number.checked_mul(2).and_then(|at| le16(bytes, at.checked_add(LEN)?).ok());
    let name: [u8; 32] = array(bytes, 32)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Superblock {
        array: array(bytes, 16)?,
        name: String::from_utf8_lossy(name).into_owned(),
        level: le32(bytes, 72)?.cast_signed(),
        features: le32(bytes, 8)?,
        size: sectors(80)?.ok_or_else(|| damaged("its size is no size"))?,
        chunk: u64::from(le32(bytes, 88)?) * SECTOR,
        members: le32(bytes, 92)?,
        role: role.filter(|role| *role < 0xfff0).map(u32::from),
        events: le64(bytes, 200)?,
        data: ByteRange::between(start, end),
    })
}

/// A sum of 32-bit words in 64 bits, folded; its own field counts as zero.
fn checksum(bytes: &[u8]) -> Result<u32> {
    let mut sum = 0_u64;
    for at in (0..bytes.len()).step_by(4).filter(|at| *at != 216) {
        sum += match le32(bytes, at) {
            Ok(word) => u64::from(word),
            Err(_) => u64::from(le16(bytes, at)?),
        };
    }
    Ok((sum as u32).wrapping_add((sum >> 32) as u32))
}

/// What the members of one array make together.
pub(super) fn parts(members: &[Superblock]) -> Result<Vec<Part>> {
    let newest = members.iter().max_by_key(|member| member.events);
    let newest = newest.ok_or_else(|| damaged("an array without members"))?;
    if newest.features & FEATURE_RESHAPE != 0 {
        return Err(unreadable("it was being reshaped"));
    }
    let place = |role| {
        let mut current = members.iter().filter(|member| member.events == newest.events);
        let found = current.find(|member| member.role == Some(role));
        found.ok_or_else(|| unreadable(&format!("its member {role} of {} is not there", newest.members)))
    };
    let linear = |data: ByteRange, len| Part { len, stripe: 0, legs: vec![data.start()] };
    match newest.level {
        1 => {
            let sound = members.iter().filter(|member| {
                member.events == newest.events
                    && member.role.is_some()
                    && member.features & FEATURE_RECOVERY == 0
                    && member.data.count().get() >= newest.size
            });
            let member = sound.min_by_key(|member| member.role);
            let member = member.ok_or_else(|| unreadable("it has no member that is in step"))?;
            Ok(vec![linear(member.data, newest.size)])
        }
        0 => {
            let legs = (0..newest.members.min(MAX_MEMBERS)).map(place).collect::<Result<Vec<_>>>()?;
            let (chunk, first) = match (newest.chunk, legs.first()) {
                (1.., Some(first)) => (newest.chunk, first),
                _ => return Err(damaged(format!("{} stripes of {} bytes", legs.len(), newest.chunk))),
            };
            let rows = |member: &Superblock| member.data.count().get() / chunk;
            if legs.iter().any(|member| rows(member) != rows(first)) {
                return Err(unreadable("its members are not of one size"));
            }
            let len = rows(first).checked_mul(chunk).and_then(|len| len.checked_mul(legs.len() as u64));
            let len = len.ok_or_else(|| damaged("it is larger than any disk"))?;
            Ok(vec![Part {
                len,
                stripe: chunk,
                legs: legs.iter().map(|member| member.data.start()).collect(),
            }])
        }
        -1 => {
            let legs = (0..newest.members.min(MAX_MEMBERS)).map(place).collect::<Result<Vec<_>>>()?;
            Ok(legs.iter().map(|member| linear(member.data, member.data.count().get())).collect())
        }
        level => Err(unreadable(&format!("it is of level {level}, which this version does not read"))),
    }
}

fn damaged(why: impl Into<String>) -> Error {
    Error::corrupt("the superblock of an MD array", why)
}

fn unreadable(why: &str) -> Error {
    Error::unsupported("the array", why)
}
