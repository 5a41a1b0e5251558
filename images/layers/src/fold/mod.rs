//! Consolidation: a sealed layer whose state nobody needs is folded into a neighbour, in the background and in small
//! steps. What is kept, in which order the steps happen and why a crash between any two of them changes nothing is in
//! `docs/consolidation.md`.

mod maps;
mod pair;
mod progress;
mod step;

pub use progress::{FoldProgress, Folding};

pub(crate) use pair::layer_map;
pub(crate) use progress::Progress;
pub(crate) use step::Fold;

use crate::disk::Disk;
use crate::{Error, Result};
use block::sync::lock;
use block::{Kind, StateId};

impl Disk {
    /// Deletes a recovery point of the instant tier. Durable when this returns, and quick: its space is given back by
    /// [`fold_step`](Self::fold_step). What changed before and after it stays known. Needs no room on the host.
    ///
    /// # Errors
    /// `NoSuchPoint`; what the host reports, then the point is still there.
    pub fn delete_point(&self, state: StateId) -> Result<()> {
        self.check()?;
        let mut roots = lock(&self.roots);
        if !roots.chain.epochs.iter().any(|epoch| epoch.state == state && epoch.is_point) {
            return Err(Error::NoSuchPoint { disk: self.id, state });
        }
        let mut next = roots.chain.clone();
        for epoch in next.epochs.iter_mut().filter(|epoch| epoch.state == state) {
            (epoch.is_point, epoch.is_deleted) = (false, true);
        }
        let done = self.commit_chain(&mut roots, next.clone());
        self.with_room(done, || self.commit_chain(&mut roots, next))
    }

    /// Does a little of the folding there is to do: copies at most 256 KiB, or commits what was copied. One thread calls
    /// this again and again, at its own pace; it holds up no request of the guest. What was begun is taken up again
    /// after any crash.
    ///
    /// # Errors
    /// `NoSpace` and a lack of descriptors heal: the step may be repeated later. Otherwise what the host reports, a
    /// damaged map, or `Poisoned`.
    pub fn fold_step(&self) -> Result<Folding> {
        let mut fold = lock(&self.fold);
        self.check()?;
        let done = self.advance(&mut fold);
        if done.as_ref().is_err_and(|error| error.kind() == Kind::NoSpace) {
            self.punch_unread(fold.as_ref())?;
        }
        let done = self.with_room(done, || self.advance(&mut fold));
        self.progress.show(fold.as_ref());
        if matches!(done, Ok(Folding::Idle)) {
            self.make_room();
        }
        done
    }

    /// Folds until nothing is left to fold.
    ///
    /// # Errors
    /// As [`fold_step`](Self::fold_step).
    pub fn fold_all(&self) -> Result<()> {
        while self.fold_step()? == Folding::Working {}
        Ok(())
    }

    /// What is left to fold.
    pub fn fold_progress(&self) -> FoldProgress {
        let layers = lock(&self.roots).chain.unneeded();
        self.progress.of(layers)
    }

    fn advance(&self, fold: &mut Option<Fold>) -> Result<Folding> {
        let Some(under_way) = fold else {
            *fold = self.begin_fold()?;
            return Ok(if fold.is_some() { Folding::Working } else { Folding::Idle });
        };
        under_way.copy_slice()?;
        if under_way.is_copied() {
            self.finish_fold(under_way)?;
            *fold = None;
        } else if under_way.is_batch_full() {
            self.commit_batch(under_way)?;
        }
        Ok(Folding::Working)
    }

    /// The next fold, once the active layer has ended if that is what it takes.
    fn begin_fold(&self) -> Result<Option<Fold>> {
        let mut roots = lock(&self.roots);
        self.complete_seal(&mut roots)?;
        let mut chosen = self.choose_fold(&mut roots);
        let needs_a_seal = chosen.is_none() && roots.chain.needs_a_seal(&self.sources.states());
        drop(roots);
        if needs_a_seal {
            self.seal_without_point()?;
            chosen = self.choose_fold(&mut lock(&self.roots));
        }
        // maps may be large: they are read while the chain is free
        let fold = chosen.map(|chosen| self.open_fold(&chosen)).transpose();
        fold.inspect_err(|_| lock(&self.roots).folding = None)
    }
}
