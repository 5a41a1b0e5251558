//! Machines that stay on their own images: at a recovery point qemu serves their disks as they are at one instant, and what differs
//! from the last time is written to disks of ours, which are sealed then. `docs/attached.md`.

mod copy;
mod last;
mod server;

use crate::daemon::Daemon;
use crate::disks::Named;
use crate::error::{Doing, Error, Result};
use crate::machines::Protected;
use crate::points::Held;
use block::{BlockDevice, BlockSource, ByteCount, ByteRange, RangeSet};
use control::{Consistency, Kind};
use last::{Last, LastDisk};
use layers::Until;
use machines::{Domain, DomainDisk, Pull, PullDisk, Source, Virsh, choose};
use nbd::Uri;
use server::Server;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What begins the names of our checkpoints. No other is ever touched.
const CHECKPOINTS: &str = "blockd-";

/// A disk on its way.
struct Member {
    target: String,
    disk: DomainDisk,
    named: Option<Arc<Named>>,
    since: Option<String>,
}

impl Daemon {
    /// Recovery point now of a machine that stays on its own images.
    ///
    /// # Errors
    /// What libvirt and qemu say; `Refused` if it would be less consistent than is asked. A bitmap that is lost is no error: all is
    /// read then, and the log says so.
    pub(crate) fn pull_points(&self, machine: &Protected, require: Option<Consistency>) -> Result<Vec<Held>> {
        let doing = || format!("take a recovery point of {}", machine.name);
        let record = &machine.record;
        let virsh = Virsh::new(record.uri()?);
        let domain = virsh.domain(&record.domain).doing(doing)?;
        let last = Last::read(&**self.media(), &machine.name)?;
        let runs = virsh.is_active(&record.domain).doing(doing)?;
        let known = if runs { virsh.checkpoints(&record.domain).doing(doing)? } else { Vec::new() };
        let mut members = self.members_of(machine, &domain, &last, &known)?;
        let checkpoint = format!("{CHECKPOINTS}{}-{}", self.id(), self.clock().now().unix_ms);
        let machines = BTreeSet::from([machine.name.clone()]);
        let items = [machine.name.clone()];
        let begin = || self.begin(&virsh, machine, &mut members, (runs, &checkpoint));
        let (server, reached) = self.hold_still((&machines, false), &items, require, begin)?;
        let copied = self.bring(machine, &mut members, &server);
        // whatever came of it, the machine goes on without us
        let ended = server.end();
        let keeps = members.iter().any(|member| runs && member.keeps());
        let seal = || self.space().with_room(|| self.tiers().snapshot(&items));
        let sealed = copied.and(ended).and_then(|()| seal());
        let points = match sealed {
            Ok(points) => points,
            Err(error) => {
                if keeps {
                    self.forget(&virsh, machine, &[checkpoint]);
                }
                return Err(error);
            }
        };
        let points = self.judge(points, &reached, &items, require)?;
        let disk = |member: &Member| {
            let name = format!("{}/{}", machine.name, member.target);
            let held = points.iter().find(|held| held.item == name)?;
            Some((
                member.target.clone(),
                LastDisk { disk: held.disk.to_string(), state: held.state.to_string() },
            ))
        };
        let disks = members.iter().filter(|member| keeps && member.keeps()).filter_map(disk).collect();
        Last { checkpoint: checkpoint.clone(), disks }.write(&**self.media(), &machine.name)?;
        let old: Vec<String> = known
            .into_iter()
            .filter(|name| name.starts_with(&format!("{CHECKPOINTS}{}-", self.id())) && *name != checkpoint)
            .collect();
        self.forget(&virsh, machine, &old);
        Ok(points)
    }

    /// The disks that are taken, with what is known of each from the last time.
    fn members_of(
        &self,
        machine: &Protected,
        domain: &Domain,
        last: &Last,
        known: &[String],
    ) -> Result<Vec<Member>> {
        let doing = || format!("take a recovery point of {}", machine.name);
        let record = &machine.record;
        let choices = choose(&domain.disks, &record.include, &record.exclude).doing(doing)?;
        let chosen = domain.disks.iter().zip(choices).filter(|(_, choice)| choice.left_out.is_none());
        let mut members = Vec::new();
        for (disk, _) in chosen {
            if !matches!(disk.source, Source::File(_) | Source::Device(_)) {
                let why = format!("disk {} is no image or device of this host", disk.target);
                return Err(Error::said(Kind::Unsupported, doing(), why).with_help(
                    "leave it out: `blockctl vm protect DOMAIN --mode attached --exclude TARGET`",
                ));
            }
            let named = self.tiers().disks.get(&format!("{}/{}", machine.name, disk.target)).ok();
            let mut member = Member { target: disk.target.clone(), disk: disk.clone(), named, since: None };
            let is_ours = |name: &&String| **name == last.checkpoint;
            if member.keeps()
                && let Some(name) = known.iter().find(is_ours)
                && member.is_as(last)
            {
                member.since = Some(name.clone());
            }
            members.push(member);
        }
        match members.is_empty() {
            true => Err(Error::not_found(format!("disk of machine {}", record.domain))),
            false => Ok(members),
        }
    }

    /// Has qemu serve the disks as they are now. Without the checkpoint, if that is of no use any more.
    fn begin(
        &self,
        virsh: &Virsh,
        machine: &Protected,
        members: &mut [Member],
        (runs, checkpoint): (bool, &str),
    ) -> Result<Server> {
        let domain = &machine.record.domain;
        if !runs {
            return Server::of_images(members.iter().map(|member| (member.target.as_str(), &member.disk)));
        }
        let doing = || format!("begin a backup of machine {domain}");
        // of a daemon that was cut off; there is only one of a machine at a time
        if virsh.has_left_pull(domain, server::DIRECTORY).doing(doing)? {
            virsh.end_pull(domain).doing(doing)?;
        }
        let first = members.iter().find_map(|member| member.disk.path());
        let dir = server::directory(first)?;
        let pull = |members: &[Member]| Pull {
            socket: dir.path().join("nbd"),
            disks: members
                .iter()
                .map(|member| PullDisk {
                    target: member.target.clone(),
                    keeps: member.keeps(),
                    since: member.since.clone(),
                })
                .collect(),
            checkpoint: members.iter().any(Member::keeps).then(|| checkpoint.to_owned()),
        };
        let mut begun = virsh.begin_pull(domain, &pull(members));
        if begun.is_err() && members.iter().any(|member| member.since.is_some()) {
            let why = begun.as_ref().err().map(|error| control::with_causes(error)).unwrap_or_default();
            self.say_lost(machine, &why);
            members.iter_mut().for_each(|member| member.since = None);
            begun = virsh.begin_pull(domain, &pull(members));
        }
        begun.doing(doing)?;
        Ok(Server::of_machine(virsh.clone(), domain.clone(), dir))
    }

    /// Says loudly that everything has to be read.
    fn say_lost(&self, machine: &Protected, why: &str) {
        tracing::warn!(
            machine = machine.name,
            "what changed since its last point is not known ({why}): all of it is read and compared, and only what differs is stored"
        );
    }

    /// Writes what differs to our disks.
    fn bring(&self, machine: &Protected, members: &mut [Member], server: &Server) -> Result<()> {
        for member in members {
            let name = format!("{}/{}", machine.name, member.target);
            let doing = || format!("bring {name}");
            let uri = server.uri(&member.target);
            let source = nbd::Client::connect(&uri, nbd::client::CONNECTIONS).doing(doing)?;
            let named = self.disk_for(&name, source.size())?;
            let ranges = match &member.since {
                Some(_) => Some(changed(&uri, &member.target).doing(doing)?),
                None => None,
            };
            if ranges.is_none() && member.named.is_some() {
                self.say_lost(
                    machine,
                    &format!("disk {} has no checkpoint of its last point", member.target),
                );
            }
            let disk = named.disk()?;
            let done = copy::differences(&source, &**disk, ranges.as_ref(), self.space()).doing(doing)?;
            disk.flush().doing(doing)?;
            tracing::info!(
                disk = name,
                incremental = member.since.is_some(),
                bytes_read = done.read,
                bytes_written = done.written,
                "brought"
            );
            member.named = Some(named);
        }
        Ok(())
    }

    /// The disk of ours of this name and size.
    fn disk_for(&self, name: &str, size: ByteCount) -> Result<Arc<Named>> {
        let disks = &self.tiers().disks;
        match disks.get(name) {
            Err(error) if error.kind() == Kind::NotFound => {
                disks.create(disks.fresh_id()?, name, size, |_| Ok(()))
            }
            Ok(named) if named.disk()?.size() != size => disks.resize(name, size, false),
            found => found,
        }
    }

    /// Deletes checkpoints of ours. One that stays costs a little of the machine's memory and nothing else.
    fn forget(&self, virsh: &Virsh, machine: &Protected, names: &[String]) {
        for name in names {
            if let Err(error) = virsh.delete_checkpoint(&machine.record.domain, name) {
                tracing::warn!(
                    machine = machine.name,
                    "checkpoint {name} stays: {}",
                    control::with_causes(&error)
                );
            }
        }
    }
}

impl Member {
    /// Whether its image can keep a checkpoint.
    fn keeps(&self) -> bool {
        self.disk.format.as_deref() == Some("qcow2")
    }

    /// Whether our disk is what it was made then: nobody has written to it since.
    fn is_as(&self, last: &Last) -> bool {
        let (Some(named), Some(then)) = (&self.named, last.disks.get(&self.target)) else { return false };
        let Ok(state) = then.state.parse() else { return false };
        named.id.to_string() == then.disk
            && named.disk().is_ok_and(|disk| {
                disk.changes(Some(state), Until::Live)
                    .is_ok_and(|changes| changes.data.is_empty() && changes.zero.is_empty())
            })
    }
}

/// The ranges of an export that changed since the checkpoint it was asked for with.
fn changed(uri: &Uri, target: &str) -> Result<RangeSet> {
    let doing = || format!("see what changed of {target}");
    let client = nbd::Client::connect_in_context(uri, &Pull::changes(target)).doing(doing)?;
    let mut ranges = RangeSet::new();
    let whole = ByteRange::whole(client.size());
    let mut note = |range, flags: u32| {
        // the one flag of this context: dirty
        if flags & 1 != 0 {
            ranges.insert(range);
        }
    };
    client.flagged(whole, &mut note).doing(doing)?;
    Ok(ranges)
}
