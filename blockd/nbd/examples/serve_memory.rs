//! Serves a disk in memory until it is killed: `serve_memory SOCKET|HOST:PORT BYTES`. For trying clients and for
//! measuring the protocol without a disk behind it.

use block::{ByteCount, Error, MemoryDisk};
use nbd::{Access, Export, ExportInfo, Exports, Limits, Listener, Peer, Server};
use std::path::Path;
use std::sync::Arc;

struct Memory(Arc<MemoryDisk>);

impl Exports for Memory {
    fn list(&self, _peer: &Peer) -> Vec<ExportInfo> {
        let info =
            |name: &str, description: &str| ExportInfo { name: name.into(), description: description.into() };
        vec![info("memory", "a disk in memory"), info("memory@now", "the same, read-only")]
    }

    fn open(&self, name: &str, _peer: &Peer) -> Result<Export, Error> {
        let access = match name {
            "" | "memory" => Access::ReadWrite(self.0.clone()),
            "memory@now" => Access::ReadOnly(self.0.clone()),
            _ => return Err(Error::NotFound { what: format!("export {name:?}") }),
        };
        Ok(Export::new(access, "a disk in memory"))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(at), Some(size)) = (args.next(), args.next()) else {
        return Err("serve_memory SOCKET|HOST:PORT BYTES".into());
    };
    let listener = match at.parse() {
        Ok(address) => Listener::tcp(address)?,
        Err(_) => Listener::unix(Path::new(&at), 0o600)?,
    };
    println!("listens on {}", listener.address());
    let disk = Arc::new(MemoryDisk::new(ByteCount::new(size.parse()?)));
    let _server = Server::start(vec![listener], Arc::new(Memory(disk)), Limits::default())?;
    loop {
        std::thread::park();
    }
}
