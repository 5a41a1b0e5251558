//! The daemon: everything it owns, in the order it is started and ended.

use crate::catalog::Catalog;
use crate::config::Config;
use crate::disks::Disks;
use crate::error::{Doing, Error, Result};
use crate::exports::Served;
use crate::jobs::Jobs;
use crate::names::rfc3339;
use crate::points::Tiers;
use crate::state::State;
use crate::vaults::Vaults;
use block::ByteCount;
use control::{CreateDisk, CreateVault, Disk, Kind, Point, Points, Status, Vault};
use nbd::{Limits, Listener, Server};
use std::path::Path;
use std::sync::Arc;

/// A person is warned when less than one part in so many of the disks' filesystem is free.
const LOW_SPACE_PARTS: u64 = 20;

/// The socket of the exports in the state directory.
const NBD_SOCKET: &str = "nbd.sock";

/// A serving daemon.
pub struct Daemon {
    // first, so that it is last: the lock on the directory
    state: State,
    started: String,
    nbd_listen: Option<String>,
    jobs: Arc<Jobs>,
    tiers: Arc<Tiers>,
    server: Server,
    // what went wrong at the start without keeping the daemon from serving
    notices: Vec<String>,
}

impl Daemon {
    /// Opens everything in the state directory and begins to serve.
    ///
    /// # Errors
    /// What keeps the daemon as a whole from serving. A single damaged disk or vault does not.
    pub fn start(state: State, config: &Config) -> Result<Arc<Self>> {
        let (catalog, notice) = Catalog::open(state.dir())?;
        let catalog = Arc::new(catalog);
        let jobs = Jobs::open(catalog.clone(), state.clock(), state.entropy(), config.parallel_jobs())?;
        let layers_env = layers::Env {
            media: state.media().clone(),
            clock: state.clock(),
            entropy: state.entropy(),
            journal_room: layers::JOURNAL_ROOM,
        };
        let (disks, mut notices) = Disks::open(layers_env)?;
        notices.extend(notice);
        let vault_env = vault::Env { clock: state.clock(), entropy: state.entropy() };
        let vaults = Vaults::open(state.dir(), state.media().clone(), vault_env)?;
        let tiers = Arc::new(Tiers { disks, vaults, catalog, nbd_socket: state.path(NBD_SOCKET) });
        let (listeners, nbd_listen) = listen(&state, config)?;
        let server = Server::start(listeners, Arc::new(Served(tiers.clone())), Limits::default())
            .doing(|| "serve exports".to_owned())?;
        let started = rfc3339(state.clock().now());
        Ok(Arc::new(Self { state, started, nbd_listen, jobs, tiers, server, notices }))
    }

    /// The state directory.
    pub fn dir(&self) -> &Path {
        self.state.dir()
    }

    /// The jobs.
    pub fn jobs(&self) -> &Arc<Jobs> {
        &self.jobs
    }

    /// Both tiers.
    pub fn tiers(&self) -> &Arc<Tiers> {
        &self.tiers
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
            nbd_socket: self.tiers.nbd_socket.display().to_string(),
            nbd_listen: self.nbd_listen.clone(),
            space_available: space.available,
            space_total: space.total,
        };
        let disks = self.disks();
        let (points, trouble) = self.tiers.held(None);
        let mut warnings = self.notices.clone();
        warnings.extend(disks.iter().filter_map(disk_warning));
        warnings.extend(self.tiers.vaults.warnings());
        warnings.extend(trouble);
        if space.available < space.total / LOW_SPACE_PARTS {
            warnings.push(format!(
                "{} is nearly full: {} bytes are free",
                self.dir().display(),
                space.available
            ));
        }
        let mut seen = std::collections::HashSet::new();
        warnings.retain(|warning| seen.insert(warning.clone()));
        Ok(Status {
            daemon,
            disks,
            points: points.len() as u64,
            vaults: self.vaults(),
            jobs_active: self.jobs.active(),
            warnings,
        })
    }

    /// Every disk, by name.
    pub fn disks(&self) -> Vec<Disk> {
        self.tiers.disks.all().iter().map(|named| named.show(self.tiers.uri(&named.name))).collect()
    }

    /// One disk.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn disk(&self, name: &str) -> Result<Disk> {
        Ok(self.tiers.disks.get(name)?.show(self.tiers.uri(name)))
    }

    /// Makes an empty disk.
    ///
    /// # Errors
    /// `Conflict` if the name is taken, `Invalid` for a size that no disk has.
    pub fn create_disk(&self, request: &CreateDisk) -> Result<Disk> {
        let named = self.tiers.disks.create(&request.name, ByteCount::new(request.size), |_| Ok(()))?;
        tracing::info!(disk = request.name, size = request.size, "made");
        Ok(named.show(self.tiers.uri(&request.name)))
    }

    /// Deletes a disk and its instant recovery points.
    ///
    /// # Errors
    /// `Conflict` while a client is connected or a job works with it.
    pub fn delete_disk(&self, name: &str) -> Result<Disk> {
        let named = self.tiers.disks.get(name)?;
        if self.jobs.is_busy(&format!("disk {}", named.id)) {
            return Err(Error::said(Kind::Conflict, format!("disk {name}"), "a job works with it")
                .with_help("`blockctl job list` shows it; wait for it or cancel it"));
        }
        let shown = named.show(self.tiers.uri(name));
        drop(named);
        let named = self.tiers.disks.delete(name)?;
        tracing::info!(disk = name, "deleted");
        self.tiers.disks.discard(named)?;
        Ok(shown)
    }

    /// Points of one item or of all.
    ///
    /// # Errors
    /// `NotFound` if there is neither a disk nor a point of this name.
    pub fn points(&self, item: Option<&str>) -> Result<Points> {
        let (held, warnings) = self.tiers.held(item);
        if let Some(item) = item
            && held.is_empty()
        {
            self.tiers.disks.get(item)?;
        }
        Ok(Points { points: self.tiers.show(&held)?, warnings })
    }

    /// One point.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn point(&self, name: &str) -> Result<Point> {
        let held = self.tiers.find(name)?;
        let mut shown = self.tiers.show(&[held])?;
        shown.pop().ok_or_else(|| Error::not_found(format!("point {name}")))
    }

    /// Recovery point now, of all these disks.
    ///
    /// # Errors
    /// As [`Tiers::snapshot`].
    pub fn snapshot(&self, disks: &[String]) -> Result<Vec<Point>> {
        let held = self.tiers.snapshot(disks)?;
        self.tiers.show(&held)
    }

    /// Every vault, by name.
    pub fn vaults(&self) -> Vec<Vault> {
        self.tiers.vaults.all().iter().map(|named| self.tiers.vaults.show(named)).collect()
    }

    /// One vault.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn vault(&self, name: &str) -> Result<Vault> {
        Ok(self.tiers.vaults.show(&*self.tiers.vaults.get(name)?))
    }

    /// Makes a vault.
    ///
    /// # Errors
    /// `Conflict` if name or directory are taken, `Invalid` for a relative directory.
    pub fn create_vault(&self, request: &CreateVault) -> Result<Vault> {
        if !Path::new(&request.store).is_absolute() {
            let why = "a store is an absolute path of a directory";
            return Err(Error::said(Kind::Invalid, format!("store {:?}", request.store), why));
        }
        let named = self.tiers.vaults.create(&request.name, &request.store)?;
        Ok(self.tiers.vaults.show(&named))
    }

    /// Ends everything in an order that loses nothing: jobs, clients, disks.
    ///
    /// # Errors
    /// The first thing that did not end cleanly; the rest is ended all the same.
    pub fn stop(&self) -> Result<()> {
        self.jobs.stop();
        self.server.stop();
        self.tiers.disks.close()?;
        self.state.forget_volatile();
        Ok(())
    }
}

fn disk_warning(disk: &Disk) -> Option<String> {
    if let Some(error) = &disk.error {
        return Some(format!("disk {}: {}", disk.name, error.message));
    }
    (disk.opened.as_deref() == Some("committed")).then(|| {
        let what = "was opened after a crash of the host: all that was flushed is there, later writes may be missing";
        format!("disk {} {what}", disk.name)
    })
}

fn listen(state: &State, config: &Config) -> Result<(Vec<Listener>, Option<String>)> {
    let path = state.free_socket(NBD_SOCKET)?;
    let unix = Listener::unix(&path, 0o600).doing(|| "serve exports".to_owned())?;
    state.open_socket(&path)?;
    let tcp = config.nbd_listen.map(Listener::tcp).transpose().doing(|| "serve exports".to_owned())?;
    let address = tcp.as_ref().map(|tcp| tcp.address().to_owned());
    Ok((std::iter::once(unix).chain(tcp).collect(), address))
}
