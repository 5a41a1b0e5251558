//! Rehearsals: a recovery point is run as a machine that reaches nothing, watched until it is up, looked at, and thrown away. What
//! it showed is kept with the point. `docs/rehearsal.md`.

mod check;
mod evidence;
mod guest;

pub use evidence::Evidence;

use crate::daemon::Daemon;
use crate::disk_file::RunRecord;
use crate::error::{Error, Result};
use crate::jobs::{NewJob, Run, Urgency, disk_key};
use crate::names::{PointName, rfc3339};
use crate::points::Held;
use control::{DeleteDiskQuery, Job, Kind, Probe, Rehearsal, RehearseRequest};
use guest::{Guest, Making};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// What begins the names of the disks of rehearsals: those of a machine of their own.
const DISKS: &str = "vm/rehearsal-";
/// How long a machine may take to be up unless asked otherwise, and at most.
const DEFAULT_SECONDS: u64 = 600;
const MOST_SECONDS: u64 = 24 * 3600;
const DEFAULT_MEMORY: u64 = 1 << 30;
const MEMORY: std::ops::RangeInclusive<u64> = 64 << 20..=1 << 40;
/// A probe of more than this is a program, and belongs into the guest.
const PROBE_LIMIT: usize = 4096;
/// How much of what it printed is kept: the end.
const OUTPUT_LIMIT: usize = 4096;

/// What qemu runs a processor with. A daemon that systemd hardens may not write to memory that is executed: two mappings do.
const KVM: &str = "kvm";
const TCG: &str = "tcg,split-wx=on";

/// The keys of `[rehearsal]` in `blockd.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RehearsalKeys {
    /// The program.
    qemu: Option<String>,
    /// What it runs the processor with: `kvm`, `tcg`.
    accelerator: Option<Accelerator>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Accelerator {
    Kvm,
    Tcg,
}

impl RehearsalKeys {
    fn qemu(&self) -> &str {
        self.qemu.as_deref().unwrap_or("qemu-system-x86_64")
    }

    /// What is tried, one after the other.
    fn accelerators(&self) -> &'static [&'static str] {
        match self.accelerator {
            Some(Accelerator::Kvm) => &[KVM],
            Some(Accelerator::Tcg) => &[TCG],
            None => &[KVM, TCG],
        }
    }
}

/// What shows that a machine is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// Its guest agent answers.
    Agent,
    /// Its serial console shows this.
    Console(String),
}

impl Sign {
    /// Takes `agent` or `console:TEXT`.
    ///
    /// # Errors
    /// `Invalid` for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        match (text, text.strip_prefix("console:")) {
            ("agent", _) => Ok(Self::Agent),
            (_, Some(shown)) if (1..=200).contains(&shown.len()) => Ok(Self::Console(shown.to_owned())),
            _ => Err(Error::said(
                Kind::Invalid,
                format!("wait for {text:?}"),
                "is no sign that a machine is up",
            )
            .with_help("agent, or console: and a text of at most 200 bytes, such as \"console:login:\"")),
        }
    }
}

impl std::fmt::Display for Sign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent => f.write_str("agent"),
            Self::Console(text) => write!(f, "console:{text}"),
        }
    }
}

/// A rehearsal as it was asked for.
struct Plan {
    point: String,
    points: Vec<Held>,
    sign: Sign,
    timeout: Duration,
    probe: Option<String>,
    memory_bytes: u64,
}

impl Daemon {
    /// Rehearses a recovery point, as a job.
    ///
    /// # Errors
    /// `NotFound` naming the point; `Invalid` for what cannot be asked.
    pub fn rehearse(self: &Arc<Self>, request: &RehearseRequest, urgency: Urgency) -> Result<Job> {
        let plan = self.plan_rehearsal(request)?;
        let new = NewJob {
            operation: "rehearse",
            item: PointName::parse(&plan.point)?.item,
            point: Some(plan.point.clone()),
            reads: plan.points.iter().map(|held| disk_key(held.disk)).collect(),
            urgency,
            ..NewJob::default()
        };
        let daemon = self.clone();
        self.jobs().start(new, move |run| daemon.perform(run, &plan))
    }

    fn plan_rehearsal(&self, request: &RehearseRequest) -> Result<Plan> {
        let mut points = self.tiers().members(&request.point)?;
        // what is kept of a machine beside its disks is no disk of it
        points.retain(|held| !crate::names::is_definition(&held.item));
        let point = match points.as_slice() {
            [point] if !crate::names::is_machine(&PointName::parse(&request.point)?.item) => {
                point.name.clone()
            }
            [first, ..] => format!("{}@{}", PointName::parse(&request.point)?.item, first.epoch),
            [] => return Err(Error::not_found(format!("disk of point {}", request.point))),
        };
        let wrong = |what: &str, why: String| Err(Error::said(Kind::Invalid, what, why));
        let seconds = request.timeout_seconds.unwrap_or(DEFAULT_SECONDS);
        if !(1..=MOST_SECONDS).contains(&seconds) {
            return wrong("timeout", format!("is {seconds} s, must be 1 to {MOST_SECONDS}"));
        }
        let memory_bytes = request.memory_bytes.unwrap_or(DEFAULT_MEMORY);
        if !MEMORY.contains(&memory_bytes) {
            return wrong("memory", format!("is {memory_bytes} bytes, must be 64 MiB to 1 TiB"));
        }
        if request.probe.as_ref().is_some_and(|probe| probe.len() > PROBE_LIMIT) {
            return wrong("probe", format!("is longer than {PROBE_LIMIT} bytes"));
        }
        let sign = Sign::parse(request.wait.as_deref().unwrap_or("agent"))?;
        let timeout = Duration::from_secs(seconds);
        Ok(Plan { point, points, sign, timeout, probe: request.probe.clone(), memory_bytes })
    }

    /// The job: whatever comes of it, its disks go, and what is known is kept.
    fn perform(&self, run: &Run, plan: &Plan) -> Result<()> {
        let id = run.id();
        let mut report = Rehearsal {
            id: id.clone(),
            point: plan.point.clone(),
            item: PointName::parse(&plan.point)?.item,
            states: plan.points.iter().map(|held| held.state.to_string()).collect(),
            time: rfc3339(self.clock().now()),
            waited_for: plan.sign.to_string(),
            ..Rehearsal::default()
        };
        let screen = self.evidence().begin(&id)?;
        let mut console = Vec::new();
        let began = self.clock().monotonic_ns();
        let done = self.try_out(run, plan, &mut report, (&screen, &mut console), began);
        let gone = self.discard_rehearsed(&id);
        let done = done.and_then(|()| self.check_files(run, plan, &mut report));
        report.passed = done.is_ok();
        report.error = done.as_ref().err().map(|error| error.body().message);
        self.evidence().keep(&mut report, &console)?;
        run.update(|job| job.rehearsal = Some(report));
        done.and(gone)
    }

    /// Makes the disks, starts the machine, waits until it is up, and asks it what it is to be asked.
    fn try_out(
        &self,
        run: &Run,
        plan: &Plan,
        report: &mut Rehearsal,
        (screen, console): (&std::path::Path, &mut Vec<u8>),
        began: u64,
    ) -> Result<()> {
        let took_ms = || self.clock().monotonic_ns().saturating_sub(began).div_ceil(1_000_000);
        let mut disks = Vec::new();
        for held in &plan.points {
            let target = held.item.rsplit('/').next().unwrap_or(&held.item).to_owned();
            let name = format!("{DISKS}{}/{target}", short(&report.id));
            self.on_point(&name, None, &held.name, Some(RunRecord { hydrate: false, promote: false }))?;
            disks.push((name, target));
        }
        report.disks_ms = Some(took_ms());
        let keys = self.rehearsal_keys();
        let making = Making {
            qemu: keys.qemu(),
            accelerators: keys.accelerators(),
            memory_bytes: plan.memory_bytes,
            nbd_socket: &self.tiers().nbd_socket,
            disks: &disks,
        };
        let mut guest = Guest::start(short(&report.id), &making)?;
        let asked = self.until_up(run, plan, &mut guest, began).and_then(|()| {
            report.up_ms = Some(took_ms());
            probe(plan, &guest, report)
        });
        let pictured = guest.screenshot(screen);
        *console = guest.console();
        if let Err(error) = pictured {
            tracing::warn!(point = plan.point, "{}", error.body().message);
        }
        asked
    }

    fn until_up(&self, run: &Run, plan: &Plan, guest: &mut Guest, began: u64) -> Result<()> {
        let limit = u64::try_from(plan.timeout.as_nanos()).unwrap_or(u64::MAX);
        loop {
            run.go_on()?;
            let is_up = match &plan.sign {
                Sign::Agent => guest.agent().is_some(),
                Sign::Console(text) => guest.has_shown(text.as_bytes()),
            };
            if is_up {
                return Ok(());
            }
            if self.clock().monotonic_ns().saturating_sub(began) > limit {
                let why = format!("is not up after {} s: no sign of {}", plan.timeout.as_secs(), plan.sign);
                return Err(Error::said(Kind::Unavailable, format!("the machine of {}", plan.point), why)
                    .with_help("its console and its screen are kept; `blockctl point show` says where"));
            }
            guest.step()?;
        }
    }

    /// Deletes the disks of a rehearsal.
    fn discard_rehearsed(&self, id: &str) -> Result<()> {
        let front = format!("{DISKS}{}/", short(id));
        let disks = self.tiers().disks.all();
        let mut outcome = Ok(());
        for named in disks.iter().filter(|named| named.name.starts_with(&front)) {
            let deleted = self.delete_disk(&named.name, &DeleteDiskQuery::default());
            outcome = outcome.and(deleted.map(drop));
        }
        outcome
    }

    /// Deletes the disks of rehearsals that the end of an earlier daemon cut off.
    pub(crate) fn discard_cut_off(&self) {
        let disks = self.tiers().disks.all();
        for named in disks.iter().filter(|named| named.name.starts_with(DISKS) && named.run.is_some()) {
            if let Err(error) = self.delete_disk(&named.name, &DeleteDiskQuery::default()) {
                tracing::warn!(
                    disk = named.name,
                    "of a rehearsal that was cut off: {}",
                    error.body().message
                );
            }
        }
    }

    fn check_files(&self, run: &Run, plan: &Plan, report: &mut Rehearsal) -> Result<()> {
        run.go_on()?;
        report.filesystems = check::files(self.dir(), &plan.points)?;
        let hurt: Vec<&control::CheckedVolume> =
            report.filesystems.iter().filter(|volume| volume.damaged > 0).collect();
        match hurt.first() {
            None => Ok(()),
            Some(first) => {
                let what = format!("files of {}", plan.point);
                let why = format!(
                    "{} of {} cannot be read, such as {}",
                    first.damaged,
                    first.volume,
                    first.damage.first().map_or("", String::as_str)
                );
                Err(Error::said(Kind::Corrupt, what, why))
            }
        }
    }
}

/// Has the guest run the probe, if there is one.
fn probe(plan: &Plan, guest: &Guest, report: &mut Rehearsal) -> Result<()> {
    let Some(command) = &plan.probe else { return Ok(()) };
    let failed = |why: String| Error::said(Kind::Unavailable, format!("probe of {}", plan.point), why);
    let mut agent =
        guest.agent().ok_or_else(|| failed("no guest agent answers, which would run it".to_owned()))?;
    let ended = agent.shell(command, plan.timeout).map_err(|error| failed(control::with_causes(&error)))?;
    let output: String = {
        let count = ended.output.chars().count();
        ended.output.chars().skip(count.saturating_sub(OUTPUT_LIMIT)).collect()
    };
    let exit_code = ended.exit_code;
    report.probe = Some(Probe { command: command.clone(), exit_code, output });
    match exit_code {
        Some(0) => Ok(()),
        Some(code) => Err(failed(format!("ended with {code}"))),
        None => Err(failed("was ended by a signal".to_owned())),
    }
}

/// What is told apart of a job's id where there is little room.
fn short(id: &str) -> &str {
    &id[..8.min(id.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_is_the_agent_or_a_text() {
        assert_eq!(Sign::parse("agent").expect("a sign"), Sign::Agent);
        let login = Sign::parse("console:login:").expect("a sign");
        assert_eq!(
            (login.to_string().as_str(), &login),
            ("console:login:", &Sign::Console("login:".to_owned()))
        );
        let long = format!("console:{}", "x".repeat(201));
        for bad in ["", "console:", "ssh", &long] {
            assert!(Sign::parse(bad).is_err(), "{bad}");
        }
    }
}
