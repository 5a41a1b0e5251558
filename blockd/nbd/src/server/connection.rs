//! One client: its handshake under a deadline, then the loop of its data phase.
//!
//! The loop receives all that has arrived, executes every whole request of it and sends all replies at once: on a
//! busy host the context switch is what a request costs.

use super::registry::Place;
use crate::buffer::{Inbox, Outbox};
use crate::export::Exports;
use crate::handshake::{self, Handshake, Negotiated};
use crate::transmission::{self, Transmission};
use block::Clock;
use block::linux::SystemClock;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Batches a stopping server still serves of what has arrived already; requests after them are refused.
const BATCHES_AFTER_STOP: u32 = 64;

pub(super) struct Connection {
    exports: Arc<dyn Exports>,
    inbox: Inbox,
    // last, so that whoever waits for the place to be left finds everything else released
    place: Place,
}

impl Connection {
    pub(super) fn new(place: Place, exports: Arc<dyn Exports>) -> Self {
        Self { exports, inbox: Inbox::new(), place }
    }

    /// Serves the client until it goes. Nobody waits for the outcome, so it is logged here.
    pub(super) fn run(mut self) {
        let peer = self.place.peer.clone();
        match self.handshake() {
            Ok(Some(negotiated)) => {
                let name = negotiated.name.clone();
                tracing::debug!(%peer, export = name, "connected");
                match self.transmission(*negotiated) {
                    Ok(why) => tracing::debug!(%peer, export = name, why, "disconnected"),
                    Err(error) => tracing::debug!(%peer, export = name, %error, "disconnected"),
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%peer, %error, "no handshake"),
        }
    }

    fn handshake(&mut self) -> io::Result<Option<Box<Negotiated>>> {
        let clock = SystemClock;
        let allowed = u64::try_from(self.place.limits().handshake_time.as_nanos()).unwrap_or(u64::MAX);
        let deadline = clock.monotonic_ns().saturating_add(allowed);
        let exports = self.exports.clone();
        let peer = self.place.peer.clone();
        let socket = self.place.socket.clone();
        let mut handshake = Handshake::new(exports.as_ref(), &peer);
        let mut out = Handshake::greeting().to_vec();
        loop {
            if self.place.is_stopping() {
                handshake.stop();
            }
            let (used, step) = handshake.advance(self.inbox.filled(), &mut out);
            self.inbox.consume(used);
            let left = deadline.saturating_sub(clock.monotonic_ns());
            if left == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            socket.set_timeout(Some(Duration::from_nanos(left)))?;
            socket.send(&out)?;
            out.clear();
            match step {
                handshake::Step::Input(need) => {
                    let count = socket.receive(self.inbox.space(need))?;
                    if count == 0 {
                        return Ok(None);
                    }
                    self.inbox.received(count);
                }
                handshake::Step::Transmission(negotiated) => {
                    socket.set_timeout(None)?;
                    return Ok(Some(negotiated));
                }
                handshake::Step::Close(why) => {
                    tracing::debug!(%peer, ?why, "no export was chosen");
                    return Ok(None);
                }
            }
        }
    }

    /// The data phase; says why it ended.
    fn transmission(&mut self, negotiated: Negotiated) -> io::Result<String> {
        let cells = self.place.chose(&negotiated.name);
        let socket = self.place.socket.clone();
        let mut transmission = Transmission::new(negotiated, cells);
        let mut out = Outbox::new();
        let mut batches_after_stop = 0;
        loop {
            let (used, step) = transmission.advance(self.inbox.filled(), &mut out);
            self.inbox.consume(used);
            socket.send(out.filled())?;
            out.clear();
            match step {
                transmission::Step::Send => {}
                transmission::Step::Close(why) => return Ok(format!("{why:?}")),
                transmission::Step::Input(need) => {
                    let count = self.receive(need, &mut out)?;
                    if count == 0 {
                        return Ok("the client closed, or the server is stopping".into());
                    }
                    self.inbox.received(count);
                }
            }
            if self.place.is_stopping() {
                batches_after_stop += 1;
                if batches_after_stop == BATCHES_AFTER_STOP {
                    transmission.stop();
                } else if batches_after_stop > 2 * BATCHES_AFTER_STOP {
                    return Ok("the server is stopping".into());
                }
            }
        }
    }

    /// Waits for bytes. A connection about to wait with an oversized buffer gives it back first.
    fn receive(&mut self, need: usize, out: &mut Outbox) -> io::Result<usize> {
        let socket = &self.place.socket;
        if self.inbox.is_large() && self.inbox.filled().is_empty() {
            if let Some(count) = socket.receive_now(self.inbox.space(need))? {
                return Ok(count);
            }
            self.inbox.shrink();
        }
        out.shrink();
        socket.receive(self.inbox.space(need))
    }
}
