//! The server: listeners, a thread per connection, limits, counters and an orderly stop.
//!
//! It does not decide what is served to whom; [`Exports`] does. It has no configuration beyond [`Limits`].

mod acceptor;
mod connection;
mod fetches;
mod listener;
mod pacing;
mod readers;
mod registry;
mod tls;
mod transport;

pub use listener::Listener;
pub use registry::{ConnectionStatus, ExportStatus};
pub use tls::TlsConfig;

use crate::error::Error;
use crate::export::Exports;
use crate::limits::Limits;
use acceptor::Acceptor;
use registry::Registry;
use rustix::event::EventfdFlags;
use rustix::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A running server. Dropping it stops it.
pub struct Server {
    registry: Arc<Registry>,
    wake: Arc<OwnedFd>,
    acceptor: Mutex<Option<JoinHandle<Vec<Listener>>>>,
}

impl Server {
    /// Serves `exports` on all `listeners`.
    ///
    /// # Errors
    /// `Socket` if the host gives no thread or descriptor.
    pub fn start(listeners: Vec<Listener>, exports: Arc<dyn Exports>, limits: Limits) -> Result<Self, Error> {
        let at = listeners.iter().map(Listener::address).collect::<Vec<_>>().join(", ");
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::socket("serve", &at, errno))?;
        let wake = Arc::new(wake);
        let registry = Arc::new(Registry::new(limits));
        let acceptor = Acceptor::new(listeners, exports, registry.clone(), wake.clone());
        let thread = std::thread::Builder::new()
            .name("nbd accept".into())
            .spawn(move || acceptor.run())
            .map_err(|error| Error::socket("serve", &at, error))?;
        Ok(Self { registry, wake, acceptor: Mutex::new(Some(thread)) })
    }

    /// Every export that was used since the start (of unused ones only the last thousand), by name.
    pub fn stats(&self) -> Vec<ExportStatus> {
        self.registry.status()
    }

    /// Stops: accepts nobody, answers what has arrived, tells the rest that the server is stopping, closes. Returns
    /// when the last connection has ended; those that take longer than [`Limits::stop_time`] are cut.
    pub fn stop(&self) {
        drop(self.stop_accepting());
        self.registry.stop();
    }

    /// As [`stop`](Self::stop), but the listeners stay open for a successor: clients that come meanwhile wait.
    pub fn stop_for_successor(&self) -> Vec<Listener> {
        let listeners = self.stop_accepting();
        self.registry.stop();
        listeners
    }

    fn stop_accepting(&self) -> Vec<Listener> {
        let thread = self.acceptor.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        let Some(thread) = thread else { return Vec::new() };
        if let Err(errno) = rustix::io::write(&self.wake, &1u64.to_ne_bytes()) {
            tracing::error!(%errno, "cannot wake the acceptor");
        }
        thread.join().unwrap_or_else(|_| {
            tracing::error!("the acceptor panicked");
            Vec::new()
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
