//! Extended attributes: inside the inode, or in a chain of leaf blocks, large values in blocks of their own.

use super::Xfs;
use super::fork;
use super::inode::{Fork, Format, Inode};
use crate::fields::{be16, be32, be64, u8_at};
use crate::guest::{MAX_ATTRIBUTE, MAX_ATTRIBUTE_NAME, MAX_ATTRIBUTE_NAMES};
use crate::{Error, Result};
use std::ops::ControlFlow;

const ROOT: u8 = 0x2;
const SECURE: u8 = 0x4;
const PARENT: u8 = 0x8;
const INCOMPLETE: u8 = 0x80;
const LOCAL: u8 = 0x1;

const LEAF_V4: u16 = 0xfbee;
const LEAF_V5: u16 = 0x3bee;
const NODE_V4: u16 = 0xfebe;
const NODE_V5: u16 = 0x3ebe;
const CRC_AT: usize = 12;
const OWNER_AT: usize = 48;
/// Leaves looked at: 64 KiB of names and as many values of 64 KiB need far fewer.
const MAX_LEAVES: usize = 1 << 16;
/// `XFS_DA_NODE_MAXDEPTH`.
const MAX_DEPTH: usize = 5;
const REMOTE_MAGIC: u32 = 0x5841_524d;
const REMOTE_HEADER: usize = 56;
const REMOTE_OWNER_AT: usize = 32;
const REMOTE_CRC_AT: usize = 12;

/// Access lists are kept under these names, in a form of their own.
const ACL_ACCESS: &[u8] = b"SGI_ACL_FILE";
const ACL_DEFAULT: &[u8] = b"SGI_ACL_DEFAULT";

struct Attribute<'a> {
    flags: u8,
    name: &'a [u8],
    value: Value<'a>,
}

enum Value<'a> {
    Here(&'a [u8]),
    /// From this block of the fork on, this long.
    Blocks(u32, u32),
}

impl Attribute<'_> {
    fn is_acl(&self) -> bool {
        self.flags & ROOT != 0 && (self.name == ACL_ACCESS || self.name == ACL_DEFAULT)
    }

    /// Its full name, or `None` for one that is not shown: half written, or the filesystem's own.
    fn full_name(&self) -> Option<Vec<u8>> {
        let name = match self.flags & (ROOT | SECURE | PARENT | INCOMPLETE) {
            ROOT if self.name == ACL_ACCESS => b"system.posix_acl_access".to_vec(),
            ROOT if self.name == ACL_DEFAULT => b"system.posix_acl_default".to_vec(),
            ROOT => [b"trusted.", self.name].concat(),
            SECURE => [b"security.", self.name].concat(),
            0 => [b"user.", self.name].concat(),
            _ => return None,
        };
        (name.len() <= MAX_ATTRIBUTE_NAME && !name.contains(&0)).then_some(name)
    }

    fn value(&self, fs: &Xfs, inode: &Inode, fork: &Fork) -> Result<Vec<u8>> {
        let raw = match self.value {
            Value::Here(bytes) => bytes.to_vec(),
            Value::Blocks(block, len) => remote(fs, inode, fork, block, len)?,
        };
        if self.is_acl() { acl(&raw) } else { Ok(raw) }
    }
}

/// The full names, in stored order.
pub(super) fn names(fs: &Xfs, inode: &Inode) -> Result<Vec<Vec<u8>>> {
    let (mut names, mut bytes) = (Vec::new(), 0);
    walk(fs, inode, &mut |attribute, _| {
        if let Some(name) = attribute.full_name() {
            bytes += name.len() + 1;
            names.push(name);
        }
        if bytes > MAX_ATTRIBUTE_NAMES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if bytes > MAX_ATTRIBUTE_NAMES {
        return Err(inode.damaged(format!("more than {MAX_ATTRIBUTE_NAMES} bytes of attribute names")));
    }
    Ok(names)
}

/// The value of the attribute of this full name.
pub(super) fn value(fs: &Xfs, inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
    let mut found = None;
    walk(fs, inode, &mut |attribute, fork| {
        if attribute.full_name().is_some_and(|its| its == name) {
            found = Some(attribute.value(fs, inode, fork));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    found.unwrap_or_else(|| Err(Error::not_found("the attribute")))
}

type Visit<'a> = dyn FnMut(&Attribute<'_>, &Fork) -> ControlFlow<()> + 'a;

fn walk(fs: &Xfs, inode: &Inode, visit: &mut Visit<'_>) -> Result<()> {
    let Some(fork) = &inode.attributes else { return Ok(()) };
    match fork.format {
        Format::Local => walk_inside(inode, fork, visit),
        // a fork without extents is one whose attributes have all gone
        Format::Extents if fork.extents == 0 => Ok(()),
        _ => walk_leaves(fs, inode, fork, visit),
    }
}

fn walk_inside(inode: &Inode, fork: &Fork, visit: &mut Visit<'_>) -> Result<()> {
    let bytes = &fork.bytes;
    let mut at = 4;
    for _ in 0..u8_at(bytes, 2)? {
        let (name_len, value_len) = (usize::from(u8_at(bytes, at)?), usize::from(u8_at(bytes, at + 1)?));
        let flags = u8_at(bytes, at + 2)?;
        let (name, value) = (at + 3..at + 3 + name_len, at + 3 + name_len..at + 3 + name_len + value_len);
        at = value.end;
        let (Some(name), Some(value)) = (bytes.get(name), bytes.get(value)) else {
            return Err(inode.damaged("an attribute inside it passes its end"));
        };
        if visit(&Attribute { flags, name, value: Value::Here(value) }, fork).is_break() {
            break;
        }
    }
    Ok(())
}

/// The first leaf is reached down the left side of the tree, the others along their chain.
fn walk_leaves(fs: &Xfs, inode: &Inode, fork: &Fork, visit: &mut Visit<'_>) -> Result<()> {
    let (node, leaf) = if fs.sb.v5 { (NODE_V5, LEAF_V5) } else { (NODE_V4, LEAF_V4) };
    let mut number = 0;
    let mut depth = 0;
    for _ in 0..MAX_LEAVES {
        let size = fs.block_size();
        let block = fork::block(fs, inode, fork, u64::from(number) * size, size as usize, CRC_AT)?;
        if fs.sb.v5 && be64(&block, OWNER_AT)? != inode.ino {
            return Err(inode.damaged(format!("block {number} of its attributes belongs to another inode")));
        }
        match be16(&block, 8)? {
            magic if magic == leaf => {
                if walk_leaf(fs, inode, fork, &block, visit)?.is_break() {
                    return Ok(());
                }
                number = be32(&block, 0)?;
                if number == 0 {
                    return Ok(());
                }
            }
            magic if magic == node && depth < MAX_DEPTH => {
                depth += 1;
                // the first entry is a hash and the block below it
                number = be32(&block, if fs.sb.v5 { 64 + 4 } else { 16 + 4 })?;
            }
            magic => return Err(inode.damaged(format!("a block of its attributes is marked {magic:04x}"))),
        }
    }
    Err(inode.damaged("its attributes have no end"))
}

fn walk_leaf(
    fs: &Xfs,
    inode: &Inode,
    fork: &Fork,
    block: &[u8],
    visit: &mut Visit<'_>,
) -> Result<ControlFlow<()>> {
    let (counts, entries) = if fs.sb.v5 { (56, 80) } else { (12, 32) };
    for i in 0..usize::from(be16(block, counts)?) {
        let entry = entries + i * 8;
        let (at, flags) = (usize::from(be16(block, entry + 4)?), u8_at(block, entry + 6)?);
        let passes = || inode.damaged("an attribute passes the end of its block");
        let (name, value) = if flags & LOCAL != 0 {
            let (value_len, name_len) = (usize::from(be16(block, at)?), usize::from(u8_at(block, at + 2)?));
            let value = at + 3 + name_len;
            let value = block.get(value..value + value_len).ok_or_else(passes)?;
            (block.get(at + 3..at + 3 + name_len), Value::Here(value))
        } else {
            let name_len = usize::from(u8_at(block, at + 8)?);
            (block.get(at + 9..at + 9 + name_len), Value::Blocks(be32(block, at)?, be32(block, at + 4)?))
        };
        let name = name.ok_or_else(passes)?;
        if visit(&Attribute { flags, name, value }, fork).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// A value in blocks of the fork, each with a header where there are checksums.
fn remote(fs: &Xfs, inode: &Inode, fork: &Fork, block: u32, len: u32) -> Result<Vec<u8>> {
    let len = len as usize;
    if len > MAX_ATTRIBUTE {
        return Err(inode.damaged(format!("an attribute of {len} bytes")));
    }
    let size = fs.block_size();
    if !fs.sb.v5 {
        return fork::read(fs, inode, fork, u64::from(block) * size, len);
    }
    let mut value = Vec::with_capacity(len);
    for number in u64::from(block).. {
        if value.len() >= len {
            break;
        }
        let bytes = fork::block(fs, inode, fork, number * size, size as usize, REMOTE_CRC_AT)?;
        let here = be32(&bytes, 8)? as usize;
        let fits = be32(&bytes, 0)? == REMOTE_MAGIC
            && be32(&bytes, 4)? as usize == value.len()
            && be64(&bytes, REMOTE_OWNER_AT)? == inode.ino;
        let content = bytes.get(REMOTE_HEADER..REMOTE_HEADER.saturating_add(here));
        match content.filter(|content| fits && !content.is_empty()) {
            Some(content) => value.extend_from_slice(content),
            None => return Err(inode.damaged("a block of an attribute's value does not fit")),
        }
    }
    value.truncate(len);
    Ok(value)
}

/// Access lists are stored with a count, and in the other byte order.
fn acl(stored: &[u8]) -> Result<Vec<u8>> {
    const ENTRY: usize = 12;
    const SHOWN_VERSION: u32 = 2;
    const NO_ID: u32 = !0;
    const USER: u32 = 2;
    const GROUP: u32 = 8;
    let mut shown = SHOWN_VERSION.to_le_bytes().to_vec();
    for i in 0..be32(stored, 0)? as usize {
        let at = i.saturating_mul(ENTRY).saturating_add(4);
        let (tag, id, perm) = (be32(stored, at)?, be32(stored, at + 4)?, be16(stored, at + 8)?);
        let id = if matches!(tag, USER | GROUP) { id } else { NO_ID };
        shown.extend((tag as u16).to_le_bytes());
        shown.extend(perm.to_le_bytes());
        shown.extend(id.to_le_bytes());
    }
    Ok(shown)
}
