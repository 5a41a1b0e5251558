//! ext2, ext3 and ext4, read-only.
//!
//! Written from the kernel's documentation of the on-disk format (`Documentation/filesystems/ext4`). What a mount
//! would show after replaying the journal is what is shown here; the volume itself is never written. Not read:
//! encrypted names and contents (each refused by itself), a journal on another device, fast commits, compression.

mod attributes;
mod blocks;
mod directory;
mod inode;
mod journal;
mod map;
mod superblock;

use super::pieces::{clip, push};
use super::{Guest, Listing, MAX_LINK, MAX_PIECES, Node, NodeKind, Piece, Place, Space};
use crate::fields::{le16, le32};
use crate::{Error, Result};
use block::crc32c;
use block::sync::{Mutex, lock};
use block::{BlockSource, ByteOffset};
use blocks::Blocks;
use inode::{Inode, Rules, flag};
use journal::Newer;
use std::collections::HashSet;
use std::sync::Arc;
use superblock::{SUPERBLOCK_AT, SUPERBLOCK_LEN, Superblock, incompat, ro_compat};

/// The number of the root directory, on every such filesystem.
const ROOT: u64 = 2;
/// An inline file or directory is inside one inode, which is at most a block; this is above any.
const MAX_INLINE: usize = 64 << 10;

/// Extents looked at for one answer, however few pieces they make.
const MAX_RUNS: usize = 4 * MAX_PIECES;

/// Numbers of verified blocks kept, about 1 MiB of them.
const MAX_VERIFIED: usize = 1 << 16;

/// An open filesystem.
pub struct Ext4 {
    superblock: Superblock,
    rules: Rules,
    blocks: Blocks,
    /// Blocks whose own checksum was found right; the content of a recovery point does not change.
    verified: Mutex<HashSet<u64>>,
}

/// Whether the first 2048 bytes of a volume are those of such a filesystem. Says nothing about its health.
pub fn detect(start: &[u8]) -> bool {
    superblock::has_magic(start)
}

/// Checks features and geometry without opening: cheap, and enough to say why a filesystem is not readable.
///
/// # Errors
/// As [`Ext4::open`].
pub fn check(start: &[u8]) -> Result<()> {
    let at = SUPERBLOCK_AT as usize;
    let bytes = start.get(at..at + SUPERBLOCK_LEN).unwrap_or_default();
    Superblock::decode(bytes).map(|_| ())
}

impl Ext4 {
    /// Opens the filesystem that fills `source`, replaying its journal in memory if it was not unmounted.
    ///
    /// # Errors
    /// `Unsupported`, naming the feature, if it uses one this reader does not know. `Corrupt` if superblock or
    /// journal do not fit together.
    pub fn open(source: Arc<dyn BlockSource>) -> Result<Self> {
        let mut bytes = [0; SUPERBLOCK_LEN];
        source.read_at(ByteOffset::new(SUPERBLOCK_AT), &mut bytes)?;
        let superblock = Superblock::decode(&bytes)?;
        let blocks = Blocks::new(source, superblock.block_size, superblock.blocks);
        let mut fs = Self { rules: rules(&superblock), superblock, blocks, verified: Mutex::default() };
        if fs.superblock.incompat & incompat::RECOVER != 0 {
            fs.recover()?;
        }
        Ok(fs)
    }

    /// Puts the journal's newer blocks over the others, then reads the superblock again: it may be among them.
    fn recover(&mut self) -> Result<()> {
        let number = self.superblock.journal_inode;
        if number == 0 {
            return Err(Error::unsupported("this ext4 filesystem", "its journal is on another device"));
        }
        let overlay = journal::replay(self, &self.inode(u64::from(number))?)?;
        self.blocks.set_overlay(overlay);
        let block_size = u64::from(self.superblock.block_size);
        let block = self.blocks.read(SUPERBLOCK_AT / block_size)?;
        let at = (SUPERBLOCK_AT % block_size) as usize;
        let recovered = Superblock::decode(block.get(at..at + SUPERBLOCK_LEN).unwrap_or_default())?;
        if recovered.block_size != self.superblock.block_size || recovered.uuid != self.superblock.uuid {
            return Err(Error::corrupt("the ext4 journal", "it holds the superblock of another filesystem"));
        }
        self.rules = rules(&recovered);
        self.superblock = recovered;
        Ok(())
    }

    fn inode(&self, ino: u64) -> Result<Inode> {
        let number = u32::try_from(ino).ok().filter(|number| (1..=self.superblock.inodes).contains(number));
        let number = number.ok_or_else(|| Error::not_found(format!("inode {ino}")))?;
        let (group, index) = (
            (number - 1) / self.superblock.inodes_per_group,
            u64::from((number - 1) % self.superblock.inodes_per_group),
        );
        let table = self.inode_table(group)?;
        let block_size = u64::from(self.superblock.block_size);
        let record_size = u64::from(self.superblock.inode_size);
        let block = self.blocks.read(table.saturating_add(index * record_size / block_size))?;
        let at = (index * record_size % block_size) as usize;
        // records never straddle blocks: their size is a power of two no larger than a block
        let record = block.get(at..at + record_size as usize).unwrap_or_default();
        Inode::decode(number, record, self.rules)
    }

    /// Where the inodes of a group begin, from its descriptor.
    fn inode_table(&self, group: u32) -> Result<u64> {
        let sb = &self.superblock;
        let per_block = sb.block_size / u32::from(sb.desc_size);
        let block = self.blocks.read(self.descriptor_block(group / per_block)?)?;
        let at = (group % per_block) as usize * usize::from(sb.desc_size);
        let high = if sb.desc_size >= 64 { le32(&block, at + 0x28)? } else { 0 };
        Ok(u64::from(high) << 32 | u64::from(le32(&block, at + 0x8)?))
    }

    /// Descriptors lie behind the superblock, or, with `meta_bg`, each block of them in the groups it describes.
    fn descriptor_block(&self, index: u32) -> Result<u64> {
        let sb = &self.superblock;
        let superblock_at = SUPERBLOCK_AT / u64::from(sb.block_size);
        if sb.incompat & incompat::META_BG == 0 || index < sb.first_meta_bg {
            return Ok(superblock_at + 1 + u64::from(index));
        }
        let group = u64::from(index) * u64::from(sb.block_size / u32::from(sb.desc_size));
        let first = u64::from(sb.first_data_block) + group * u64::from(sb.blocks_per_group);
        let group = u32::try_from(group).map_err(|_| Error::corrupt("a group number", format!("{group}")))?;
        // with blocks of 1 KiB, group 0 also has the boot block before its superblock
        let boot = u64::from(group == 0 && sb.block_size == 1024 && sb.first_data_block == 0);
        Ok(first + u64::from(sb.group_has_super(group)) + boot)
    }

    /// All of an inode that is stored within itself.
    fn inline_content(&self, inode: &Inode) -> Result<Vec<u8>> {
        let mut content = inode.root.to_vec();
        content.extend(attributes::inline_rest(self, inode)?);
        let size = usize::try_from(inode.size).ok().filter(|size| *size <= MAX_INLINE);
        let size = size.ok_or_else(|| inode.damaged(format!("{} bytes stored inside it", inode.size)))?;
        if inode.kind != NodeKind::Directory && size > content.len() {
            return Err(inode.damaged(format!("{size} bytes stored inside it, {} there are", content.len())));
        }
        content.truncate(size);
        Ok(content)
    }

    /// The whole content of something small: a link, an attribute.
    fn content(&self, inode: &Inode, limit: usize) -> Result<Vec<u8>> {
        let size = usize::try_from(inode.size).ok().filter(|size| *size <= limit);
        let size =
            size.ok_or_else(|| inode.damaged(format!("{} bytes where at most {limit} fit", inode.size)))?;
        if inode.has(flag::INLINE_DATA) {
            return self.inline_content(inode);
        }
        let mut content = Vec::with_capacity(size);
        let block_size = self.superblock.block_size as usize;
        while content.len() < size {
            let run = map::map(self, inode, (content.len() / block_size) as u64)?;
            match run.first {
                Some(first) => content.extend_from_slice(&self.blocks.read(first)?),
                None => content.resize(content.len() + block_size, 0),
            }
        }
        content.truncate(size);
        Ok(content)
    }

    fn unverified(&self, block: u64) -> bool {
        !lock(&self.verified).contains(&block)
    }

    fn set_verified(&self, block: u64) {
        let mut verified = lock(&self.verified);
        if verified.len() >= MAX_VERIFIED {
            verified.clear();
        }
        verified.insert(block);
    }

    /// Checks the checksum at the end of a block of extents, where the filesystem has such.
    fn check_extent_block(&self, inode: &Inode, block: &[u8]) -> Result<()> {
        let Some(seed) = self.rules.checksum_seed else { return Ok(()) };
        let at = 12 + usize::from(le16(block, 4)?) * 12;
        let Ok(stored) = le32(block, at) else {
            return Err(inode.damaged("an extent block with more entries than fit"));
        };
        let computed = crc32c(inode.checksum_seed(seed), block.get(..at).unwrap_or_default());
        if stored != computed {
            return Err(inode.damaged(format!(
                "an extent block has the checksum {stored:08x}, its bytes give {computed:08x}"
            )));
        }
        Ok(())
    }

    /// Adds the pieces of `count` blocks at `first`, whose bytes begin at `at` of the file, cut where the journal
    /// holds a newer version.
    fn push_pieces(&self, pieces: &mut Vec<Piece>, at: u64, first: u64, count: u64) -> Result<()> {
        let size = u64::from(self.superblock.block_size);
        let (mut block, end) = (first, first + count);
        let file_at = |block: u64| at + (block - first) * size;
        while block < end && pieces.len() < MAX_PIECES {
            let shadow = self.blocks.overlay().next(block, end);
            let plain = shadow.map_or(end, |(shadowed, _)| shadowed);
            if plain > block {
                push(pieces, file_at(block), (plain - block) * size, Place::Volume(block * size));
            }
            block = plain;
            let Some((shadowed, newer)) = shadow else { continue };
            match newer {
                Newer::At(journal) => push(pieces, file_at(shadowed), size, Place::Volume(journal * size)),
                Newer::Escaped(_) => {
                    let bytes = self.blocks.read(shadowed)?.to_vec();
                    push(pieces, file_at(shadowed), size, Place::Bytes(bytes.into()));
                }
                // what lies before it can still be read
                Newer::Damaged if !pieces.is_empty() => return Ok(()),
                Newer::Damaged => return Err(blocks::damaged_in_journal(shadowed)),
            }
            block += 1;
        }
        Ok(())
    }
}

fn rules(superblock: &Superblock) -> Rules {
    Rules {
        block_size: superblock.block_size,
        large_dir: superblock.incompat & incompat::LARGEDIR != 0,
        huge_file: superblock.ro_compat & ro_compat::HUGE_FILE != 0,
        checksum_seed: superblock.has_checksums().then_some(superblock.checksum_seed),
    }
}

impl Guest for Ext4 {
    fn root(&self) -> u64 {
        ROOT
    }

    fn space(&self) -> Space {
        Space {
            block_size: self.superblock.block_size,
            blocks: self.superblock.blocks,
            free: self.superblock.free_blocks,
            inodes: u64::from(self.superblock.inodes),
            free_inodes: u64::from(self.superblock.free_inodes),
        }
    }

    fn node(&self, ino: u64) -> Result<Node> {
        self.inode(ino)?.node()
    }

    fn lookup(&self, dir: u64, name: &[u8]) -> Result<Option<u64>> {
        directory::lookup(self, &self.inode(dir)?, name)
    }

    fn list(&self, dir: u64, cookie: u64) -> Result<Listing> {
        directory::list(self, &self.inode(dir)?, cookie)
    }

    fn link(&self, ino: u64) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        if inode.kind != NodeKind::Symlink {
            return Err(Error::invalid(format!("inode {ino}"), "it is not a symbolic link"));
        }
        refuse_encrypted(&inode)?;
        let short = inode.size < inode.root.len() as u64 && !inode.has(flag::EXTENTS | flag::INLINE_DATA);
        let target = match short {
            true => inode.root.get(..inode.size as usize).unwrap_or_default().to_vec(),
            false => self.content(&inode, MAX_LINK)?,
        };
        if target.is_empty() || target.contains(&0) {
            return Err(inode.damaged("its target is no path"));
        }
        Ok(target)
    }

    fn pieces(&self, ino: u64, from: u64, to: u64) -> Result<Vec<Piece>> {
        let inode = self.inode(ino)?;
        if inode.kind != NodeKind::File {
            return Err(Error::invalid(format!("inode {ino}"), "it is not a plain file"));
        }
        refuse_encrypted(&inode)?;
        let to = to.min(inode.size);
        if from >= to {
            return Ok(Vec::new());
        }
        if inode.has(flag::INLINE_DATA) {
            let content = self.inline_content(&inode)?;
            return Ok(vec![Piece { at: 0, len: content.len() as u64, place: Place::Bytes(content.into()) }]);
        }
        let size = u64::from(self.superblock.block_size);
        let (mut logical, end) = (from / size, to.div_ceil(size));
        let mut pieces = Vec::new();
        // contiguous extents melt into one piece, so their number needs a bound of its own
        for _ in 0..MAX_RUNS {
            if logical >= end || pieces.len() >= MAX_PIECES {
                break;
            }
            let run = match map::map(self, &inode, logical) {
                Ok(run) => run,
                // what lies before the damage can still be read
                Err(_) if !pieces.is_empty() => break,
                Err(error) => return Err(error),
            };
            let count = run.count.min(end - logical);
            match run.first {
                Some(first) => {
                    self.push_pieces(&mut pieces, logical * size, first, count)?;
                    let reached = pieces.last().map_or(0, |piece| piece.at + piece.len);
                    if reached != (logical + count) * size {
                        break;
                    }
                }
                None => push(&mut pieces, logical * size, count * size, Place::Zero),
            }
            logical += count;
        }
        clip(&mut pieces, inode.size);
        Ok(pieces)
    }

    fn attributes(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        attributes::names(self, &self.inode(ino)?)
    }

    fn attribute(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        attributes::value(self, &self.inode(ino)?, name)
    }
}

fn refuse_encrypted(inode: &Inode) -> Result<()> {
    if inode.has(flag::ENCRYPT) {
        return Err(Error::unsupported(format!("inode {}", inode.ino), "its content is encrypted"));
    }
    Ok(())
}
