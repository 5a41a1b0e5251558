//! The requests of one connection that something else works on, the host's disk or threads that read what is far away, and how long
//! its replies took.

use super::readers::{self, Readers};
use crate::limits::{FETCHED_AT_A_TIME, MAX_FETCHES};
use crate::outbox::{Fetch, Outbox};
use crate::transmission::{Cells, Far, Transmission};
use crate::wire::{CMD_READ, Request};
use block::Clock;
use block::linux::{ReadRing, SystemClock};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use std::io;

/// A read under way.
struct Asked {
    request: Request,
    is_verified: bool,
    received_ns: u64,
}

/// Requests under way. The ring is made with the first one that needs it: a disk in memory needs none. So are the readers.
#[derive(Default)]
pub(super) struct Fetches {
    ring: Option<ReadRing>,
    readers: Option<Readers>,
    // by tag
    asked: Vec<Option<Asked>>,
    free: Vec<usize>,
    // of the replies in the outbox that were fetched: the command, and when the request had come
    completed: Vec<(u16, u64)>,
}

impl Fetches {
    /// Starts the reads that `out` asks for. Where the host has no ring, they are read here and now, and none is asked
    /// for any more.
    pub(super) fn start(&mut self, out: &mut Outbox, transmission: &mut Transmission, received_ns: u64) {
        if out.has_far() {
            self.start_far(out, transmission, received_ns);
        }
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
        let before = self.ring.as_mut().map_or(0, ReadRing::unfinished);
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
            self.completed.push((CMD_READ, received_ns));
        }
        if let Some(ring) = &mut self.ring
            && let Err(error) = ring.submit()
        {
            // they begin with the next call
            tracing::debug!(%error, "reads were not begun");
        }
        // the ring answers at once what is in memory
        if self.ring.as_mut().is_some_and(|ring| ring.unfinished() <= before) {
            transmission.found_cached();
        }
        self.complete(transmission, out);
    }

    /// Has everything brought that `out` asks for. Where the host has nothing to be woken by, it is brought here and now.
    fn start_far(&mut self, out: &mut Outbox, transmission: &mut Transmission, received_ns: u64) {
        let all: Vec<Far> = out.take_far().collect();
        if self.readers.is_none() {
            match Readers::new() {
                Ok(readers) => self.readers = Some(readers),
                Err(error) => tracing::warn!(%error, "what is far away is read one by one"),
            }
        }
        for far in all {
            match &mut self.readers {
                Some(readers) => readers.start(readers::Asked { far, received_ns }),
                None => {
                    let result = far.bring();
                    self.completed.push((far.request().command, received_ns));
                    transmission.brought(&far, result, out);
                }
            }
        }
    }

    /// Whether anything is under way.
    pub(super) fn are_under_way(&self) -> bool {
        self.under_way().iter().any(Option::is_some)
    }

    /// What becomes readable when something that is under way has finished.
    pub(super) fn under_way(&self) -> [Option<BorrowedFd<'_>>; 2] {
        let ring = self.ring.as_ref().filter(|ring| ring.under_way() > 0).map(AsFd::as_fd);
        let readers = self.readers.as_ref().filter(|readers| readers.under_way() > 0).map(AsFd::as_fd);
        [ring, readers]
    }

    /// Waits until something has finished.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        let is_ring_alone = matches!(self.under_way(), [Some(_), None]);
        match &mut self.ring {
            Some(ring) if is_ring_alone => ring.wait().map_err(io::Error::other),
            _ => self.poll(),
        }
    }

    fn poll(&self) -> io::Result<()> {
        let under_way = self.under_way();
        let mut fds: Vec<PollFd<'_>> =
            under_way.iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        loop {
            match poll(&mut fds, None) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Answers what has finished, of the ring's reads the next few.
    pub(super) fn complete(&mut self, transmission: &mut Transmission, out: &mut Outbox) {
        if let Some(readers) = self.readers.as_mut().filter(|readers| readers.under_way() > 0) {
            for (asked, result) in readers.finished() {
                self.completed.push((asked.far.request().command, asked.received_ns));
                transmission.brought(&asked.far, result, out);
            }
        }
        let Some(ring) = &mut self.ring else { return };
        ring.finished(FETCHED_AT_A_TIME, |tag, bytes| {
            let tag = tag as usize;
            let Some(asked) = self.asked.get_mut(tag).and_then(Option::take) else { return };
            self.free.push(tag);
            self.completed.push((CMD_READ, asked.received_ns));
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
        for (command, since) in self.completed.drain(..) {
            let counted = &mut replies[usize::from(command)];
            *counted = counted.saturating_sub(1);
            cells.took(command, 1, now.saturating_sub(since));
        }
        for (command, &count) in replies.iter().enumerate().filter(|(_, count)| **count > 0) {
            cells.took(command as u16, count, now.saturating_sub(received_ns));
        }
    }
}
