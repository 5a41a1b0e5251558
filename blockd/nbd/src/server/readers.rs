//! The requests of one connection that wait for what is far away, and the threads that bring it. A thread is made when there is
//! more to do than there are threads that have nothing to do.

use crate::limits::FAR_READERS;
use crate::transmission::Far;
use block::Error;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// A request, and when it came.
pub(super) struct Asked {
    pub(super) far: Far,
    pub(super) received_ns: u64,
}

/// What came of it.
pub(super) type Brought = (Asked, Result<Vec<u8>, Error>);

struct Shared {
    state: Mutex<State>,
    // signalled when there is something to do, or nothing any more
    work: Condvar,
    // readable when something was brought
    wake: OwnedFd,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Asked>,
    brought: Vec<Brought>,
    idle: usize,
    is_over: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // every statement leaves the state valid
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn read(&self) {
        let mut state = self.state();
        while !state.is_over {
            let Some(asked) = state.waiting.pop_front() else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
                state.idle -= 1;
                continue;
            };
            drop(state);
            let result = asked.far.bring();
            state = self.state();
            state.brought.push((asked, result));
            if let Err(errno) = rustix::io::write(&self.wake, &1u64.to_ne_bytes()) {
                tracing::error!(%errno, "cannot wake a connection");
            }
        }
    }
}

/// The threads of a connection. Dropping it waits for what they do just now.
pub(super) struct Readers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    under_way: usize,
}

impl Readers {
    /// Without a thread yet.
    ///
    /// # Errors
    /// The host gives no descriptor.
    pub(super) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Shared { state: Mutex::default(), work: Condvar::new(), wake };
        Ok(Self { shared: Arc::new(shared), threads: Vec::new(), under_way: 0 })
    }

    /// How many requests wait.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Begins to bring what a request needs. Where the host has no thread for the first, that happens here and now.
    pub(super) fn start(&mut self, asked: Asked) {
        let mut state = self.shared.state();
        state.waiting.push_back(asked);
        let lacks_threads = state.waiting.len() > state.idle && self.threads.len() < FAR_READERS;
        drop(state);
        self.under_way += 1;
        if lacks_threads {
            let shared = self.shared.clone();
            match std::thread::Builder::new().name("nbd far".into()).spawn(move || shared.read()) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => tracing::warn!(%error, "no thread to read what is far away"),
            }
        }
        if self.threads.is_empty() {
            self.bring_here();
        }
        self.shared.work.notify_one();
    }

    fn bring_here(&self) {
        let mut state = self.shared.state();
        while let Some(asked) = state.waiting.pop_front() {
            let result = asked.far.bring();
            state.brought.push((asked, result));
        }
    }

    /// Hands out what was brought since the last call.
    pub(super) fn finished(&mut self) -> Vec<Brought> {
        if let Err(errno) = rustix::io::read(&self.shared.wake, &mut [0; 8])
            && errno != rustix::io::Errno::AGAIN
        {
            tracing::error!(%errno, "cannot look what was brought");
        }
        let brought = std::mem::take(&mut self.shared.state().brought);
        self.under_way -= brought.len();
        brought
    }
}

impl AsFd for Readers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_over = true;
        state.waiting.clear();
        drop(state);
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that reads what is far away panicked");
            }
        }
    }
}
