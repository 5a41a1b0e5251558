//! The threads that talk to object stores. Callers stay what they are: threads that wait.

use std::future::Future;
use std::sync::mpsc::sync_channel;

use block::{Error, Kind, Result};
use tokio::runtime::{Builder, Runtime};

/// One encrypts for the network while the other waits for it.
const THREADS: usize = 2;

/// A small runtime of its own.
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    pub(super) fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("object-store")
            .enable_all()
            .build()
            .map_err(|error| Error::host("start threads for", "an object store", None, error))?;
        Ok(Self(Some(runtime)))
    }

    /// Runs a request to its end. May be called from any thread, one of another runtime too.
    pub(super) fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let ended = || Error::refused(Kind::Unavailable, "object store", "its threads have ended");
        let (answer, answered) = sync_channel(1);
        let runtime = self.0.as_ref().ok_or_else(ended)?;
        // who asked waits below, so there is always someone to take the answer
        runtime.spawn(async move { answer.send(request.await).ok() });
        answered.recv().map_err(|_| ended())?
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // waiting for the end of a runtime is not allowed on a thread of another
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
