//! The client: an export of any NBD server as a [`block::BlockDevice`].
//!
//! Calls block and may come from many threads; each uses one of several connections for itself. Further connections
//! are made when they are first needed, and only if the server says that a flush covers all of them. Everything a
//! server sends is bounded before it is believed.
//!
//! A connection to a read-only export that breaks is made anew, since nothing can be lost by that. A writable one
//! is not: a server that came back may have forgotten what it acknowledged, so the caller must know.

mod device;
mod handshake;
mod pool;
mod session;
mod stream;

use crate::error::Error;
use crate::export::ExportInfo;
use crate::uri::Uri;
use crate::wire::BASE_ALLOCATION;
use handshake::Terms;
use pool::Pool;
use std::time::Duration;
use stream::Stream;

/// How patient a client is.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For a connection and its handshake.
    pub connect: Duration,
    /// For the answer to a request.
    pub request: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), request: Duration::from_secs(60) }
    }
}

/// Connections that pay when nothing else is known.
pub const CONNECTIONS: usize = 4;

/// An export of a server.
pub struct Client {
    uri: Uri,
    terms: Terms,
    pool: Pool,
    is_allocation: bool,
}

impl Client {
    /// Opens an export over at most so many connections.
    ///
    /// # Errors
    /// `Socket` if nobody answers there, `Refused` (`NotFound`) if there is no such export, `Protocol` if it is no
    /// NBD server, `Timeout` if it is too slow.
    pub fn connect(uri: &Uri, connections: usize) -> Result<Self, Error> {
        Self::connect_patiently(uri, connections, Patience::default())
    }

    /// As [`connect`](Self::connect), with other limits on time.
    ///
    /// # Errors
    /// The same.
    pub fn connect_patiently(uri: &Uri, connections: usize, patience: Patience) -> Result<Self, Error> {
        Self::connect_to(uri, connections, patience, BASE_ALLOCATION)
    }

    /// As [`connect`](Self::connect), for what the server says in another context: [`flagged`](Self::flagged) tells it, and
    /// extents are all data.
    ///
    /// # Errors
    /// The same; `Lacks` if the server does not know the context of this export.
    pub fn connect_in_context(uri: &Uri, context: &str) -> Result<Self, Error> {
        let client = Self::connect_to(uri, 1, Patience::default(), context)?;
        match client.terms.context {
            Some(_) => Ok(client),
            None => Err(Error::Lacks { at: uri.to_string(), what: "the metadata context that is asked for" }),
        }
    }

    fn connect_to(uri: &Uri, connections: usize, patience: Patience, context: &str) -> Result<Self, Error> {
        let session = session::Session::open(uri, &patience, context)?;
        let terms = session.terms().clone();
        let connections = if terms.multi_conn() { connections.max(1) } else { 1 };
        let pool = Pool::new(uri.clone(), patience, context, connections, session);
        Ok(Self { uri: uri.clone(), terms, pool, is_allocation: context == BASE_ALLOCATION })
    }

    /// The exports a server tells of. The name in the URI is not looked at.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); `Refused` if the server does not tell.
    pub fn list(uri: &Uri) -> Result<Vec<ExportInfo>, Error> {
        handshake::list(&mut Stream::dial(uri, &Patience::default())?)
    }

    /// What was opened.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Whether the server refuses writes.
    pub fn read_only(&self) -> bool {
        self.terms.read_only()
    }

    /// Whether extents are the server's, not just "all data".
    pub fn knows_extents(&self) -> bool {
        self.is_allocation && self.terms.context.is_some()
    }
}
