//! Where the state directory is, for the daemon and for those who look for its sockets.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The state directory to use when none is named: `BLOCKD_STATE`, else `/var/lib/blockd` for root, else
/// `$XDG_STATE_HOME/blockd`, else `~/.local/state/blockd`. `None` if nothing in the environment says where a user's state
/// lives.
pub fn default_state_dir() -> Option<PathBuf> {
    let named =
        |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let is_root = || std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0);
    named("BLOCKD_STATE").or_else(|| is_root().then(|| PathBuf::from("/var/lib/blockd"))).or_else(|| {
        let base = named("XDG_STATE_HOME").or_else(|| Some(named("HOME")?.join(".local/state")))?;
        Some(base.join("blockd"))
    })
}
