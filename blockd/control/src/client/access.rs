//! The calls about who may do what, and what was done.

use super::{Client, NOTHING, encode, query_text};
use crate::{AuditEntry, AuditQuery, AuditVerified, CreateToken, Error, Token, TokenCreated};
use hyper::Method;

impl Client {
    /// Every token, without its secret.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn tokens(&self) -> Result<Vec<Token>, Error> {
        self.get("/v1/tokens")
    }

    /// Makes a token.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if the name is taken.
    pub fn create_token(&self, request: &CreateToken) -> Result<TokenCreated, Error> {
        self.send(Method::POST, "/v1/tokens", Some(request))
    }

    /// Removes a token; it is answered as it was.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn delete_token(&self, name: &str) -> Result<Token, Error> {
        self.send(Method::DELETE, &format!("/v1/tokens/{}", encode(name)), NOTHING)
    }

    /// Entries of the audit log, oldest first.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, Error> {
        let (after, limit) =
            (query.after.map(|after| after.to_string()), query.limit.map(|limit| limit.to_string()));
        let query = query_text(&[("after", after.as_deref()), ("limit", limit.as_deref())]);
        self.get(&format!("/v1/audit{query}"))
    }

    /// Goes through the whole audit log, which must have this head in it, if one is given.
    ///
    /// # Errors
    /// As [`status`](Self::status). A log that was tampered with is not an error here: the answer says so.
    pub fn verify_audit(&self, head: Option<&str>) -> Result<AuditVerified, Error> {
        self.get(&format!("/v1/audit/verify{}", query_text(&[("head", head)])))
    }

    /// The OpenAPI document of the daemon.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn openapi(&self) -> Result<serde_json::Value, Error> {
        self.get("/v1/openapi.json")
    }
}
