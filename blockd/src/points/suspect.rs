//! Points that are far smaller or far more changed than their past: what a disk looks like whose guest was encrypted, emptied
//! or mistaken for another. Such a point displaces nothing, and nothing of its item is pruned, until somebody answers.

use super::{Held, Tiers};
use crate::error::{Doing, Error, Result};
use crate::gate::stamp;
use crate::marks::{Mark, Suspicion};
use crate::vaults::NamedVault;
use control::Kind;
use vault::VaultPoint;

/// Points of the past that are looked at, and how many increments are a past at all.
const PAST: usize = 20;
const LEAST: usize = 5;

/// So many times the usual is far more, if it is also this part of the disk: small disks and quiet ones have busy days.
const TIMES: u64 = 20;
const PART: u64 = 10;

impl Tiers {
    /// Looks at a point that has just come to a vault. Why it is suspect, if it is; that is written down then.
    ///
    /// # Errors
    /// What the vault or the host reports.
    pub fn look_at_new(&self, held: &Held, named: &NamedVault) -> Result<Option<String>> {
        let points = named.vault()?.points().doing(|| format!("vault {}", named.name))?;
        let mut past: Vec<&VaultPoint> = points.iter().filter(|point| point.disk == held.disk).collect();
        past.sort_by_key(|point| (point.time, point.epoch));
        let Some(at) = past.iter().position(|point| point.state == held.state) else { return Ok(None) };
        let sizes = |point: &&VaultPoint| Sizes { size: point.size.get(), stored: point.bytes_stored.get() };
        let past: Vec<Sizes> = past[..=at].iter().map(sizes).collect();
        let Some(why) = strange(&past) else { return Ok(None) };
        let suspicion = Suspicion { why: why.clone(), since: stamp(self.disks.env().clock.now()) };
        let suspect = |mark: &mut Mark| {
            mark.suspect = Some(suspicion);
            Ok(())
        };
        self.vaults.marks().change(held.state, &held.name, suspect)?;
        Ok(Some(why))
    }

    /// Somebody's word that a suspect point is right.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if it is not suspect; what the host reports.
    pub fn accept(&self, name: &str) -> Result<Held> {
        let held = self.find(name)?;
        let accept = |mark: &mut Mark| match mark.suspect.take() {
            Some(_) => Ok(()),
            None => Err(Error::said(Kind::Conflict, format!("point {}", held.name), "is not suspect")),
        };
        self.vaults.marks().change(held.state, &held.name, accept)?;
        Ok(held)
    }
}

/// What is compared.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    size: u64,
    stored: u64,
}

/// Why the last of these, oldest first, does not look like those before it.
fn strange(points: &[Sizes]) -> Option<String> {
    let (new, past) = points.split_last()?;
    let before = past.last()?;
    if new.size < before.size / 2 {
        return Some(format!("the disk has {} bytes, and had {} at the point before", new.size, before.size));
    }
    // the first of all is not an increment
    let increments = past.get(1..).unwrap_or_default();
    let mut usual: Vec<u64> = increments.iter().rev().take(PAST).map(|sizes| sizes.stored).collect();
    if usual.len() < LEAST {
        return None;
    }
    usual.sort_unstable();
    let median = usual[usual.len() / 2];
    let is_far_more = new.stored > median.saturating_mul(TIMES) && new.stored > new.size / PART;
    is_far_more.then(|| format!("{} bytes of it are new to the vault, and {median} usually are", new.stored))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: u64 = 1 << 30;

    fn points(stored: &[u64]) -> Vec<Sizes> {
        stored.iter().map(|&stored| Sizes { size: DISK, stored }).collect()
    }

    #[test]
    fn far_more_than_usual_is_strange_and_a_busy_day_is_not() {
        let usual = [DISK / 2, 1 << 20, 2 << 20, 1 << 20, 3 << 20, 2 << 20];
        let with = |last: u64| strange(&points(&[&usual[..], &[last]].concat()));
        assert!(with(DISK / 2).is_some());
        assert_eq!(with(30 << 20), None, "not twenty times");
        assert_eq!(with(60 << 20), None, "not a tenth of the disk");
        assert_eq!(strange(&points(&[DISK / 2, 1 << 20, DISK / 2])), None, "there is no past yet");
        assert_eq!(strange(&points(&[DISK / 2])), None, "the first");
        let busy = [DISK / 2, DISK / 8, DISK / 8, DISK / 8, DISK / 8, DISK / 8, DISK / 2];
        assert_eq!(strange(&points(&busy)), None, "always busy");
    }

    #[test]
    fn half_the_size_is_strange() {
        let mut points = points(&[DISK, 0]);
        points[1].size = DISK / 2;
        assert_eq!(strange(&points), None);
        points[1].size -= 1;
        assert!(strange(&points).is_some());
    }
}
