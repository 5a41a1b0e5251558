//! A file of hooks on the host: sorted, immutable, asked with one read. Specified in `docs/hooks.md`.

use std::collections::VecDeque;

use block::sync::Arc;
use block::{Cursor, FileHeader, HEADER_LEN, Malformed, Media, MediaFile, OpenHow, VaultId};

use crate::index::Hook;
use crate::name::{ADDRESS_LEN, Address};
use crate::{Error, Result};

const FORMAT: [u8; 4] = *b"hkrn";
const VERSION: u32 = 1;
const PAGE: usize = 4096;
const PAGE_HEAD: usize = 8;
const HOOK_LEN: usize = 12;
/// Hooks that fit into a page.
const PAGE_HOOKS: usize = (PAGE - PAGE_HEAD) / HOOK_LEN;
/// Hooks a page has on average. Keys are spread evenly, so that one page in some billion has more than fit, six standard deviations
/// above; what does not fit is in the next.
const FILL: u64 = 240;
const ROW_LEN: u64 = ADDRESS_LEN as u64 + 4;
/// Pages read or written at once in a pass over all.
const PAGES_AT_ONCE: u64 = 256;

/// An open file of hooks.
pub(crate) struct Run {
    file: Arc<dyn MediaFile>,
    pub(crate) path: String,
    head: Head,
}

#[derive(Clone, Copy)]
struct Head {
    vault: VaultId,
    // pages that keys are spread over; one more follows for what does not fit into the last
    pages: u64,
    hooks: u64,
    packs: u64,
}

impl Head {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = FileHeader::new(FORMAT, VERSION).encode().to_vec();
        bytes.extend_from_slice(self.vault.as_bytes());
        [self.pages, self.hooks, self.packs].iter().for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.resize(PAGE, 0);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        cursor.bytes(HEADER_LEN)?;
        let head = Self {
            vault: VaultId::from_bytes(cursor.array()?),
            pages: cursor.u64()?,
            hooks: cursor.u64()?,
            packs: cursor.u64()?,
        };
        let covered = cursor.position();
        if cursor.u32()? != crc32fast::hash(&bytes[..covered]) {
            return Err(cursor.malformed("its checksum disagrees"));
        }
        let fits = head.len().is_some() && head.pages > 0 && head.packs <= u64::from(u32::MAX);
        if !fits || head.hooks > head.pages.saturating_mul(PAGE_HOOKS as u64) {
            return Err(cursor.malformed(format!("{} hooks in {} pages cannot be", head.hooks, head.pages)));
        }
        Ok(head)
    }

    /// Where the packs begin.
    fn packs_at(&self) -> Option<u64> {
        self.pages.checked_add(2)?.checked_mul(PAGE as u64)
    }

    fn len(&self) -> Option<u64> {
        self.packs_at()?.checked_add(self.packs.checked_mul(ROW_LEN)?)
    }

    fn page_of(&self, key: u64) -> u64 {
        ((u128::from(key) * u128::from(self.pages)) >> 64) as u64
    }
}

/// A page's hooks, and whether it is continued on the next.
fn decode_page(bytes: &[u8]) -> Result<(Vec<Hook>, bool), Malformed> {
    let mut cursor = Cursor::new(bytes);
    let (count, continued) = (usize::from(cursor.u16()?), cursor.u16()?);
    let crc = cursor.u32()?;
    if count > PAGE_HOOKS || continued > 1 || bytes.len() != PAGE {
        return Err(cursor.malformed(format!("{count} hooks in a page")));
    }
    if crc != crc32fast::hash(&[&bytes[..4], &bytes[PAGE_HEAD..]].concat()) {
        return Err(cursor.malformed("its checksum disagrees"));
    }
    let hooks: Result<_, _> =
        (0..count).map(|_| Ok(Hook { key: cursor.u64()?, pack: cursor.u32()? })).collect();
    Ok((hooks?, continued == 1))
}

fn encode_page(hooks: &[Hook], is_continued: bool, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&(hooks.len() as u16).to_le_bytes());
    out.extend_from_slice(&u16::from(is_continued).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for hook in hooks {
        out.extend_from_slice(&hook.key.to_le_bytes());
        out.extend_from_slice(&hook.pack.to_le_bytes());
    }
    out.resize(start + PAGE, 0);
    let crc = crc32fast::hash(&[&out[start..start + 4], &out[start + PAGE_HEAD..]].concat());
    out[start + 4..start + PAGE_HEAD].copy_from_slice(&crc.to_le_bytes());
}

impl Run {
    /// Writes a file of at most `most` hooks, ascending by key, and of the packs they name; durable on return but for its name.
    pub(crate) fn write(
        media: &dyn Media,
        path: &str,
        vault: VaultId,
        most: u64,
        hooks: &mut dyn Iterator<Item = Result<Hook>>,
        packs: &mut dyn Iterator<Item = Result<Address>>,
    ) -> Result<Self> {
        let file = media.open(path, OpenHow::Truncate).map_err(Error::cache(path))?;
        let head = Head { vault, pages: most.div_ceil(FILL).max(1), hooks: 0, packs: 0 };
        let mut writer =
            Writer { file: &*file, path, head, page: 0, waiting: VecDeque::new(), buffer: Vec::new() };
        for hook in hooks {
            writer.add(hook?)?;
        }
        writer.finish(packs)?;
        let head = writer.head;
        file.write_at(0, &head.encode()).and_then(|()| file.sync()).map_err(Error::cache(path))?;
        Ok(Self { file, path: path.to_owned(), head })
    }

    /// Opens a file, which must be of this vault.
    pub(crate) fn open(media: &dyn Media, path: &str, vault: VaultId) -> Result<Self> {
        let file = media.open(path, OpenHow::Read).map_err(Error::cache(path))?;
        let len = file.size().map_err(Error::cache(path))?;
        let mut bytes = vec![0; PAGE.min(len as usize)];
        file.read_at(0, &mut bytes).map_err(Error::cache(path))?;
        FileHeader::check(&bytes, &FileHeader::new(FORMAT, VERSION), path).map_err(Error::cache(path))?;
        let head = Head::decode(&bytes).map_err(|why| Error::damaged(path, "head", why))?;
        match head.vault == vault && head.len() == Some(len) {
            true => Ok(Self { file, path: path.to_owned(), head }),
            false => Err(Error::damaged(path, "head", "it is of another vault or length")),
        }
    }

    /// How many hooks it has.
    pub(crate) fn len(&self) -> u64 {
        self.head.hooks
    }

    /// How many packs they name.
    pub(crate) fn packs(&self) -> u64 {
        self.head.packs
    }

    /// The pack of a key. Costs one read, and one more if there is one.
    pub(crate) fn find(&self, key: u64) -> Result<Option<Address>> {
        let mut page = self.head.page_of(key);
        let mut bytes = [0; PAGE];
        loop {
            self.file.read_at((page + 1) * PAGE as u64, &mut bytes).map_err(Error::cache(&self.path))?;
            let (hooks, is_continued) = self.page(page, &bytes)?;
            if let Some(hook) = hooks.iter().find(|hook| hook.key == key) {
                return self.pack(hook.pack).map(Some);
            }
            if !is_continued || page == self.head.pages {
                return Ok(None);
            }
            page += 1;
        }
    }

    fn page(&self, page: u64, bytes: &[u8]) -> Result<(Vec<Hook>, bool)> {
        decode_page(bytes).map_err(|why| Error::damaged(&self.path, format!("page {page}"), why))
    }

    /// A pack by its row.
    pub(crate) fn pack(&self, row: u32) -> Result<Address> {
        let damaged = |why: String| Error::damaged(&self.path, format!("pack {row}"), why);
        let (Some(start), true) = (self.head.packs_at(), u64::from(row) < self.head.packs) else {
            return Err(damaged("there is no such row".to_owned()));
        };
        let mut bytes = [0; ROW_LEN as usize];
        self.file.read_at(start + u64::from(row) * ROW_LEN, &mut bytes).map_err(Error::cache(&self.path))?;
        let mut cursor = Cursor::new(&bytes);
        let address = Address::decode(&mut cursor).map_err(|why| damaged(why.to_string()))?;
        match cursor.u32() == Ok(crc32fast::hash(&bytes[..ADDRESS_LEN])) {
            true => Ok(address),
            false => Err(damaged("its checksum disagrees".to_owned())),
        }
    }

    /// All hooks, ascending by key.
    pub(crate) fn hooks(&self) -> impl Iterator<Item = Result<Hook>> + '_ {
        let pages = self.head.pages + 1;
        (0..pages).step_by(PAGES_AT_ONCE as usize).flat_map(move |first| {
            let count = PAGES_AT_ONCE.min(pages - first);
            let mut bytes = vec![0; count as usize * PAGE];
            let read =
                self.file.read_at((first + 1) * PAGE as u64, &mut bytes).map_err(Error::cache(&self.path));
            let hooks: Vec<Result<Hook>> = match read {
                Err(error) => vec![Err(error)],
                Ok(()) => (first..)
                    .zip(bytes.chunks(PAGE))
                    .flat_map(|(page, bytes)| all(self.page(page, bytes)))
                    .collect(),
            };
            hooks
        })
    }
}

fn all(page: Result<(Vec<Hook>, bool)>) -> Vec<Result<Hook>> {
    match page {
        Ok((hooks, _)) => hooks.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    }
}

struct Writer<'a> {
    file: &'a dyn MediaFile,
    path: &'a str,
    head: Head,
    page: u64,
    waiting: VecDeque<Hook>,
    // whole pages that end before `page`
    buffer: Vec<u8>,
}

impl Writer<'_> {
    fn add(&mut self, hook: Hook) -> Result<()> {
        while self.page < self.head.page_of(hook.key) {
            self.next_page()?;
        }
        self.waiting.push_back(hook);
        self.head.hooks += 1;
        Ok(())
    }

    fn next_page(&mut self) -> Result<()> {
        let hooks: Vec<Hook> = self.waiting.drain(..self.waiting.len().min(PAGE_HOOKS)).collect();
        encode_page(&hooks, !self.waiting.is_empty(), &mut self.buffer);
        self.page += 1;
        match self.buffer.len() >= PAGES_AT_ONCE as usize * PAGE {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<()> {
        let end = (self.page + 1) * PAGE as u64;
        let at = end - self.buffer.len() as u64;
        self.file.write_at(at, &self.buffer).map_err(Error::cache(self.path))?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(&mut self, packs: &mut dyn Iterator<Item = Result<Address>>) -> Result<()> {
        while self.page <= self.head.pages {
            self.next_page()?;
        }
        if !self.waiting.is_empty() {
            return Err(Error::invalid(self.path, "its keys are not spread as fingerprints are"));
        }
        self.flush()?;
        let mut rows = Vec::new();
        for pack in packs {
            let address = pack?.encode();
            rows.extend_from_slice(&address);
            rows.extend_from_slice(&crc32fast::hash(&address).to_le_bytes());
            self.head.packs += 1;
        }
        self.file.write_at((self.head.pages + 2) * PAGE as u64, &rows).map_err(Error::cache(self.path))
    }
}

/// Unites two ascending lists; of two hooks with one key the first list's stays.
pub(crate) fn merged<'a>(
    newer: impl Iterator<Item = Result<Hook>> + 'a,
    older: impl Iterator<Item = Result<Hook>> + 'a,
) -> impl Iterator<Item = Result<Hook>> + 'a {
    let (mut newer, mut older) = (newer.peekable(), older.peekable());
    std::iter::from_fn(move || match (newer.peek(), older.peek()) {
        (Some(Ok(new)), Some(Ok(old))) if old.key < new.key => older.next(),
        (Some(Ok(new)), Some(Ok(old))) => {
            if old.key == new.key {
                older.next();
            }
            newer.next()
        }
        // an error comes at once
        (Some(Ok(_)), Some(Err(_))) | (None, _) => older.next(),
        _ => newer.next(),
    })
}

/// For fuzzing: a head and a page.
pub fn fuzz_decode(bytes: &[u8]) {
    if let Ok(head) = Head::decode(bytes) {
        assert!(head.page_of(u64::MAX) < head.pages);
    }
    if let Ok((hooks, is_continued)) = decode_page(bytes) {
        let mut back = Vec::new();
        encode_page(&hooks, is_continued, &mut back);
        assert_eq!(back[..4], bytes[..4]);
    }
}
