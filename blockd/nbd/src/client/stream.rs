//! A connection to a server as a stream of bytes, with deadlines.

use super::Patience;
use crate::error::Error;
use crate::socket::Socket;
use crate::uri::{Address, Uri};
use block::Clock;
use block::linux::SystemClock;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

/// Received at once at most, unless a caller's own buffer is larger.
const BUFFER: usize = 64 << 10;

/// What a server sends before the data of a read: the front of a chunk and the data's offset.
const FRONT: usize = 28;

pub(super) struct Stream {
    socket: Socket,
    at: String,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    at_once: usize,
    patience: Duration,
    deadline_ns: u64,
}

impl Stream {
    /// Connects; the time for the handshake runs.
    pub(super) fn dial(uri: &Uri, patience: &Patience) -> Result<Self, Error> {
        let at = uri.to_string();
        let fd = connect(&uri.address, patience.connect)
            .map_err(|error| Error::socket("connect to", &at, error))?;
        let mut stream = Self {
            socket: Socket::new(fd),
            at,
            bytes: vec![0; BUFFER],
            start: 0,
            end: 0,
            at_once: BUFFER,
            patience: Duration::ZERO,
            deadline_ns: 0,
        };
        stream.set_patience(patience.connect)?;
        stream.begin();
        Ok(stream)
    }

    /// Changes how long every exchange may take.
    pub(super) fn set_patience(&mut self, patience: Duration) -> Result<(), Error> {
        self.patience = patience;
        self.socket.set_timeout(Some(patience)).map_err(|error| Error::socket("set up", &self.at, error))
    }

    /// The time for an exchange runs from now.
    pub(super) fn begin(&mut self) {
        let patience_ns = u64::try_from(self.patience.as_nanos()).unwrap_or(u64::MAX);
        self.deadline_ns = SystemClock.monotonic_ns().saturating_add(patience_ns);
    }

    /// So much payload is expected behind the next front of a reply. A large one is received straight into its place,
    /// so no more than the front is received before.
    pub(super) fn expect(&mut self, payload: usize) {
        self.at_once = if payload >= BUFFER { FRONT } else { BUFFER };
    }

    pub(super) fn at(&self) -> &str {
        &self.at
    }

    /// An error that says what the server did wrong.
    pub(super) fn protocol(&self, why: impl Into<String>) -> Error {
        Error::Protocol { at: self.at.clone(), why: why.into() }
    }

    /// Sends all of both.
    pub(super) fn send(&mut self, head: &[u8], body: &[u8]) -> Result<(), Error> {
        self.socket.send_two(head, body).map_err(|error| self.failed("send to", error))
    }

    /// Receives exactly `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        self.exact(&mut array)?;
        Ok(array)
    }

    /// Receives exactly as many bytes as `out` has; large ones directly into it.
    pub(super) fn exact(&mut self, mut out: &mut [u8]) -> Result<(), Error> {
        loop {
            let count = out.len().min(self.end - self.start);
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&self.bytes[self.start..self.start + count]);
            self.start += count;
            out = later;
            if out.is_empty() {
                return Ok(());
            }
            if out.len() >= BUFFER {
                let received =
                    self.socket.receive(out).map_err(|error| self.failed("receive from", error))?;
                self.progress(received)?;
                out = &mut out[received..];
            } else {
                let received = self.socket.receive(&mut self.bytes[..self.at_once]);
                let received = received.map_err(|error| self.failed("receive from", error))?;
                (self.start, self.end) = (0, received);
                self.progress(received)?;
            }
        }
    }

    /// Receives bytes nobody wants.
    pub(super) fn skip(&mut self, mut count: usize) -> Result<(), Error> {
        let mut waste = [0; 4096];
        while count > 0 {
            let now = count.min(waste.len());
            self.exact(&mut waste[..now])?;
            count -= now;
        }
        Ok(())
    }

    /// A server that closed, or sends so slowly that the whole takes too long, is not waited for.
    fn progress(&self, received: usize) -> Result<(), Error> {
        if received == 0 {
            return Err(Error::Closed { at: self.at.clone() });
        }
        if SystemClock.monotonic_ns() > self.deadline_ns {
            return Err(self.timeout());
        }
        Ok(())
    }

    fn timeout(&self) -> Error {
        let after_ms = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX);
        Error::Timeout { at: self.at.clone(), after_ms }
    }

    fn failed(&self, op: &'static str, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.timeout(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                Error::Closed { at: self.at.clone() }
            }
            _ => Error::socket(op, &self.at, error),
        }
    }
}

/// The standard library's call would wait for ever in a queue nobody serves.
fn connect_unix(path: &Path, patience: Duration) -> Result<OwnedFd, Errno> {
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&fd, Timeout::Send, Some(patience))?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd)
}

fn connect(address: &Address, patience: Duration) -> io::Result<OwnedFd> {
    let (host, port) = match address {
        Address::Unix(path) => return Ok(connect_unix(path, patience)?),
        Address::Tcp { host, port } => (host.as_str(), *port),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => return Ok(OwnedFd::from(stream)),
            Err(error) => last = error,
        }
    }
    Err(last)
}
