//! Rock Ridge: what a system of the Unix family knows of a file, in the unused end of its directory record.

use super::Iso;
use super::record::{long_time, short_time};
use crate::fields::{array, le32, u8_at};
use crate::guest::{MAX_LINK, MAX_NAME, NodeKind, Stamp};
use crate::{Error, Result};

/// Places where a record is continued; a chain of them that leads back to itself ends here.
const MAX_CONTINUED: usize = 32;
/// The longest continuation, in bytes.
const MAX_AREA: u32 = 64 << 10;

/// What was found; nothing of a volume without it.
#[derive(Debug, Clone, Default)]
pub(super) struct Rock {
    pub name: Option<Vec<u8>>,
    pub kind: Option<NodeKind>,
    pub perm: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    /// Access, modification, change.
    pub times: [Option<Stamp>; 3],
    pub link: Vec<u8>,
    /// The block of a directory that was too deep for its place.
    pub child: Option<u64>,
    /// The place such a directory was moved to, which is not to be seen.
    pub moved: bool,
    /// It is stored in a way that is not read here.
    pub coded: Option<&'static str>,
    /// A part of the target begins without a separator.
    joined: bool,
}

impl Rock {
    /// Bytes to pass over in every record, from the record of the root directory itself; `None` if there is no Rock Ridge.
    pub(super) fn detect(system: &[u8]) -> Option<usize> {
        let starts = system.get(..7)?;
        let signed = starts.starts_with(b"SP") && starts.get(4..6) == Some(&[0xbe, 0xef]);
        signed.then(|| usize::from(starts.get(6).copied().unwrap_or_default()))
    }

    /// All of a record, also what is continued elsewhere.
    pub(super) fn read(iso: &Iso, area: &[u8]) -> Result<Self> {
        let mut rock = Self::default();
        let mut next = rock.area(area)?;
        for _ in 0..MAX_CONTINUED {
            let Some((block, at, len)) = next else { return Ok(rock) };
            if len > MAX_AREA {
                break;
            }
            let byte = u64::from(block) * iso.block + u64::from(at);
            next = rock.area(&iso.lines.read(byte, len as usize)?)?;
        }
        Err(Error::corrupt("a directory record", "its continuation does not end"))
    }

    /// One area; where it is continued, as (block, byte in it, length).
    fn area(&mut self, area: &[u8]) -> Result<Option<(u32, u32, u32)>> {
        let (mut at, mut next) = (0, None);
        while at + 4 <= area.len() {
            let len = usize::from(u8_at(area, at + 2)?);
            let Some(field) = area.get(at..at + len).filter(|_| len >= 4) else { break };
            match field.get(..2).unwrap_or_default() {
                b"CE" => next = Some((le32(field, 4)?, le32(field, 12)?, le32(field, 20)?)),
                b"ST" => return Ok(next),
                _ => self.field(field)?,
            }
            at += len;
        }
        Ok(next)
    }

    fn field(&mut self, field: &[u8]) -> Result<()> {
        match field.get(..2).unwrap_or_default() {
            b"PX" => self.permissions(field)?,
            b"NM" => {
                let name = self.name.get_or_insert_default();
                name.extend_from_slice(field.get(5..).unwrap_or_default());
                name.truncate(MAX_NAME + 1);
            }
            b"SL" => self.target(field)?,
            b"TF" => self.stamps(field)?,
            b"PN" => {
                let (high, low) = (le32(field, 4)?, le32(field, 12)?);
                // as a rule all of it is in the low half, in the form that is wanted here
                self.rdev = match high {
                    0 => low,
                    major => low & 0xff | (major & 0xfff) << 8 | (low & 0xf_ff00) << 12,
                };
            }
            b"CL" => self.child = Some(u64::from(le32(field, 4)?)),
            b"RE" => self.moved = true,
            b"ZF" => self.coded = Some("it is compressed with zisofs"),
            b"SF" => self.coded = Some("it is stored sparsely"),
            _ => {}
        }
        Ok(())
    }

    fn permissions(&mut self, field: &[u8]) -> Result<()> {
        let mode = le32(field, 4)?;
        self.kind = Some(match mode >> 12 & 0xf {
            0x1 => NodeKind::Fifo,
            0x2 => NodeKind::CharDevice,
            0x4 => NodeKind::Directory,
            0x6 => NodeKind::BlockDevice,
            0xa => NodeKind::Symlink,
            0xc => NodeKind::Socket,
            _ => NodeKind::File,
        });
        self.perm = (mode & 0o7777) as u16;
        (self.nlink, self.uid, self.gid) = (le32(field, 12)?, le32(field, 20)?, le32(field, 28)?);
        Ok(())
    }

    /// Components of a path, each with flags and a length.
    fn target(&mut self, field: &[u8]) -> Result<()> {
        let mut at = 5;
        while at + 2 <= field.len() {
            let (flags, len) = (u8_at(field, at)?, usize::from(u8_at(field, at + 1)?));
            let text: &[u8] = match flags & 0xe {
                0x2 => b".",
                0x4 => b"..",
                0x8 => b"/",
                _ => field.get(at + 2..at + 2 + len).unwrap_or_default(),
            };
            if !self.link.is_empty() && !self.joined && self.link.last() != Some(&b'/') {
                self.link.push(b'/');
            }
            self.link.extend_from_slice(text);
            self.link.truncate(MAX_LINK + 1);
            self.joined = flags & 0x1 != 0;
            at += 2 + len;
        }
        Ok(())
    }

    fn stamps(&mut self, field: &[u8]) -> Result<()> {
        let flags = u8_at(field, 4)?;
        let len = if flags & 0x80 != 0 { 17 } else { 7 };
        let mut at = 5;
        for bit in 0..7 {
            if flags >> bit & 1 == 0 {
                continue;
            }
            let stamp = match len {
                17 => long_time(&array(field, at)?),
                _ => short_time(&array(field, at)?),
            };
            match bit {
                1 => self.times[1] = Some(stamp),
                2 => self.times[0] = Some(stamp),
                3 => self.times[2] = Some(stamp),
                _ => {}
            }
            at += len;
        }
        Ok(())
    }
}
