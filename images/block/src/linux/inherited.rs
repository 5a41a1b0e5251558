//! Sockets that were open when this process began.

use crate::{Error, Kind, Result};
use rustix::fs::FileType;
use rustix::io::FdFlags;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor systemd passes.
const FIRST: RawFd = 3;

/// Takes the sockets that systemd passed (`sd_listen_fds(3)`) and those that the variable `succession` names, as
/// `PID:FD=NAME,FD=NAME`; each with its name. Both count only if they say that they are for this process. Only the
/// first call finds any. Programs this one starts do not get them.
///
/// # Errors
/// `Invalid` if what is named is no open socket; none is taken then.
pub fn inherited_sockets(succession: &str) -> Result<Vec<(String, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let pid = std::process::id();
    let mut named =
        from_systemd(pid, &variable("LISTEN_PID"), &variable("LISTEN_FDS"), &variable("LISTEN_FDNAMES"));
    named.extend(from_predecessor(pid, &variable(succession)));
    named.sort_unstable();
    named.dedup_by_key(|(fd, _)| *fd);
    for (fd, name) in &named {
        check(*fd).map_err(|why| {
            Error::refused(Kind::Invalid, format!("inherited descriptor {fd} ({name})"), why)
        })?;
    }
    // SAFETY: each number was checked to be an open socket above standard error, the environment says that it is meant
    // for this very process to own, none is named twice, and none is ever taken twice.
    Ok(named.into_iter().map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect())
}

fn from_systemd(pid: u32, for_pid: &str, count: &str, names: &str) -> Vec<(RawFd, String)> {
    if for_pid.parse() != Ok(pid) {
        return Vec::new();
    }
    let count = count.parse::<RawFd>().unwrap_or(0).clamp(0, 1024);
    let mut names = names.split(':');
    (FIRST..FIRST + count).map(|fd| (fd, names.next().unwrap_or_default().to_owned())).collect()
}

fn from_predecessor(pid: u32, text: &str) -> Vec<(RawFd, String)> {
    let Some((for_pid, list)) = text.split_once(':') else { return Vec::new() };
    if for_pid.parse() != Ok(pid) {
        return Vec::new();
    }
    let one = |item: &str| {
        let (fd, name) = item.split_once('=')?;
        Some((fd.parse().ok().filter(|fd| *fd >= FIRST)?, name.to_owned()))
    };
    list.split(',').filter_map(one).collect()
}

/// Whether a descriptor is an open socket; keeps it from programs this one starts.
fn check(fd: RawFd) -> Result<(), &'static str> {
    // SAFETY: the number is only asked about; one that is not open makes the calls fail.
    let fd: BorrowedFd<'_> = unsafe { BorrowedFd::borrow_raw(fd) };
    let stat = rustix::fs::fstat(fd.as_fd()).map_err(|_| "is not open")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err("is no socket");
    }
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).map_err(|_| "cannot be kept from other programs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_meant_for_this_process_counts() {
        assert_eq!(from_systemd(7, "7", "2", "api:nbd"), [(3, "api".into()), (4, "nbd".into())]);
        assert_eq!(from_systemd(7, "7", "2", ""), [(3, String::new()), (4, String::new())]);
        assert_eq!(from_systemd(7, "8", "2", "").len() + from_systemd(7, "", "2", "").len(), 0);
        assert_eq!(from_systemd(7, "7", "-5", "").len(), 0);
        assert_eq!(
            from_predecessor(7, "7:9=api,12=nbd,x=y,1=stdout"),
            [(9, "api".into()), (12, "nbd".into())]
        );
        assert_eq!(from_predecessor(7, "8:9=api").len() + from_predecessor(7, "").len(), 0);
        assert_eq!(check(1 << 20), Err("is not open"));
    }
}
