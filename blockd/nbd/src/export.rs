//! What a server serves, and to whom.

use crate::contexts::Contexts;
use block::{BlockDevice, BlockSource, ByteCount};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// The exports of a server. Asked by many threads at once.
pub trait Exports: Send + Sync {
    /// Every export this client may be told of.
    fn list(&self, peer: &Peer) -> Vec<ExportInfo>;

    /// Opens an export for one connection. The export is dropped when the client goes, or names another one, or
    /// gives up before it used it; dropping releases what the export holds. The empty name is the default export.
    ///
    /// # Errors
    /// `NotFound` if there is none of this name. Any other error refuses this client; it is shown the message.
    fn open(&self, name: &str, peer: &Peer) -> Result<Export, block::Error>;
}

/// An entry of the list of exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// The name to open it by.
    pub name: String,
    /// A line for people, or nothing.
    pub description: String,
}

/// An export opened by one connection.
#[derive(Clone)]
pub struct Export {
    /// What is served, and whether it may be written.
    pub access: Access,
    /// A line for people, or nothing.
    pub description: String,
    /// What it tells of itself beside `base:allocation`.
    pub contexts: Option<Arc<dyn Contexts>>,
    /// Who may use it, if not everyone who may look at it.
    pub gate: Option<Arc<dyn Gate>>,
}

/// Asked when a client is about to use an export; looking at it asks nobody.
pub trait Gate: Send + Sync {
    /// Lets a client in. It leaves when what is returned is dropped, which happens after its last request.
    ///
    /// # Errors
    /// Why it stays out; the client is shown the message.
    fn enter(&self, peer: &Peer) -> Result<Box<dyn Send>, block::Error>;
}

impl Export {
    /// An export without contexts of its own, for everyone.
    pub fn new(access: Access, description: impl Into<String>) -> Self {
        Self { access, description: description.into(), contexts: None, gate: None }
    }
}

/// What may be done with an export.
#[derive(Clone)]
pub enum Access {
    /// Reads only; everything that writes is refused.
    ReadOnly(Arc<dyn BlockSource>),
    /// Reads and writes.
    ReadWrite(Arc<dyn BlockDevice>),
}

impl Access {
    /// The readable side.
    pub fn source(&self) -> &dyn BlockSource {
        match self {
            Self::ReadOnly(source) => source.as_ref(),
            Self::ReadWrite(device) => device.as_ref(),
        }
    }

    /// The writable side, if there is one.
    pub fn device(&self) -> Option<&dyn BlockDevice> {
        match self {
            Self::ReadOnly(_) => None,
            Self::ReadWrite(device) => Some(device.as_ref()),
        }
    }

    /// Bytes served.
    pub fn size(&self) -> ByteCount {
        self.source().size()
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, as the kernel names it.
    Unix {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// The process that connected; it may have passed the socket on since.
        pid: u32,
    },
    /// A client on the network.
    Tcp {
        /// Where it connected from.
        address: SocketAddr,
    },
    /// A client that proved who it is.
    Tls {
        /// What it showed.
        certificate: Certificate,
        /// Where it connected from, for people.
        at: String,
    },
}

/// The certificate of a client, signed by an authority the server believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of all of it.
    pub fingerprint: [u8; 32],
    /// The DNS names it was made for.
    pub names: Vec<String>,
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.names.first() {
            write!(f, "{name} ")?;
        }
        f.write_str("sha256:")?;
        self.fingerprint.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid, pid, .. } => write!(f, "process {pid} of user {uid}"),
            Self::Tcp { address } => address.fmt(f),
            Self::Tls { certificate, at } => write!(f, "certificate {certificate} at {at}"),
        }
    }
}
