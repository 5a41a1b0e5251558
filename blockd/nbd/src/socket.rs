//! A connected stream socket: the few calls that server and client need, over TCP or a unix socket alike.

use crate::limits::SOCKET_BUFFER;
use block::{Kind, Stored};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown};
use std::io;
use std::time::Duration;

/// How sending from a file ended.
pub(crate) enum SpliceEnd {
    /// All of it was sent.
    Whole,
    /// The socket takes no more now.
    Waits {
        /// Bytes that were not sent.
        missing: u64,
    },
    /// The file could not be read.
    Failed {
        /// Bytes that were not sent.
        missing: u64,
        /// Why.
        error: block::Error,
    },
}

pub(crate) fn is_of_socket(error: &io::Error) -> bool {
    use io::ErrorKind as Is;
    matches!(error.kind(), Is::BrokenPipe | Is::ConnectionReset | Is::NotConnected | Is::TimedOut)
}

/// A connected socket. Reading and writing may happen in different threads.
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Takes a connected socket and tunes it. Tuning that the kernel refuses costs speed, nothing else.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        let tuned = match sockopt::socket_domain(&fd) {
            Ok(AddressFamily::UNIX) => tune_unix(&fd),
            Ok(_) => {
                sockopt::set_tcp_nodelay(&fd, true).and_then(|()| sockopt::set_socket_keepalive(&fd, true))
            }
            Err(errno) => Err(errno),
        };
        if let Err(errno) = tuned {
            tracing::debug!(%errno, "a socket stays as it is");
        }
        Self(fd)
    }

    /// Receives what is there, at least one byte unless the other end closed (then none).
    pub(crate) fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        retry(|| rustix::net::recv(&self.0, &mut *buf, RecvFlags::empty()).map(|(_, count)| count))
    }

    /// Sends all of `bytes`.
    pub(crate) fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = retry(|| rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL))?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Whether sending and receiving may wait.
    pub(crate) fn set_waiting(&self, may_wait: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, !may_wait)?)
    }

    /// Sends as many bytes as the kernel takes without waiting.
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        match retry(|| rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }

    /// Sends bytes of a file without copying them here, as many as the kernel takes without waiting; the socket must not
    /// be [waiting](Self::set_waiting).
    ///
    /// # Errors
    /// What the socket reports; a failure of the file is none.
    pub(crate) fn splice_now(&self, stored: &Stored) -> io::Result<SpliceEnd> {
        let (mut at, end) = (stored.offset, stored.range().end());
        let failed = |at, error| SpliceEnd::Failed { missing: end - at, error };
        let Some(file) = stored.file.fast_fd() else {
            return Ok(failed(at, block::Error::refused(Kind::Unsupported, "a file", "has no descriptor")));
        };
        while at < end {
            let from = at;
            match retry(|| rustix::fs::sendfile(&self.0, file, Some(&mut at), (end - from) as usize)) {
                Ok(0) => {
                    let size = stored.file.size().unwrap_or(from);
                    let error = block::Error::OutOfRange { offset: from, count: end - from, size };
                    return Ok(failed(from, error));
                }
                Ok(sent) => at = from + sent as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(SpliceEnd::Waits { missing: end - from });
                }
                Err(error) if is_of_socket(&error) => return Err(error),
                Err(source) => {
                    return Ok(failed(from, block::Error::host("read", "a layer", Some(from), source)));
                }
            }
        }
        Ok(SpliceEnd::Whole)
    }

    /// Sends all of `head` and then all of `body`, in one call where the kernel takes both.
    pub(crate) fn send_two(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        let slices = [io::IoSlice::new(head), io::IoSlice::new(body)];
        let sent = retry(|| {
            let mut control = rustix::net::SendAncillaryBuffer::default();
            rustix::net::sendmsg(&self.0, &slices, &mut control, SendFlags::NOSIGNAL)
        })?;
        if sent < head.len() {
            self.send(&head[sent..])?;
        }
        self.send(&body[sent.saturating_sub(head.len())..])
    }

    /// How long a single receive and a single send may wait; `None` is for ever.
    pub(crate) fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        // zero would mean for ever
        let timeout = timeout.map(|time| time.max(Duration::from_millis(1)));
        sockopt::set_socket_timeout(&self.0, Timeout::Recv, timeout)?;
        Ok(sockopt::set_socket_timeout(&self.0, Timeout::Send, timeout)?)
    }

    /// Nothing more is received; what has arrived still is.
    pub(crate) fn stop_receiving(&self) {
        self.shut(Shutdown::Read);
    }

    /// Ends the connection under whoever uses it.
    pub(crate) fn cut(&self) {
        self.shut(Shutdown::Both);
    }

    fn shut(&self, how: Shutdown) {
        if let Err(errno) = rustix::net::shutdown(&self.0, how) {
            // the other end was faster
            tracing::trace!(%errno, "shutdown");
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The default buffers of unix sockets hold a fifth of what a deep queue has in flight. Larger ones than the host's
/// limit need a privilege; without it, the limit is what there is.
fn tune_unix(fd: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_socket_send_buffer_size_force(fd, SOCKET_BUFFER)
        .or_else(|_| sockopt::set_socket_send_buffer_size(fd, SOCKET_BUFFER))?;
    sockopt::set_socket_recv_buffer_size_force(fd, SOCKET_BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(fd, SOCKET_BUFFER))
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}
