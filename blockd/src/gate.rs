//! The one gate every deletion of a recovery point's copy in a vault passes. The rules are in `docs/deletion.md`.

use crate::appliance_clock::ApplianceClock;
use crate::error::{Error, Result};
use crate::marks::{Mark, Marks};
use crate::vaults::Terms;
use block::{Clock, Time};
use control::Kind;
use jiff::Timestamp;
use std::sync::Arc;
use vault::{DeleteGate, Deletion, Refusal};

/// What a vault asks before anything in it is deleted for good.
pub struct Gate {
    /// What was said of points.
    pub marks: Arc<Marks>,
    /// The vault's id.
    pub vault: String,
    /// How the vault's points are protected.
    pub terms: Arc<Terms>,
    /// The appliance's time.
    pub clock: Arc<ApplianceClock>,
}

impl DeleteGate for Gate {
    fn may_delete(&self, what: &Deletion) -> Result<(), Refusal> {
        let refuse = |why: String| Err(Refusal { why });
        let point = match what {
            Deletion::Point(point) => point,
            Deletion::DamagedPoint(id) => {
                return refuse(format!("{id} is damaged, so nobody can tell what was said of it"));
            }
            // no point reaches them, and a point that may not go still lies in the store and reaches its own
            Deletion::Packs { .. } => return Ok(()),
        };
        let (mark, now) = (self.marks.of(point.state), stamp(self.clock.now()));
        if let Some(why) = keeps(&mark, now).or_else(|| protects(&self.terms, &self.clock, point.time, now)) {
            return refuse(why);
        }
        match mark.deleted.get(&self.vault) {
            Some(deleted) if deleted.until <= now => Ok(()),
            Some(deleted) => refuse(format!("its deletion can be undone until {}", deleted.until)),
            None => refuse("nobody asked to delete it".to_owned()),
        }
    }
}

/// Why a point may not even be marked as deleted, if so.
///
/// # Errors
/// `Refused` with the reason and what takes it away.
pub fn ask(point: &str, mark: &Mark, now: Timestamp) -> Result<()> {
    match keeps(mark, now) {
        None => Ok(()),
        Some(why) => Err(Error::said(Kind::Refused, format!("delete {point}"), why).with_help(format!(
            "`blockctl point release {point}` ends a hold; `blockctl point show {point}` says more"
        ))),
    }
}

/// Why a point that was made then may not be marked as deleted from a vault, if so.
///
/// # Errors
/// `Refused` with the reason and what takes it away.
pub fn ask_vault(point: &str, terms: &Terms, clock: &ApplianceClock, made: Time) -> Result<()> {
    match protects(terms, clock, made, stamp(clock.now())) {
        None => Ok(()),
        Some(why) => Err(Error::said(Kind::Refused, format!("delete {point}"), why).with_help(
            "`blockctl vault show` says how a vault is protected, `blockctl clock show` what of time is believed",
        )),
    }
}

fn protects(terms: &Terms, clock: &ApplianceClock, made: Time, now: Timestamp) -> Option<String> {
    let immutable = terms.immutable_until(made, now);
    immutable.map(|until| format!("it is immutable until {until}")).or_else(|| clock.freezes())
}

fn keeps(mark: &Mark, now: Timestamp) -> Option<String> {
    if let Some(hold) = &mark.hold {
        return Some(format!("it is held: {}", hold.reason));
    }
    let until = mark.keep_until.filter(|until| *until > now)?;
    Some(format!("it was made to be kept until {until}"))
}

/// A moment of the appliance's clock.
pub fn stamp(time: Time) -> Timestamp {
    let unix_ms = i64::try_from(time.unix_ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(unix_ms).unwrap_or(Timestamp::MAX)
}
