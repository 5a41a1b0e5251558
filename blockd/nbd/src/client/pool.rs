//! The connections of a client, lent to one caller at a time.

use super::Patience;
use super::handshake::Terms;
use super::session::{Fault, Session};
use crate::error::Error;
use crate::uri::Uri;
use std::sync::{Condvar, Mutex, MutexGuard};

pub(super) struct Pool {
    uri: Uri,
    patience: Patience,
    context: String,
    terms: Terms,
    limit: usize,
    state: Mutex<State>,
    // signalled when a connection comes back or is gone
    returned: Condvar,
}

struct State {
    // the one used last is on top: its buffers are warm
    idle: Vec<Session>,
    // idle, lent, or being made
    alive: usize,
    // a connection was lost, or one more could not be made
    no_more: bool,
}

impl Pool {
    pub(super) fn new(uri: Uri, patience: Patience, context: &str, limit: usize, first: Session) -> Self {
        let terms = first.terms().clone();
        let state = State { idle: vec![first], alive: 1, no_more: false };
        Self {
            uri,
            patience,
            context: context.to_owned(),
            terms,
            limit,
            state: Mutex::new(state),
            returned: Condvar::new(),
        }
    }

    /// Executes a request on a connection of its own. Reads of a read-only export survive the loss of a connection.
    pub(super) fn run<T>(
        &self,
        mut request: impl FnMut(&mut Session) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        let mut retry = self.terms.read_only();
        loop {
            let mut session = self.take()?;
            match request(&mut session) {
                Ok(value) => {
                    self.give_back(session);
                    return Ok(value);
                }
                Err(Fault::Failed(error)) => {
                    self.give_back(session);
                    return Err(error);
                }
                Err(Fault::Broken(error)) => {
                    session.abandon();
                    self.lost();
                    if !retry || !matches!(error, Error::Closed { .. } | Error::Socket { .. }) {
                        return Err(error);
                    }
                    tracing::debug!(%error, "connects again");
                    retry = false;
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // every statement leaves the state valid
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn take(&self) -> Result<Session, Error> {
        let mut state = self.state();
        loop {
            if let Some(session) = state.idle.pop() {
                return Ok(session);
            }
            if state.alive < self.limit && !state.no_more {
                state.alive += 1;
                drop(state);
                match self.dial() {
                    Ok(session) => return Ok(session),
                    Err(error) => {
                        state = self.state();
                        state.alive -= 1;
                        self.returned.notify_one();
                        if state.alive == 0 {
                            return Err(error);
                        }
                        // the others will do
                        state.no_more = true;
                        continue;
                    }
                }
            }
            if state.alive == 0 {
                return Err(Error::Closed { at: self.uri.to_string() });
            }
            state = self.returned.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// One more connection; it must be to the same export.
    fn dial(&self) -> Result<Session, Error> {
        let session = Session::open(&self.uri, &self.patience, &self.context)?;
        if *session.terms() != self.terms {
            let why = "the export is not what it was".to_owned();
            return Err(Error::Protocol { at: self.uri.to_string(), why });
        }
        Ok(session)
    }

    fn give_back(&self, session: Session) {
        self.state().idle.push(session);
        self.returned.notify_one();
    }

    fn lost(&self) {
        let mut state = self.state();
        state.alive -= 1;
        if self.terms.read_only() {
            // the idle ones lead to the same server and are as dead
            state.alive -= state.idle.len();
            let dead = std::mem::take(&mut state.idle);
            state.no_more = false;
            drop(state);
            dead.into_iter().for_each(Session::abandon);
        } else {
            state.no_more = true;
        }
        self.returned.notify_all();
    }
}
