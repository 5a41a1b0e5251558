//! The daemon: everything it owns, in the order it is started and ended.

use crate::api;
use crate::appliance_clock::ApplianceClock;
use crate::approvals::Approvals;
use crate::audit_log::{Audit, Said};
use crate::catalog::Catalog;
use crate::config::Config;
use crate::consolidation::Consolidation;
use crate::descriptors::nbd_connections;
use crate::disks::{Disks, Named};
use crate::error::{Doing, Error, Result};
use crate::events::{Alerts, Events};
use crate::exports::Served;
use crate::hydration::Hydration;
use crate::identity::{LocalUser, Tokens};
use crate::jobs::Jobs;
use crate::keeper::{Keeper, Plans, expiry};
use crate::machines::{DIR as MACHINES, Machines};
use crate::metrics;
use crate::names::rfc3339;
use crate::points::{Listings, Tiers};
use crate::policies::Policies;
use crate::quiesce::Quiesce;
use crate::rehearsal::{Evidence, RehearsalKeys};
use crate::space::Space;
use crate::state::State;
use crate::upkeep::Upkeep;
use crate::vaults::Vaults;
use block::sync::Mutex;
use block::{ByteCount, Clock};
use control::{
    CreateVault, DeletePointQuery, Disk, Job, OpenVault, Point, PointDeleted, Points, PointsQuery,
    RecoverQuery, ResizeDisk, SnapshotRequest, Status, Vault, VaultProtection,
};
use nbd::{Limits, Listener, Server};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The socket of the exports in the state directory.
const NBD_SOCKET: &str = "nbd.sock";

/// A serving daemon.
pub struct Daemon {
    // first, so that it is last: the lock on the directory
    state: State,
    started: String,
    nbd_listen: Option<String>,
    audit: Arc<Audit>,
    events: Arc<Events>,
    tokens: Tokens,
    approvals: Approvals,
    local_users: Vec<LocalUser>,
    jobs: Arc<Jobs>,
    policies: Policies,
    // held while what disks and groups are called, and which are members, changes
    pub(crate) naming: Mutex<()>,
    plans: Plans,
    machines: Machines,
    keeper: Keeper,
    quiesce: Quiesce,
    evidence: Evidence,
    rehearsal_keys: RehearsalKeys,
    tiers: Arc<Tiers>,
    space: Arc<Space>,
    consolidation: Consolidation,
    hydration: Hydration,
    server: Server,
    upkeep: Upkeep,
    // what went wrong at the start without keeping the daemon from serving
    notices: Vec<String>,
}

impl Daemon {
    /// Opens everything in the state directory and begins to serve, on `sockets` where somebody else listens already.
    ///
    /// # Errors
    /// What keeps the daemon as a whole from serving. A single damaged disk or vault does not.
    pub fn start(state: State, config: &Config, sockets: Vec<OwnedFd>) -> Result<Arc<Self>> {
        // first: an address in use leaves no key and no vault behind. Clients that come early wait in the kernel's queue
        let (listeners, nbd_listen) = listen(&state, config, sockets)?;
        let (audit, audit_damage) = Audit::open(state.media().clone(), state.clock())?;
        let audit = Arc::new(audit);
        let events = Arc::new(Events::new(state.clock()));
        Alerts::start(&events, config.alerts(), &config.mail_command())?;
        let tokens = Tokens::open(state.media().clone(), state.clock(), state.entropy())?;
        let appliance = state.id().to_string();
        let approvals = Approvals::open(state.media().clone(), state.clock(), state.entropy(), appliance)?;
        let (catalog, notice) = Catalog::open(state.dir())?;
        let catalog = Arc::new(catalog);
        let layers_env = layers::Env {
            media: state.media().clone(),
            clock: state.clock(),
            entropy: state.entropy(),
            journal_room: layers::JOURNAL_ROOM,
            fold_batch: layers::FOLD_BATCH,
            budget: layers::Budget::default(),
        };
        let vault_env = vault::Env { clock: state.clock(), entropy: state.entropy() };
        let (media, cache_bytes) = (state.media().clone(), config.cache_bytes());
        let clock = state.appliance_clock().clone();
        let vaults = Vaults::open(state.dir(), media, vault_env, clock, catalog.clone(), cache_bytes)?;
        let vaults = Arc::new(vaults);
        // after the vaults, whose points they may stand on
        let (disks, mut notices) = Disks::open(layers_env, Some(vaults.clone()))?;
        notices.extend(notice);
        notices.extend(
            audit_damage.map(|damage| {
                format!("the audit log was damaged: {damage}; `blockctl audit verify` says more")
            }),
        );
        let nbd_socket = state.path(NBD_SOCKET);
        let (catalog_too, stored_count) = (catalog.clone(), AtomicU64::default());
        let tiers = Arc::new(Tiers {
            disks,
            vaults,
            catalog: catalog_too,
            audit: audit.clone(),
            nbd_socket,
            stored_count,
            listings: Listings::default(),
        });
        let space = Space::start(tiers.clone(), state.media().clone(), config.space())?;
        notices.extend(tiers.remember_stored());
        let done = |job: &Job| tiers.has_outcome(job);
        let jobs = Jobs::open(
            catalog,
            audit.clone(),
            events.clone(),
            state.clock(),
            state.entropy(),
            (config.parallel_jobs(), config.transfer_limits(state.clock())?),
            &done,
        )?;
        // the socket, and the TCP address if there is one
        let doors = 1 + usize::from(config.api_listen.is_some());
        let connections = Limits::default()
            .connections
            .min(nbd_connections(doors * api::ConnectionLimits::default().connections));
        let limits = Limits { connections, ..Limits::default() };
        let (access, users) = (config.clients().to_vec(), config.local_users().to_vec());
        let served = Served { tiers: tiers.clone(), access, users, space: space.clone() };
        let server =
            Server::start(listeners, Arc::new(served), limits).doing(|| "serve exports".to_owned())?;
        let consolidation = Consolidation::start(tiers.clone(), state.clock())
            .map_err(|source| Error::host("start consolidation".to_owned(), source))?;
        let hydration = Hydration::start(tiers.clone(), state.clock(), config)?;
        let upkeep = Upkeep::start(tiers.clone(), state.clock())?;
        let started = rfc3339(state.clock().now());
        let evidence = Evidence::open(state.media().clone(), state.dir())?;
        let policies = Policies::open(state.media().clone(), tiers.disks.groups.clone())?;
        let mut vaults = tiers.vaults.all();
        // no backup is made to an archive
        vaults.retain(|vault| !vault.archive);
        vaults.iter().try_for_each(|vault| policies.born(&vault.name))?;
        let machines = Machines::open(state.media().clone())?;
        let quiesce = Quiesce::new(state.path(MACHINES), config.machines());
        let daemon = Arc::new(Self {
            state,
            started,
            nbd_listen,
            audit,
            events,
            tokens,
            approvals,
            local_users: config.local_users().to_vec(),
            jobs,
            policies,
            naming: Mutex::default(),
            plans: Plans::default(),
            machines,
            keeper: Keeper::default(),
            quiesce,
            evidence,
            rehearsal_keys: config.rehearsal.clone(),
            tiers,
            space,
            consolidation,
            hydration,
            upkeep,
            server,
            notices,
        });
        // before anybody acts by what names it
        daemon.resume_renaming();
        daemon.keeper.start(&daemon)?;
        daemon.discard_cut_off();
        daemon.resume_replacements();
        daemon.resume_restores();
        daemon.resume_jobs();
        Ok(daemon)
    }

    /// The state directory.
    pub fn dir(&self) -> &Path {
        self.state.dir()
    }

    /// The state directory as media.
    pub(crate) fn media(&self) -> &Arc<dyn block::Media> {
        self.state.media()
    }

    /// The id of the state directory.
    pub(crate) fn id(&self) -> block::StateId {
        self.state.id()
    }

    /// The appliance's clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.state.clock()
    }

    /// What happened.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The audit log.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Does something that is written down before it begins and when it has ended.
    ///
    /// # Errors
    /// As [`Audit::around`].
    pub fn audited<T>(&self, said: &Said, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.audit.around(said, work)
    }

    /// Those who show a secret.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Requests that need a guard.
    pub fn approvals(&self) -> &Approvals {
        &self.approvals
    }

    /// The appliance's clock, with its jumps.
    pub fn appliance_clock(&self) -> &ApplianceClock {
        self.state.appliance_clock()
    }

    /// What users of this host may do.
    pub fn local_users(&self) -> &[LocalUser] {
        &self.local_users
    }

    /// The jobs.
    pub fn jobs(&self) -> &Arc<Jobs> {
        &self.jobs
    }

    /// What folds in the background.
    pub(crate) fn consolidation(&self) -> &Consolidation {
        &self.consolidation
    }

    /// The policies and what stands under them.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The plans that were made of changes to policies.
    pub fn plans(&self) -> &Plans {
        &self.plans
    }

    /// The protected machines.
    pub fn machines(&self) -> &Machines {
        &self.machines
    }

    /// What holds machines still.
    pub(crate) fn quiesce(&self) -> &Quiesce {
        &self.quiesce
    }

    /// What rehearsals came to.
    pub(crate) fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// How rehearsals run their machines.
    pub(crate) fn rehearsal_keys(&self) -> &RehearsalKeys {
        &self.rehearsal_keys
    }

    /// What acts by the policies.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// What brings recovery points to the disks that run from them.
    pub(crate) fn hydration(&self) -> &Hydration {
        &self.hydration
    }

    /// What the host has left on the filesystem of the disks.
    pub(crate) fn space_available(&self) -> Result<u64> {
        Ok(self.state.media().space().doing(|| "look at the host's space".to_owned())?.available)
    }

    /// Both tiers.
    pub fn tiers(&self) -> &Arc<Tiers> {
        &self.tiers
    }

    /// The room of the instant tier.
    pub fn space(&self) -> &Arc<Space> {
        &self.space
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
        let used = disks.iter().filter_map(|disk| disk.stored).sum();
        let (points, trouble) = self.tiers.held(None);
        let mut warnings = self.notices.clone();
        warnings.extend(disks.iter().filter_map(disk_warning));
        warnings.extend(disks.iter().filter_map(|disk| self.tiers.audit_warning(disk)));
        warnings.extend(self.tiers.disks.all().iter().filter_map(|named| base_warning(named)));
        warnings.extend(self.tiers.vaults.warnings());
        warnings.extend(trouble.iter().map(|trouble| trouble.body.message.clone()));
        warnings.extend(self.tiers.damage_warnings(&points)?);
        warnings.extend(self.space.warning());
        warnings.extend(self.policies.warnings());
        warnings.extend(self.tiers.disks.groups.warnings());
        warnings.extend(self.group_warnings());
        warnings.extend(self.machine_warnings());
        warnings.extend(self.tiers.vaults.marks().warnings());
        let frozen = self.appliance_clock().freezes();
        warnings.extend(frozen.map(|why| format!("nothing is deleted: {why}; see `blockctl clock show`")));
        warnings.extend(self.late_items());
        warnings.extend(self.runs().into_iter().filter_map(|run| {
            Some(format!("disk {} does not come nearer to {}: {}", run.name, run.point?, run.trouble?))
        }));
        let mut seen = std::collections::HashSet::new();
        warnings.retain(|warning| seen.insert(warning.clone()));
        Ok(Status {
            daemon,
            disks,
            points: points.len() as u64,
            vaults: self.vaults()?,
            space: self.space.show(used),
            runs: self.runs(),
            cache: self.tiers.vaults.cache_use(),
            jobs_active: self.jobs.active(),
            warnings,
        })
    }

    /// Every disk, by name.
    pub fn disks(&self) -> Vec<Disk> {
        self.tiers.disks.all().iter().map(|named| self.show(named)).collect()
    }

    pub(crate) fn show(&self, named: &Named) -> Disk {
        let shown = self.tiers.disks.show(named, self.tiers.uri(&named.name));
        // a catalog that cannot be read has said so where it matters
        let audits = self.tiers.audits(&shown.id).unwrap_or_default();
        Disk { audits, ..shown }
    }

    /// One disk.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn disk(&self, name: &str) -> Result<Disk> {
        Ok(self.show(&*self.tiers.disks.get(name)?))
    }

    /// Ends the filling of a disk that was made for it.
    ///
    /// # Errors
    /// As [`crate::disks::Disks::ready`].
    pub fn disk_ready(&self, name: &str) -> Result<Disk> {
        let named = self.tiers.disks.ready(name)?;
        tracing::info!(disk = name, "filled");
        Ok(self.show(&named))
    }

    /// Makes a disk larger or smaller.
    ///
    /// # Errors
    /// As [`crate::disks::Disks::resize`].
    pub fn resize_disk(&self, name: &str, request: &ResizeDisk) -> Result<Disk> {
        let named = self.tiers.disks.resize(name, ByteCount::new(request.size), request.attached)?;
        tracing::info!(disk = name, size = request.size, "resized");
        Ok(self.show(&named))
    }

    /// Opens a disk again at its last committed state, if it does not serve.
    ///
    /// # Errors
    /// As [`Disks::recover`] and [`Disks::accept_base`].
    pub fn recover_disk(&self, name: &str, query: RecoverQuery) -> Result<Disk> {
        let disks = &self.tiers.disks;
        let named = if query.accept_base { disks.accept_base(name)? } else { disks.recover(name)? };
        tracing::info!(disk = name, "recovered");
        Ok(self.show(&named))
    }

    /// Lets several clients write to a disk, or only one again.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn share_disk(&self, name: &str, shared: bool) -> Result<Disk> {
        tracing::info!(disk = name, shared, "shared");
        Ok(self.show(&*self.tiers.disks.share(name, shared)?))
    }

    /// Lets remote clients write to a disk again after an unclean end of the host.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn release_disk(&self, name: &str) -> Result<Disk> {
        tracing::info!(disk = name, "released");
        Ok(self.show(&*self.tiers.disks.release(name)?))
    }

    /// Every export that was used since the start.
    pub fn exports(&self) -> Vec<control::Export> {
        metrics::exports(&self.used_exports())
    }

    /// The same, and more, for Prometheus.
    ///
    /// # Errors
    /// As [`metrics::appliance`].
    pub fn metrics(&self) -> Result<String> {
        Ok(metrics::prometheus(&self.used_exports()) + &metrics::appliance(self)?)
    }

    /// The exports that were used, without those of disks that are gone and that nobody reads any more.
    fn used_exports(&self) -> Vec<nbd::server::ExportStatus> {
        let disks = self.tiers.disks.all();
        let is_there = |export: &nbd::server::ExportStatus| {
            let item = export.name.split('@').next().unwrap_or_default();
            item.is_empty() || !export.connections.is_empty() || disks.iter().any(|named| named.name == item)
        };
        let mut used = self.server.stats();
        used.retain(is_there);
        used
    }

    /// Points of one item or of all; or, where the item is the name of a point, that point, and of a machine's point
    /// every member.
    ///
    /// # Errors
    /// `NotFound` if there is neither a disk nor a point of this name.
    pub fn points(&self, query: &PointsQuery) -> Result<Points> {
        let item = query.item.as_deref();
        if query.deleted {
            let held = self.tiers.deleted(item);
            return Ok(Points { points: self.tiers.show(&held)?, warnings: Vec::new(), next: None });
        }
        if let Some(name) = item.filter(|item| item.contains('@')) {
            let held = self.tiers.members(name)?;
            return Ok(Points { points: self.tiers.show(&held)?, warnings: Vec::new(), next: None });
        }
        let (held, trouble) = self.tiers.held(item);
        if let Some(item) = item
            && held.is_empty()
        {
            self.tiers.disks.of(item)?;
        }
        let warnings = trouble.iter().map(|trouble| trouble.body.message.clone()).collect();
        Ok(Points { points: self.tiers.show(&held)?, warnings, next: None })
    }

    /// Some of all points in order, behind the one called `after`, of the items that `sees` says.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn points_page(
        &self,
        after: Option<&str>,
        limit: usize,
        sees: &dyn Fn(&str) -> bool,
    ) -> Result<Points> {
        let view = self.tiers.look();
        let (held, is_more) = view.page(after, limit, sees);
        let next = held.last().filter(|_| is_more).map(|held| held.name.clone());
        let warnings = view.trouble().iter().map(|trouble| trouble.body.message.clone()).collect();
        Ok(Points { points: self.tiers.show(&held)?, warnings, next })
    }

    /// One point.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn point(&self, name: &str) -> Result<Point> {
        let held = self.tiers.find(name)?;
        let expiry = expiry(self, &held);
        let rehearsals = self.evidence.of(held.state);
        let mut shown = self.tiers.show(&[held])?;
        let mut point = shown.pop().ok_or_else(|| Error::not_found(format!("point {name}")))?;
        point.rehearsals = rehearsals;
        match expiry {
            Ok(Some((policy, kept))) => (point.policy, point.kept) = (Some(policy.to_string()), kept),
            Ok(None) => {}
            // the point is shown all the same; the status says why its policy cannot be told
            Err(error) => tracing::warn!(point = name, "{}", error.body().message),
        }
        Ok(point)
    }

    /// Recovery point now, of all these disks.
    ///
    /// # Errors
    /// As [`take_point`](Self::take_point); `Refused` if it would be less consistent than is asked.
    pub fn snapshot(&self, request: &SnapshotRequest) -> Result<Vec<Point>> {
        let held = self.take_point(&request.disks, request.require)?;
        self.tiers.show(&held)
    }

    /// Deletes a point from a tier or from all; its space is given back in the background.
    ///
    /// # Errors
    /// As [`Tiers::delete_point`].
    pub fn delete_point(&self, name: &str, query: &DeletePointQuery) -> Result<PointDeleted> {
        let deleted = self.tiers.delete_point(name, query)?;
        self.consolidation.wake();
        Ok(deleted)
    }

    /// Every vault, by name.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn vaults(&self) -> Result<Vec<Vault>> {
        self.tiers.vaults.all().iter().map(|named| self.tiers.show_vault(named)).collect()
    }

    /// One vault.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn vault(&self, name: &str) -> Result<Vault> {
        self.tiers.show_whole_vault(&*self.tiers.vaults.get(name)?)
    }

    /// Makes a vault.
    ///
    /// # Errors
    /// As [`crate::vaults::Vaults::create`].
    pub fn create_vault(&self, request: &CreateVault) -> Result<Vault> {
        let (named, sheet) = self.tiers.vaults.create(request)?;
        if !request.archive {
            self.policies.born(&request.name)?;
        }
        Ok(Vault { recovery_sheet_text: sheet, ..self.tiers.show_vault(&named)? })
    }

    /// Changes how the points of a vault are protected.
    ///
    /// # Errors
    /// As [`crate::vaults::Vaults::protect`].
    pub fn protect_vault(&self, name: &str, request: &VaultProtection) -> Result<Vault> {
        let named = self.tiers.vaults.protect(name, request)?;
        self.tiers.show_vault(&named)
    }

    /// Brings in a vault that exists, or unlocks one that is known.
    ///
    /// # Errors
    /// As [`crate::vaults::Vaults::bring_in`].
    pub fn open_vault(&self, name: &str, request: &OpenVault) -> Result<Vault> {
        let named = self.tiers.vaults.bring_in(name, request)?;
        if !named.archive {
            self.policies.born(name)?;
        }
        if let Err(error) = self.tiers.remember_stored_in(&named) {
            // the vault is open; the next start takes note of its points
            tracing::warn!("{}", error.body().message);
        }
        self.tiers.show_vault(&named)
    }

    /// Ends everything in an order that loses nothing: jobs, clients, disks.
    ///
    /// # Errors
    /// The first thing that did not end cleanly; the rest is ended all the same.
    pub fn stop(&self) -> Result<()> {
        self.keeper.stop();
        self.space.stop();
        self.jobs.stop();
        self.consolidation.stop();
        self.hydration.stop();
        self.upkeep.stop();
        self.server.stop();
        self.close()
    }

    /// As [`stop`](Self::stop), but clients that come from now on wait for a successor at the sockets returned.
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub fn stop_for_successor(&self) -> Result<Vec<OwnedFd>> {
        self.keeper.stop();
        self.space.stop();
        self.jobs.stop();
        self.hydration.stop();
        let listeners = self.server.stop_for_successor();
        let sockets = listeners.into_iter().map(|listener| {
            let at = listener.address().to_owned();
            listener.hand_over().doing(|| format!("keep {at} open"))
        });
        let sockets = sockets.collect::<Result<_>>();
        self.close()?;
        sockets
    }

    fn close(&self) -> Result<()> {
        self.tiers.disks.close()?;
        self.state.forget_volatile();
        Ok(())
    }
}

fn base_warning(named: &Named) -> Option<String> {
    let error = named.check_base().err()?;
    Some(format!("disk {}: what it stands on will not be opened again: {}", named.name, error.body().message))
}

fn disk_warning(disk: &Disk) -> Option<String> {
    let (maps, blocks): (Vec<_>, Vec<_>) = disk.damage.iter().partition(|hurt| hurt.is_record_of_changes());
    if let Some(first) = blocks.first() {
        let (count, file) = (blocks.len(), &first.file);
        return Some(format!(
            "disk {}: {count} damaged blocks were met, the first in {file}; `blockctl disk scrub {}` looks for all and names what they hurt",
            disk.name, disk.name
        ));
    }
    if let Some(error) = &disk.error {
        return Some(format!("disk {}: {}", disk.name, error.message));
    }
    if let Some(first) = maps.first() {
        let what = format!("{} change maps are damaged, the first is {}", maps.len(), first.file);
        return Some(format!(
            "disk {}: {what}; its data is whole, backups that need one read all of it",
            disk.name
        ));
    }
    (disk.opened.as_deref() == Some("committed")).then(|| {
        let what = "was opened after a crash of the host: all that was flushed is there, later writes may be missing";
        format!("disk {} {what}", disk.name)
    })
}

/// The listeners: those that are open already, and those missing. The second value is the TCP address, if any.
fn listen(state: &State, config: &Config, sockets: Vec<OwnedFd>) -> Result<(Vec<Listener>, Option<String>)> {
    let doing = || "serve exports".to_owned();
    let mut listeners = Vec::new();
    for socket in sockets {
        let listener = Listener::inherited(socket).doing(doing)?;
        tracing::info!(at = listener.address(), "goes on listening");
        listeners.push(listener);
    }
    if !listeners.iter().any(Listener::is_unix) {
        let path = state.free_socket(NBD_SOCKET)?;
        listeners.push(Listener::unix(&path, 0o600).doing(doing)?);
        state.open_socket(&path)?;
    }
    if let Some(address) = config.nbd_listen
        && listeners.iter().all(Listener::is_unix)
    {
        let tcp = Listener::tcp(address).doing(doing).map_err(|error| {
            error.with_help(
                "choose an address of this host and a free port; `ss -ltnp` shows who listens where",
            )
        });
        listeners.push(tcp?);
    }
    let tls = config.tls(state.dir())?;
    let address = listeners.iter().find(|listener| !listener.is_unix());
    let address = address.map(|tcp| tcp.address().to_owned());
    let secured = listeners.into_iter().map(|listener| match &tls {
        Some(tls) if !listener.is_unix() => listener.with_tls(tls.clone()),
        _ => listener,
    });
    Ok((secured.collect(), address))
}
