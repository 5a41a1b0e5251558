//! Reads of bytes that lie in several files, which the kernel joins on their way.

use block::linux::LinuxMedia;
use block::{
    BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Media, MediaFile, OpenHow, Stored,
    Visit,
};
use nbd::{Access, Client, Export, ExportInfo, Exports, Limits, Listener, Peer, Server, Uri};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const BLOCK: u64 = 4096;
const SIZE: u64 = 4 << 20;
const FILES: u64 = 5;

/// Each block lies in a file drawn at random, at its own offset.
struct Scattered {
    files: Vec<Arc<dyn MediaFile>>,
    /// Reads that were not sent from the files.
    copied: AtomicUsize,
    _dir: tempfile::TempDir,
}

fn owner(block: u64) -> usize {
    (block.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % FILES as usize
}

/// What the disk reads: every eight bytes are their own offset.
fn expected(offset: u64, count: u64) -> Vec<u8> {
    (offset..offset + count).map(|at| (at & !7).to_le_bytes()[(at % 8) as usize]).collect()
}

impl Scattered {
    fn new() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let media = LinuxMedia::new(dir.path(), dir.path()).unwrap();
        let open = |number| media.open(&format!("{number}"), OpenHow::Create).unwrap();
        let files: Vec<_> = (0..FILES).map(open).collect();
        for file in &files {
            file.set_len(SIZE).unwrap();
        }
        for block in 0..SIZE / BLOCK {
            files[owner(block)].write_at(block * BLOCK, &expected(block * BLOCK, BLOCK)).unwrap();
        }
        Arc::new(Self { files, copied: AtomicUsize::new(0), _dir: dir })
    }
}

impl BlockSource for Scattered {
    fn size(&self) -> ByteCount {
        ByteCount::new(SIZE)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.copied.fetch_add(1, Ordering::Relaxed);
        let (mut at, mut buf) = (offset.get(), buf);
        while !buf.is_empty() {
            let count = ((at / BLOCK + 1) * BLOCK - at).min(buf.len() as u64);
            let (piece, rest) = buf.split_at_mut(count as usize);
            self.files[owner(at / BLOCK)].read_at(at, piece)?;
            (at, buf) = (at + count, rest);
        }
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        let _flow = visit(Extent { range, kind: ExtentKind::Data });
        Ok(())
    }

    fn stored(&self, range: ByteRange) -> Option<Stored> {
        let block = range.start() / BLOCK;
        let count = ((block + 1) * BLOCK - range.start()).min(range.count().get());
        let file = self.files[owner(block)].clone();
        Some(Stored { file, offset: range.start(), count, is_verified: true, held: None })
    }
}

struct Only(Arc<Scattered>);

impl Exports for Only {
    fn list(&self, _peer: &Peer) -> Vec<ExportInfo> {
        Vec::new()
    }

    fn open(&self, _name: &str, _peer: &Peer) -> block::Result<Export> {
        Ok(Export::new(Access::ReadOnly(self.0.clone()), ""))
    }
}

fn served(source: &Arc<Scattered>) -> (tempfile::TempDir, Server, Client) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = Listener::unix(&path, 0o600).unwrap();
    let server = Server::start(vec![listener], Arc::new(Only(source.clone())), Limits::default()).unwrap();
    let client = Client::connect(&Uri::unix(path, "disk"), 1).unwrap();
    (folder, server, client)
}

#[test]
fn every_read_has_its_bytes_in_order() {
    let source = Scattered::new();
    let (_folder, _server, client) = served(&source);
    let ends = [32 << 10, 128 << 10, (128 << 10) + 512, 512 << 10, 1 << 20, 3 << 20];
    for (offset, count) in
        ends.into_iter().flat_map(|count| [(0, count), (BLOCK - 7, count), (777, count + 1)])
    {
        let mut found = vec![0; count as usize];
        client.read_at(ByteOffset::new(offset), &mut found).unwrap();
        assert!(found == expected(offset, count), "{count} bytes at {offset}");
    }
}

#[test]
fn the_reads_of_a_guest_that_reads_ahead_are_joined_and_small_ones_copied() {
    let source = Scattered::new();
    let (_folder, _server, client) = served(&source);
    for (count, copied) in [(16 << 10, 1), (32 << 10, 0), (128 << 10, 0), (512 << 10, 0)] {
        source.copied.store(0, Ordering::Relaxed);
        client.read_at(ByteOffset::ZERO, &mut vec![0; count]).unwrap();
        assert_eq!(source.copied.load(Ordering::Relaxed), copied, "{count} bytes");
    }
}

/// One connection carries far more than its socket holds.
#[test]
fn a_client_that_is_slow_gets_them_all_the_same() {
    let source = Scattered::new();
    let (_folder, _server, client) = served(&source);
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..24u64 {
                    let offset = (thread * 131 + round * 17) % 700 * BLOCK;
                    let mut found = vec![0; 1 << 20];
                    client.read_at(ByteOffset::new(offset), &mut found).unwrap();
                    assert!(found == expected(offset, 1 << 20), "thread {thread}, round {round}");
                }
            });
        }
    });
}

/// A file that ends too early fails the reads that need its bytes, and no others.
#[test]
fn a_file_that_fails_in_the_middle_is_an_error_and_the_connection_goes_on() {
    let source = Scattered::new();
    let (_folder, _server, client) = served(&source);
    let last = (0..SIZE / BLOCK).rev().find(|&block| owner(block) == 0).unwrap();
    source.files[0].set_len(last * BLOCK).unwrap();
    let start = (last - 20) * BLOCK;
    let mut found = vec![0; 40 * BLOCK as usize];
    let count = (SIZE - start).min(found.len() as u64);
    let error = client.read_at(ByteOffset::new(start), &mut found[..count as usize]).unwrap_err();
    let short = format!("pass the end, which is at {}", last * BLOCK);
    assert!(error.to_string().contains(&short), "{error}");
    for _ in 0..3 {
        let mut found = vec![0; 256 << 10];
        client.read_at(ByteOffset::new(BLOCK), &mut found).unwrap();
        assert!(found == expected(BLOCK, 256 << 10));
    }
}
