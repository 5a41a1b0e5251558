//! The reads of one connection that the host's disk works on, and how long its replies took.

use crate::limits::MAX_FETCHES;
use crate::outbox::{Fetch, Outbox};
use crate::transmission::{Cells, Transmission};
use crate::wire::{CMD_READ, Request};
use block::Clock;
use block::linux::{ReadRing, SystemClock};
use std::io;

/// A read under way.
struct Asked {
    request: Request,
    is_verified: bool,
    received_ns: u64,
}

/// Reads under way. The ring is made with the first one: a disk in memory needs none.
#[derive(Default)]
pub(super) struct Fetches {
    ring: Option<ReadRing>,
    // by tag
    asked: Vec<Option<Asked>>,
    free: Vec<usize>,
    // when the requests of the replies in the outbox that were fetched had come
    completed: Vec<u64>,
}

impl Fetches {
    /// Starts the reads that `out` asks for. Where the host has no ring, they are read here and now, and none is asked
    /// for any more.
    pub(super) fn start(&mut self, out: &mut Outbox, transmission: &mut Transmission, received_ns: u64) {
        if !out.has_fetches() {
            return;
        }
        let fetches: Vec<Fetch> = out.take_fetches().collect();
        self.complete(transmission, out);
        if self.ring.is_none() {
            match ReadRing::new(MAX_FETCHES as u32) {
                Ok(ring) => self.ring = Some(ring),
                Err(error) => {
                    tracing::info!(
                        error = &error as &dyn std::error::Error,
                        "reads wait for the disk one by one"
                    );
                    transmission.forbid_fetches();
                }
            }
        }
        let before = self.ring.as_ref().map_or(0, ReadRing::under_way);
        for Fetch { request, stored } in fetches {
            let tag = self.free.pop().unwrap_or(self.asked.len());
            let started = match &mut self.ring {
                Some(ring) => ring.start(tag as u64, stored.clone()).is_ok(),
                None => false,
            };
            if started {
                if tag == self.asked.len() {
                    self.asked.push(None);
                }
                self.asked[tag] = Some(Asked { request, is_verified: stored.is_verified, received_ns });
                continue;
            }
            if tag < self.asked.len() {
                self.free.push(tag);
            }
            let mut buf = vec![0; stored.count as usize];
            let read = stored.file.read_at(stored.offset, &mut buf);
            transmission.complete(&request, stored.is_verified, read.map(|()| &buf[..]), out);
            self.completed.push(received_ns);
        }
        if let Some(ring) = &mut self.ring
            && let Err(error) = ring.submit()
        {
            // they begin with the next call
            tracing::debug!(%error, "reads were not begun");
        }
        // the ring answers at once what is in memory
        self.complete(transmission, out);
        if self.ring.as_ref().is_some_and(|ring| ring.under_way() == before) {
            transmission.found_cached();
        }
    }

    /// The ring, if reads are under way.
    pub(super) fn under_way(&self) -> Option<&ReadRing> {
        self.ring.as_ref().filter(|ring| ring.under_way() > 0)
    }

    /// Waits until a read has finished.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        match &mut self.ring {
            Some(ring) => ring.wait().map_err(io::Error::other),
            None => Ok(()),
        }
    }

    /// Answers the reads that have finished.
    pub(super) fn complete(&mut self, transmission: &mut Transmission, out: &mut Outbox) {
        let Some(ring) = &mut self.ring else { return };
        ring.finished(|tag, bytes| {
            let tag = tag as usize;
            let Some(asked) = self.asked.get_mut(tag).and_then(Option::take) else { return };
            self.free.push(tag);
            self.completed.push(asked.received_ns);
            transmission.complete(&asked.request, asked.is_verified, bytes, out);
        });
    }

    /// Counts how long the replies just sent took: the time from the batch that brought the request to now.
    pub(super) fn count(&mut self, cells: &Cells, out: &Outbox, received_ns: u64) {
        if out.replies() == 0 {
            return;
        }
        let now = SystemClock.monotonic_ns();
        let mut replies = *out.replies_by_command();
        let reads = &mut replies[usize::from(CMD_READ)];
        *reads = reads.saturating_sub(self.completed.len() as u32);
        for since in self.completed.drain(..) {
            cells.took(CMD_READ, 1, now.saturating_sub(since));
        }
        for (command, &count) in replies.iter().enumerate().filter(|(_, count)| **count > 0) {
            cells.took(command as u16, count, now.saturating_sub(received_ns));
        }
    }
}
