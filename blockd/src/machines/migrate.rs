//! Moving the disks of a running machine here, and back, while it works: libvirt mirrors a disk to where it is to be and, once both
//! are the same, goes over to it. Until then the machine has its own disk, and a failure leaves it there.

use super::attach::{NO_RECONNECT, define};
use super::record::Protected;
use super::told;
use crate::daemon::Daemon;
use crate::error::{Doing, Error, Result};
use crate::jobs::{NewJob, Run, Urgency};
use block::ByteCount;
use block::Failure;
use control::{DeleteDiskQuery, Job, Kind, MigrateIn, MigrateOut};
use machines::{Domain, DomainDisk, Mirror, Reach, ServedDisk, Source, Virsh, choose, with_disk};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at how far a mirror is.
const STEP: Duration = Duration::from_millis(200);
/// How long one that has everything may be kept from going over by what the machine writes.
const PIVOT_STEPS: u32 = 150;

impl Daemon {
    /// Moves the disks of a running machine here, as a job.
    ///
    /// # Errors
    /// `Conflict` if it does not run; `NotFound` naming a disk or the machine.
    pub fn migrate_in(self: &Arc<Self>, name: &str, request: &MigrateIn) -> Result<Job> {
        let doing = || format!("migrate machine {name} in");
        let (protected, virsh, domain) = self.running(name, &doing())?;
        let record = &protected.record;
        let choices = choose(&domain.disks, &record.include, &record.exclude).doing(doing)?;
        let chosen = domain.disks.iter().zip(choices).filter(|(_, choice)| choice.left_out.is_none());
        let local = chosen.map(|(disk, _)| disk).filter(|disk| self.ours(&disk.source).is_none());
        let disks = named(local.cloned().collect(), &request.disks, &doing())?;
        for disk in &disks {
            drop(self.tiers().disks.reserve(&format!("{name}/{}", disk.target))?);
        }
        let (daemon, name, domain) = (self.clone(), name.to_owned(), record.domain.clone());
        self.start_migration(&protected, move |run| {
            let machine = (name.as_str(), domain.as_str());
            disks.iter().try_for_each(|disk| daemon.bring_disk(run, &virsh, machine, disk))
        })
    }

    /// Moves the disks of a running machine to files of its host, as a job.
    ///
    /// # Errors
    /// `Conflict` if it does not run, or a file is there already; `NotFound` naming a disk or the machine.
    pub fn migrate_out(self: &Arc<Self>, name: &str, request: &MigrateOut) -> Result<Job> {
        let doing = || format!("migrate machine {name} out");
        if !matches!(request.format.as_str(), "raw" | "qcow2") || !Path::new(&request.to).is_absolute() {
            return Err(Error::said(
                Kind::Invalid,
                doing(),
                "takes a directory's absolute path, and the format raw or qcow2",
            ));
        }
        let (protected, virsh, domain) = self.running(name, &doing())?;
        let ours = domain.disks.iter().filter(|disk| self.ours(&disk.source).is_some());
        let disks = named(ours.cloned().collect(), &request.disks, &doing())?;
        if let Some(disk) = disks.iter().find(|disk| disk.is_passed_on) {
            let why = format!("libvirt does not know disk {}, which it only passes on to qemu", disk.target);
            return Err(Error::said(Kind::Unsupported, doing(), why).with_help(format!(
                "with the machine shut off: `blockctl disk export {name}/{} FILE`, and name the file in its definition",
                disk.target
            )));
        }
        let file = |disk: &DomainDisk| {
            let word = crate::names::machine_word(name);
            Path::new(&request.to).join(format!("{word}-{}.{}", disk.target, request.format))
        };
        let files: Vec<PathBuf> = disks.iter().map(file).collect();
        if let Some(there) = files.iter().find(|file| file.exists()) {
            return Err(Error::said(Kind::Conflict, doing(), format!("{} exists already", there.display())));
        }
        let (record, format) = (protected.record.clone(), request.format.clone());
        self.start_migration(&protected, move |run| {
            disks.iter().zip(&files).try_for_each(|(disk, file)| {
                send_away(run, &virsh, &record.domain, disk, (file.as_path(), format.as_str()))
            })
        })
    }

    /// A protected machine that runs.
    fn running(&self, name: &str, doing: &str) -> Result<(Arc<Protected>, Virsh, Domain)> {
        let protected = self.machines().get(name)?;
        let virsh = Virsh::new(protected.record.uri()?);
        if virsh.uri().is_elsewhere() {
            return Err(Error::said(
                Kind::Unsupported,
                doing,
                "its libvirt is another host's, which does not reach our socket",
            ));
        }
        let xml = virsh.definition(&protected.record.domain, false).doing(|| doing.to_owned())?;
        let domain = Domain::parse(&xml).doing(|| doing.to_owned())?;
        match virsh.is_active(&protected.record.domain).doing(|| doing.to_owned())? {
            true => Ok((protected, virsh, domain)),
            false => Err(Error::said(Kind::Conflict, doing, "it does not run").with_help(format!(
                "start it; or copy the disks, `blockctl disk create {name}/vda --from FILE`, and `vm attach {} {name}/vda --target vda`",
                protected.record.domain
            ))),
        }
    }

    fn start_migration(
        &self,
        protected: &Protected,
        work: impl Fn(&Run) -> Result<()> + Send + 'static,
    ) -> Result<Job> {
        let new = NewJob {
            operation: "migrate",
            urgency: Urgency::ByHand,
            item: protected.name.clone(),
            keys: vec![format!("migrate {}", protected.name)],
            ..NewJob::default()
        };
        self.jobs().start(new, move |run| work(run))
    }

    /// Brings one disk.
    fn bring_disk(
        &self,
        run: &Run,
        virsh: &Virsh,
        (machine, domain): (&str, &str),
        disk: &DomainDisk,
    ) -> Result<()> {
        let name = format!("{machine}/{}", disk.target);
        let doing = || format!("bring disk {} of {machine} here", disk.target);
        let size = virsh.disk_size(domain, &disk.target).doing(doing)?;
        let disks = &self.tiers().disks;
        disks.create(disks.fresh_id()?, &name, ByteCount::new(size), |_| Ok(()))?;
        let served = ServedDisk {
            target: disk.target.clone(),
            reach: Reach::Unix(self.tiers().nbd_socket.clone()),
            export: name.clone(),
            serial: None,
        };
        let moved = virsh
            .mirror(domain, &disk.target, &Mirror::Device(served.element(None, "")))
            .doing(doing)
            .and_then(|()| follow(run, virsh, domain, &disk.target));
        if moved.is_err() {
            if let Err(left) = self.delete_disk(&name, &DeleteDiskQuery::default()) {
                tracing::warn!(disk = name, "is left of a migration that failed: {}", left.body().message);
            }
            return moved;
        }
        // the machine works with our disk now: what fails from here on is said, and takes nothing back
        let mut notes = Vec::new();
        if let Err(error) = virsh.make_reconnect(domain, &served) {
            notes.push(format!("disk {}: {NO_RECONNECT} ({error})", disk.target));
        }
        let defined = virsh.definition(domain, true).and_then(|xml| {
            define(virsh, domain, std::slice::from_ref(&served), &|told| with_disk(&xml, &served, told))
        });
        match defined {
            Ok((_, said)) => notes.extend(said),
            Err(error) => notes.push(format!(
                "disk {}: the definition of its next start still names {}, which is not written any more: `blockctl vm attach {domain} \
                 {name} --target {}` changes that: {error}",
                disk.target,
                told(&disk.source),
                disk.target
            )),
        }
        tracing::info!(machine, disk = name, "brought from {}", told(&disk.source));
        note(run, notes);
        Ok(())
    }
}

/// Moves one disk to a file.
fn send_away(
    run: &Run,
    virsh: &Virsh,
    domain: &str,
    disk: &DomainDisk,
    (file, format): (&Path, &str),
) -> Result<()> {
    let doing = || format!("move disk {} to {}", disk.target, file.display());
    let to = Mirror::File { path: file.to_owned(), format: format.to_owned() };
    virsh.mirror(domain, &disk.target, &to).doing(doing)?;
    follow(run, virsh, domain, &disk.target)?;
    let moved =
        DomainDisk { source: Source::File(file.to_owned()), format: Some(format.to_owned()), ..disk.clone() };
    let defined =
        virsh.definition(domain, true).and_then(|xml| virsh.define(&machines::with_file(&xml, &moved)?));
    if let Err(error) = defined {
        note(
            run,
            vec![format!(
                "disk {}: the definition of its next start does not name {} yet: {error}",
                disk.target,
                file.display()
            )],
        );
    }
    tracing::info!(domain, target = disk.target, "moved to {}", file.display());
    Ok(())
}

/// Follows a mirror until the machine has gone over to it. A job that is cancelled leaves the machine where it was.
fn follow(run: &Run, virsh: &Virsh, domain: &str, target: &str) -> Result<()> {
    let doing = || format!("mirror disk {target} of machine {domain}");
    let before = std::cell::Cell::new(None);
    let mut tries = 0;
    let followed = loop {
        if let Err(cancelled) = run.go_on() {
            break Err(cancelled);
        }
        match virsh.mirrored(domain, target).doing(doing) {
            Err(error) => break Err(error),
            Ok(None) => {
                break Err(Error::said(
                    Kind::Io,
                    doing(),
                    "ended by itself, as it does when the target cannot be written",
                ));
            }
            Ok(Some((done, total))) => {
                run.update(|job| {
                    let start = before.get().unwrap_or(job.bytes_done);
                    before.set(Some(start));
                    (job.bytes_done, job.bytes_total) = (start + done, start + total);
                });
                if done == total && total > 0 {
                    match virsh.go_over(domain, target) {
                        Ok(()) => return Ok(()),
                        // it has everything, and qemu has yet to say so
                        Err(_) if tries < PIVOT_STEPS => tries += 1,
                        Err(error) => break Err(Error::below(doing(), error)),
                    }
                }
            }
        }
        std::thread::sleep(STEP);
    };
    if let Err(error) = virsh.stop_mirror(domain, target)
        && error.kind() != block::Kind::NotFound
    {
        tracing::warn!(domain, target, "{error}");
    }
    followed
}

/// Those that are asked for; all if none is.
fn named(disks: Vec<DomainDisk>, targets: &[String], doing: &str) -> Result<Vec<DomainDisk>> {
    if let Some(missing) = targets.iter().find(|wanted| disks.iter().all(|disk| disk.target != **wanted)) {
        let known: Vec<&str> = disks.iter().map(|disk| disk.target.as_str()).collect();
        let why = format!("disk {missing} is none of those that can be moved: {}", known.join(", "));
        return Err(Error::said(Kind::NotFound, doing, why));
    }
    let disks: Vec<DomainDisk> =
        disks.into_iter().filter(|disk| targets.is_empty() || targets.contains(&disk.target)).collect();
    match disks.is_empty() {
        true => Err(Error::said(Kind::Conflict, doing, "none of its disks is to be moved")
            .with_help("`blockctl vm show` says where they are")),
        false => Ok(disks),
    }
}

fn note(run: &Run, notes: Vec<String>) {
    if notes.is_empty() {
        return;
    }
    run.update(|job| {
        let notes: Vec<String> = job.note.take().into_iter().chain(notes).collect();
        job.note = Some(notes.join("; "));
    });
}
