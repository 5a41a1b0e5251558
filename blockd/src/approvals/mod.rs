//! Requests that need a second person: what was asked for, and whether a guard signed that it may be done, this once, until a
//! time. One file each in `approvals/` of the state directory, `docs/approval.md`.

use crate::audit_log::{About, hash};
use crate::error::{Doing, Error, Result};
use crate::gate::stamp;
use crate::identity::Caller;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use block::sync::{Mutex, lock};
use block::{Clock, Entropy, JobId, Media};
use control::{Approval, ApprovalState, Kind};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

const DIR: &str = "approvals";
const LIMIT_BYTES: u64 = 64 << 10;

/// How long a request waits for a guard, and an approval for its request.
const TERM: SignedDuration = SignedDuration::from_hours(24);

/// How long one that is over is still shown.
const KEPT: SignedDuration = SignedDuration::from_hours(24 * 30);

/// Requests that may wait at a time.
const MOST_PENDING: usize = 100;

/// One of them, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    approval: Approval,
    // drawn for this one, so that its digest tells nobody what secrets the request holds
    salt: String,
}

/// A request that needs approval.
pub struct Wanted<'a> {
    /// Who asks.
    pub who: &'a str,
    /// What for, as the audit log has it.
    pub action: &'a str,
    /// About what, without secrets.
    pub about: &'a About,
    /// All of it, secrets too.
    pub whole: &'a [u8],
}

/// All of them.
pub struct Approvals {
    media: Arc<dyn Media>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    // what a signature is good for nowhere else
    appliance: String,
    table: Mutex<BTreeMap<String, Kept>>,
}

impl Approvals {
    /// Reads them. One that is damaged is none: its request has to be approved anew.
    ///
    /// # Errors
    /// What the host reports.
    pub fn open(
        media: Arc<dyn Media>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        appliance: String,
    ) -> Result<Self> {
        media.create_dir(DIR).and_then(|()| media.sync_dir("")).doing(|| format!("make {DIR}"))?;
        let mut table = BTreeMap::new();
        for entry in media.list(DIR).doing(|| format!("list {DIR}"))? {
            let Some(id) = entry.name.strip_suffix(".json") else { continue };
            let read = media.read_whole(&path(id), LIMIT_BYTES).ok();
            match read.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok()) {
                Some(kept) if kept.approval.id == id => drop(table.insert(id.to_owned(), kept)),
                _ => tracing::error!("{} cannot be read: what it approved has to be approved anew", path(id)),
            }
        }
        Ok(Self { media, clock, entropy, appliance, table: Mutex::new(table) })
    }

    fn now(&self) -> Timestamp {
        stamp(self.clock.now())
    }

    /// Every request, newest first.
    pub fn list(&self) -> Vec<Approval> {
        let (now, table) = (self.now(), lock(&self.table));
        let mut found: Vec<Approval> = table.values().map(|kept| as_of(&kept.approval, now)).collect();
        found.sort_by(|a, b| (&b.created, &b.id).cmp(&(&a.created, &a.id)));
        found
    }

    /// One request, by its id or the beginning of it.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if several begin so.
    pub fn get(&self, id: &str) -> Result<Approval> {
        Ok(as_of(&find(&lock(&self.table), id)?.approval, self.now()))
    }

    /// The approval that lets this request pass; its id. It is not used up yet.
    ///
    /// # Errors
    /// `Refused`, naming the approval that a guard has to give. It is asked for by that.
    pub fn permit(&self, wanted: &Wanted<'_>) -> Result<String> {
        let (now, mut table) = (self.now(), lock(&self.table));
        let is_it = |kept: &&Kept| {
            kept.approval.who == wanted.who
                && kept.approval.action == wanted.action
                && kept.approval.digest == digest(&kept.salt, wanted)
        };
        let states = [ApprovalState::Approved, ApprovalState::Pending];
        let found = states.into_iter().find_map(|state| {
            let mut alike = table.values().filter(is_it);
            alike
                .find(|kept| as_of(&kept.approval, now).state == state)
                .map(|kept| (state, kept.approval.clone()))
        });
        match found {
            Some((ApprovalState::Approved, approval)) => Ok(approval.id),
            Some((_, approval)) => Err(waits(&approval)),
            None => Err(waits(&self.ask(&mut table, wanted, now)?)),
        }
    }

    /// Uses an approval up. That is durable when this returns, so that it is good once, whatever becomes of the request.
    ///
    /// # Errors
    /// `Refused` if somebody was faster, or its time is over; what the host reports.
    pub fn use_up(&self, id: &str) -> Result<()> {
        let (now, mut table) = (self.now(), lock(&self.table));
        let kept = find(&table, id)?;
        if as_of(&kept.approval, now).state != ApprovalState::Approved {
            let why = format!("is {}", as_of(&kept.approval, now).state.name());
            return Err(Error::said(Kind::Refused, format!("approval {id}"), why));
        }
        let used = changed(kept, |approval| approval.state = ApprovalState::Used);
        self.put(&mut table, used)
    }

    /// A guard's word.
    ///
    /// # Errors
    /// `Refused` for a signature that is not of this guard's key and of exactly this request, for one that is no longer
    /// pending, and for a guard that asked for it itself; `NotFound`.
    pub fn decide(
        &self,
        id: &str,
        guard: &Caller,
        verdict: ApprovalState,
        signature: &str,
    ) -> Result<Approval> {
        let (now, mut table) = (self.now(), lock(&self.table));
        let kept = find(&table, id)?;
        let id = kept.approval.id.clone();
        let refused = |why: &str| Err(Error::said(Kind::Refused, format!("approval {id}"), why));
        let state = as_of(&kept.approval, now).state;
        if state != ApprovalState::Pending {
            return refused(&format!("is {} already", state.name()));
        }
        if kept.approval.who == guard.who {
            return refused("nobody approves what they ask for themselves");
        }
        let text = control::signed_text(&kept.approval.statement, verdict);
        let key = guard.key.as_deref().and_then(unhex).unwrap_or_default();
        let signature = unhex(signature).unwrap_or_default();
        if UnparsedPublicKey::new(&ED25519, key).verify(text.as_bytes(), &signature).is_err() {
            return refused("the signature is not of this guard's key and of exactly this request");
        }
        let changed = changed(kept, |approval| {
            approval.state = verdict;
            approval.guard = Some(guard.who.clone());
        });
        let approval = changed.approval.clone();
        self.put(&mut table, changed)?;
        Ok(approval)
    }

    fn ask(
        &self,
        table: &mut BTreeMap<String, Kept>,
        wanted: &Wanted<'_>,
        now: Timestamp,
    ) -> Result<Approval> {
        self.forget_old(table, now)?;
        let pending =
            table.values().filter(|kept| as_of(&kept.approval, now).state == ApprovalState::Pending);
        if pending.count() >= MOST_PENDING {
            return Err(Error::said(
                Kind::Refused,
                "approval",
                format!("{MOST_PENDING} requests wait already"),
            )
            .with_help("`blockctl approval list` shows them; a guard approves or denies them"));
        }
        let draw = || JobId::random(&*self.entropy).map(|id| id.to_string());
        let doing = || "draw an id".to_owned();
        let (id, salt) = (draw().doing(doing)?, draw().doing(doing)?);
        let digest = digest(&salt, wanted);
        let expires = now.saturating_add(TERM).unwrap_or(Timestamp::MAX);
        let about = serde_json::to_string(wanted.about)
            .map_err(|error| Error::said(Kind::Io, "approval", error.to_string()))?;
        // every line has one meaning: nothing in it can hold a line end, JSON least of all
        let statement = format!(
            "blockd approval 1\nappliance {}\nid {id}\nwho {}\naction {}\nabout {about}\ndigest {digest}\n\
             created {now}\nexpires {expires}\n",
            self.appliance, wanted.who, wanted.action
        );
        let approval = Approval {
            id,
            who: wanted.who.to_owned(),
            action: wanted.action.to_owned(),
            about: wanted.about.clone(),
            digest,
            created: now.to_string(),
            expires: expires.to_string(),
            state: ApprovalState::Pending,
            guard: None,
            statement,
        };
        self.put(table, Kept { approval: approval.clone(), salt })?;
        Ok(approval)
    }

    fn put(&self, table: &mut BTreeMap<String, Kept>, kept: Kept) -> Result<()> {
        let doing = || format!("write down approval {}", kept.approval.id);
        let json = serde_json::to_vec_pretty(&kept)
            .map_err(|error| Error::said(Kind::Io, doing(), error.to_string()))?;
        self.media.replace(&path(&kept.approval.id), &json).doing(doing)?;
        table.insert(kept.approval.id.clone(), kept);
        Ok(())
    }

    fn forget_old(&self, table: &mut BTreeMap<String, Kept>, now: Timestamp) -> Result<()> {
        let is_old = |kept: &&Kept| {
            let expires = kept.approval.expires.parse::<Timestamp>().unwrap_or(Timestamp::MIN);
            expires.saturating_add(KEPT).unwrap_or(Timestamp::MAX) < now
        };
        let old: Vec<String> = table.values().filter(is_old).map(|kept| kept.approval.id.clone()).collect();
        for id in old {
            self.media.remove(&path(&id)).doing(|| format!("forget approval {id}"))?;
            table.remove(&id);
        }
        Ok(())
    }
}

fn path(id: &str) -> String {
    format!("{DIR}/{id}.json")
}

/// What binds an approval to one request.
fn digest(salt: &str, wanted: &Wanted<'_>) -> String {
    let mut bytes = Vec::new();
    for part in [salt.as_bytes(), wanted.who.as_bytes(), wanted.action.as_bytes(), wanted.whole] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    hash(&bytes)
}

fn waits(approval: &Approval) -> Error {
    let short = &approval.id[..8.min(approval.id.len())];
    let why =
        format!("needs the approval of a guard; it is asked for as {short}, until {}", approval.expires);
    Error::said(Kind::Refused, approval.action.clone(), why).with_help(format!(
        "a guard looks at it with `blockctl approval show {short}` and signs with `blockctl approval approve {short} --key FILE`; \
         then give the same command again"
    ))
}

/// With its state as it is now: what ran out is over.
fn as_of(approval: &Approval, now: Timestamp) -> Approval {
    let mut approval = approval.clone();
    let is_over = approval.expires.parse::<Timestamp>().map_or(true, |expires| expires <= now);
    if is_over && matches!(approval.state, ApprovalState::Pending | ApprovalState::Approved) {
        approval.state = ApprovalState::Expired;
    }
    approval
}

fn changed(kept: &Kept, change: impl FnOnce(&mut Approval)) -> Kept {
    let mut kept = kept.clone();
    change(&mut kept.approval);
    kept
}

fn find<'a>(table: &'a BTreeMap<String, Kept>, id: &str) -> Result<&'a Kept> {
    let what = || format!("approval {}", crate::names::shown(id));
    let mut found = table.values().filter(|kept| !id.is_empty() && kept.approval.id.starts_with(id));
    match (found.next(), found.next()) {
        (Some(kept), None) => Ok(kept),
        (Some(_), Some(_)) => Err(Error::said(Kind::Conflict, what(), "several begin like this")
            .with_help("give more digits of the id")),
        (None, _) => Err(Error::not_found(what()).with_help("`blockctl approval list` shows them")),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests;
