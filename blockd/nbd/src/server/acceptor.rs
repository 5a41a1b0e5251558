//! The one thread that accepts clients on all listeners.

use super::connection::Connection;
use super::listener::Listener;
use super::registry::Registry;
use super::tls::TlsConfig;
use crate::export::{Exports, Peer};
use crate::socket::Socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::sync::Arc;

/// How long nobody is accepted after the host refused a descriptor or a thread.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Memory for the stack of a connection's thread. Devices need little; the buffers are on the heap.
const STACK: usize = 512 << 10;

pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    exports: Arc<dyn Exports>,
    registry: Arc<Registry>,
    // readable once the server stops
    wake: Arc<OwnedFd>,
}

impl Acceptor {
    pub(super) fn new(
        listeners: Vec<Listener>,
        exports: Arc<dyn Exports>,
        registry: Arc<Registry>,
        wake: Arc<OwnedFd>,
    ) -> Self {
        Self { listeners, exports, registry, wake }
    }

    /// Accepts until the server stops; then the listeners are free, with whoever waits at them.
    pub(super) fn run(self) -> Vec<Listener> {
        loop {
            let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
            fds.extend(self.listeners.iter().map(|listener| PollFd::new(listener.fd(), PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => {
                    tracing::error!(%errno, "accepts nobody any more");
                    return self.listeners;
                }
            }
            if !fds[0].revents().is_empty() {
                return self.listeners;
            }
            let ready = self.listeners.iter().zip(&fds[1..]).filter(|(_, fd)| !fd.revents().is_empty());
            if ready.fold(false, |failed, (listener, _)| self.accept(listener).is_err() || failed) {
                self.pause();
            }
        }
    }

    fn accept(&self, listener: &Listener) -> Result<(), ()> {
        match listener.accept() {
            Ok(None) => Ok(()),
            Ok(Some((fd, peer))) => self.serve(fd, peer, listener.tls()),
            Err(errno) => {
                tracing::warn!(at = listener.address(), %errno, "cannot accept a client");
                Err(())
            }
        }
    }

    fn serve(&self, fd: OwnedFd, peer: Peer, tls: Option<TlsConfig>) -> Result<(), ()> {
        let Some(place) = Registry::admit(&self.registry, Arc::new(Socket::new(fd)), peer.clone()) else {
            tracing::warn!(%peer, "too many connections, closing another one");
            return Ok(());
        };
        let connection = Connection::new(place, self.exports.clone(), tls);
        let thread = std::thread::Builder::new().name("nbd".into()).stack_size(STACK);
        match thread.spawn(move || connection.run()) {
            Ok(_detached) => Ok(()),
            Err(error) => {
                tracing::warn!(%peer, %error, "no thread for a client");
                Err(())
            }
        }
    }

    /// Waits a moment, or until the server stops.
    fn pause(&self) {
        if let Err(errno) = poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], Some(&PAUSE)) {
            tracing::debug!(%errno, "poll");
        }
    }
}
