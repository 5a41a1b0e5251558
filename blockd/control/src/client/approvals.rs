//! The calls about approvals, the appliance's time and what happened.

use super::{Client, NOTHING, encode};
use crate::{ApplianceTime, Approval, Error, Event, Vault, VaultProtection, Verdict};
use hyper::Method;

impl Client {
    /// Requests that need a guard, newest first.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn approvals(&self) -> Result<Vec<Approval>, Error> {
        self.get("/v1/approvals")
    }

    /// One of them, by its id or the beginning of it.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn approval(&self, id: &str) -> Result<Approval, Error> {
        self.get(&format!("/v1/approvals/{}", encode(id)))
    }

    /// Lets a request pass, once, or says no to it.
    ///
    /// # Errors
    /// As [`status`](Self::status); `refused` for a signature that does not fit.
    pub fn decide_approval(&self, id: &str, approves: bool, signature: &str) -> Result<Approval, Error> {
        let verb = if approves { "approve" } else { "deny" };
        let body = Verdict { signature: signature.to_owned() };
        self.send(Method::POST, &format!("/v1/approvals/{}/{verb}", encode(id)), Some(&body))
    }

    /// The last events, oldest first.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn recent_events(&self) -> Result<Vec<Event>, Error> {
        self.get("/v1/events/recent")
    }

    /// The appliance's time.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn clock(&self) -> Result<ApplianceTime, Error> {
        self.get("/v1/clock")
    }

    /// Says that the host's time is right after a jump.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn accept_clock(&self) -> Result<ApplianceTime, Error> {
        self.send(Method::POST, "/v1/clock/accept", NOTHING)
    }

    /// Changes how the points of a vault are protected.
    ///
    /// # Errors
    /// As [`status`](Self::status); `refused` if that is locked and would be less.
    pub fn protect_vault(&self, name: &str, request: &VaultProtection) -> Result<Vault, Error> {
        self.send(Method::PUT, &format!("/v1/vaults/{}/protection", encode(name)), Some(request))
    }
}
