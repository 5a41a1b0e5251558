//! What a server serves, and to whom.

use block::{BlockDevice, BlockSource, ByteCount};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// The exports of a server. Asked by many threads at once.
pub trait Exports: Send + Sync {
    /// Every export a client may be told of.
    fn list(&self) -> Vec<ExportInfo>;

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
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid, pid, .. } => write!(f, "process {pid} of user {uid}"),
            Self::Tcp { address } => address.fmt(f),
        }
    }
}
