//! Jobs that the end of the last daemon cut short: those that move points go on. What arrived is not sent again: packs that were
//! stored are found like those of any other backup.

use crate::audit_log::{About, Said};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::jobs::Urgency;
use control::{ArchivePoint, Job, TransferKind};

impl Daemon {
    /// Begins anew what can go on, the oldest first. What cannot is left as interrupted, and the log says why.
    pub(crate) fn resume_jobs(&self) {
        for job in self.jobs().take_interrupted() {
            let Some(point) = job.point.clone().filter(|_| matches!(&*job.operation, "backup" | "archive"))
            else {
                continue;
            };
            let about = About::from([
                ("job".to_owned(), job.id.as_str().into()),
                ("point".to_owned(), point.as_str().into()),
            ]);
            let said = Said { who: "blockd".to_owned(), action: format!("resume {}", job.operation), about };
            match self.audited(&said, || self.resume(&job, &point)) {
                Ok(anew) => tracing::info!(point, job = anew.id, "goes on with what job {} began", job.id),
                Err(error) => {
                    tracing::warn!(
                        point,
                        job = job.id,
                        "was interrupted and cannot go on: {}",
                        error.body().message
                    );
                }
            }
        }
    }

    fn resume(&self, job: &Job, point: &str) -> Result<Job> {
        let to = job.vault.clone().unwrap_or_default();
        if job.operation == "archive" {
            return self.archive(point, &ArchivePoint { to });
        }
        let named = self.tiers().vaults.get(&to)?;
        named.vault()?;
        let mut points = self.tiers().members(point)?;
        points.retain(|held| held.stored_in(&named.name).is_none());
        if points.is_empty() || points.iter().any(|held| held.instant.is_none()) {
            return Err(Error::not_found(format!("point {point} in the instant tier alone")));
        }
        let full = job.kind == Some(TransferKind::Full);
        self.send_points(points, (&job.item, point), named, full, Urgency::ByHand)
    }
}
