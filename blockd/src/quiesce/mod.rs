//! Recovery points that are more to their guests than a power cut: before the seal a machine's hooks run and its filesystems are held
//! still, after it they go on, and what was reached is said of the point. `docs/consistency.md`.

mod guard;
mod hooks;
pub mod watchdog;

pub use hooks::MachineKeys;

use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::marks::Quiesced;
use crate::names::{machine_of_disk, machine_word};
use crate::points::Held;
use control::{Consistency, Kind};
use guard::Guard;
use machines::agent::Channel;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use watchdog::{Order, Thawed};

/// How much of a reason is kept with a point.
const WHY_LIMIT: usize = 500;

/// What ends the name of a file that says that a machine is held still.
const OWED: &str = ".frozen";
/// Such a file is an order; a longer one is none.
const OWED_LIMIT: u64 = 64 << 10;

/// What is configured of machines, and where it is written down that one is held still.
pub struct Quiesce {
    dir: PathBuf,
    keys: BTreeMap<String, MachineKeys>,
}

/// A machine on its way through a point.
struct Member {
    machine: String,
    wanted: Consistency,
    hooks: MachineKeys,
    guard: Option<Guard>,
    why: Option<String>,
}

impl Quiesce {
    /// Machines are owed in this directory. Those that a daemon before this one left held still are let go.
    pub fn new(dir: PathBuf, keys: BTreeMap<String, MachineKeys>) -> Self {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_owed = name.to_string_lossy().ends_with(OWED)
                && entry.metadata().is_ok_and(|file| (1..=OWED_LIMIT).contains(&file.len()));
            let order = std::fs::read(entry.path()).ok().and_then(|text| serde_json::from_slice(&text).ok());
            let Some(order) = order.filter(|_: &Order| is_owed) else { continue };
            tracing::warn!(machine = %name.to_string_lossy(), "was held still when the last daemon ended; is let go");
            if let Err(error) = guard::thaw_owed(&order) {
                tracing::error!("{}", error.body().message);
            }
        }
        Self { dir, keys }
    }

    /// Begins with a machine: its hook before, and a watchdog for it. Nothing if nobody said how.
    fn begin(&self, machine: &str, libvirt: Option<Channel>, require: Consistency) -> Option<Member> {
        let hooks = self.keys.get(machine).cloned();
        if hooks.is_none() && libvirt.is_none() {
            return None;
        }
        let hooks = hooks.unwrap_or_default();
        let channel = hooks.agent.clone().map(Channel::Socket).or(libvirt);
        let wanted = match channel {
            Some(_) => hooks.consistency.unwrap_or(Consistency::Filesystem).max(require),
            None => Consistency::Crash,
        };
        let mut member = Member { machine: machine.to_owned(), wanted, hooks, guard: None, why: None };
        if let Err(error) = member.hooks.before(machine) {
            member.why = Some(error.body().message);
            return Some(member);
        }
        let Some(channel) = channel.filter(|_| wanted > Consistency::Crash) else { return Some(member) };
        let owed = self.dir.join(format!("{}{OWED}", machine_word(machine)));
        let order = Order { channel, owed, thaw_only: false };
        match Guard::start(&order) {
            Ok(guard) => member.guard = Some(guard),
            Err(error) => member.why = Some(error.body().message),
        }
        Some(member)
    }
}

impl Member {
    /// Waits until it is held still.
    fn freeze(&mut self) {
        if let Some(Err(why)) = self.guard.as_ref().map(Guard::frozen) {
            self.guard = None;
            self.why = Some(why);
        }
    }

    /// The most that this can come to.
    fn at_best(&self) -> Consistency {
        match self.guard {
            Some(_) => Consistency::Application,
            None => Consistency::Crash,
        }
    }

    /// Lets it go on, runs its hook after, and says what was reached.
    fn end(mut self) -> Reached {
        let held = self.guard.take().map(Guard::thaw);
        let mut quiesced = match held {
            Some(Ok(thawed)) => reached(thawed, self.hooks.quiesces),
            Some(Err(why)) => crash(Some(why)),
            None => crash(self.why),
        };
        let short_of = quiesced.why.clone();
        if quiesced.level >= self.wanted && quiesced.level > Consistency::Crash {
            // it is what was tried
            quiesced.why = None;
        }
        if let Err(error) = self.hooks.after(&self.machine) {
            // what it was to set right may not be; the point is what it is, and whoever looks at it is told
            let message = error.body().message;
            quiesced.why = Some(quiesced.why.map_or(message.clone(), |why| format!("{why}; {message}")));
        }
        quiesced.why = quiesced.why.map(|why| why.chars().take(WHY_LIMIT).collect());
        if let Some(why) = &quiesced.why {
            tracing::warn!(machine = self.machine, level = quiesced.level.name(), "{why}");
        }
        Reached { quiesced, short_of }
    }
}

/// What a machine's part of a point came to.
pub struct Reached {
    quiesced: Quiesced,
    /// Why it is not more, also if it is what was tried.
    short_of: Option<String>,
}

fn crash(why: Option<String>) -> Quiesced {
    Quiesced { level: Consistency::Crash, frozen_ms: None, why }
}

/// What being held like that comes to.
fn reached(thawed: Thawed, host_quiesces: bool) -> Quiesced {
    let frozen_ms = Some(thawed.held_ms);
    if let Some(why) = thawed.broken {
        return Quiesced { level: Consistency::Crash, frozen_ms, why: Some(why) };
    }
    let (level, why) = match (thawed.failed.is_empty(), thawed.applications.is_empty() && !host_quiesces) {
        (true, false) => (Consistency::Application, None),
        (false, _) => (Consistency::Filesystem, Some(thawed.failed.join("; "))),
        (true, true) => {
            let why = "no hook in the guest had an application quiet, and none of the host says so";
            (Consistency::Filesystem, Some(why.to_owned()))
        }
    };
    Quiesced { level, frozen_ms, why }
}

impl Daemon {
    /// Recovery point now, of all these items at one instant, as consistent as their machines can be had.
    ///
    /// # Errors
    /// As [`crate::points::Tiers::snapshot`]; `Refused` if it would be less than `require`. No point is made then.
    pub(crate) fn quiesced(&self, items: &[String], require: Option<Consistency>) -> Result<Vec<Held>> {
        let (machines, is_bare) = self.machines_of(items)?;
        let seal = || self.space().with_room(|| self.tiers().snapshot(items));
        let (points, reached) = self.hold_still((&machines, is_bare), items, require, seal)?;
        self.judge(points, &reached, items, require)
    }

    /// Does something while machines are held still. `is_bare` says that it is also about what nothing can hold.
    ///
    /// # Errors
    /// What it reports; `Refused` if it is known before that it would be less than `require`: it is not done then.
    pub(crate) fn hold_still<T>(
        &self,
        (machines, is_bare): (&BTreeSet<String>, bool),
        items: &[String],
        require: Option<Consistency>,
        instant: impl FnOnce() -> Result<T>,
    ) -> Result<(T, BTreeMap<String, Reached>)> {
        let (mut members, wanted) = (Vec::new(), require.unwrap_or_default());
        for machine in machines {
            members.extend(self.quiesce().begin(machine, self.agent_in_libvirt(machine)?, wanted));
        }
        members.iter_mut().for_each(Member::freeze);
        // what nothing can hold still is what it is after a power cut
        let is_bare = is_bare || members.len() < machines.len();
        let lowest = members.iter().map(Member::at_best).min().filter(|_| !is_bare);
        let is_worth_it = lowest.unwrap_or_default() >= wanted;
        let done = is_worth_it.then(instant);
        let reached: BTreeMap<String, Reached> =
            members.into_iter().map(|member| (member.machine.clone(), member.end())).collect();
        match done {
            Some(done) => Ok((done?, reached)),
            None => Err(refused(items, require, &reached)),
        }
    }

    /// Writes down how consistent points are; deletes them again if that is less than `require`.
    ///
    /// # Errors
    /// `Refused` then; what the host reports.
    pub(crate) fn judge(
        &self,
        points: Vec<Held>,
        reached: &BTreeMap<String, Reached>,
        items: &[String],
        require: Option<Consistency>,
    ) -> Result<Vec<Held>> {
        let of = |held: &Held| Some(&reached.get(&machine_of_disk(&held.item)?)?.quiesced);
        let level = |held: &Held| of(held).map_or(Consistency::Crash, |it| it.level);
        if points.iter().any(|held| level(held) < require.unwrap_or_default()) {
            points.iter().try_for_each(|held| self.tiers().delete_instant(held))?;
            return Err(refused(items, require, reached));
        }
        for held in &points {
            let Some(quiesced) = of(held) else { continue };
            self.tiers().vaults.marks().change(held.state, &held.name, |mark| {
                mark.quiesced = Some(quiesced.clone());
                Ok(())
            })?;
        }
        Ok(points)
    }

    /// The machines that disks of these items belong to, and whether a disk belongs to none.
    fn machines_of(&self, items: &[String]) -> Result<(BTreeSet<String>, bool)> {
        let (mut machines, mut is_bare) = (BTreeSet::new(), false);
        for item in items {
            for named in self.tiers().disks.of(item)? {
                match machine_of_disk(&named.name) {
                    Some(machine) => drop(machines.insert(machine)),
                    None => is_bare = true,
                }
            }
        }
        Ok((machines, is_bare))
    }

    /// The agent of a machine that libvirt has.
    fn agent_in_libvirt(&self, machine: &str) -> Result<Option<Channel>> {
        let Some(protected) = self.machines().find(machine)? else { return Ok(None) };
        let record = &protected.record;
        Ok(Some(Channel::Libvirt { uri: record.uri()?.to_string(), domain: record.domain.clone() }))
    }
}

/// Why a point is not made.
fn refused(items: &[String], require: Option<Consistency>, reached: &BTreeMap<String, Reached>) -> Error {
    let why =
        reached.iter().filter_map(|(machine, it)| Some(format!("{machine}: {}", it.short_of.as_ref()?)));
    let why = why.collect::<Vec<_>>().join("; ");
    let why = if why.is_empty() { "no guest agent is known of all of it" } else { &why };
    let what = format!("recovery point of {}", items.join(", "));
    let level = require.unwrap_or_default().name();
    Error::said(Kind::Refused, what, format!("would be less than {level}-consistent: {why}"))
        .with_help("mend that, or take the point without --require: it is what it can be, and says so")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_what_was_held_to_the_end() {
        let thawed = |broken: Option<&str>, applications: &[&str], failed: &[&str]| Thawed {
            broken: broken.map(str::to_owned),
            held_ms: 7,
            applications: applications.iter().map(|it| (*it).to_owned()).collect(),
            failed: failed.iter().map(|it| (*it).to_owned()).collect(),
        };
        let level = |thawed, host| reached(thawed, host).level;
        assert_eq!(level(thawed(None, &[], &[]), false), Consistency::Filesystem);
        assert_eq!(level(thawed(None, &["postgresql"], &[]), false), Consistency::Application);
        assert_eq!(level(thawed(None, &[], &[]), true), Consistency::Application);
        assert_eq!(level(thawed(None, &["postgresql"], &["mysql: no"]), true), Consistency::Filesystem);
        assert_eq!(level(thawed(Some("late"), &["postgresql"], &[]), true), Consistency::Crash);
    }
}
