//! The NBD protocol: a server for block sources and devices, and a client that is one.
//!
//! | module | what it is |
//! |---|---|
//! | [`wire`] | the bytes of every message; encodes and decodes, knows no socket |
//! | [`handshake`] | a server's half of option haggling: bytes in, bytes and a decision out |
//! | [`transmission`] | a server's half of the data phase: bytes in, device calls, bytes out |
//! | [`server`] | listeners, one thread per connection, limits, counters, an orderly stop |
//! | [`client`] | a [`block::BlockDevice`] on the other end of several connections |
//!
//! Fixed newstyle only; the checklist of what is spoken is `docs/conformance.md`. No async runtime: a connection is
//! a thread, and a thread reads all that has arrived, executes it in order and answers with one send.
//!
//! ```
//! use block::{BlockSource, ByteCount, ByteOffset, MemoryDisk};
//! use nbd::{Access, Client, Export, ExportInfo, Exports, Limits, Listener, Peer, Server, Uri};
//! use std::sync::Arc;
//!
//! struct One(Arc<MemoryDisk>);
//!
//! impl Exports for One {
//!     fn list(&self, _peer: &Peer) -> Vec<ExportInfo> {
//!         vec![ExportInfo { name: "one".into(), description: "a disk in memory".into() }]
//!     }
//!     fn open(&self, name: &str, _peer: &Peer) -> Result<Export, block::Error> {
//!         match name {
//!             "one" => Ok(Export::new(Access::ReadWrite(self.0.clone()), "")),
//!             _ => Err(block::Error::NotFound { what: format!("export {name:?}") }),
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = Listener::tcp("127.0.0.1:0".parse()?)?;
//! let uri: Uri = format!("nbd://{}/one", listener.address()).parse()?;
//! let disk = Arc::new(MemoryDisk::new(ByteCount::new(1 << 20)));
//! let server = Server::start(vec![listener], Arc::new(One(disk)), Limits::default())?;
//! let client = Client::connect(&uri, 1)?;
//! let mut start = [1; 512];
//! client.read_at(ByteOffset::ZERO, &mut start)?;
//! assert_eq!(start, [0; 512]);
//! drop(client);
//! server.stop();
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod client;
mod contexts;
mod error;
mod export;
pub mod handshake;
mod inbox;
mod joint;
mod limits;
mod outbox;
pub mod server;
mod socket;
pub mod transmission;
mod uri;
pub mod wire;

pub use client::Client;
pub use contexts::{Contexts, Status, VisitStatus};
pub use error::Error;
pub use export::{Access, Certificate, Export, ExportInfo, Exports, Gate, Peer};
pub use limits::Limits;
pub use server::{Listener, Server, TlsConfig};
pub use uri::{Address, Uri};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
