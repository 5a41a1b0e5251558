//! `blockd serve`: from the command line to a daemon that serves, and to its clean end.

use crate::api;
use crate::config::{Config, LogFormat};
use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::sockets::{self, Sockets};
use crate::state::{State, default_dir};
use block::linux::hold_hangup;
use control::Kind;
use sd_notify::NotifyState;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What `blockd serve` can be told.
#[derive(clap::Args)]
pub struct Options {
    /// State directory; else BLOCKD_STATE, /var/lib/blockd for root, or $XDG_STATE_HOME/blockd.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Serve exports on this TCP address too; loopback only without TLS.
    #[arg(long, value_name = "ADDR")]
    nbd_listen: Option<SocketAddr>,
    /// Answer the API on this TCP address too, over TLS 1.3 and to those who show a token.
    #[arg(long, value_name = "ADDR")]
    api_listen: Option<SocketAddr>,
    /// How log lines look.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

/// Serves until asked to stop by SIGTERM or SIGINT, or to make room for a successor by SIGHUP.
///
/// # Errors
/// Why the daemon could not start, or could not end cleanly.
pub fn run(options: &Options) -> Result<()> {
    // asked now: once the program is replaced by a newer one, the kernel no longer tells its name
    let program = std::env::current_exe().map_err(|error| Error::host("find this program", error))?;
    let dir = options.state.clone().map_or_else(default_dir, Ok)?;
    let state = State::open(&dir)?;
    let mut config = Config::load(&**state.media())?;
    let asked = options.nbd_listen.or(config.nbd_listen);
    config.nbd_listen = asked.map(|address| config.check_listen(address)).transpose()?;
    config.api_listen = options.api_listen.or(config.api_listen);
    let format = options.log_format.or(config.log_format).unwrap_or_default();
    start_log(format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Error::host("start the event loop", error))?;
    let sockets = runtime.block_on(serve(state, config))?;
    drop(runtime);
    if sockets.is_empty() { Ok(()) } else { Err(Sockets::succeed(&program, &sockets)) }
}

/// Serves until a signal ends it; returns the sockets that a successor goes on with, if there is to be one.
async fn serve(state: State, config: Config) -> Result<Vec<(&'static str, OwnedFd)>> {
    let mut stop = Stop::prepare()?;
    let sockets = Sockets::inherited()?;
    let listener = api_listener(&state, sockets.api)?;
    let successors = rustix::io::fcntl_dupfd_cloexec(&listener, 3)
        .map_err(|errno| Error::host("keep the API's socket", errno.into()))?;
    let listener =
        UnixListener::from_std(listener).map_err(|error| Error::host("listen for the API", error))?;
    let remote = remote_door(&state, &config).await?;
    let nbd = sockets.nbd;
    let daemon = tokio::task::spawn_blocking(move || Daemon::start(state, &config, nbd)).await;
    let daemon = daemon.map_err(|error| Error::host("start", std::io::Error::other(error)))??;
    let doors = std::iter::once(api::Door::Local(listener)).chain(remote);
    let answering: Vec<_> = doors.map(|door| tokio::spawn(api::answer(door, daemon.clone()))).collect();
    announce(&daemon);
    let signal = stop.wait().await;
    let is_restart = signal == RESTART;
    tracing::info!("{signal}: {}", if is_restart { "making room for a successor" } else { "stopping" });
    tell_systemd(if is_restart { NotifyState::Reloading } else { NotifyState::Stopping });
    answering.iter().for_each(tokio::task::JoinHandle::abort);
    // the daemon's end waits for jobs and disks, which the event loop must not
    let stopped = tokio::task::spawn_blocking(move || {
        if !is_restart {
            return daemon.stop().map(|()| Vec::new());
        }
        let nbd = daemon.stop_for_successor()?.into_iter().map(|socket| (sockets::NBD, socket));
        Ok(std::iter::once((sockets::API, successors)).chain(nbd).collect())
    });
    stopped.await.map_err(|error| Error::host("stop", std::io::Error::other(error)))?
}

/// The API's TCP address, if there is to be one.
async fn remote_door(state: &State, config: &Config) -> Result<Option<api::Door>> {
    let Some(address) = config.api_listen else { return Ok(None) };
    let Some((certificate, key)) = config.api_tls(state.dir())? else {
        let why = "needs TLS, and none is configured";
        return Err(Error::said(Kind::Refused, format!("--api-listen {address}"), why)
            .with_help("set api-tls in blockd.toml: certificate and key"));
    };
    let tls = api::acceptor(&certificate, &key)?;
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| {
        Error::host(format!("answer the API on {address}"), error)
            .with_help("choose an address of this host and a free port; `ss -ltnp` shows who listens where")
    })?;
    tracing::info!(at = %listener.local_addr().unwrap_or(address), "answers the API");
    Ok(Some(api::Door::Remote(listener, tls)))
}

/// The API's socket: the one that is open already, or a new one.
fn api_listener(state: &State, inherited: Option<OwnedFd>) -> Result<std::os::unix::net::UnixListener> {
    let listener = match inherited {
        Some(socket) => socket.into(),
        None => {
            let path = state.free_socket("api.sock")?;
            let listener = std::os::unix::net::UnixListener::bind(&path)
                .map_err(|error| Error::host(format!("listen on {}", path.display()), error))?;
            state.open_socket(&path)?;
            listener
        }
    };
    listener.set_nonblocking(true).map_err(|error| Error::host("listen for the API", error))?;
    Ok(listener)
}

/// Says that the daemon serves: to systemd, as a line on standard output, and in the log.
fn announce(daemon: &Daemon) {
    tell_systemd(NotifyState::Ready);
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "ready").and_then(|()| out.flush()) {
        // whoever started the daemon closed its standard output; it serves all the same
        tracing::debug!("standard output: {error}");
    }
    tracing::info!(state = %daemon.dir().display(), "serving");
}

fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("cannot tell systemd: {error}");
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("BLOCKD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // a line that cannot be written is lost: to say so where it could not be written would end the thread that tried,
    // and a log may lie on the very filesystem that is full
    let log = tracing_subscriber::fmt().log_internal_errors(false);
    let log = log.with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// The signals that end the daemon.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    restart: tokio::signal::unix::Signal,
}

/// The signal after which the program is executed anew, with the sockets of this one.
const RESTART: &str = "SIGHUP";

impl Stop {
    /// From here on the signals no longer end the process by themselves.
    fn prepare() -> Result<Self> {
        let on = |kind| signal(kind).map_err(|error| Error::host("take signals", error));
        let stop = Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            restart: on(SignalKind::hangup())?,
        };
        // one that came while a predecessor became this program waits until now
        hold_hangup(false).doing(|| "take signals".to_owned())?;
        Ok(stop)
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.restart.recv() => RESTART,
        }
    }
}
