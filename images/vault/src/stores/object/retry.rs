//! Which failures of an object store pass, and how long to wait for that.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use block::sync::Arc;
use block::sync::atomic::{AtomicU32, Ordering};
use block::{Entropy, Error, Kind};
use object_store::Error as Theirs;

use super::http::STATUS;

/// The pause after the first failure; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// Attempts while a vault is in use: a store may be away for two minutes and a half, a server's restart or a change of
/// address, before who asked is told.
pub(super) const ATTEMPTS: u32 = 14;
/// Characters of what a server said that a message holds.
const SHOWN: usize = 300;

/// An attempt of somebody in a hurry has failed if it took this long.
const HURRIED: Duration = Duration::from_secs(4);

/// What became of one attempt.
#[derive(Debug)]
pub(super) enum Failed {
    /// Another attempt may do.
    Passing(Theirs),
    /// No other attempt will.
    Final(Theirs, u16),
}

/// How often to try, and the randomness that keeps clients from coming back all at once.
#[derive(Clone)]
pub(super) struct Patience {
    attempts: Arc<AtomicU32>,
    entropy: Arc<dyn Entropy>,
}

impl Patience {
    pub(super) fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self { attempts: Arc::new(AtomicU32::new(ATTEMPTS)), entropy }
    }

    pub(super) fn set_attempts(&self, attempts: u32) {
        self.attempts.store(attempts.max(1), Ordering::Relaxed);
    }

    /// Whether an attempt may follow this many that failed; waits if so.
    pub(super) async fn again(&self, failed: u32) -> bool {
        if failed >= self.attempts.load(Ordering::Relaxed) {
            return false;
        }
        tokio::time::sleep(self.pause(failed)).await;
        true
    }

    /// Between half of the pause and all of it.
    fn pause(&self, failed: u32) -> Duration {
        let whole = FIRST_PAUSE.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
        let mut dice = [u8::MAX];
        // without randomness the whole pause it is
        self.entropy.fill(&mut dice).ok();
        whole / 2 + (whole / 2) * u32::from(dice[0]) / 255
    }

    /// One attempt, its failure judged. It is given up soon by who does not try often.
    pub(super) async fn once<T>(
        &self,
        attempt: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Failed> {
        if self.attempts.load(Ordering::Relaxed) >= ATTEMPTS {
            return once(attempt).await;
        }
        tokio::time::timeout(HURRIED, once(attempt)).await.unwrap_or_else(|_| {
            let source = format!("no answer in {} seconds", HURRIED.as_secs()).into();
            Err(Failed::Passing(Theirs::Generic { store: "request", source }))
        })
    }

    /// Makes attempts until one succeeds, fails for good, or patience ends.
    pub(super) async fn try_until<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Failed>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut failed = 0;
        loop {
            match self.once(attempt()).await {
                Err(Failed::Passing(error)) => {
                    failed += 1;
                    if !self.again(failed).await {
                        return Err(Failed::Passing(error));
                    }
                }
                done => return done,
            }
        }
    }
}

/// One attempt, its failure judged.
async fn once<T>(attempt: impl Future<Output = object_store::Result<T>>) -> Result<T, Failed> {
    STATUS
        .scope(Cell::new(0), async { attempt.await.map_err(|error| judge(error, STATUS.with(Cell::get))) })
        .await
}

fn judge(error: Theirs, status: u16) -> Failed {
    let passes = match &error {
        // no answer, a broken answer, or one that says "not now"
        Theirs::Generic { .. } => {
            status < 300 || status >= 500 && ![501, 507].contains(&status) || [408, 429].contains(&status)
        }
        _ => false,
    };
    if passes { Failed::Passing(error) } else { Failed::Final(error, status) }
}

impl Failed {
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Final(Theirs::NotFound { .. }, _))
    }

    pub(super) fn is_exists(&self) -> bool {
        matches!(self, Self::Final(Theirs::AlreadyExists { .. } | Theirs::Precondition { .. }, _))
    }

    /// The failure as the seam says it. `store` and `name` tell where.
    pub(super) fn at(self, store: &str, name: &str) -> Error {
        let what = || format!("blob {name} in {store}");
        match self {
            Self::Passing(error) => Error::refused(Kind::Unavailable, format!("store {store}"), said(&error)),
            Self::Final(error, _) if lacks_bucket(&error) => {
                Error::refused(Kind::Unavailable, format!("store {store}"), "its bucket does not exist")
            }
            Self::Final(Theirs::NotFound { .. }, _) => Error::NotFound { what: format!("blob {name}") },
            Self::Final(Theirs::AlreadyExists { .. } | Theirs::Precondition { .. }, _) => exists(name),
            Self::Final(error @ (Theirs::PermissionDenied { .. } | Theirs::Unauthenticated { .. }), _) => {
                let why = format!("the server does not let us: {}", said(&error));
                Error::refused(Kind::Unavailable, what(), why)
            }
            Self::Final(error, 507) => Error::refused(Kind::NoSpace, what(), said(&error)),
            Self::Final(error, _) => Error::refused(Kind::Io, what(), said(&error)),
        }
    }
}

pub(super) fn exists(name: &str) -> Error {
    Error::Conflict { what: format!("blob {name}"), why: "it exists already".to_owned() }
}

/// A missing bucket is told apart from a missing object only by the words of the three servers.
fn lacks_bucket(error: &Theirs) -> bool {
    let text = error.to_string();
    ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"].iter().any(|word| text.contains(word))
}

/// What the innermost error says, in one line.
fn said(error: &Theirs) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let mut text = innermost.to_string();
    // the last one alone may be as short as "timed out"
    if text.len() < 40 {
        text = format!("{text} ({error})");
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect()
}
