//! The copies of a set: which there are, how each is, and what the others know of it.

use std::collections::BTreeSet;

use block::sync::{Arc, Mutex, lock};
use block::{BlobStore, Error, Kind, Result};

use super::member::{Card, MEMBER, mark_behind, marked_behind};

/// How a copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyState {
    /// It takes every put and lacks nothing that is known.
    Good,
    /// It takes every put and lacks something older, for the reason given.
    Behind(String),
    /// It failed and takes nothing until it was repaired, for the reason given.
    Failed(String),
    /// It is not there, for the reason given.
    Absent(String),
}

/// A place people named, with its store or with why there is none.
pub type GivenCopy = (String, Result<Arc<dyn BlobStore>, String>);

/// One copy, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyStatus {
    /// Which copy, from 1.
    pub number: u8,
    /// Where it is; empty if nobody said.
    pub place: String,
    /// How it is.
    pub state: CopyState,
    /// Blobs given to it since the set was opened, because they were missing or damaged.
    pub repaired: u64,
}

/// A copy to read from or write to.
pub(super) struct Copy {
    pub(super) number: u8,
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) is_behind: bool,
}

struct Member {
    place: String,
    store: Option<Arc<dyn BlobStore>>,
    state: CopyState,
    repaired: u64,
}

impl Member {
    fn absent(place: String, why: impl Into<String>) -> Self {
        Self { place, store: None, state: CopyState::Absent(why.into()), repaired: 0 }
    }

    fn takes_puts(&self) -> bool {
        matches!(self.state, CopyState::Good | CopyState::Behind(_))
    }
}

/// All copies of a set.
pub(super) struct Members {
    set: [u8; 16],
    // copy N at N - 1
    all: Mutex<Vec<Member>>,
    // copies of which the others know durably that they lack something
    marked: Mutex<BTreeSet<u8>>,
}

impl Members {
    pub(super) fn of(copies: Vec<GivenCopy>) -> Result<Self> {
        let mut found = Vec::new();
        let mut lost = Vec::new();
        for (place, store) in copies {
            let card = match &store {
                Ok(store) => Card::load(&**store).map_err(|error| error.to_string()),
                Err(why) => Err(why.clone()),
            };
            match (store, card) {
                (Ok(store), Ok(Some(card))) => found.push((place, store, card)),
                (_, Ok(_)) => lost.push((place, "it holds no copy: is its filesystem mounted?".to_owned())),
                (_, Err(why)) => lost.push((place, why)),
            }
        }
        let Some(Card { set, count, .. }) = found.first().map(|(_, _, card)| *card) else {
            let what = "a copy of a vault".to_owned();
            let why =
                lost.iter().map(|(place, why)| format!("{place}: {why}")).collect::<Vec<_>>().join("; ");
            return Err(Error::refused(Kind::NotFound, what, why));
        };
        let mut all: Vec<Option<Member>> = (0..count).map(|_| None).collect();
        for (place, store, card) in found {
            let slot = &mut all[usize::from(card.number - 1).min(usize::from(count) - 1)];
            if card.set != set || card.count != count || slot.is_some() {
                lost.push((place, "it holds a copy of another vault, or the same copy again".to_owned()));
                continue;
            }
            *slot = Some(Member { place, store: Some(store), state: CopyState::Good, repaired: 0 });
        }
        let mut lost = lost.into_iter();
        let all = all.into_iter().map(|member| {
            member.unwrap_or_else(|| match lost.next() {
                Some((place, why)) => Member::absent(place, why),
                None => Member::absent(String::new(), "nobody said where it is"),
            })
        });
        let members = Self { set, all: Mutex::new(all.collect()), marked: Mutex::default() };
        members.read_marks()?;
        Ok(members)
    }

    /// Learns from each copy which others lack something.
    fn read_marks(&self) -> Result<()> {
        for copy in self.present() {
            for (number, why) in marked_behind(&*copy.store)? {
                let mut all = lock(&self.all);
                if let Some(member) = all.get_mut(usize::from(number).wrapping_sub(1))
                    && member.state == CopyState::Good
                {
                    member.state = CopyState::Behind(why);
                }
            }
        }
        Ok(())
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.all).len()
    }

    pub(super) fn quorum(&self) -> usize {
        self.count().div_ceil(2)
    }

    pub(super) fn status(&self) -> Vec<CopyStatus> {
        let of = |(number, member): (u8, &Member)| CopyStatus {
            number,
            place: member.place.clone(),
            state: member.state.clone(),
            repaired: member.repaired,
        };
        (1..).zip(lock(&self.all).iter()).map(of).collect()
    }

    /// Every copy that can be asked, those that lack nothing first.
    pub(super) fn present(&self) -> Vec<Copy> {
        let all = lock(&self.all);
        let copies = (1..).zip(all.iter()).filter_map(|(number, member)| {
            let is_behind = member.state != CopyState::Good;
            Some(Copy { number, store: member.store.clone()?, is_behind })
        });
        let mut copies: Vec<Copy> = copies.collect();
        copies.sort_by_key(|copy| copy.is_behind);
        copies
    }

    /// The copies that take a change. The others are marked, durably, as lacking it.
    pub(super) fn writable(&self, name: &str) -> Result<Vec<Copy>> {
        self.mark_away(name)?;
        Ok(self.taking())
    }

    fn taking(&self) -> Vec<Copy> {
        let taking: Vec<bool> = lock(&self.all).iter().map(Member::takes_puts).collect();
        self.present().into_iter().filter(|copy| taking[usize::from(copy.number) - 1]).collect()
    }

    /// Sees to it that the copies that take changes say of all others that they lack some.
    pub(super) fn mark_away(&self, name: &str) -> Result<()> {
        let taking = self.taking();
        if taking.len() < self.quorum() {
            return Err(self.too_few(taking.len()));
        }
        for status in self.status() {
            let (CopyState::Failed(why) | CopyState::Absent(why)) = &status.state else { continue };
            if lock(&self.marked).contains(&status.number) || block::planted!("vault-copy-unmarked") {
                continue;
            }
            for copy in &taking {
                mark_behind(&*copy.store, status.number, &format!("since {name}: {why}"))?;
            }
            lock(&self.marked).insert(status.number);
        }
        Ok(())
    }

    pub(super) fn fail(&self, number: u8, error: &Error) {
        if let Some(member) = lock(&self.all).get_mut(usize::from(number) - 1) {
            let mut why = error.to_string();
            if let Some(source) = std::error::Error::source(error) {
                why = format!("{why}: {source}");
            }
            member.state = CopyState::Failed(why);
        }
    }

    pub(super) fn count_repaired(&self, number: u8) {
        if let Some(member) = lock(&self.all).get_mut(usize::from(number) - 1) {
            member.repaired += 1;
        }
    }

    /// Gives copies that failed another chance: they take changes again, and lack what they missed.
    pub(super) fn try_failed(&self) {
        for member in lock(&self.all).iter_mut() {
            if let CopyState::Failed(why) = &member.state {
                member.state = CopyState::Behind(why.clone());
            }
        }
    }

    /// Takes note that a copy lacks nothing any more, after the marks that said so are gone.
    pub(super) fn caught_up(&self, number: u8) {
        lock(&self.marked).remove(&number);
        if let Some(member) = lock(&self.all).get_mut(usize::from(number) - 1)
            && matches!(member.state, CopyState::Behind(_))
        {
            member.state = CopyState::Good;
        }
    }

    pub(super) fn replace(&self, number: u8, place: String, store: Arc<dyn BlobStore>) -> Result<()> {
        let count = self.count();
        let invalid = |why: String| Error::refused(Kind::Invalid, format!("copy {number}"), why);
        let index = usize::from(number).checked_sub(1).filter(|index| *index < count);
        let index = index.ok_or_else(|| invalid(format!("the vault has copies 1 to {count}")))?;
        if lock(&self.all)[index].takes_puts() {
            let why = "it is in service; only one that is absent or failed is replaced".to_owned();
            return Err(Error::Conflict { what: format!("copy {number}"), why });
        }
        // the others say what it lacks before it says that it is one
        self.mark_away(MEMBER)?;
        let card = Card { set: self.set, count: count as u8, number };
        match store.delete(MEMBER) {
            Err(error) if error.kind() != Kind::NotFound => return Err(error),
            _ => store.put(MEMBER, &card.encode())?,
        }
        let state = CopyState::Behind("it is new".to_owned());
        lock(&self.all)[index] = Member { place, store: Some(store), state, repaired: 0 };
        Ok(())
    }

    pub(super) fn too_few(&self, there: usize) -> Error {
        let why = format!("{there} of its {} copies take writes, {} must", self.count(), self.quorum());
        Error::refused(Kind::Unavailable, "the vault's store", why)
    }
}
