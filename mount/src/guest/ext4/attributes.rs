//! Extended attributes: inside the inode, in a block of their own, or each in an inode of its own.

use super::Ext4;
use super::inode::Inode;
use crate::fields::{le16, le32, u8_at};
use crate::guest::{MAX_ATTRIBUTE, MAX_ATTRIBUTE_NAME, MAX_ATTRIBUTE_NAMES};
use crate::{Error, Result};
use std::ops::ControlFlow;

const MAGIC: u32 = 0xea02_0000;
/// Bytes before the first entry of an attribute block.
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;

const INDEX_SYSTEM: u8 = 7;
const INDEX_ACL_ACCESS: u8 = 2;
const INDEX_ACL_DEFAULT: u8 = 3;

/// One attribute, where it was found.
pub(super) struct Attribute<'a> {
    index: u8,
    suffix: &'a [u8],
    value: Value<'a>,
}

enum Value<'a> {
    Here(&'a [u8]),
    /// In the inode of this number, this long.
    Inode(u32, u32),
}

impl Attribute<'_> {
    /// Its full name, or `None` for one that is not shown: an unknown kind, what no kernel would
    /// name, or the content of an inline file.
    fn name(&self) -> Option<Vec<u8>> {
        let prefix: &[u8] = match self.index {
            1 => b"user.",
            INDEX_ACL_ACCESS => b"system.posix_acl_access",
            INDEX_ACL_DEFAULT => b"system.posix_acl_default",
            4 => b"trusted.",
            6 => b"security.",
            INDEX_SYSTEM if self.suffix != b"data" => b"system.",
            _ => return None,
        };
        let name = [prefix, self.suffix].concat();
        (name.len() <= MAX_ATTRIBUTE_NAME && !name.contains(&0)).then_some(name)
    }

    fn value(&self, fs: &Ext4) -> Result<Vec<u8>> {
        let raw = match self.value {
            Value::Here(bytes) => bytes.to_vec(),
            Value::Inode(ino, len) => {
                let inode = fs.inode(u64::from(ino))?;
                if inode.size != u64::from(len) {
                    return Err(inode.damaged("its size is not that of the attribute it holds"));
                }
                fs.content(&inode, MAX_ATTRIBUTE)?
            }
        };
        match self.index {
            INDEX_ACL_ACCESS | INDEX_ACL_DEFAULT => acl(&raw),
            _ => Ok(raw),
        }
    }
}

/// The full names, in stored order.
pub(super) fn names(fs: &Ext4, inode: &Inode) -> Result<Vec<Vec<u8>>> {
    let (mut names, mut bytes) = (Vec::new(), 0);
    walk(fs, inode, &mut |attribute| {
        if let Some(name) = attribute.name() {
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
pub(super) fn value(fs: &Ext4, inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
    let mut found = None;
    walk(fs, inode, &mut |attribute| {
        if attribute.name().is_some_and(|its| its == name) {
            found = Some(attribute.value(fs));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    found.unwrap_or_else(|| Err(Error::not_found("the attribute")))
}

/// The part of an inline file or directory that did not fit the inode's 60 bytes; empty if all of it did.
pub(super) fn inline_rest(fs: &Ext4, inode: &Inode) -> Result<Vec<u8>> {
    let mut found = None;
    walk(fs, inode, &mut |attribute| {
        if attribute.index == INDEX_SYSTEM && attribute.suffix == b"data" {
            found = Some(attribute.value(fs));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    found.unwrap_or_else(|| Ok(Vec::new()))
}

type Visit<'a> = dyn FnMut(&Attribute<'_>) -> ControlFlow<()> + 'a;

fn walk(fs: &Ext4, inode: &Inode, visit: &mut Visit<'_>) -> Result<()> {
    let inside = &inode.inside;
    if le32(inside, 0).is_ok_and(|magic| magic == MAGIC) {
        // values are found relative to the first entry
        let area = inside.get(4..).unwrap_or_default();
        if walk_entries(inode, area, 0, visit)?.is_break() {
            return Ok(());
        }
    }
    if inode.attribute_block != 0 {
        let block = fs.blocks.read(inode.attribute_block)?;
        if le32(&block, 0)? != MAGIC {
            return Err(inode.damaged("its attribute block has no magic number"));
        }
        // values are found relative to the block; nothing is left to stop
        let _stop = walk_entries(inode, &block, BLOCK_HEADER, visit)?;
    }
    Ok(())
}

/// Entries from `at` on; each says where in `area` its value is.
fn walk_entries(inode: &Inode, area: &[u8], mut at: usize, visit: &mut Visit<'_>) -> Result<ControlFlow<()>> {
    while le32(area, at).is_ok_and(|start| start != 0) {
        let name_len = usize::from(u8_at(area, at)?);
        let (offset, holder) = (usize::from(le16(area, at + 2)?), le32(area, at + 4)?);
        let len = le32(area, at + 8)?;
        let suffix = area.get(at + ENTRY..at + ENTRY + name_len);
        let here = offset.checked_add(len as usize).and_then(|end| area.get(offset..end));
        let (suffix, value) = match (suffix, holder, here) {
            (Some(suffix), 0, Some(bytes)) => (suffix, Value::Here(bytes)),
            (Some(suffix), 1.., _) if len as usize <= MAX_ATTRIBUTE => (suffix, Value::Inode(holder, len)),
            _ => {
                return Err(
                    inode.damaged(format!("an attribute whose name or value of {len} bytes is not there"))
                );
            }
        };
        if visit(&Attribute { index: u8_at(area, at + 1)?, suffix, value }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        at += ENTRY + name_len.next_multiple_of(4);
    }
    Ok(ControlFlow::Continue(()))
}

/// Access lists are stored shorter than they are shown: entries of owner, group, mask and others have no id.
fn acl(stored: &[u8]) -> Result<Vec<u8>> {
    const STORED_VERSION: u32 = 1;
    const SHOWN_VERSION: u32 = 2;
    const NO_ID: u32 = !0;
    const USER: u16 = 2;
    const GROUP: u16 = 8;
    if le32(stored, 0)? != STORED_VERSION {
        return Err(Error::corrupt("an access list", "it has an unknown version"));
    }
    let mut shown = SHOWN_VERSION.to_le_bytes().to_vec();
    let mut at = 4;
    while at < stored.len() {
        let (tag, perm) = (le16(stored, at)?, le16(stored, at + 2)?);
        let named = matches!(tag, USER | GROUP);
        let id = if named { le32(stored, at + 4)? } else { NO_ID };
        shown.extend(tag.to_le_bytes());
        shown.extend(perm.to_le_bytes());
        shown.extend(id.to_le_bytes());
        at += if named { 8 } else { 4 };
    }
    Ok(shown)
}
