//! Where a server listens.

use super::tls::TlsConfig;
use crate::error::Error;
use crate::export::Peer;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Mode, Stat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, getsockname, listen,
    socket_with, sockopt,
};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Clients the kernel keeps waiting until they are accepted: all that come while a daemon replaces another. The host's
/// own limit may be lower.
const BACKLOG: i32 = 4096;

/// A listening socket.
pub struct Listener {
    fd: OwnedFd,
    address: String,
    // the file of a unix socket, and which one it was when it was made
    file: Option<(PathBuf, u64, u64)>,
    tls: Option<TlsConfig>,
}

impl Listener {
    /// Listens on a unix socket with these permissions. What a dead server left at the path is replaced in one
    /// step, so that clients meanwhile find the old or the new one.
    ///
    /// # Errors
    /// `Taken` if a living server answers there. `Socket` if the path cannot be used.
    pub fn unix(path: &Path, mode: u32) -> Result<Self, Error> {
        let at = path.display().to_string();
        let failed = |op: &'static str| {
            let at = at.clone();
            move |errno: Errno| Error::socket(op, at, errno)
        };
        if answers(path).map_err(failed("look at"))? {
            return Err(Error::Taken { at });
        }
        let fresh = fresh_name(path);
        let fd = unix_socket().map_err(failed("open a socket for"))?;
        let address = SocketAddrUnix::new(&fresh).map_err(failed("listen on"))?;
        match rustix::fs::unlink(&fresh) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("replace")(errno)),
        }
        bind(&fd, &address).map_err(failed("listen on"))?;
        let made = rustix::fs::chmodat(CWD, &fresh, Mode::from_raw_mode(mode), AtFlags::empty())
            .and_then(|()| listen(&fd, BACKLOG))
            .and_then(|()| rustix::fs::lstat(&fresh))
            .and_then(|stat| rustix::fs::rename(&fresh, path).map(|()| stat));
        match made {
            Ok(stat) => Ok(Self {
                fd,
                address: at,
                file: Some((path.to_owned(), stat.st_dev, stat.st_ino)),
                tls: None,
            }),
            Err(errno) => {
                unlink_quietly(&fresh);
                Err(failed("listen on")(errno))
            }
        }
    }

    /// Listens on a TCP address; port 0 takes any free one.
    ///
    /// # Errors
    /// `Socket` if the address cannot be used.
    pub fn tcp(address: SocketAddr) -> Result<Self, Error> {
        let open = || {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let fd = socket_with(family, SocketType::STREAM, flags, None)?;
            sockopt::set_socket_reuseaddr(&fd, true)?;
            bind(&fd, &address)?;
            listen(&fd, BACKLOG)?;
            let bound = SocketAddr::try_from(getsockname(&fd)?)?;
            Ok((fd, bound))
        };
        let (fd, bound) =
            open().map_err(|errno: Errno| Error::socket("listen on", address.to_string(), errno))?;
        Ok(Self { fd, address: bound.to_string(), file: None, tls: None })
    }

    /// Goes on with a socket that somebody else bound and listens on: systemd, or the daemon before this one.
    ///
    /// # Errors
    /// `Socket` if it is no such socket.
    pub fn inherited(fd: OwnedFd) -> Result<Self, Error> {
        let failed = |errno: Errno| Error::socket("listen on", "an inherited descriptor", errno);
        if !sockopt::socket_acceptconn(&fd).map_err(failed)? {
            return Err(failed(Errno::INVAL));
        }
        let bound = getsockname(&fd).map_err(failed)?;
        let address = match sockopt::socket_domain(&fd).map_err(failed)? {
            AddressFamily::UNIX => {
                let unix = SocketAddrUnix::try_from(bound).map_err(failed)?;
                unix.path().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
            }
            _ => SocketAddr::try_from(bound).map_err(failed)?.to_string(),
        };
        rustix::io::ioctl_fionbio(&fd, true).map_err(failed)?;
        // whoever bound it removes its name
        Ok(Self { fd, address, file: None, tls: None })
    }

    /// The socket, for a successor to go on with: it is neither closed nor is its name removed.
    ///
    /// # Errors
    /// `Socket` if the host gives no descriptor.
    pub fn hand_over(mut self) -> Result<OwnedFd, Error> {
        self.file = None;
        rustix::io::dup(&self.fd).map_err(|errno| Error::socket("hand over", &self.address, errno))
    }

    /// Whether clients of other hosts may reach it.
    pub fn is_unix(&self) -> bool {
        self.address.starts_with('/')
    }

    /// The same, for clients that speak TLS and show a certificate; others are told nothing but that.
    #[must_use]
    pub fn with_tls(mut self, config: TlsConfig) -> Self {
        self.tls = Some(config);
        self
    }

    /// The path, or the address and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn tls(&self) -> Option<TlsConfig> {
        self.tls.clone()
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Accepts a client that waits; `None` if it went away meanwhile.
    pub(super) fn accept(&self) -> Result<Option<(OwnedFd, Peer)>, Errno> {
        let fd = match accept_with(&self.fd, SocketFlags::CLOEXEC) {
            Ok(fd) => fd,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        match peer(&fd) {
            Ok(peer) => Ok(Some((fd, peer))),
            Err(Errno::NOTCONN) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some((path, device, inode)) = &self.file else { return };
        // a successor may have put its own there
        let is_ours = |stat: &Stat| (stat.st_dev, stat.st_ino) == (*device, *inode);
        if rustix::fs::lstat(path).is_ok_and(|stat| is_ours(&stat)) {
            unlink_quietly(path);
        }
    }
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Whether somebody listens at the path.
fn answers(path: &Path) -> Result<bool, Errno> {
    match connect(&unix_socket()?, &SocketAddrUnix::new(path)?) {
        // a full queue is a queue somebody made
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// A name beside the path, for the socket until it listens.
fn fresh_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

fn unlink_quietly(path: &Path) {
    if let Err(errno) = rustix::fs::unlink(path) {
        tracing::debug!(path = %path.display(), %errno, "cannot remove the socket");
    }
}

/// Who connected.
fn peer(fd: &OwnedFd) -> Result<Peer, Errno> {
    if sockopt::socket_domain(fd)? == AddressFamily::UNIX {
        let who = sockopt::socket_peercred(fd)?;
        let pid = who.pid.as_raw_pid().unsigned_abs();
        return Ok(Peer::Unix { uid: who.uid.as_raw(), gid: who.gid.as_raw(), pid });
    }
    let address = rustix::net::getpeername(fd)?.ok_or(Errno::NOTCONN)?;
    Ok(Peer::Tcp { address: SocketAddr::try_from(address)? })
}
