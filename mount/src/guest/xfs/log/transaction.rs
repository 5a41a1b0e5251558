//! Putting transactions together from the operations in records.

use super::damaged;
use super::ring::Record;
use crate::fields::{be32, le16, le32, u8_at};
use crate::{Error, Result};
use std::collections::HashMap;

const HEADER: usize = 12;
const START: u8 = 0x01;
const COMMIT: u8 = 0x02;
const CONTINUE: u8 = 0x04;
const WAS_CONTINUED: u8 = 0x08;
const END: u8 = 0x10;
const UNMOUNT: u8 = 0x20;
/// Every transaction begins with a header of its own.
const TRANSACTION: u32 = 0x5452_414e;
const TRANSACTION_HEADER: usize = 16;
/// `XLOG_MAX_REGIONS_IN_ITEM`: a buffer of 64 KiB in chunks of 128 bytes, every other one logged.
const MAX_REGIONS: usize = 65_536 / 128 / 2 + 1;
/// The most bytes of transactions that wait for their commit.
const MAX_OPEN: usize = 64 << 20;

/// A change of one thing: its first region says what it is and how many regions there are.
pub(super) struct Item {
    total: usize,
    pub regions: Vec<Vec<u8>>,
}

impl Item {
    /// What kind of thing it is.
    pub(super) fn kind(&self) -> u16 {
        self.region(0).and_then(|region| le16(region, 0)).unwrap_or(0)
    }

    pub(super) fn region(&self, i: usize) -> Result<&[u8]> {
        self.regions
            .get(i)
            .map(Vec::as_slice)
            .ok_or_else(|| damaged(format!("an item without its region {i}")))
    }
}

/// A transaction, whole once its commit was seen.
#[derive(Default)]
pub(super) struct Transaction {
    /// Where it begins in the log.
    pub lsn: u64,
    header: Vec<u8>,
    pub items: Vec<Item>,
}

/// Transactions that wait for their commit.
#[derive(Default)]
pub(super) struct Transactions {
    open: HashMap<u32, Transaction>,
    bytes: usize,
}

impl Transactions {
    /// Takes the operations of a record; `visit` gets each transaction that it commits.
    pub(super) fn add(
        &mut self,
        record: &Record,
        visit: &mut dyn FnMut(Transaction) -> Result<()>,
    ) -> Result<()> {
        let mut at = 0;
        for _ in 0..record.operations {
            let content = &record.content;
            let (id, len, flags) =
                (be32(content, at)?, be32(content, at + 4)? as usize, u8_at(content, at + 9)?);
            let bytes = content.get(at + HEADER..).and_then(|rest| rest.get(..len));
            let bytes =
                bytes.ok_or_else(|| damaged(format!("an operation of {len} bytes passes its record")))?;
            at += HEADER + len;
            if flags & START != 0 {
                self.open.insert(id, Transaction { lsn: record.lsn, ..Transaction::default() });
                continue;
            }
            // one that began before the tail is already where it belongs
            let Some(transaction) = self.open.get_mut(&id) else { continue };
            match flags & !END {
                flags if flags & COMMIT != 0 => {
                    let whole = self.open.remove(&id).unwrap_or_default();
                    let regions = whole.items.iter().flat_map(|item| &item.regions);
                    self.bytes -= regions.map(Vec::len).sum::<usize>().min(self.bytes);
                    visit(whole)?;
                }
                flags if flags & UNMOUNT != 0 => drop(self.open.remove(&id)),
                flags if flags & WAS_CONTINUED != 0 => {
                    self.bytes += len;
                    transaction.go_on(bytes)?;
                }
                0 | CONTINUE => {
                    self.bytes += len;
                    transaction.region(bytes)?;
                }
                other => return Err(damaged(format!("an operation with the flags {other:#x}"))),
            }
            if self.bytes > MAX_OPEN {
                return Err(Error::unsupported(
                    "the XFS log",
                    format!("{MAX_OPEN} bytes wait for their commit"),
                ));
            }
        }
        Ok(())
    }
}

impl Transaction {
    fn region(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.header.len() < TRANSACTION_HEADER {
            return self.begin(bytes);
        }
        match self.items.last_mut().filter(|item| item.regions.len() < item.total) {
            Some(item) => item.regions.push(bytes.to_vec()),
            None => {
                let total = usize::from(le16(bytes, 2)?);
                if total == 0 || total > MAX_REGIONS {
                    return Err(damaged(format!("an item of {total} regions")));
                }
                self.items.push(Item { total, regions: vec![bytes.to_vec()] });
            }
        }
        Ok(())
    }

    /// The rest of what a full record cut.
    fn go_on(&mut self, bytes: &[u8]) -> Result<()> {
        if self.header.len() < TRANSACTION_HEADER {
            return self.begin(bytes);
        }
        match self.items.last_mut().and_then(|item| item.regions.last_mut()) {
            Some(region) => region.extend_from_slice(bytes),
            None => return Err(damaged("the rest of nothing")),
        }
        Ok(())
    }

    fn begin(&mut self, bytes: &[u8]) -> Result<()> {
        self.header.extend_from_slice(bytes);
        let whole = self.header.len() >= TRANSACTION_HEADER;
        if self.header.len() > TRANSACTION_HEADER || whole && le32(&self.header, 0)? != TRANSACTION {
            return Err(damaged("a transaction without its header"));
        }
        Ok(())
    }
}
