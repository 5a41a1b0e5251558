//! Sockets that outlive a daemon: systemd opens them before it, or the daemon before it left them open. Whoever connects
//! while nobody accepts waits in the kernel's queue, and never sees "connection refused".
//!
//! systemd's are those of `LISTEN_FDS`; one called `api` is the API's, all others serve exports. A daemon that makes room
//! for its successor names its own in [`SUCCESSION`], and then becomes the program anew.

use crate::error::{Doing, Error, Result};
use block::linux::{hold_hangup, inherited_sockets};
use rustix::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Name of the API's socket, as systemd's `FileDescriptorName=` gives it.
pub const API: &str = "api";

/// Name of the others, among those of a predecessor.
pub const NBD: &str = "nbd";

/// The variable in which a daemon tells its successor what it left open: `PID:FD=NAME,FD=NAME`.
const SUCCESSION: &str = "BLOCKD_SOCKETS";

/// What is open already.
pub struct Sockets {
    /// The API's.
    pub api: Option<OwnedFd>,
    /// Those that serve exports.
    pub nbd: Vec<OwnedFd>,
}

impl Sockets {
    /// Takes what was left open. Only the first call finds anything.
    ///
    /// # Errors
    /// `Invalid` if what the environment names is no socket.
    pub fn inherited() -> Result<Self> {
        let mut sockets = Self { api: None, nbd: Vec::new() };
        for (name, socket) in inherited_sockets(SUCCESSION).doing(|| "take over sockets".to_owned())? {
            match name == API {
                true => sockets.api = Some(socket),
                false => sockets.nbd.push(socket),
            }
        }
        Ok(sockets)
    }

    /// Becomes `program`, with the arguments of this one, which goes on with the sockets. Returns only if that fails.
    pub fn succeed(program: &Path, sockets: &[(&'static str, OwnedFd)]) -> Error {
        // the new program has no handler at first: what comes before it has one waits for it
        if let Err(error) = hold_hangup(true) {
            return Error::below("become a new program", error);
        }
        let named: Vec<String> =
            sockets.iter().map(|(name, socket)| format!("{}={name}", socket.as_raw_fd())).collect();
        for (_, socket) in sockets {
            // nobody but the new program gets them
            if let Err(errno) = rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()) {
                return Error::host("keep a socket for a new program", errno.into());
            }
        }
        let error = Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(SUCCESSION, format!("{}:{}", std::process::id(), named.join(",")))
            .exec();
        Error::host(format!("become {}", program.display()), error)
    }
}
