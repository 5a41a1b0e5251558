//! Keys and copies of vaults.

use super::{Client, NOTHING, encode};
use crate::{AddKey, Error, Job, KeyAdded, RepairVault, VaultKeySlot};
use hyper::Method;

impl Client {
    /// What opens a vault.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn vault_keys(&self, name: &str) -> Result<Vec<VaultKeySlot>, Error> {
        self.get(&format!("/v1/vaults/{}/keys", encode(name)))
    }

    /// Adds something that opens a vault.
    ///
    /// # Errors
    /// As [`status`](Self::status); `invalid` for a current key that does not open it.
    pub fn add_vault_key(&self, name: &str, request: &AddKey) -> Result<KeyAdded, Error> {
        self.send(Method::POST, &format!("/v1/vaults/{}/keys", encode(name)), Some(request))
    }

    /// Removes something that opens a vault.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` for the last one.
    pub fn remove_vault_key(&self, name: &str, slot: &str) -> Result<Vec<VaultKeySlot>, Error> {
        self.send(Method::DELETE, &format!("/v1/vaults/{}/keys/{}", encode(name), encode(slot)), NOTHING)
    }

    /// Puts a fresh key file in the place of the one in the daemon's state.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn rotate_vault_key(&self, name: &str) -> Result<Vec<VaultKeySlot>, Error> {
        self.send(Method::POST, &format!("/v1/vaults/{}/rotate", encode(name)), NOTHING)
    }

    /// Gives the copies of a vault what they lack, as a job.
    ///
    /// # Errors
    /// As [`status`](Self::status); `invalid` for a vault that has no copies.
    pub fn repair_vault(&self, name: &str, request: &RepairVault) -> Result<Job, Error> {
        self.send(Method::POST, &format!("/v1/vaults/{}/repair", encode(name)), Some(request))
    }
}
