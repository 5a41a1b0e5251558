//! How long deletions in a vault can be undone, and how long nothing in it can be deleted at all.

use super::{NamedVault, TERM_DAYS, TERM_MOST_DAYS, Vaults};
use crate::error::{Error, Result};
use block::Time;
use block::sync::{Mutex, lock};
use control::{Immutability, Kind, VaultProtection};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

/// Ten years: what is locked for longer was a slip of the finger, and nothing takes it back.
const IMMUTABLE_MOST_DAYS: u32 = 3660;

/// What protects the points of a vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protected {
    /// For how many days a deletion can be undone; 0 is not at all.
    pub soft_delete_days: u32,
    /// Whether points can be deleted before their time, and whether that can be changed.
    pub immutability: Immutability,
    /// For how many days after it was made a point cannot be deleted, unless that is off.
    pub immutable_days: u32,
}

impl Protected {
    /// What holds for a vault whose file says nothing else.
    pub(super) fn of(file: &super::VaultFile) -> Self {
        Self {
            soft_delete_days: file.soft_delete_days.unwrap_or(TERM_DAYS),
            immutability: file.immutability.unwrap_or(Immutability::Off),
            immutable_days: file.immutable_days.unwrap_or(0),
        }
    }

    /// This with the changes of a request.
    fn with(self, request: &VaultProtection) -> Self {
        Self {
            soft_delete_days: request.soft_delete_days.unwrap_or(self.soft_delete_days),
            immutability: request.immutability.unwrap_or(self.immutability),
            immutable_days: request.immutable_days.unwrap_or(self.immutable_days),
        }
    }

    /// Whether something protected by this is protected less by `wanted`.
    fn is_loosened_by(self, wanted: Self) -> bool {
        let days = |of: Self| if of.immutability == Immutability::Off { 0 } else { of.immutable_days };
        wanted.soft_delete_days < self.soft_delete_days
            || wanted.immutability < self.immutability
            || days(wanted) < days(self)
    }

    fn check(self, name: &str, wanted: Self) -> Result<()> {
        let no = |kind, why: String| Err(Error::said(kind, format!("vault {name}"), why));
        if self.immutability == Immutability::Locked
            && self.is_loosened_by(Self { soft_delete_days: self.soft_delete_days, ..wanted })
        {
            return no(
                Kind::Refused,
                format!(
                    "its immutability is locked at {} days: it can be made longer, and nothing else",
                    self.immutable_days
                ),
            );
        }
        if wanted.immutability != Immutability::Off
            && !(1..=IMMUTABLE_MOST_DAYS).contains(&wanted.immutable_days)
        {
            return no(
                Kind::Invalid,
                format!(
                    "points are immutable for 1 to {IMMUTABLE_MOST_DAYS} days, not {}",
                    wanted.immutable_days
                ),
            );
        }
        if wanted.soft_delete_days != self.soft_delete_days
            && !(TERM_DAYS..=TERM_MOST_DAYS).contains(&wanted.soft_delete_days)
        {
            return no(
                Kind::Invalid,
                format!(
                    "a deletion can be undone for {TERM_DAYS} to {TERM_MOST_DAYS} days, not {}",
                    wanted.soft_delete_days
                ),
            );
        }
        Ok(())
    }

    /// Until when a point that was made then cannot be deleted; none if it can be.
    fn immutable_until(self, made: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if self.immutability == Immutability::Off {
            return None;
        }
        let days = SignedDuration::from_hours(24 * i64::from(self.immutable_days));
        Some(made.saturating_add(days).unwrap_or(Timestamp::MAX)).filter(|until| *until > now)
    }
}

/// The same, shared by all that ask.
pub struct Terms(Mutex<Protected>);

impl Terms {
    /// With what holds now.
    pub fn new(now: Protected) -> Arc<Self> {
        Arc::new(Self(Mutex::new(now)))
    }

    /// What holds now.
    pub fn now(&self) -> Protected {
        *lock(&self.0)
    }

    /// Until when a point that was made then cannot be deleted; none if it can be.
    pub fn immutable_until(&self, made: Time, now: Timestamp) -> Option<Timestamp> {
        self.now().immutable_until(crate::gate::stamp(made), now)
    }
}

impl Vaults {
    /// Whether a change leaves the points of a vault less protected than they are.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn loosens(&self, name: &str, request: &VaultProtection) -> Result<bool> {
        let now = self.get(name)?.terms.now();
        Ok(now.is_loosened_by(now.with(request)))
    }

    /// Changes how the points of a vault are protected. That is durable when this returns.
    ///
    /// # Errors
    /// `NotFound`; `Refused` if its immutability is locked and would be less; `Invalid` for days that are none.
    pub fn protect(&self, name: &str, request: &VaultProtection) -> Result<Arc<NamedVault>> {
        let named = self.get(name)?;
        // held while the file is written: of two changes at a time none is lost
        let mut terms = lock(&named.terms.0);
        let wanted = terms.with(request);
        terms.check(name, wanted)?;
        let mut file = self.read_file(name)?;
        file.soft_delete_days = Some(wanted.soft_delete_days);
        file.immutability = Some(wanted.immutability);
        file.immutable_days = Some(wanted.immutable_days);
        self.write_file(name, &file)?;
        *terms = wanted;
        drop(terms);
        tracing::info!(vault = name, ?wanted, "is protected like this");
        Ok(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Immutability::{Locked, Off, On};

    fn protected(soft_delete_days: u32, immutability: Immutability, immutable_days: u32) -> Protected {
        Protected { soft_delete_days, immutability, immutable_days }
    }

    #[test]
    fn locked_never_goes_back_and_only_grows() {
        let locked = protected(14, Locked, 30);
        for less in
            [protected(14, On, 30), protected(14, Off, 30), protected(14, Locked, 29), protected(14, Off, 60)]
        {
            assert_eq!(
                locked.check("v", less).err().map(|error| error.kind()),
                Some(Kind::Refused),
                "{less:?}"
            );
        }
        for more in [protected(14, Locked, 31), protected(180, Locked, 30)] {
            assert!(locked.check("v", more).is_ok() && !locked.is_loosened_by(more), "{more:?}");
        }
    }

    #[test]
    fn what_loosens_is_known_and_bounds_are_kept() {
        let on = protected(30, On, 30);
        for (wanted, loosens) in [
            (on, false),
            (protected(30, Locked, 30), false),
            (protected(31, On, 31), false),
            (protected(29, On, 30), true),
            (protected(30, Off, 30), true),
            (protected(30, On, 29), true),
        ] {
            assert_eq!(on.is_loosened_by(wanted), loosens, "{wanted:?}");
            assert!(on.check("v", wanted).is_ok(), "{wanted:?}");
        }
        let bad = [
            protected(13, On, 30),
            protected(181, On, 30),
            protected(0, On, 30),
            protected(30, On, 0),
            protected(30, On, 3661),
        ];
        for wanted in bad {
            assert_eq!(
                on.check("v", wanted).err().map(|error| error.kind()),
                Some(Kind::Invalid),
                "{wanted:?}"
            );
        }
        let lab = protected(0, Off, 0);
        assert!(lab.check("v", lab).is_ok() && lab.check("v", protected(14, Off, 0)).is_ok());
        assert!(
            !protected(30, Off, 9).is_loosened_by(protected(30, Off, 0)),
            "days mean nothing while it is off"
        );
    }

    #[test]
    fn a_point_is_immutable_for_its_days() {
        let made = Timestamp::UNIX_EPOCH;
        let day = |days: i64| made.saturating_add(SignedDuration::from_hours(24 * days)).expect("a time");
        let on = protected(14, On, 7);
        assert_eq!(on.immutable_until(made, day(6)), Some(day(7)));
        assert_eq!(on.immutable_until(made, day(7)), None);
        assert_eq!(protected(14, Off, 7).immutable_until(made, day(1)), None);
    }
}
