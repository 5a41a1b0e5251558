//! What a changed policy would do to existing points, before it is done.

use super::judge::{judge_disk, show};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::gate::stamp;
use crate::points::{HurtCopies, Trouble, View};
use crate::policies::PolicyName;
use crate::policy::{Kept, Policy, parse};
use block::StateId;
use block::sync::{Mutex, lock};
use control::{Kind, PlannedPoint, PolicyPlan};
use jiff::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Plans that are remembered; an older one has to be made again.
const REMEMBERED: usize = 64;

/// The plans that were made, and what each would write.
#[derive(Default)]
pub struct Plans(Mutex<VecDeque<(PolicyPlan, String)>>);

impl Plans {
    fn remember(&self, plan: &PolicyPlan, text: &str) {
        let mut plans = lock(&self.0);
        plans.push_front((plan.clone(), text.to_owned()));
        plans.truncate(REMEMBERED);
    }

    /// The vault of a plan's policy.
    pub fn vault_of(&self, id: &str) -> Option<String> {
        let (plan, _) = self.find(id)?;
        Some(PolicyName::parse(&plan.policy).ok()?.vault)
    }

    /// Whether a plan lets points go.
    pub fn loses(&self, id: &str) -> bool {
        self.find(id).is_some_and(|(plan, _)| !plan.lost.is_empty())
    }

    fn find(&self, id: &str) -> Option<(PolicyPlan, String)> {
        lock(&self.0).iter().find(|(plan, _)| plan.id == id).cloned()
    }
}

/// What a plan is made of, looked at once.
struct Looked<'a> {
    vault: &'a str,
    view: View,
    trouble: Vec<Arc<Trouble>>,
    stored: HashMap<StateId, u64>,
    hurt: HurtCopies,
}

impl<'a> Looked<'a> {
    fn at(daemon: &Daemon, vault: &'a str) -> Result<Self> {
        let (view, hurt) = (daemon.tiers().look(), daemon.tiers().hurt()?);
        let (trouble, stored) = (view.trouble(), view.stored_bytes(vault));
        Ok(Self { vault, view, trouble, stored, hurt })
    }
}

impl Daemon {
    /// What a policy would do to existing points if it were written.
    ///
    /// # Errors
    /// `Invalid` naming the key; what cannot be looked at, since a plan that leaves something out is none.
    pub fn plan_policy(&self, name: &str, text: &str) -> Result<PolicyPlan> {
        let name = PolicyName::parse(name)?;
        let plan = self.made_plan(&name, &parse(text)?)?;
        self.plans().remember(&plan, text);
        Ok(plan)
    }

    /// Does what a plan says.
    ///
    /// # Errors
    /// `NotFound` if it is not remembered; `Conflict` if it would do something else by now.
    pub fn apply_plan(&self, id: &str) -> Result<control::Policy> {
        let unknown = || {
            Error::not_found(format!("plan {id}")).with_help(
                "plans are forgotten when the daemon ends: make it again with `blockctl policy plan`",
            )
        };
        let (planned, text) = self.plans().find(id).ok_or_else(unknown)?;
        let name = PolicyName::parse(&planned.policy)?;
        let now = self.made_plan(&name, &parse(&text)?)?;
        if (&now.lost, &now.before) != (&planned.lost, &planned.before) {
            return Err(Error::said(
                Kind::Conflict,
                format!("plan {id}"),
                "points or policy have changed since it was made",
            )
            .with_help("make it again with `blockctl policy plan`"));
        }
        self.write_policy(&name, &text)
    }

    /// Writes a policy that lets nothing go that is kept now.
    ///
    /// # Errors
    /// `Refused` if it would.
    pub fn apply_policy(&self, name: &str, text: &str) -> Result<control::Policy> {
        let name = PolicyName::parse(name)?;
        let plan = self.made_plan(&name, &parse(text)?)?;
        if !plan.lost.is_empty() {
            let why = format!("it would let {} recovery points go", plan.lost.len());
            return Err(Error::said(Kind::Refused, format!("policy {name}"), why)
                .with_help("`blockctl policy plan FILE` names them, and `policy apply --plan ID` does it"));
        }
        self.write_policy(&name, text)
    }

    fn write_policy(&self, name: &PolicyName, text: &str) -> Result<control::Policy> {
        self.tiers().vaults.get(&name.vault)?;
        self.policies().put(name, text)?;
        tracing::info!(policy = %name, "is in force");
        self.keeper().wake();
        self.show_policy(&name.to_string())
    }

    /// Whether putting an item under this policy would let points go that are kept now: those that another policy of the
    /// same vault keeps, or all that the vault holds of an item that is not protected.
    ///
    /// # Errors
    /// As [`protect`](Self::protect); what cannot be looked at.
    pub fn protecting_loses(&self, item: &str, policy: Option<&str>) -> Result<bool> {
        let now = self.policies().items()?.get(item).cloned();
        let wanted = self.wanted_policy(item, policy)?;
        let before =
            match now.filter(|now| !now.stopped).map(|now| PolicyName::parse(&now.policy)).transpose()? {
                Some(name) if name == wanted => return Ok(false),
                Some(name) if name.vault == wanted.vault => Some(self.policies().get(&name)?),
                _ => None,
            };
        let policy = self.policies().get(&wanted)?;
        let looked = Looked::at(self, &wanted.vault)?;
        let (lost, _) = self.changes_of(item, &looked, before.as_deref(), &policy)?;
        Ok(!lost.is_empty())
    }

    fn made_plan(&self, name: &PolicyName, wanted: &Policy) -> Result<PolicyPlan> {
        let vault = self.tiers().vaults.get(&name.vault)?;
        vault.vault()?;
        if vault.archive {
            let why = format!("{} is an archive, to which points come from vaults", vault.name);
            return Err(Error::said(Kind::Invalid, format!("policy {name}"), why)
                .with_help("name an archive in `[archive]` of a policy of a vault"));
        }
        if let Some(rule) = &wanted.archive {
            self.archive_named(&rule.to)?;
        }
        let before = match self.policies().get(name) {
            Err(error) if error.kind() == Kind::NotFound => None,
            found => Some(found?),
        };
        let (mut lost, mut longer) = (Vec::new(), Vec::new());
        let items = self.policies().under(name)?;
        let looked = Looked::at(self, &name.vault)?;
        for item in &items {
            let (gone, kept) = self.changes_of(item, &looked, before.as_deref(), wanted)?;
            lost.extend(gone);
            longer.extend(kept);
        }
        Ok(PolicyPlan {
            id: block::JobId::random(&*self.tiers().disks.env().entropy)
                .map_err(|error| Error::below("draw an id for a plan", error))?
                .to_string(),
            policy: name.to_string(),
            items,
            lost,
            longer,
            before: before.map(|policy| policy.text.clone()),
        })
    }

    /// The points of an item that would go, and those that would stay longer, if one policy took the place of another.
    fn changes_of(
        &self,
        item: &str,
        looked: &Looked<'_>,
        before: Option<&Policy>,
        wanted: &Policy,
    ) -> Result<(Vec<PlannedPoint>, Vec<PlannedPoint>)> {
        let (mut lost, mut longer) = (Vec::new(), Vec::new());
        if let Some(trouble) = looked.trouble.first() {
            return Err(Error::said_before(format!("plan for {item}"), &trouble.body));
        }
        // a group whose members are not known has points all the same
        self.tiers().disks.groups.parts(item)?;
        let (held, now) = (looked.view.held(Some(item)), self.now());
        let mut disks: Vec<_> = held.iter().map(|held| held.disk).collect();
        disks.sort();
        disks.dedup();
        for disk in disks {
            let of_disk: Vec<_> = held.iter().filter(|held| held.disk == disk).collect();
            let judge = |policy: &Policy| judge_disk(self, &looked.hurt, looked.vault, policy, &of_disk, now);
            let (then, today) = (judge(wanted), before.map(judge));
            for (at, judged) in then.iter().enumerate() {
                let was = today.as_ref().map_or(&[][..], |today| &today[at].kept);
                let point = || PlannedPoint {
                    point: judged.held.name.clone(),
                    time: stamp(judged.held.time).to_string(),
                    bytes: looked.stored.get(&judged.held.state).copied().unwrap_or(0),
                    before: was.iter().map(show).collect(),
                    after: judged.kept.iter().map(show).collect(),
                };
                match (was.is_empty() && today.is_some(), judged.kept.is_empty()) {
                    (false, true) => lost.push(point()),
                    (_, false) if end(&judged.kept) > end(was) => longer.push(point()),
                    _ => {}
                }
            }
        }
        Ok((lost, longer))
    }
}

/// When the last reason ends; one without a day outlasts all that have one.
fn end(kept: &[Kept]) -> Option<Timestamp> {
    let of = |kept: &Kept| {
        let day = kept.until.and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok());
        day.map_or(Timestamp::MAX, |zoned| zoned.timestamp())
    };
    kept.iter().map(of).max()
}
