//! Serves a raw file until it is killed: `serve_file SOCKET|HOST:PORT FILE`. For measuring the protocol beside other
//! servers of the same file. No recovery points, no change tracking: a disk of blockd does more.

use block::{
    BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, Error, ExtentKind, Provision, Visit,
};
use nbd::{Access, Export, ExportInfo, Exports, Limits, Listener, Peer, Server};
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

struct Raw {
    file: File,
    size: u64,
}

fn failed(op: &'static str, offset: u64, error: impl Into<std::io::Error>) -> Error {
    Error::host(op, "the file", Some(offset), error.into())
}

impl BlockSource for Raw {
    fn size(&self) -> ByteCount {
        ByteCount::new(self.size)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(buf, offset.get()).map_err(|error| failed("read", offset.get(), error))
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<(), Error> {
        block::visit_last(range, ExtentKind::Data, visit);
        Ok(())
    }
}

impl BlockDevice for Raw {
    fn write_at(&self, offset: ByteOffset, buf: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(buf, offset.get()).map_err(|error| failed("write", offset.get(), error))
    }

    fn zero(&self, range: ByteRange, provision: Provision) -> Result<(), Error> {
        let flags = match provision {
            Provision::Sparse => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            Provision::Allocated => FallocateFlags::ZERO_RANGE,
        };
        rustix::fs::fallocate(&self.file, flags, range.start(), range.count().get())
            .map_err(|error| failed("zero", range.start(), error))
    }

    fn discard(&self, range: ByteRange) -> Result<(), Error> {
        self.zero(range, Provision::Sparse)
    }

    fn flush(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(|error| failed("sync", 0, error))
    }
}

struct One(Arc<Raw>);

impl Exports for One {
    fn list(&self, _peer: &Peer) -> Vec<ExportInfo> {
        vec![ExportInfo { name: "file".into(), description: "a raw file".into() }]
    }

    fn open(&self, name: &str, _peer: &Peer) -> Result<Export, Error> {
        match name {
            "" | "file" => Ok(Export::new(Access::ReadWrite(self.0.clone()), "a raw file")),
            _ => Err(Error::NotFound { what: format!("export {name:?}") }),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(at), Some(path)) = (args.next(), args.next()) else {
        return Err("serve_file SOCKET|HOST:PORT FILE".into());
    };
    let listener = match at.parse() {
        Ok(address) => Listener::tcp(address)?,
        Err(_) => Listener::unix(Path::new(&at), 0o600)?,
    };
    let file = File::options().read(true).write(true).open(path)?;
    let size = file.metadata()?.len();
    println!("listens on {}", listener.address());
    let _server =
        Server::start(vec![listener], Arc::new(One(Arc::new(Raw { file, size }))), Limits::default())?;
    loop {
        std::thread::park();
    }
}
