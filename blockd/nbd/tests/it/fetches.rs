//! Reads that the host must fetch from its disk, beside reads that it has in memory.

use crate::stage::noise;
use block::linux::LinuxMedia;
use block::{BlockSource, ByteOffset, ByteRange, FileSource, Media, MediaFile, OpenHow, Result, Stored};
use nbd::handshake::Negotiated;
use nbd::transmission::{Cells, Outbox, Shortcuts, Step, Transmission};
use nbd::wire::{self, ExportFacts, Request};
use nbd::{Access, Client, Export, ExportInfo, Exports, Limits, Listener, Peer, Server, Uri};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 64;

/// A file of the host that has only some of its blocks in memory.
struct Cold {
    file: Arc<dyn MediaFile>,
    // a bit a block
    cached: AtomicU64,
    asked: AtomicU64,
}

impl Cold {
    fn has(&self, block: u64) -> bool {
        self.cached.load(Ordering::SeqCst) & 1 << block != 0
    }
}

impl MediaFile for Cold {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, buf)
    }
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.has(offset / BLOCK) { self.read_at(offset, buf).map(|()| true) } else { Ok(false) }
    }
    fn is_cached(&self, range: ByteRange) -> bool {
        (range.start() / BLOCK..range.end().div_ceil(BLOCK)).all(|block| self.has(block))
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.file.write_at(offset, buf)
    }
    fn sync(&self) -> Result<()> {
        self.file.sync()
    }
    fn size(&self) -> Result<u64> {
        self.file.size()
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len)
    }
    fn allocate(&self, range: ByteRange) -> Result<()> {
        self.file.allocate(range)
    }
    fn punch(&self, range: ByteRange) -> Result<()> {
        self.file.punch(range)
    }
    fn data_ranges(&self, range: ByteRange) -> Result<Vec<ByteRange>> {
        self.file.data_ranges(range)
    }
    fn fast_fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.fast_fd()
    }
}

struct Stage {
    dir: TempDir,
    file: Arc<Cold>,
    content: Vec<u8>,
}

impl Stage {
    fn new(cached: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let media = LinuxMedia::new(dir.path(), dir.path()).unwrap();
        let file = media.open("file", OpenHow::Create).unwrap();
        let content = noise((BLOCKS * BLOCK) as usize, 1);
        file.write_at(0, &content).unwrap();
        let file = Arc::new(Cold { file, cached: AtomicU64::new(cached), asked: AtomicU64::new(0) });
        Self { dir, file, content }
    }

    fn source(&self) -> Arc<dyn BlockSource> {
        Arc::new(FileSource::new(self.file.clone()).unwrap())
    }

    fn block(&self, block: u64) -> &[u8] {
        &self.content[(block * BLOCK) as usize..((block + 1) * BLOCK) as usize]
    }
}

fn machine(source: Arc<dyn BlockSource>) -> Transmission {
    let facts = ExportFacts { size: source.size().get(), flags: 0 };
    let mut machine = Transmission::new(
        Negotiated {
            name: "file".into(),
            export: Export::new(Access::ReadOnly(source), ""),
            facts,
            style: wire::ReplyStyle::Simple,
            contexts: Vec::new(),
            entered: None,
        },
        Arc::new(Cells::new()),
    );
    machine.allow(Shortcuts { splice: false, fetch: true, far: false });
    machine
}

/// Asks for a block; what must be fetched for it, and whether its bytes are answered at once.
fn ask(machine: &mut Transmission, stage: &Stage, block: u64) -> (Vec<(Request, Stored)>, bool) {
    let (command, offset) = (wire::CMD_READ, block * BLOCK);
    let request = Request { flags: 0, command, cookie: block, offset, length: BLOCK };
    let mut out = Outbox::new();
    let (used, step) = machine.advance(&request.encode(), &mut out);
    assert!(used == request.encode().len() && matches!(step, Step::Input(_)), "{used} {step:?}");
    let fetches = out.take_fetches().map(|fetch| (fetch.request, fetch.stored)).collect();
    let answered = out.filled().get(16..).is_some_and(|bytes| !bytes.is_empty());
    assert!(!answered || &out.filled()[16..] == stage.block(block));
    (fetches, answered)
}

#[test]
fn after_a_miss_reads_are_begun_together_until_all_of_them_were_in_memory() {
    // all but the first block
    let stage = Stage::new(!1);
    let mut machine = machine(stage.source());
    assert!(ask(&mut machine, &stage, 1).1, "what is in memory is answered at once");
    let mut begun = ask(&mut machine, &stage, 0).0;
    let asked = stage.file.asked.load(Ordering::SeqCst);
    // nobody asks for each block alone any more: the ring looks itself
    for block in 1..4 {
        let (fetches, answered) = ask(&mut machine, &stage, block);
        assert!(fetches.len() == 1 && !answered);
        begun.extend(fetches);
    }
    assert_eq!(stage.file.asked.load(Ordering::SeqCst), asked);
    let mut out = Outbox::new();
    for (request, stored) in &begun {
        let mut bytes = vec![0; BLOCK as usize];
        stored.file.read_at(stored.offset, &mut bytes).unwrap();
        machine.complete(request, stored.is_verified, Ok(&bytes), &mut out);
    }
    let expected: Vec<u8> = (0..4).flat_map(|block| stage.block(block).to_vec()).collect();
    let replied: Vec<u8> =
        out.filled().chunks(16 + BLOCK as usize).flat_map(|reply| reply[16..].to_vec()).collect();
    assert!(replied == expected);
    machine.found_cached();
    assert!(ask(&mut machine, &stage, 2).1, "looked for in memory again");
}

struct One(Arc<dyn BlockSource>);

impl Exports for One {
    fn list(&self, _: &Peer) -> Vec<ExportInfo> {
        Vec::new()
    }
    fn open(&self, _: &str, _: &Peer) -> Result<Export> {
        Ok(Export::new(Access::ReadOnly(self.0.clone()), ""))
    }
}

#[test]
fn every_read_of_a_half_cached_file_is_answered_with_its_own_bytes() {
    let stage = Stage::new(0x0f3c_00ff_aaaa_5555);
    let socket = stage.dir.path().join("nbd.sock");
    let listener = Listener::unix(&socket, 0o600).unwrap();
    let _server = Server::start(vec![listener], Arc::new(One(stage.source())), Limits::default()).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..4u64 {
            let (stage, uri) = (&stage, Uri::unix(socket.clone(), "file"));
            scope.spawn(move || {
                let client = Client::connect(&uri, 1).unwrap();
                for step in 0..500u64 {
                    let block = (seed * 7919 + step * step * 31 + step) % (BLOCKS - 3);
                    let count = 1 + step % 3;
                    let mut bytes = vec![0; (count * BLOCK) as usize];
                    client.read_at(ByteOffset::new(block * BLOCK), &mut bytes).unwrap();
                    let at = (block * BLOCK) as usize;
                    assert!(bytes == stage.content[at..at + bytes.len()], "block {block}");
                }
            });
        }
    });
}
