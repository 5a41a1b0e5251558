//! Open files: how many the host lets this process have, and who gets them. Layers, vaults and clients share them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept from NBD clients for the files of disks and vaults, the catalog and what else the daemon opens for itself.
const RESERVED: u64 = 192;

/// Asks for as many descriptors as the host lets this process have. Where that is refused the limit stays, and running
/// out of them is an error that heals.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(errno) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        eprintln!("blockd: cannot raise the limit of open files: {errno}");
    }
}

/// How many NBD connections there may be beside this many of the API, so that clients cannot take the descriptors with
/// which their own trouble is looked into: half of what is left, for a connection may open files behind its export.
pub fn nbd_connections(api: usize) -> usize {
    share(getrlimit(Resource::Nofile).current, api)
}

fn share(limit: Option<u64>, api: usize) -> usize {
    let Some(limit) = limit else { return usize::MAX };
    let left = limit.saturating_sub(RESERVED).saturating_sub(api as u64);
    usize::try_from(left / 2).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_never_get_all() {
        assert_eq!(share(None, 64), usize::MAX);
        assert_eq!(share(Some(1024), 64), 384);
        assert_eq!(share(Some(100), 64), 1, "always at least one");
    }
}
