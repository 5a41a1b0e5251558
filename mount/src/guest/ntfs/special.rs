//! Files that stand for something else: reparse points of Windows and of its subsystem for Linux, and what Interix and ntfs-3g
//! keep in small system files.

use crate::Result;
use crate::fields::{le16, le32, le64};
use crate::guest::utf16::to_bytes;
use crate::guest::{MAX_LINK, NodeKind};

const MOUNT_POINT: u32 = 0xa000_0003;
const SYMLINK: u32 = 0xa000_000c;
const LX_SYMLINK: u32 = 0xa000_001d;
const AF_UNIX: u32 = 0x8000_0023;
const LX_FIFO: u32 = 0x8000_0024;
const LX_CHAR: u32 = 0x8000_0025;
const LX_BLOCK: u32 = 0x8000_0026;
const DEDUP: u32 = 0x8000_0013;
const WOF: u32 = 0x8000_0017;
const HSM: u32 = 0xc000_0004;
const CLOUD: u32 = 0x9000_001a;
const CLOUD_MASK: u32 = 0xffff_0fff;
/// The target of a link is a path from the link's own directory.
const RELATIVE: u32 = 1;

/// What a file stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Special {
    /// A link, to a path from its own directory.
    Link(Vec<u8>),
    /// A link to a path from the root of its volume.
    FromRoot(Vec<u8>),
    /// A device, fifo or socket, with its device number.
    Node(NodeKind, u32),
    /// Its content is not where it seems to be: why, in words.
    Elsewhere(String),
}

/// What a reparse point stands for; `None` for one that changes nothing of how its file is read.
pub(super) fn reparse(value: &[u8]) -> Result<Option<Special>> {
    let tag = le32(value, 0)?;
    let data = value.get(8..).unwrap_or_default();
    Ok(Some(match tag {
        SYMLINK => windows(data, 12, le32(data, 8)? & RELATIVE != 0)?,
        MOUNT_POINT => windows(data, 8, false)?,
        LX_SYMLINK => Special::Link(data.get(4..).unwrap_or_default().to_vec()),
        AF_UNIX => Special::Node(NodeKind::Socket, 0),
        LX_FIFO => Special::Node(NodeKind::Fifo, 0),
        // the numbers of these are in attributes of their own, which are not read
        LX_CHAR => Special::Node(NodeKind::CharDevice, 0),
        LX_BLOCK => Special::Node(NodeKind::BlockDevice, 0),
        DEDUP => elsewhere("it is deduplicated: its content is in the chunk store of its volume"),
        WOF => elsewhere("it is compressed by the overlay filter of Windows (CompactOS)"),
        HSM => elsewhere("its content was moved to another store"),
        tag if tag & CLOUD_MASK == CLOUD => return Ok(None),
        // other tags belong to programs that leave the content in place
        _ => return Ok(None),
    }))
}

fn elsewhere(why: &str) -> Special {
    Special::Elsewhere(why.to_owned())
}

/// A link of Windows: the place and length of the target, then of the name to show, then both.
fn windows(data: &[u8], names: usize, relative: bool) -> Result<Special> {
    let (at, len) = (usize::from(le16(data, 0)?), usize::from(le16(data, 2)?));
    let target = data.get(names + at..names + at + len).unwrap_or_default();
    let target =
        to_bytes(target).iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect::<Vec<_>>();
    if relative {
        return Ok(Special::Link(target));
    }
    let path = target.strip_prefix(b"/??/").unwrap_or(&target);
    Ok(match path {
        // the letters of drives are not known here; most links stay on their volume
        [letter, b':', path @ ..] if letter.is_ascii_alphabetic() => Special::FromRoot(path.to_vec()),
        path => Special::Link(path.to_vec()),
    })
}

/// What a small system file stands for, by its first bytes.
pub(super) fn interix(size: u64, content: &[u8]) -> Result<Option<Special>> {
    let device = |kind| -> Result<Special> {
        let (major, minor) = (le64(content, 8)? as u32 & 0xfff, le64(content, 16)? as u32 & 0xf_ffff);
        Ok(Special::Node(kind, minor & 0xff | major << 8 | (minor & !0xff) << 12))
    };
    Ok(Some(match (size, content.get(..8).unwrap_or_default()) {
        (0, _) => Special::Node(NodeKind::Fifo, 0),
        (1, _) => Special::Node(NodeKind::Socket, 0),
        (24, b"IntxCHR\0") => device(NodeKind::CharDevice)?,
        (24, b"IntxBLK\0") => device(NodeKind::BlockDevice)?,
        (10.., b"IntxLNK\x01") if size <= 8 + 2 * MAX_LINK as u64 => {
            Special::Link(to_bytes(content.get(8..).unwrap_or_default()))
        }
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(tag: u32, target: &str, flags: Option<u32>) -> Vec<u8> {
        let utf16: Vec<u8> = target.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut value = tag.to_le_bytes().to_vec();
        value.extend([0; 4]);
        for number in [0, utf16.len() as u16, 0, 0] {
            value.extend(number.to_le_bytes());
        }
        value.extend(flags.map(u32::to_le_bytes).into_iter().flatten());
        value.extend(utf16);
        value
    }

    #[test]
    fn links_of_windows_are_paths() {
        let read = |value: &[u8]| reparse(value).unwrap().unwrap();
        let to = |path: &str| path.as_bytes().to_vec();
        assert_eq!(read(&link(SYMLINK, r"..\a\b", Some(1))), Special::Link(to("../a/b")));
        assert_eq!(read(&link(SYMLINK, r"\??\C:\a\b", Some(0))), Special::FromRoot(to("/a/b")));
        assert_eq!(read(&link(MOUNT_POINT, r"\??\D:\x", None)), Special::FromRoot(to("/x")));
        assert!(matches!(read(&[DEDUP.to_le_bytes(), [0; 4]].concat()), Special::Elsewhere(_)));
        assert_eq!(reparse(&[CLOUD.to_le_bytes(), [0; 4]].concat()).unwrap(), None);
    }
}
