//! The paths of groups.

use super::verb::{ADMINISTER, Call, LOOK, OPERATE, Verb, critical, verb};
use axum::http::Method;
use control::GroupMembers;

/// Every verb.
pub fn verbs() -> Vec<Verb> {
    vec![
        verb(Method::GET, "/v1/groups", LOOK, "Every group", |daemon, call: &Call| {
            let mut groups = daemon.groups()?;
            groups.retain(|group| call.caller.sees_item(&group.name));
            Ok(groups)
        }),
        verb(Method::GET, "/v1/groups/{group}", LOOK, "One group", |daemon, call: &Call| {
            daemon.group(call.name("group"))
        }),
        critical(
            Method::PUT,
            "/v1/groups/{group}",
            OPERATE,
            "Makes a group of disks and machines, or gives it other members; one under a policy only for an admin",
            |daemon, call: &Call<(), GroupMembers>| {
                daemon.grouping_loses(call.name("group"), &call.body.members)
            },
            |daemon, call: &Call<(), GroupMembers>| {
                daemon.set_group(call.name("group"), &call.body.members, &call.caller)
            },
        ),
        verb(
            Method::DELETE,
            "/v1/groups/{group}",
            ADMINISTER,
            "Removes a group that stands under no policy; its members stay, and it is answered as it was",
            |daemon, call: &Call| daemon.delete_group(call.name("group")),
        ),
    ]
}
