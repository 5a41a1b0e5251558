//! The paths of policies, of items under them, and of what is said of points.

use super::routes::page;
use super::verb::{ADMINISTER, Call, LOOK, OPERATE, Verb, critical, verb};
use crate::policies::PolicyName;
use axum::http::Method;
use control::{HoldPoint, PageQuery, PolicyText, Protect, Role, UnprotectQuery};

/// Every verb.
pub fn verbs() -> Vec<Verb> {
    vec![
        verb(Method::GET, "/v1/policies", LOOK, "Every policy", |daemon, call: &Call| {
            let mut policies = daemon.show_policies()?;
            policies.retain(|policy| call.caller.sees_vault(&policy.vault));
            policies.iter_mut().for_each(|policy| policy.items.retain(|item| call.caller.sees_item(item)));
            Ok(policies)
        }),
        verb(Method::GET, "/v1/policies/{policy}", LOOK, "One policy", |daemon, call: &Call| {
            let mut policy = daemon.show_policy(call.name("policy"))?;
            policy.items.retain(|item| call.caller.sees_item(item));
            Ok(policy)
        }),
        verb(
            Method::PUT,
            "/v1/policies/{policy}",
            ADMINISTER,
            "Writes a policy; refused if it would let points go, which takes a plan",
            |daemon, call: &Call<(), PolicyText>| daemon.apply_policy(call.name("policy"), &call.body.text),
        ),
        verb(
            Method::DELETE,
            "/v1/policies/{policy}",
            ADMINISTER,
            "Removes a policy that nothing stands under; it is answered as it was",
            |daemon, call: &Call| daemon.delete_policy(call.name("policy")),
        ),
        verb(
            Method::POST,
            "/v1/policies/{policy}/plan",
            LOOK,
            "What a policy would do to existing points",
            |daemon, call: &Call<(), PolicyText>| daemon.plan_policy(call.name("policy"), &call.body.text),
        ),
        critical(
            Method::POST,
            "/v1/plans/{plan}/apply",
            ADMINISTER,
            "Does what a plan says",
            |daemon, call: &Call| Ok(daemon.plans().loses(call.name("plan"))),
            |daemon, call: &Call| daemon.apply_plan(call.name("plan")),
        ),
        verb(
            Method::GET,
            "/v1/items",
            LOOK,
            "Every item under a policy",
            |daemon, call: &Call<PageQuery>| {
                let mut items = daemon.items()?;
                items.retain(|item| {
                    let vault = PolicyName::parse(&item.policy).map(|name| name.vault);
                    call.caller.sees_item(&item.item)
                        && vault.is_ok_and(|vault| call.caller.sees_vault(&vault))
                });
                page(&mut items, call.query.after.as_deref(), call.query.limit, |item| &item.item);
                Ok(items)
            },
        ),
        critical(
            Method::PUT,
            "/v1/items/{item}",
            OPERATE,
            "Puts a disk or a machine under a policy, or resumes its protection",
            |daemon, call: &Call<(), Protect>| {
                daemon.protecting_loses(call.name("item"), call.body.policy.as_deref())
            },
            |daemon, call: &Call<(), Protect>| {
                let (item, policy) = (call.name("item"), call.body.policy.as_deref());
                call.caller.check_scope(&[], &[daemon.wanted_policy(item, policy)?.vault])?;
                if call.caller.role != Role::Admin && daemon.protecting_loses(item, policy)? {
                    call.caller.check_role(&[Role::Admin], "a policy that lets recovery points go")?;
                }
                daemon.protect(item, policy)
            },
        ),
        critical(
            Method::DELETE,
            "/v1/items/{item}",
            ADMINISTER,
            "Ends or pauses an item's protection; it is answered as it was",
            |_, call: &Call<UnprotectQuery>| Ok(call.query.delete_data),
            |daemon, call: &Call<UnprotectQuery>| daemon.unprotect(call.name("item"), &call.query),
        ),
        verb(
            Method::POST,
            "/v1/points/{point}/hold",
            OPERATE,
            "Holds a recovery point, so that nothing deletes it",
            |daemon, call: &Call<(), HoldPoint>| {
                daemon.hold_point(call.name("point"), Some(&call.body.reason))
            },
        ),
        verb(Method::DELETE, "/v1/points/{point}/hold", ADMINISTER, "Ends a hold", |daemon, call: &Call| {
            daemon.hold_point(call.name("point"), None)
        }),
        verb(
            Method::DELETE,
            "/v1/points/{point}/suspicion",
            ADMINISTER,
            "Says that a suspect recovery point is right, and lets its disk be pruned again",
            |daemon, call: &Call| daemon.accept_point(call.name("point")),
        ),
        verb(
            Method::POST,
            "/v1/points/{point}/undelete",
            OPERATE,
            "Brings back a recovery point that was deleted from a vault",
            |daemon, call: &Call| daemon.undelete_point(call.name("point")),
        ),
    ]
}
