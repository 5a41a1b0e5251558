//! Who may write to a disk: one client, until it is gone. A second one that believed the disk to be its own would tear
//! its filesystem, so it is refused unless the disk is shared on purpose, as for a live migration.
//!
//! A client is a process of this host or a certificate; on TCP without TLS it is an address. All connections of one
//! client count as one.

use crate::error::{Error, Result, storage_kind};
use block::sync::{Arc, Condvar, Mutex, lock};
use control::{DiskClient, Kind};
use nbd::{Gate, Peer};
use std::net::IpAddr;
use std::time::Duration;

/// How long a client waits for the one before it. One that has just ended is still here for the moment it takes to see
/// that its socket is closed; whoever starts programs one after the other should not meet it.
const GRACE: Duration = Duration::from_secs(1);

/// A client, however many connections it has.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Process { pid: u32, uid: u32 },
    Certificate([u8; 32]),
    Address(IpAddr),
}

impl Who {
    fn of(peer: &Peer) -> Self {
        match peer {
            Peer::Unix { pid, uid, .. } => Self::Process { pid: *pid, uid: *uid },
            Peer::Tls { certificate, .. } => Self::Certificate(certificate.fingerprint),
            Peer::Tcp { address } => Self::Address(address.ip()),
        }
    }

    /// Whether it may have lived through a crash of this host.
    fn is_remote(&self) -> bool {
        !matches!(self, Self::Process { .. })
    }
}

struct Holder {
    who: Who,
    // the peer of its first connection, for people
    shown: String,
    connections: u64,
}

#[derive(Default)]
struct Held {
    holders: Vec<Holder>,
    is_shared: bool,
    awaits_release: bool,
}

/// The claim on one disk.
#[derive(Clone)]
pub struct Claim {
    disk: String,
    held: Arc<Mutex<Held>>,
    // signalled when a client is gone
    left: Arc<Condvar>,
}

impl Claim {
    /// A disk nobody uses yet. One that awaits release lets no remote client in: the host lost what was not flushed, and a
    /// client that merely came back would never learn it.
    pub fn new(disk: &str, is_shared: bool, awaits_release: bool) -> Self {
        let held = Held { is_shared, awaits_release, ..Held::default() };
        Self { disk: disk.to_owned(), held: Arc::new(Mutex::new(held)), left: Arc::default() }
    }

    /// The same claim, on the disk as it is called now.
    #[must_use]
    pub fn renamed(&self, disk: &str) -> Self {
        Self { disk: disk.to_owned(), ..self.clone() }
    }

    /// Who may write.
    pub fn clients(&self) -> Vec<DiskClient> {
        let show =
            |holder: &Holder| DiskClient { client: holder.shown.clone(), connections: holder.connections };
        lock(&self.held).holders.iter().map(show).collect()
    }

    /// Whether several clients may write.
    pub fn is_shared(&self) -> bool {
        lock(&self.held).is_shared
    }

    /// Whether remote clients wait for `disk release`.
    pub fn awaits_release(&self) -> bool {
        lock(&self.held).awaits_release
    }

    /// Lets several clients write, or only one again; those who are connected stay.
    pub fn share(&self, is_shared: bool) {
        lock(&self.held).is_shared = is_shared;
        self.left.notify_all();
    }

    /// Keeps remote clients out until [`release`](Self::release).
    pub fn await_release(&self) {
        lock(&self.held).awaits_release = true;
    }

    /// Lets remote clients in again.
    pub fn release(&self) {
        lock(&self.held).awaits_release = false;
    }

    fn take(&self, peer: &Peer) -> Result<Entered> {
        let who = Who::of(peer);
        let foreign =
            |held: &mut Held| !held.is_shared && held.holders.iter().any(|holder| holder.who != who);
        let waited = self.left.wait_timeout_while(lock(&self.held), GRACE, foreign);
        let (mut held, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        if held.awaits_release && who.is_remote() {
            let why = "was not closed in order before this host went down: writes that were never flushed may be missing, \
                       which a client that comes back would not notice";
            return Err(Error::said(Kind::Conflict, format!("disk {}", self.disk), why).with_help(format!(
                "restart the machine that uses it, or check its filesystem, then `blockctl disk release {}`",
                self.disk
            )));
        }
        let is_shared = held.is_shared;
        if let Some(other) = held.holders.iter().find(|holder| holder.who != who && !is_shared) {
            let why = format!("is written by {} already", other.shown);
            return Err(Error::said(Kind::Conflict, format!("disk {}", self.disk), why).with_help(format!(
                "end that client, or let two of them write with `blockctl disk share {}`",
                self.disk
            )));
        }
        match held.holders.iter_mut().find(|holder| holder.who == who) {
            Some(holder) => holder.connections += 1,
            None => held.holders.push(Holder { who: who.clone(), shown: peer.to_string(), connections: 1 }),
        }
        Ok(Entered { claim: self.clone(), who })
    }
}

/// One connection inside; dropping it leaves.
struct Entered {
    claim: Claim,
    who: Who,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut held = lock(&self.claim.held);
        if let Some(holder) = held.holders.iter_mut().find(|holder| holder.who == self.who) {
            holder.connections -= 1;
        }
        held.holders.retain(|holder| holder.connections > 0);
        self.claim.left.notify_all();
    }
}

impl Gate for Claim {
    fn enter(&self, peer: &Peer) -> block::Result<Box<dyn Send>> {
        let entered = self.take(peer).map_err(|error| {
            let body = error.body();
            tracing::info!(disk = self.disk, %peer, "refused: {}", body.message);
            let advice = body.help.map(|help| format!("; {help}")).unwrap_or_default();
            let why = body.message.trim_start_matches(&format!("disk {}: ", self.disk)).to_owned();
            block::Error::refused(storage_kind(body.kind), format!("disk {}", self.disk), why + &advice)
        })?;
        Ok(Box::new(entered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32) -> Peer {
        Peer::Unix { uid: 0, gid: 0, pid }
    }

    fn remote(last: u8, port: u16) -> Peer {
        Peer::Tcp { address: ([10, 0, 0, last], port).into() }
    }

    #[test]
    fn a_second_client_waits_until_the_first_is_gone_with_all_its_connections() {
        let claim = Claim::new("web", false, false);
        let one = claim.enter(&process(1)).expect("the first");
        let two = claim.enter(&process(1)).expect("its second connection");
        let error = claim.enter(&process(2)).err().expect("another client");
        assert_eq!(error.kind(), block::Kind::Conflict);
        assert!(error.to_string().contains("process 1 of user 0 already"), "{error}");
        assert!(error.to_string().contains("blockctl disk share web"), "{error}");
        drop(one);
        assert!(claim.enter(&process(2)).is_err());
        drop(two);
        assert!(claim.clients().is_empty());
        assert!(claim.enter(&process(2)).is_ok());
    }

    #[test]
    fn who_comes_while_the_one_before_is_leaving_waits_a_moment() {
        let claim = Claim::new("web", false, false);
        let first = claim.enter(&process(1)).expect("the first");
        std::thread::scope(|scope| {
            let next = scope.spawn(|| claim.enter(&process(2)).map(drop));
            std::thread::sleep(Duration::from_millis(50));
            drop(first);
            next.join().expect("no panic").expect("the next");
        });
    }

    #[test]
    fn a_shared_disk_lets_a_second_client_in_and_one_taken_back_lets_both_stay() {
        let claim = Claim::new("web", false, false);
        let _source = claim.enter(&process(1)).expect("the source");
        claim.share(true);
        let target = claim.enter(&process(2)).expect("the target of a migration");
        claim.share(false);
        assert_eq!(claim.clients().len(), 2);
        assert!(claim.enter(&process(3)).is_err());
        drop(target);
        assert!(claim.enter(&process(1)).is_ok());
    }

    #[test]
    fn after_an_unclean_end_of_the_host_only_local_clients_come_in_before_a_release() {
        let claim = Claim::new("web", false, true);
        let error = claim.enter(&remote(1, 1)).err().expect("a client that came back");
        assert!(error.to_string().contains("blockctl disk release web"), "{error}");
        drop(claim.enter(&process(1)).expect("a client started since"));
        assert!(claim.enter(&remote(1, 1)).is_err(), "a local client releases nothing");
        claim.release();
        let _first = claim.enter(&remote(1, 1)).expect("released");
        assert!(claim.enter(&remote(1, 2)).is_ok(), "the same address");
        assert!(claim.enter(&remote(2, 1)).is_err(), "another one");
    }
}
