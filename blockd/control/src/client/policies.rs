//! The calls about policies and what they protect.

use super::{Client, NOTHING, encode, query_text};
use crate::{
    Error, Group, GroupMembers, HoldPoint, Item, Point, Points, Policy, PolicyPlan, PolicyText, Protect,
    UnprotectQuery,
};
use hyper::Method;

impl Client {
    /// Every group.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn groups(&self) -> Result<Vec<Group>, Error> {
        self.get("/v1/groups")
    }

    /// One group.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn group(&self, name: &str) -> Result<Group, Error> {
        self.get(&format!("/v1/groups/{}", encode(name)))
    }

    /// Makes a group, or gives it other members.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if a member is protected by itself and the group is too.
    pub fn set_group(&self, name: &str, members: &[String]) -> Result<Group, Error> {
        let body = GroupMembers { members: members.to_vec() };
        self.send(Method::PUT, &format!("/v1/groups/{}", encode(name)), Some(&body))
    }

    /// Removes a group; it is answered as it was.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if it is protected.
    pub fn delete_group(&self, name: &str) -> Result<Group, Error> {
        self.send(Method::DELETE, &format!("/v1/groups/{}", encode(name)), NOTHING)
    }

    /// Every policy.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn policies(&self) -> Result<Vec<Policy>, Error> {
        self.get("/v1/policies")
    }

    /// One policy.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn policy(&self, name: &str) -> Result<Policy, Error> {
        self.get(&format!("/v1/policies/{}", encode(name)))
    }

    /// Writes a policy.
    ///
    /// # Errors
    /// As [`status`](Self::status); `refused` if it would let points go, which takes a plan.
    pub fn apply_policy(&self, name: &str, text: &str) -> Result<Policy, Error> {
        let body = PolicyText { text: text.to_owned() };
        self.send(Method::PUT, &format!("/v1/policies/{}", encode(name)), Some(&body))
    }

    /// What a policy would do to existing points.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn plan_policy(&self, name: &str, text: &str) -> Result<PolicyPlan, Error> {
        let body = PolicyText { text: text.to_owned() };
        self.send(Method::POST, &format!("/v1/policies/{}/plan", encode(name)), Some(&body))
    }

    /// Does what a plan says.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if it would do something else by now.
    pub fn apply_plan(&self, id: &str) -> Result<Policy, Error> {
        self.send(Method::POST, &format!("/v1/plans/{}/apply", encode(id)), NOTHING)
    }

    /// Removes a policy; it is answered as it was.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if an item stands under it.
    pub fn delete_policy(&self, name: &str) -> Result<Policy, Error> {
        self.send(Method::DELETE, &format!("/v1/policies/{}", encode(name)), NOTHING)
    }

    /// Every item that a policy protects.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn items(&self) -> Result<Vec<Item>, Error> {
        self.get("/v1/items")
    }

    /// Puts a disk or a machine under a policy, or resumes its protection.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn protect(&self, item: &str, policy: Option<&str>) -> Result<Item, Error> {
        let body = Protect { policy: policy.map(str::to_owned) };
        self.send(Method::PUT, &format!("/v1/items/{}", encode(item)), Some(&body))
    }

    /// Ends or pauses an item's protection; it is answered as it was.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn unprotect(&self, item: &str, query: &UnprotectQuery) -> Result<Item, Error> {
        let yes = |is: bool| is.then_some("true");
        let query = query_text(&[("delete_data", yes(query.delete_data)), ("pause", yes(query.pause))]);
        self.send(Method::DELETE, &format!("/v1/items/{}{query}", encode(item)), NOTHING)
    }

    /// Recovery points that were deleted and can come back.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn deleted_points(&self, item: Option<&str>) -> Result<Points, Error> {
        self.get(&format!("/v1/points{}", query_text(&[("item", item), ("deleted", Some("true"))])))
    }

    /// Brings a deleted point back.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn undelete_point(&self, name: &str) -> Result<Point, Error> {
        self.send(Method::POST, &format!("/v1/points/{}/undelete", encode(name)), NOTHING)
    }

    /// Holds a point, so that nothing deletes it.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn hold_point(&self, name: &str, reason: &str) -> Result<Point, Error> {
        let body = HoldPoint { reason: reason.to_owned() };
        self.send(Method::POST, &format!("/v1/points/{}/hold", encode(name)), Some(&body))
    }

    /// Says that a suspect point is right.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if it is not suspect.
    pub fn accept_point(&self, name: &str) -> Result<Point, Error> {
        self.send(Method::DELETE, &format!("/v1/points/{}/suspicion", encode(name)), NOTHING)
    }

    /// Ends a hold.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn release_point(&self, name: &str) -> Result<Point, Error> {
        self.send(Method::DELETE, &format!("/v1/points/{}/hold", encode(name)), NOTHING)
    }
}
