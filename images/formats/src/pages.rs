//! Tables of an image, read through a small cache, so that no table is ever held as a whole: what an image says of its
//! tables' lengths allocates nothing.

use crate::error::{Error, Result};
use block::sync::{Mutex, lock};
use block::{BlockSource, ByteOffset};
use std::sync::Arc;

/// Bytes read and kept at a time: 512 entries of 8 bytes.
const PAGE: u64 = 4096;

/// Pages kept for one image, 1 MiB of them: at 64 KiB a cluster they map 8 GiB of a guest's disk.
const SLOTS: u64 = 256;

/// The file of an image, for reading small things.
pub(crate) struct Pages {
    name: String,
    file: Arc<dyn BlockSource>,
    // a page lives in the slot of its number modulo SLOTS
    slots: Mutex<Vec<Option<Page>>>,
}

struct Page {
    number: u64,
    bytes: Box<[u8]>,
}

impl Pages {
    pub(crate) fn new(name: &str, file: Arc<dyn BlockSource>) -> Self {
        let slots = (0..SLOTS).map(|_| None).collect();
        Self { name: name.to_owned(), file, slots: Mutex::new(slots) }
    }

    /// The file's name, for errors.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &Arc<dyn BlockSource> {
        &self.file
    }

    /// An error at a place in the file.
    pub(crate) fn damaged(&self, at: impl Into<Option<u64>>, why: impl Into<String>) -> Error {
        Error::damaged(&self.name, at, why)
    }

    /// Fails unless these bytes are in the file.
    pub(crate) fn holds(&self, at: u64, count: u64, what: &str) -> Result<()> {
        let size = self.file.size().get();
        match at.checked_add(count) {
            Some(end) if end <= size => Ok(()),
            _ => Err(self.damaged(at, format!("{what} passes the end of the file, which is at {size}"))),
        }
    }

    /// Fills the buffer, which is small, from the file.
    pub(crate) fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        self.holds(at, buf.len() as u64, "a structure")?;
        let mut done = 0;
        while done < buf.len() {
            let place = at + done as u64;
            done += self.read_in_page(place, &mut buf[done..])?;
        }
        Ok(())
    }

    fn read_in_page(&self, at: u64, buf: &mut [u8]) -> Result<usize> {
        let (number, within) = (at / PAGE, (at % PAGE) as usize);
        let mut slots = lock(&self.slots);
        let slot = &mut slots[(number % SLOTS) as usize];
        let page = match slot {
            Some(page) if page.number == number => page,
            _ => {
                let len = (self.file.size().get() - number * PAGE).min(PAGE);
                let mut bytes = vec![0; len as usize].into_boxed_slice();
                self.file.read_at(ByteOffset::new(number * PAGE), &mut bytes)?;
                slot.insert(Page { number, bytes })
            }
        };
        let count = buf.len().min(page.bytes.len() - within);
        buf[..count].copy_from_slice(&page.bytes[within..within + count]);
        Ok(count)
    }

    /// `count` bytes in memory of their own. The caller has bounded the count.
    pub(crate) fn bytes(&self, at: u64, count: u64) -> Result<Vec<u8>> {
        self.holds(at, count, "a structure")?;
        let mut bytes = vec![0; count as usize];
        self.file.read_at(ByteOffset::new(at), &mut bytes)?;
        Ok(bytes)
    }

    fn array<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let mut array = [0; N];
        self.read(at, &mut array)?;
        Ok(array)
    }

    pub(crate) fn be_u64(&self, at: u64) -> Result<u64> {
        self.array(at).map(u64::from_be_bytes)
    }

    pub(crate) fn be_u32(&self, at: u64) -> Result<u32> {
        self.array(at).map(u32::from_be_bytes)
    }

    pub(crate) fn le_u64(&self, at: u64) -> Result<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    pub(crate) fn le_u32(&self, at: u64) -> Result<u32> {
        self.array(at).map(u32::from_le_bytes)
    }
}
