//! Who is connected: places for connections, their counters, and how all of them are stopped.

use crate::export::{Certificate, Peer};
use crate::limits::{Limits, MAX_REMEMBERED};
use crate::socket::Socket;
use crate::transmission::{Cells, Counts};
use block::Clock;
use block::linux::SystemClock;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// All connections of a server.
pub(super) struct Registry {
    limits: Limits,
    stopping: AtomicBool,
    state: Mutex<State>,
    // signalled when a connection ends
    ended: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    live: BTreeMap<u64, Live>,
    // what ended connections did, by export
    past: BTreeMap<String, Counts>,
}

struct Live {
    socket: Arc<Socket>,
    peer: Peer,
    // none until an export is chosen
    export: Option<(String, Arc<Cells>)>,
}

/// The place of one connection; leaving it is dropping it.
pub(super) struct Place {
    registry: Arc<Registry>,
    number: u64,
    pub(super) socket: Arc<Socket>,
    peer: Peer,
}

/// An export and those who use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportStatus {
    /// Its name.
    pub name: String,
    /// What all its connections did since the start, ended ones too.
    pub counts: Counts,
    /// The connections now.
    pub connections: Vec<ConnectionStatus>,
}

/// A connection that uses an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionStatus {
    /// Who is at the other end.
    pub peer: Peer,
    /// What it did.
    pub counts: Counts,
}

impl Registry {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, stopping: AtomicBool::new(false), state: Mutex::default(), ended: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // every statement leaves the state valid
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A place for a client, unless there are too many. Where only too many of them have not chosen an export yet,
    /// the one that takes longest makes room: an honest client needs a moment, so idle ones cannot keep it out.
    pub(super) fn admit(registry: &Arc<Self>, socket: Arc<Socket>, peer: Peer) -> Option<Place> {
        let mut state = registry.state();
        if state.live.len() >= registry.limits.connections {
            return None;
        }
        let mut choosing = state.live.values().filter(|live| live.export.is_none());
        let oldest = choosing.next();
        if let Some(oldest) = oldest.filter(|_| choosing.count() + 1 >= registry.limits.handshakes) {
            tracing::debug!(peer = %oldest.peer, "makes room for another client");
            oldest.socket.cut();
        }
        state.next += 1;
        let number = state.next;
        state.live.insert(number, Live { socket: socket.clone(), peer: peer.clone(), export: None });
        Some(Place { registry: registry.clone(), number, socket, peer })
    }

    /// Asks every connection to end, waits, and cuts those that do not.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let clock = SystemClock;
        let time_ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let deadline = clock.monotonic_ns().saturating_add(time_ns(self.limits.stop_time));
        let mut state = self.state();
        state.live.values().for_each(|live| live.socket.stop_receiving());
        let mut cut = false;
        while !state.live.is_empty() {
            let left = deadline.saturating_sub(clock.monotonic_ns());
            if left == 0 && !cut {
                tracing::warn!(connections = state.live.len(), "cutting connections that do not end");
                state.live.values().for_each(|live| live.socket.cut());
                cut = true;
            }
            // once cut, nothing can block a connection but its device
            let wait = if cut { Duration::from_secs(1) } else { Duration::from_nanos(left) };
            state = match self.ended.wait_timeout(state, wait) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Every export used, by name.
    pub(super) fn status(&self) -> Vec<ExportStatus> {
        let state = self.state();
        let empty = |name: &String, counts: &Counts| ExportStatus {
            name: name.clone(),
            counts: *counts,
            connections: Vec::new(),
        };
        let mut exports: BTreeMap<String, ExportStatus> =
            state.past.iter().map(|(name, counts)| (name.clone(), empty(name, counts))).collect();
        for live in state.live.values() {
            let Some((name, cells)) = &live.export else { continue };
            let counts = cells.counts();
            let export = exports.entry(name.clone()).or_insert_with(|| empty(name, &Counts::default()));
            export.counts.add(&counts);
            export.connections.push(ConnectionStatus { peer: live.peer.clone(), counts });
        }
        exports.into_values().collect()
    }
}

impl Place {
    pub(super) fn limits(&self) -> &Limits {
        &self.registry.limits
    }

    /// Who is at the other end, as far as is known.
    pub(super) fn peer(&self) -> Peer {
        self.peer.clone()
    }

    /// Takes note of who the client has proved to be.
    pub(super) fn authenticated(&mut self, certificate: Certificate) -> Peer {
        self.peer = Peer::Tls { certificate, at: self.peer.to_string() };
        if let Some(live) = self.registry.state().live.get_mut(&self.number) {
            live.peer = self.peer.clone();
        }
        self.peer.clone()
    }

    /// Whether the server is stopping.
    pub(super) fn is_stopping(&self) -> bool {
        self.registry.stopping.load(Ordering::Relaxed)
    }

    /// Takes note of the export chosen; the connection counts in the cells returned.
    pub(super) fn chose(&self, export: &str) -> Arc<Cells> {
        let cells = Arc::new(Cells::new());
        if let Some(live) = self.registry.state().live.get_mut(&self.number) {
            live.export = Some((export.to_owned(), cells.clone()));
        }
        cells
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.registry.state();
        if let Some(Live { export: Some((name, cells)), .. }) = state.live.remove(&self.number) {
            if state.past.len() >= MAX_REMEMBERED && !state.past.contains_key(&name) {
                state.past.pop_first();
            }
            state.past.entry(name).or_default().add(&cells.counts());
        }
        self.registry.ended.notify_all();
    }
}
