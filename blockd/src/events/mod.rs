//! What happened that somebody may want to know at once: told to whoever listens, and to those the configuration names as
//! alerts. `docs/events.md`.

mod alerts;

pub use alerts::{Alert, Alerts};

use crate::names::rfc3339;
use block::Clock;
use block::sync::{Mutex, lock};
use control::{Event, EventKind};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::broadcast;

/// Events that are remembered for those who listen anew.
const REMEMBERED: usize = 1000;

/// Events that a listener may lag behind; one that lags more is told that it missed some.
const BUFFER: usize = 256;

/// All of them.
pub struct Events {
    clock: Arc<dyn Clock>,
    told: Mutex<Told>,
    listeners: broadcast::Sender<Event>,
}

#[derive(Default)]
struct Told {
    number: u64,
    last: VecDeque<Event>,
}

impl Events {
    /// None so far.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, told: Mutex::default(), listeners: broadcast::channel(BUFFER).0 }
    }

    /// Tells everybody.
    pub fn tell(&self, kind: EventKind, about: &str, message: impl Into<String>) {
        let mut told = lock(&self.told);
        told.number += 1;
        let event = Event {
            number: told.number,
            time: rfc3339(self.clock.now()),
            kind,
            about: about.to_owned(),
            message: message.into(),
        };
        tracing::info!(kind = kind.name(), about, "{}", event.message);
        told.last.push_back(event.clone());
        if told.last.len() > REMEMBERED {
            told.last.pop_front();
        }
        // nobody listening is no failure
        drop(self.listeners.send(event));
    }

    /// Those remembered with a higher number, and all that come from now on; none is missed between.
    pub fn listen(&self, after: Option<u64>) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let told = lock(&self.told);
        let past = told.last.iter().filter(|event| after.is_some_and(|after| event.number > after));
        (past.cloned().collect(), self.listeners.subscribe())
    }

    /// Those remembered, oldest first.
    pub fn last(&self) -> Vec<Event> {
        lock(&self.told).last.iter().cloned().collect()
    }
}
