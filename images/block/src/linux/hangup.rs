//! `SIGHUP`, kept waiting while one program becomes another.

use crate::{Error, Result};
use std::mem::MaybeUninit;

/// Keeps `SIGHUP` from this thread, or lets it in again. One that comes meanwhile, and that no other thread takes, waits.
/// Both the wish and the waiting signal outlive the execution of another program, which lets it in once it can take it:
/// until then a signal would end the process.
///
/// # Errors
/// What the host reports.
pub fn hold_hangup(hold: bool) -> Result<()> {
    let how = if hold { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` makes the set valid before anything reads it, SIGHUP is a signal, and the set outlives the calls;
    // the former mask is not asked for.
    let code = unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGHUP);
        libc::pthread_sigmask(how, signals.as_ptr(), std::ptr::null_mut())
    };
    match code {
        0 => Ok(()),
        code => Err(Error::host("hold", "SIGHUP", None, std::io::Error::from_raw_os_error(code))),
    }
}
