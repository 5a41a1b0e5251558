//! The HTTP API on the unix socket. Every request is a plain function of the daemon, run on a thread that may block;
//! this folder only takes requests apart and puts answers together. The paths are listed in `control/docs/api.md`.

mod answer;
mod connections;
mod policies;
mod routes;
mod vaults;

use crate::daemon::Daemon;
use std::sync::Arc;
use tokio::net::UnixListener;

pub use connections::Limits as ConnectionLimits;

/// Answers requests until it is dropped.
pub async fn answer(listener: UnixListener, daemon: Arc<Daemon>) {
    connections::answer(listener, routes::routes().with_state(daemon), ConnectionLimits::default()).await;
}
