//! One client: its handshake under a deadline, then the loop of its data phase.
//!
//! The loop receives all that has arrived, executes every whole request of it and sends all replies at once: on a
//! busy host the context switch is what a request costs. Reads that the host must fetch go on beside it.

use super::fetches::Fetches;
use super::pacing::Pacing;
use super::registry::Place;
use super::tls::{Secured, TlsConfig};
use super::transport::Transport;
use crate::export::{Exports, Peer};
use crate::handshake::{self, Handshake, Negotiated, Tls};
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use crate::transmission::{Shortcuts, Step, Transmission};
use block::Clock;
use block::linux::SystemClock;
use std::cell::OnceCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Batches a stopping server still serves of what has arrived already; requests after them are refused.
const BATCHES_AFTER_STOP: u32 = 64;

pub(super) struct Connection {
    exports: Arc<dyn Exports>,
    tls: Option<TlsConfig>,
    transport: Transport,
    inbox: Inbox,
    // last, so that whoever waits for the place to be left finds everything else released
    place: Place,
}

impl Connection {
    pub(super) fn new(place: Place, exports: Arc<dyn Exports>, tls: Option<TlsConfig>) -> Self {
        let transport = Transport::Plain(place.socket.clone(), None);
        Self { exports, tls, transport, inbox: Inbox::for_handshake(), place }
    }

    /// Serves the client until it goes. Nobody waits for the outcome, so it is logged here.
    pub(super) fn run(mut self) {
        match self.handshake() {
            Ok(Some(negotiated)) => {
                let (peer, name) = (self.place.peer(), negotiated.name.clone());
                tracing::debug!(%peer, export = name, "connected");
                match self.transmission(*negotiated) {
                    Ok(why) => tracing::debug!(%peer, export = name, why, "disconnected"),
                    Err(error) => tracing::debug!(%peer, export = name, %error, "disconnected"),
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(peer = %self.place.peer(), %error, "no handshake"),
        }
        self.transport.close();
    }

    fn handshake(&mut self) -> io::Result<Option<Box<Negotiated>>> {
        let allowed = u64::try_from(self.place.limits().handshake_time.as_nanos()).unwrap_or(u64::MAX);
        let deadline = SystemClock.monotonic_ns().saturating_add(allowed);
        let exports = self.exports.clone();
        let (plain, secured) = (self.place.peer(), OnceCell::new());
        let tls = if self.tls.is_some() { Tls::Required } else { Tls::Unsupported };
        let mut handshake = Handshake::new(exports.as_ref(), &plain, tls);
        let mut out = Handshake::greeting().to_vec();
        loop {
            if self.place.is_stopping() {
                handshake.stop();
            }
            let (used, step) = handshake.advance(self.inbox.filled(), &mut out);
            self.inbox.consume(used);
            self.bound_waits(deadline)?;
            self.transport.send(&out)?;
            out.clear();
            match step {
                handshake::Step::Input(need) => {
                    let count = self.transport.receive(self.inbox.space(need))?;
                    if count == 0 {
                        return Ok(None);
                    }
                    self.inbox.received(count);
                }
                handshake::Step::StartTls => {
                    let peer = self.start_tls(deadline)?;
                    let peer = secured.get_or_init(|| peer);
                    handshake = Handshake::secured(handshake, exports.as_ref(), peer);
                }
                handshake::Step::Transmission(negotiated) => {
                    self.place.socket.set_timeout(None)?;
                    return Ok(Some(negotiated));
                }
                handshake::Step::Close(why) => {
                    tracing::debug!(peer = %self.place.peer(), ?why, "no export was chosen");
                    return Ok(None);
                }
            }
        }
    }

    /// No wait lasts longer than what is left of the time for the handshake.
    fn bound_waits(&self, deadline: u64) -> io::Result<()> {
        let left = deadline.saturating_sub(SystemClock.monotonic_ns());
        if left == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.place.socket.set_timeout(Some(Duration::from_nanos(left)))
    }

    /// From now on speaks TLS; says who the client is.
    fn start_tls(&mut self, deadline: u64) -> io::Result<Peer> {
        if !self.inbox.filled().is_empty() {
            // nobody may say in the clear what is then taken for said in secret
            return Err(io::Error::other("the client sent more before TLS began"));
        }
        let Some(config) = self.tls.take() else {
            return Err(io::Error::other("no certificate to speak TLS with"));
        };
        let socket = self.place.socket.clone();
        let (secured, certificate) = Secured::accept(&config, &socket, || self.bound_waits(deadline))?;
        self.transport = Transport::Tls(socket, Box::new(secured));
        Ok(self.place.authenticated(certificate))
    }

    /// The data phase; says why it ended.
    fn transmission(&mut self, negotiated: Negotiated) -> io::Result<String> {
        let cells = self.place.chose(&negotiated.name);
        let mut transmission = Transmission::new(negotiated, cells.clone());
        let splice = matches!(self.transport, Transport::Plain(..));
        transmission.allow(Shortcuts { splice, fetch: true, far: true });
        self.inbox.enlarge();
        let (mut out, mut fetches, mut pacing) = (Outbox::new(), Fetches::default(), Pacing::default());
        let mut batches_after_stop = 0;
        let mut received_ns = SystemClock.monotonic_ns();
        loop {
            let (used, step) = transmission.advance(self.inbox.filled(), &mut out);
            self.inbox.consume(used);
            fetches.start(&mut out, &mut transmission, received_ns);
            self.transport.send_all(&mut out, &transmission)?;
            fetches.count(&cells, &out, received_ns);
            let replies = out.replies();
            out.clear();
            match step {
                Step::Send => {}
                Step::Close(why) => {
                    return self.finish(&mut transmission, fetches, &mut out, format!("{why:?}"));
                }
                Step::Input(_) | Step::Fetched => {
                    let need = if let Step::Input(need) = step { Some(need) } else { None };
                    pacing.before_wait(replies);
                    if !self.more(need, &mut transmission, &mut fetches, &mut out)? {
                        let why = "the client closed, or the server is stopping".into();
                        return self.finish(&mut transmission, fetches, &mut out, why);
                    }
                    received_ns = SystemClock.monotonic_ns();
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

    /// Waits for more to do: bytes, if any are wanted, or reads that have finished. False once no more bytes come.
    fn more(
        &mut self,
        need: Option<usize>,
        transmission: &mut Transmission,
        fetches: &mut Fetches,
        out: &mut Outbox,
    ) -> io::Result<bool> {
        if fetches.are_under_way() {
            let is_input = match need {
                Some(_) => self.transport.wait(fetches.under_way())?,
                None => {
                    fetches.wait()?;
                    false
                }
            };
            fetches.complete(transmission, out);
            if !is_input {
                return Ok(true);
            }
        } else {
            out.shrink();
        }
        let count = self.transport.receive(self.inbox.space(need.unwrap_or(1)))?;
        self.inbox.received(count);
        Ok(count > 0)
    }

    /// Answers what is still under way, as the protocol wants it before the end.
    fn finish(
        &mut self,
        transmission: &mut Transmission,
        mut fetches: Fetches,
        out: &mut Outbox,
        why: String,
    ) -> io::Result<String> {
        self.transport.send_all(out, transmission)?;
        out.clear();
        while fetches.are_under_way() {
            fetches.wait()?;
            fetches.complete(transmission, out);
            self.transport.send_all(out, transmission)?;
            out.clear();
        }
        Ok(why)
    }
}
