//! A connected stream socket: the few calls that server and client need, over TCP or a unix socket alike.

use crate::limits::SOCKET_BUFFER;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown};
use std::io;
use std::time::Duration;

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

    /// As [`receive`](Self::receive), but `None` instead of waiting.
    pub(crate) fn receive_now(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match retry(|| rustix::net::recv(&self.0, &mut *buf, RecvFlags::DONTWAIT).map(|(_, count)| count)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other.map(Some),
        }
    }

    /// Sends all of `bytes`.
    pub(crate) fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = retry(|| rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL))?;
            bytes = &bytes[sent..];
        }
        Ok(())
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
