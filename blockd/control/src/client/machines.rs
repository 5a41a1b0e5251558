//! The calls about whole machines.

use super::{Client, NOTHING, encode, query_text};
use crate::{Definition, Error, Machine, Machines, MachinesQuery, ProtectMachine};
use hyper::Method;

impl Client {
    /// Protected machines, and those that libvirt has besides.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn machines(&self, query: &MachinesQuery) -> Result<Machines, Error> {
        let query = query_text(&[("uri", query.uri.as_deref())]);
        self.get(&format!("/v1/machines{query}"))
    }

    /// One protected machine, by its name as an item.
    ///
    /// # Errors
    /// As [`status`](Self::status); `not-found`.
    pub fn machine(&self, item: &str) -> Result<Machine, Error> {
        self.get(&format!("/v1/machines/{}", encode(item)))
    }

    /// Protects a machine, or anew with other disks.
    ///
    /// # Errors
    /// As [`status`](Self::status); `not-found` if libvirt does not have it.
    pub fn protect_machine(&self, item: &str, request: &ProtectMachine) -> Result<Machine, Error> {
        self.send(Method::PUT, &format!("/v1/machines/{}", encode(item)), Some(request))
    }

    /// What a recovery point of a machine holds of it beside its disks.
    ///
    /// # Errors
    /// As [`status`](Self::status); `not-found`.
    pub fn definition(&self, point: &str) -> Result<Definition, Error> {
        self.send(Method::POST, &format!("/v1/definitions/{}", encode(point)), NOTHING)
    }

    /// Forgets a machine; its disks and recovery points stay.
    ///
    /// # Errors
    /// As [`status`](Self::status); `not-found`.
    pub fn unprotect_machine(&self, item: &str) -> Result<Machine, Error> {
        self.send(Method::DELETE, &format!("/v1/machines/{}", encode(item)), NOTHING)
    }
}
