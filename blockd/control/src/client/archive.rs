//! The calls about the archive tier.

use super::{Client, encode, query_text};
use crate::{ArchiveCost, ArchivePoint, Error, Job, RehydratePoint};
use hyper::Method;

impl Client {
    /// What archiving a point costs and frees.
    ///
    /// # Errors
    /// As [`status`](Self::status); `not-found` for point or archive.
    pub fn archive_cost(&self, point: &str, to: &str) -> Result<ArchiveCost, Error> {
        let query = query_text(&[("to", Some(to))]);
        self.get(&format!("/v1/points/{}/archive{query}", encode(point)))
    }

    /// Moves a point from its vaults to an archive, as a job.
    ///
    /// # Errors
    /// As [`status`](Self::status); `refused` by the gate of a vault.
    pub fn archive_point(&self, point: &str, request: &ArchivePoint) -> Result<Job, Error> {
        self.send(Method::POST, &format!("/v1/points/{}/archive", encode(point)), Some(request))
    }

    /// Brings an archived point back to a vault for a time, as a job.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if it is in no archive.
    pub fn rehydrate_point(&self, point: &str, request: &RehydratePoint) -> Result<Job, Error> {
        self.send(Method::POST, &format!("/v1/points/{}/rehydrate", encode(point)), Some(request))
    }
}
