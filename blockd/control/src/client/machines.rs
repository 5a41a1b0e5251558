//! The calls about whole machines.

use super::{Client, NOTHING, encode, query_text};
use crate::{
    AttachDisk, Definition, DiskAttached, Error, Job, Machine, MachineReplaced, Machines, MachinesQuery,
    MigrateIn, MigrateOut, ProtectMachine, ReplaceMachine, RestoreMachine,
};
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

    /// Gives a disk to a machine.
    ///
    /// # Errors
    /// As [`status`](Self::status); `not-found` for machine or disk.
    pub fn attach_disk(&self, request: &AttachDisk) -> Result<DiskAttached, Error> {
        self.send(Method::POST, "/v1/machines/attach", Some(request))
    }

    /// Moves the disks of a running machine here, as a job.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if it does not run.
    pub fn migrate_in(&self, item: &str, request: &MigrateIn) -> Result<Job, Error> {
        self.send(Method::POST, &format!("/v1/machines/{}/migrate-in", encode(item)), Some(request))
    }

    /// Moves the disks of a running machine to files of its host, as a job.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if it does not run, or a file is there already.
    pub fn migrate_out(&self, item: &str, request: &MigrateOut) -> Result<Job, Error> {
        self.send(Method::POST, &format!("/v1/machines/{}/migrate-out", encode(item)), Some(request))
    }

    /// A recovery point of a machine as a new machine, as a job.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if the name is taken.
    pub fn restore_machine(&self, request: &RestoreMachine) -> Result<Job, Error> {
        self.send(Method::POST, "/v1/machines/restores", Some(request))
    }

    /// A recovery point of a machine in the place of what it holds, as a job for each disk.
    ///
    /// # Errors
    /// As [`status`](Self::status); `refused` while the machine runs.
    pub fn replace_machine(&self, item: &str, request: &ReplaceMachine) -> Result<MachineReplaced, Error> {
        self.send(Method::POST, &format!("/v1/machines/{}/replace", encode(item)), Some(request))
    }

    /// Forgets a machine; its disks and recovery points stay.
    ///
    /// # Errors
    /// As [`status`](Self::status); `not-found`.
    pub fn unprotect_machine(&self, item: &str) -> Result<Machine, Error> {
        self.send(Method::DELETE, &format!("/v1/machines/{}", encode(item)), NOTHING)
    }
}
