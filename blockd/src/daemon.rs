//! The daemon: everything it owns, in the order it is started and ended.

use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::{Doing, Error, Result};
use crate::jobs::Jobs;
use crate::names::rfc3339;
use crate::state::State;
use control::Status;
use std::path::Path;
use std::sync::Arc;

/// A serving daemon.
pub struct Daemon {
    state: State,
    config: Config,
    jobs: Arc<Jobs>,
    started: String,
    // what went wrong at the start without keeping the daemon from serving
    notices: Vec<String>,
}

impl Daemon {
    /// Opens everything in the state directory and begins to serve.
    ///
    /// # Errors
    /// What keeps the daemon as a whole from serving. A single damaged disk or vault does not.
    pub fn start(state: State, config: Config) -> Result<Arc<Self>> {
        let (catalog, notice) = Catalog::open(state.dir())?;
        let jobs = Jobs::open(Arc::new(catalog), state.clock(), state.entropy(), config.parallel_jobs())?;
        let started = rfc3339(state.clock().now());
        Ok(Arc::new(Self { state, config, jobs, started, notices: Vec::from_iter(notice) }))
    }

    /// The state directory.
    pub fn dir(&self) -> &Path {
        self.state.dir()
    }

    /// The jobs.
    pub fn jobs(&self) -> &Arc<Jobs> {
        &self.jobs
    }

    /// Daemon, disks, vaults and warnings.
    ///
    /// # Errors
    /// What the host reports.
    pub fn status(&self) -> Result<Status> {
        let space = self.state.media().space().doing(|| "look at the host's space".to_owned())?;
        let daemon = control::Daemon {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.started.clone(),
            state: self.dir().display().to_string(),
            nbd_socket: self.state.path("nbd.sock").display().to_string(),
            nbd_listen: self.config.nbd_listen.map(|address| address.to_string()),
            space_available: space.available,
            space_total: space.total,
        };
        Ok(Status {
            daemon,
            disks: Vec::new(),
            points: 0,
            vaults: Vec::new(),
            jobs_active: self.jobs.active(),
            warnings: self.notices.clone(),
        })
    }

    /// Ends everything in an order that loses nothing.
    ///
    /// # Errors
    /// The first thing that did not end cleanly; the rest is ended all the same.
    pub fn stop(&self) -> Result<(), Error> {
        self.jobs.stop();
        Ok(())
    }
}
