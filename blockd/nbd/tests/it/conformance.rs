//! The promises of every block device, kept through client and server.

use crate::stage::{Disks, SparseDisk};
use block::{BlockDevice, BlockSource, ByteCount};
use nbd::{Client, Limits, Listener, Server, Uri};
use std::sync::{Arc, Mutex};

/// A client that keeps its server alive.
struct Served {
    client: Client,
    _server: Server,
}

impl BlockSource for Served {
    fn size(&self) -> ByteCount {
        self.client.size()
    }
    fn read_at(&self, offset: block::ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.client.read_at(offset, buf)
    }
    fn extents(&self, range: block::ByteRange, visit: &mut block::Visit<'_>) -> block::Result<()> {
        self.client.extents(range, visit)
    }
}

impl BlockDevice for Served {
    fn write_at(&self, offset: block::ByteOffset, buf: &[u8]) -> block::Result<()> {
        self.client.write_at(offset, buf)
    }
    fn zero(&self, range: block::ByteRange, provision: block::Provision) -> block::Result<()> {
        self.client.zero(range, provision)
    }
    fn discard(&self, range: block::ByteRange) -> block::Result<()> {
        self.client.discard(range)
    }
    fn flush(&self) -> block::Result<()> {
        self.client.flush()
    }
}

fn serve(listener: Listener, uri: &Uri, size: ByteCount) -> Arc<dyn BlockDevice> {
    let disk = SparseDisk::new(size.get());
    let server = Server::start(vec![listener], Arc::new(Disks(disk)), Limits::default()).unwrap();
    Arc::new(Served { client: Client::connect(uri, 4).unwrap(), _server: server })
}

#[test]
fn the_test_disk_itself_keeps_the_promises() {
    sim::conformance::block_device(|size| SparseDisk::new(size.get()));
}

#[test]
fn over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let count = Mutex::new(0);
    sim::conformance::block_device(|size| {
        *count.lock().unwrap() += 1;
        let path = folder.path().join(format!("{}.sock", count.lock().unwrap()));
        serve(Listener::unix(&path, 0o600).unwrap(), &Uri::unix(path, "disk"), size)
    });
}

#[test]
fn over_tcp() {
    sim::conformance::block_device(|size| {
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let uri = format!("nbd://{}/disk", listener.address()).parse().unwrap();
        serve(listener, &uri, size)
    });
}
