//! Replies of the data phase, byte for byte, and what they cost in memory.

use crate::stage::{Disks, SparseDisk, noise};
use block::{
    BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Provision, Visit,
};
use nbd::handshake::{Context, Negotiated};
use nbd::transmission::{Cells, Outbox, Step, Transmission};
use nbd::wire::{self, ChunkHeader, ExportFacts, Request};
use nbd::{Exports, Peer};
use std::sync::{Arc, Mutex};

fn machine(disk: &Arc<SparseDisk>) -> Transmission {
    let export = Disks(disk.clone()).open("disk", &Peer::Unix { uid: 0, gid: 0, pid: 0 }).unwrap();
    let facts = ExportFacts { size: export.access.size().get(), flags: 0 };
    let contexts = vec![Context::Allocation];
    let negotiated = Negotiated {
        name: "disk".into(),
        export,
        facts,
        style: wire::ReplyStyle::Structured,
        contexts,
        entered: None,
    };
    Transmission::new(negotiated, Arc::new(Cells::new()))
}

fn read(offset: u64, length: u64) -> Vec<u8> {
    Request { flags: 0, command: wire::CMD_READ, cookie: 1, offset, length }.encode().to_vec()
}

/// Everything the machine answers, and the most it kept unsent.
fn answers(machine: &mut Transmission, input: &[u8]) -> (Vec<u8>, usize) {
    let (mut out, mut all, mut most, mut at) = (Outbox::new(), Vec::new(), 0, 0);
    loop {
        let (used, step) = machine.advance(&input[at..], &mut out);
        at += used;
        most = most.max(out.filled().len());
        all.extend_from_slice(out.filled());
        out.clear();
        if step != Step::Send {
            return (all, most);
        }
    }
}

/// Kind, flags, offset and length of every chunk.
fn chunks(mut bytes: &[u8]) -> Vec<(u16, u16, u64, u32)> {
    let mut chunks = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk() {
        let header = ChunkHeader::decode(header).unwrap();
        let (payload, rest) = rest.split_at(header.length as usize);
        let number = |at: usize| payload[at..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let offset = payload.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        chunks.push(match header.kind {
            wire::REPLY_OFFSET_DATA => (1, header.flags, offset, header.length - 8),
            wire::REPLY_OFFSET_HOLE => (2, header.flags, offset, number(8)),
            kind => (kind, header.flags, 0, number(0)),
        });
        bytes = rest;
    }
    chunks
}

/// A disk of 16 TiB that only takes note of what is asked of it.
#[derive(Default)]
struct Ledger(Mutex<Vec<String>>);

impl Ledger {
    fn note(&self, text: String) -> block::Result<()> {
        self.0.lock().unwrap().push(text);
        Ok(())
    }
}

impl BlockSource for Ledger {
    fn size(&self) -> ByteCount {
        ByteCount::new(16 << 40)
    }
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.note(format!("read {offset} {}", buf.len()))
    }
    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        let _stop = visit(Extent { range, kind: ExtentKind::Hole });
        Ok(())
    }
}

impl BlockDevice for Ledger {
    fn write_at(&self, offset: ByteOffset, buf: &[u8]) -> block::Result<()> {
        self.note(format!("write {offset} {}", buf.len()))
    }
    fn zero(&self, range: ByteRange, provision: Provision) -> block::Result<()> {
        self.note(format!("zero {} {} {provision:?}", range.start(), range.count()))
    }
    fn discard(&self, range: ByteRange) -> block::Result<()> {
        self.note(format!("discard {} {}", range.start(), range.count()))
    }
    fn flush(&self) -> block::Result<()> {
        self.note("flush".into())
    }
}

#[test]
fn requests_reach_the_device_as_they_were_meant() {
    let ledger = Arc::new(Ledger::default());
    let export = nbd::Export::new(nbd::Access::ReadWrite(ledger.clone()), "");
    let facts = ExportFacts { size: 16 << 40, flags: 0 };
    let contexts = vec![Context::Allocation];
    let negotiated = Negotiated {
        name: "x".into(),
        export,
        facts,
        style: wire::ReplyStyle::Structured,
        contexts,
        entered: None,
    };
    let mut machine = Transmission::new(negotiated, Arc::new(Cells::new()));
    let mut ask = |command: u16, flags: u16, offset: u64, length: u64| {
        let request = Request { flags, command, cookie: 1, offset, length };
        let mut bytes = request.encode().to_vec();
        bytes.resize(28 + request.payload(wire::ReplyStyle::Structured) as usize, 7);
        let (replies, _) = answers(&mut machine, &bytes);
        (std::mem::take(&mut *ledger.0.lock().unwrap()), replies)
    };
    // what the kernel's client sends for a discard of 4 GiB, and the next one
    let most = u64::from(u32::MAX - 511);
    assert_eq!(ask(wire::CMD_TRIM, 0, 0, most).0, ["discard 0 4294966784"]);
    assert_eq!(ask(wire::CMD_TRIM, 0, 4_294_966_784, most).0, ["discard 4294966784 4294966784"]);
    assert_eq!(
        ask(wire::CMD_WRITE_ZEROES, 0, 1 << 43, 0xffff_ffff).0,
        ["zero 8796093022208 4294967295 Sparse"]
    );
    assert_eq!(ask(wire::CMD_WRITE_ZEROES, wire::CMD_FLAG_FAST_ZERO, 0, 1).0, ["zero 0 1 Sparse"]);
    assert_eq!(ask(wire::CMD_WRITE_ZEROES, wire::CMD_FLAG_NO_HOLE, 0, 4096).0, ["zero 0 4096 Allocated"]);
    assert_eq!(ask(wire::CMD_WRITE, 0, 3, 5).0, ["write 3 5"]);
    assert_eq!(ask(wire::CMD_FLUSH, 0, 0, 0).0, ["flush"]);
    // FUA flushes what it covers, and only after it was written
    assert_eq!(ask(wire::CMD_WRITE, wire::CMD_FLAG_FUA, 3, 5).0, ["write 3 5", "flush"]);
    assert_eq!(ask(wire::CMD_TRIM, wire::CMD_FLAG_FUA, 0, 512).0, ["discard 0 512", "flush"]);
    assert_eq!(ask(wire::CMD_WRITE_ZEROES, wire::CMD_FLAG_FUA, 0, 1).0, ["zero 0 1 Sparse", "flush"]);
    // bringing a range near reads it, holes are not read for a client, a status touches nothing
    assert_eq!(ask(wire::CMD_CACHE, 0, 0, 1 << 20).0, ["read 0 524288", "read 524288 524288"]);
    assert_eq!(ask(wire::CMD_READ, 0, 0, 32 << 20).0, [""; 0]);
    let (calls, replies) = ask(wire::CMD_BLOCK_STATUS, 0, 16 << 39, 0xffff_ffff);
    assert!(calls.is_empty());
    assert_eq!(replies[20..], [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 3]);
}

#[test]
fn zeros_are_named_not_sent() {
    let disk = SparseDisk::new(1 << 20);
    disk.write_at(ByteOffset::new(8192), &noise(4096, 1)).unwrap();
    let (bytes, _) = answers(&mut machine(&disk), &read(100, 20_000));
    assert_eq!(chunks(&bytes), [(2, 0, 100, 8092), (1, 0, 8192, 4096), (2, 1, 12_288, 7812)]);
    // a block or less is one chunk, whatever is in it
    let (bytes, _) = answers(&mut machine(&disk), &read(8000, 4096));
    assert_eq!(chunks(&bytes), [(1, 1, 8000, 4096)]);
}

#[test]
fn an_error_in_the_middle_follows_the_pieces_before_it() {
    let disk = SparseDisk::new(2 << 20);
    disk.write_at(ByteOffset::ZERO, &noise(2 << 20, 1)).unwrap();
    disk.damage(1_500_000, 1_500_001);
    let (bytes, _) = answers(&mut machine(&disk), &read(0, 2 << 20));
    let chunks = chunks(&bytes);
    assert_eq!(chunks[..2], [(1, 0, 0, 512 << 10), (1, 0, 512 << 10, 512 << 10)]);
    assert_eq!(chunks[2..], [(wire::REPLY_ERROR, 1, 0, 5)]);
}

#[test]
fn large_reads_do_not_make_large_buffers() {
    let disk = SparseDisk::new(64 << 20);
    for block in (0..64 << 20).step_by(8192) {
        disk.write_at(ByteOffset::new(block), &[1; 4096]).unwrap();
    }
    let mut input = Vec::new();
    (0..4).for_each(|_| input.extend(read(0, 64 << 20)));
    let (bytes, most) = answers(&mut machine(&disk), &input[..28]);
    assert_eq!(chunks(&bytes).len(), (64 << 20) / 4096);
    assert!(most < 1 << 20, "{most} bytes unsent");
}

/// Every other 64 KiB block is dirty.
struct Stripes;

impl nbd::Status for Stripes {
    fn status(&self, range: ByteRange, visit: &mut nbd::VisitStatus<'_>) -> block::Result<()> {
        let mut at = range.start();
        while at < range.end() {
            let until = (at / 65536 + 1) * 65536;
            let until = until.min(range.end());
            if visit(until - at, (at / 65536 % 2) as u32).is_break() {
                break;
            }
            at = until;
        }
        Ok(())
    }
}

#[test]
fn a_context_an_export_offers_is_answered_beside_allocation() {
    let disk = Arc::new(block::MemoryDisk::new(ByteCount::new(1 << 20)));
    let export = nbd::Export::new(nbd::Access::ReadOnly(disk), "");
    let facts = ExportFacts { size: 1 << 20, flags: 0 };
    let name = "qemu:dirty-bitmap:a".to_owned();
    let contexts = vec![Context::Offered { name, id: 7, status: Arc::new(Stripes) }, Context::Allocation];
    let negotiated = Negotiated {
        name: "x".into(),
        export,
        facts,
        style: wire::ReplyStyle::Structured,
        contexts,
        entered: None,
    };
    let mut machine = Transmission::new(negotiated, Arc::new(Cells::new()));
    let ask = |flags, offset, length| {
        Request { flags, command: wire::CMD_BLOCK_STATUS, cookie: 1, offset, length }.encode()
    };
    let (all, _) = answers(&mut machine, &ask(0, 65536 - 4096, 65536 + 8192));
    let words: Vec<u32> =
        all[20..].chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
    assert_eq!(words[..7], [7, 4096, 0, 65536, 1, 4096, 0]);
    // the next chunk: its header of five words, then base:allocation
    assert_eq!(words[12..], [1, 73728, 0]);
    let (all, _) = answers(&mut machine, &ask(wire::CMD_FLAG_REQ_ONE, 0, 1 << 20));
    let first = chunks(&all)[0];
    assert_eq!((first.0, first.3), (wire::REPLY_BLOCK_STATUS, 7));
    assert_eq!(all.len(), 2 * (20 + 4 + 8), "one extent of each context");
}
