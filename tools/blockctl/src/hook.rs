//! `blockctl hook …`: called by libvirt around the life of a machine. It never calls libvirt back, which would wait for us.

use crate::cli::HookVerb;
use crate::failure::{Failure, Result};
use control::{Client, Disk, DiskState, Kind};
use machines::{Domain, DomainDisk, Source};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// A machine's definition is far smaller.
const LIMIT_BYTES: u64 = 16 << 20;

/// How long a machine's start waits for the daemon and its disks: it may just be starting itself, with many disks.
pub const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(100);
/// How long the end of a machine waits for its disks to be free: qemu is gone, its connections end with it.
const FREE_LIMIT: Duration = Duration::from_secs(10);

/// Runs the verb.
pub fn run(verb: HookVerb, client: &Client) -> Result<()> {
    let HookVerb::LibvirtQemu { guest, operation, sub_operation, .. } = verb;
    match (operation.as_str(), sub_operation.as_str()) {
        ("prepare", "begin") => {
            exports(client)?.iter().try_for_each(|name| wait_until_ready(client, &guest, name))
        }
        ("release", "end") => {
            exports(client)?.iter().try_for_each(|name| wait_until_free(client, &guest, name))
        }
        // what libvirt tells besides is of no concern here, and libvirt takes a failure for a veto
        _ => Ok(()),
    }
}

/// The exports of this daemon among the disks of the machine on standard input.
fn exports(client: &Client) -> Result<Vec<String>> {
    let failed = |error| Failure::host("read the machine's definition", &error);
    let mut text = String::new();
    let read = std::io::stdin().take(LIMIT_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if read as u64 > LIMIT_BYTES {
        return Err(Failure::usage(format!("machine's definition: is longer than {LIMIT_BYTES} bytes")));
    }
    let socket = client.socket().with_file_name("nbd.sock");
    exports_of(&text, &socket)
}

/// The exports of the daemon at this socket among a machine's disks, those too that libvirt only passes on to qemu.
fn exports_of(xml: &str, socket: &Path) -> Result<Vec<String>> {
    let domain = Domain::parse(xml).map_err(|error| Failure::usage(error.to_string()))?;
    let export = |disk: DomainDisk| match disk.source {
        Source::Nbd { socket: path, export } => is_same(&path, socket).then_some(export),
        _ => None,
    };
    Ok(domain.disks.into_iter().filter_map(export).collect())
}

fn is_same(one: &Path, other: &Path) -> bool {
    one == other
        || std::fs::canonicalize(one).ok().zip(std::fs::canonicalize(other).ok()).is_some_and(|(a, b)| a == b)
}

/// Waits for an export that a machine is about to use.
fn wait_until_ready(client: &Client, guest: &str, name: &str) -> Result<()> {
    // a recovery point is ready if it is there; the daemon answers only when its disks are open
    if name.contains('@') {
        return client
            .point(name)
            .map(|_| ())
            .map_err(|error| keep_from_starting(guest, &Failure::from(error)));
    }
    let disk = client.disk(name).map_err(|error| keep_from_starting(guest, &Failure::from(error)))?;
    match disk.state {
        DiskState::Ready => Ok(()),
        DiskState::Filling => {
            let failure =
                Failure::new(Kind::Unavailable, format!("disk {name}: a client is still filling it"));
            Err(keep_from_starting(guest, &failure))
        }
        DiskState::Failed => {
            let why = disk.error.map_or_else(String::new, |error| error.message);
            Err(keep_from_starting(guest, &Failure::new(Kind::Unavailable, format!("disk {name}: {why}"))))
        }
    }
}

fn keep_from_starting(guest: &str, why: &Failure) -> Failure {
    Failure::new(why.kind, format!("machine {guest} is kept from starting: {}", why.message))
        .with_help(why.help.clone().unwrap_or_else(|| "`blockctl status` says more".to_owned()))
}

/// Waits until nobody is connected to a disk whose machine has ended, so that the next one to start finds it free.
fn wait_until_free(client: &Client, guest: &str, name: &str) -> Result<()> {
    let is_used = |disk: &Disk| !disk.shared && disk.writers > 0;
    let mut waited = Duration::ZERO;
    while !name.contains('@') && client.disk(name).is_ok_and(|disk| is_used(&disk)) {
        if waited >= FREE_LIMIT {
            return Err(Failure::new(
                Kind::Conflict,
                format!("disk {name}: machine {guest} has ended, and it is still in use"),
            )
            .with_help(format!("`blockctl disk show {name}` says by whom")));
        }
        std::thread::sleep(STEP);
        waited += STEP;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(devices: &str) -> Vec<String> {
        let xml = format!("<domain><name>web</name><devices>{devices}</devices></domain>");
        super::exports_of(&xml, Path::new("/run/b/nbd.sock")).expect("a definition")
    }

    #[test]
    fn only_disks_of_this_daemon_count() {
        let disk = |kind: &str, protocol: &str, transport: &str, socket: &str| {
            format!(
                "<disk type='{kind}'><source protocol='{protocol}' name='/vm/web/vda'>\
                 <host transport='{transport}' socket='{socket}'/></source><target dev='vda'/></disk>"
            )
        };
        assert_eq!(of(&disk("network", "nbd", "unix", "/run/b/nbd.sock")), ["vm/web/vda"]);
        assert_eq!(of(&disk("network", "rbd", "unix", "/run/b/nbd.sock")), [""; 0]);
        assert_eq!(of(&disk("network", "nbd", "tcp", "/run/b/nbd.sock")), [""; 0]);
        assert_eq!(of(&disk("network", "nbd", "unix", "/run/c/nbd.sock")), [""; 0]);
        assert_eq!(of("<disk type='file'><source file='/x.qcow2'/><target dev='vda'/></disk>"), [""; 0]);
    }
}
