//! `blockd serve`: from the command line to a daemon that serves, and to its clean end.

use crate::api;
use crate::config::{Config, LogFormat, check_listen};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::state::{State, default_dir};
use sd_notify::NotifyState;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
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
    /// Serve exports on this TCP address too; loopback only.
    #[arg(long, value_name = "ADDR")]
    nbd_listen: Option<SocketAddr>,
    /// How log lines look.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

/// Serves until asked to stop by SIGTERM or SIGINT.
///
/// # Errors
/// Why the daemon could not start, or could not end cleanly.
pub fn run(options: &Options) -> Result<()> {
    let dir = options.state.clone().map_or_else(default_dir, Ok)?;
    let state = State::open(&dir)?;
    let mut config = Config::load(&**state.media())?;
    config.nbd_listen = options.nbd_listen.or(config.nbd_listen).map(check_listen).transpose()?;
    let format = options.log_format.or(config.log_format).unwrap_or_default();
    start_log(format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Error::host("start the event loop", error))?;
    runtime.block_on(serve(state, config, format))
}

async fn serve(state: State, config: Config, format: LogFormat) -> Result<()> {
    let mut stop = Stop::prepare()?;
    let socket = state.free_socket("api.sock")?;
    let listener = UnixListener::bind(&socket)
        .map_err(|error| Error::host(format!("listen on {}", socket.display()), error))?;
    state.open_socket(&socket)?;
    let daemon = tokio::task::spawn_blocking(move || Daemon::start(state, &config)).await;
    let daemon = daemon.map_err(|error| Error::host("start", std::io::Error::other(error)))??;
    let answering = tokio::spawn(api::answer(listener, daemon.clone()));
    announce(format, &daemon);
    let signal = stop.wait().await;
    tracing::info!("{signal}: stopping");
    tell_systemd(NotifyState::Stopping);
    answering.abort();
    // the daemon's end waits for jobs and disks, which the event loop must not
    let stopped = tokio::task::spawn_blocking(move || daemon.stop()).await;
    stopped.map_err(|error| Error::host("stop", std::io::Error::other(error)))?
}

/// Says that the daemon serves: to systemd, as a line on standard output, and in the log.
fn announce(format: LogFormat, daemon: &Daemon) {
    tell_systemd(NotifyState::Ready);
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "ready").and_then(|()| out.flush()) {
        // whoever started the daemon closed its standard output; it serves all the same
        tracing::debug!("standard output: {error}");
    }
    match format {
        LogFormat::Text => eprintln!("ready"),
        LogFormat::Json => tracing::info!(state = %daemon.dir().display(), "ready"),
    }
}

fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("cannot tell systemd: {error}");
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("BLOCKD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// The signals that end the daemon.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    /// From here on the signals no longer end the process by themselves.
    fn prepare() -> Result<Self> {
        let on = |kind| signal(kind).map_err(|error| Error::host("take signals", error));
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
