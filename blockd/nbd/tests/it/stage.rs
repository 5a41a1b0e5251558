//! A server on a unix socket in a temporary directory, with a disk that knows its extents and can be made to fail
//! or to wait; and calls of the tools of others.

use block::{
    BLOCK_SIZE, BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, Error, Extent, ExtentKind, Kind,
    MemoryDisk, Provision, Result, Visit, check_range,
};
use nbd::{
    Access, Client, Contexts, Export, ExportInfo, Exports, Limits, Listener, Peer, Server, Status, Uri,
    VisitStatus,
};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

#[derive(Default)]
struct Far {
    range: Option<ByteRange>,
    is_away: bool,
    is_lost: bool,
}

/// A disk in memory that remembers what each block is.
pub struct SparseDisk {
    bytes: MemoryDisk,
    kinds: Mutex<Vec<ExtentKind>>,
    pub flushes: AtomicU64,
    bad: Mutex<Option<ByteRange>>,
    bad_flush: Mutex<Option<Kind>>,
    // what is far away, and whether reads of it wait
    far: Mutex<Far>,
    came_back: Condvar,
    pub far_reads: AtomicU64,
    // flushes wait while it is closed
    closed: Mutex<bool>,
    opened: Condvar,
    pub waiting: AtomicU64,
}

impl SparseDisk {
    pub fn new(size: u64) -> Arc<Self> {
        let size = ByteCount::new(size);
        Arc::new(Self {
            bytes: MemoryDisk::new(size),
            kinds: Mutex::new(vec![ExtentKind::Hole; size.blocks() as usize]),
            flushes: AtomicU64::new(0),
            bad: Mutex::new(None),
            bad_flush: Mutex::new(None),
            far: Mutex::default(),
            came_back: Condvar::new(),
            far_reads: AtomicU64::new(0),
            closed: Mutex::new(false),
            opened: Condvar::new(),
            waiting: AtomicU64::new(0),
        })
    }

    /// Reads of any byte of the range fail from now on.
    pub fn damage(&self, start: u64, end: u64) {
        *self.bad.lock().unwrap() = Some(ByteRange::between(start, end));
    }

    /// Flushes fail from now on.
    pub fn refuse_flush(&self, kind: Kind) {
        *self.bad_flush.lock().unwrap() = Some(kind);
    }

    /// This range is far away from now on, and who reads of it waits.
    pub fn move_away(&self, start: u64, end: u64) {
        *self.far.lock().unwrap() =
            Far { range: Some(ByteRange::between(start, end)), is_away: true, is_lost: false };
    }

    /// What is far away comes near, or is lost: reads of it end.
    pub fn come_back(&self, is_lost: bool) {
        let mut far = self.far.lock().unwrap();
        (far.is_away, far.is_lost) = (false, is_lost);
        if !is_lost {
            far.range = None;
        }
        self.came_back.notify_all();
    }

    fn reach(&self, range: ByteRange) -> Result<()> {
        let mut far = self.far.lock().unwrap();
        let is_in = |far: &Far| far.range.is_some_and(|far| !far.intersect(range).is_empty());
        if !is_in(&far) {
            return Ok(());
        }
        self.far_reads.fetch_add(1, Ordering::SeqCst);
        while far.is_away {
            far = self.came_back.wait(far).unwrap();
        }
        if far.is_lost { Err(Error::refused(Kind::Io, "the store", "does not answer")) } else { Ok(()) }
    }

    pub fn hold_flushes(&self, hold: bool) {
        *self.closed.lock().unwrap() = hold;
        self.opened.notify_all();
    }

    pub fn contents(&self) -> Vec<u8> {
        let mut all = vec![0; self.bytes.size().get() as usize];
        self.bytes.read_at(ByteOffset::ZERO, &mut all).unwrap();
        all
    }

    fn mark(&self, range: ByteRange, kind: ExtentKind) {
        if range.is_empty() {
            return;
        }
        let mut kinds = self.kinds.lock().unwrap();
        let blocks = range.start() / BLOCK_SIZE..range.end().div_ceil(BLOCK_SIZE);
        blocks.for_each(|block| kinds[block as usize] = kind);
    }

    /// The whole blocks inside; the end of the disk ends its last block.
    fn inside(&self, range: ByteRange) -> ByteRange {
        let size = self.size().get();
        let end = if range.end() == size { size } else { range.end() / BLOCK_SIZE * BLOCK_SIZE };
        ByteRange::between(range.start().next_multiple_of(BLOCK_SIZE).min(end), end)
    }
}

impl BlockSource for SparseDisk {
    fn size(&self) -> ByteCount {
        self.bytes.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        let range = ByteRange::between(offset.get(), offset.get().saturating_add(buf.len() as u64));
        if self.bad.lock().unwrap().is_some_and(|bad| !bad.intersect(range).is_empty()) {
            return Err(Error::corrupt("layer 3", Some(offset.get()), "the checksum disagrees"));
        }
        self.reach(range)?;
        self.bytes.read_at(offset, buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        check_range(range.offset(), range.count().get(), self.size())?;
        let kinds = self.kinds.lock().unwrap().clone();
        let mut at = range.start();
        while at < range.end() {
            let block = at / BLOCK_SIZE;
            let end = ((block + 1) * BLOCK_SIZE).min(range.end());
            if visit(Extent { range: ByteRange::between(at, end), kind: kinds[block as usize] }).is_break() {
                break;
            }
            at = end;
        }
        Ok(())
    }

    fn is_near(&self, range: ByteRange) -> bool {
        self.far.lock().unwrap().range.is_none_or(|far| far.intersect(range).is_empty())
    }
}

impl BlockDevice for SparseDisk {
    fn write_at(&self, offset: ByteOffset, buf: &[u8]) -> Result<()> {
        check_range(offset, buf.len() as u64, self.size())?;
        let (start, end) = (offset.get(), offset.get() + buf.len() as u64);
        // as a layer does: blocks that are written in part are read first
        for edge in [start, end].into_iter().filter(|at| !at.is_multiple_of(BLOCK_SIZE)) {
            self.reach(ByteRange::between(edge / BLOCK_SIZE * BLOCK_SIZE, edge))?;
        }
        self.bytes.write_at(offset, buf)?;
        self.mark(ByteRange::between(offset.get(), offset.get() + buf.len() as u64), ExtentKind::Data);
        Ok(())
    }

    fn zero(&self, range: ByteRange, provision: Provision) -> Result<()> {
        self.bytes.zero(range, provision)?;
        let kind = if provision == Provision::Sparse { ExtentKind::Zero } else { ExtentKind::Data };
        self.mark(self.inside(range), kind);
        Ok(())
    }

    fn discard(&self, range: ByteRange) -> Result<()> {
        self.bytes.discard(range)?;
        self.mark(self.inside(range), ExtentKind::Hole);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut closed = self.closed.lock().unwrap();
        while *closed {
            closed = self.opened.wait(closed).unwrap();
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if let Some(kind) = *self.bad_flush.lock().unwrap() {
            return Err(Error::refused(kind, "the disk", "an earlier sync failed"));
        }
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// The disk as `disk`, as `disk@1` (read-only) and as `parity`, with a context of its own.
pub struct Disks(pub Arc<SparseDisk>);

impl Exports for Disks {
    fn list(&self, _peer: &Peer) -> Vec<ExportInfo> {
        ["disk", "disk@1"]
            .map(|name| ExportInfo { name: name.into(), description: format!("the {name}") })
            .into()
    }

    fn open(&self, name: &str, _peer: &Peer) -> Result<Export> {
        let access = match name {
            "disk" => Access::ReadWrite(self.0.clone()),
            "parity" => {
                let contexts: Arc<dyn Contexts> = Arc::new(Parity);
                let access = Access::ReadWrite(self.0.clone());
                return Ok(Export { contexts: Some(contexts), ..Export::new(access, "") });
            }
            "disk@1" => Access::ReadOnly(self.0.clone()),
            "locked" => {
                return Err(Error::refused(Kind::Unavailable, "export locked", "its vault is locked"));
            }
            _ => return Err(Error::NotFound { what: format!("export {name:?}") }),
        };
        Ok(Export::new(access, format!("the {name}")))
    }
}

/// A context of its own: whether the number of a block is odd.
struct Parity;

impl Contexts for Parity {
    fn names(&self) -> Vec<String> {
        vec!["x-stage:parity".into()]
    }

    fn open(&self, name: &str) -> Result<Option<Arc<dyn Status>>> {
        Ok((name == "x-stage:parity").then(|| -> Arc<dyn Status> { Arc::new(Parity) }))
    }
}

impl Status for Parity {
    fn status(&self, range: ByteRange, visit: &mut VisitStatus<'_>) -> Result<()> {
        let mut at = range.start();
        while at < range.end() {
            let end = ((at / BLOCK_SIZE + 1) * BLOCK_SIZE).min(range.end());
            if visit(end - at, (at / BLOCK_SIZE % 2) as u32).is_break() {
                break;
            }
            at = end;
        }
        Ok(())
    }
}

/// A server and its disk.
pub struct Stage {
    pub disk: Arc<SparseDisk>,
    pub server: Server,
    pub folder: tempfile::TempDir,
}

impl Drop for Stage {
    /// A test that failed while flushes waited must not make the server wait too.
    fn drop(&mut self) {
        self.disk.hold_flushes(false);
        self.disk.come_back(false);
    }
}

impl Stage {
    pub fn new(size: u64) -> Self {
        Self::with_limits(size, Limits::default())
    }

    pub fn with_limits(size: u64, limits: Limits) -> Self {
        Self::listening(size, limits, |listener| listener)
    }

    /// A server whose listener is made what it should be by `adapt`.
    pub fn listening(size: u64, limits: Limits, adapt: impl FnOnce(Listener) -> Listener) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = adapt(Listener::unix(&folder.path().join("nbd.sock"), 0o600).unwrap());
        let disk = SparseDisk::new(size);
        let server = Server::start(vec![listener], Arc::new(Disks(disk.clone())), limits).unwrap();
        Self { disk, server, folder }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("nbd.sock")
    }

    pub fn uri(&self, export: &str) -> Uri {
        Uri::unix(self.socket(), export)
    }

    pub fn client(&self, export: &str) -> Client {
        Client::connect(&self.uri(export), 4).unwrap()
    }
}

/// Runs a tool of others; its output. It must succeed within a minute.
pub fn run(program: &str, args: &[&str]) -> String {
    // python3-libnbd belongs to the distribution's python
    let path = format!("/usr/bin:/usr/sbin:{}", std::env::var("PATH").unwrap());
    let output = Command::new("timeout")
        .args(["60", program])
        .args(args)
        .env("PATH", path)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Bytes that differ everywhere.
pub fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..count).map(|_| next()).collect()
}
