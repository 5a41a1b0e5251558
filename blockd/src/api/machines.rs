//! The paths of whole machines. Which machine of libvirt is meant is said by identities without a scope alone: a scope knows items, and no
//! machines of libvirt.

use super::verb::{ADMINISTER, Call, LOOK, OPERATE, RESTORE, Verb, verb};
use crate::error::Result;
use axum::http::Method;
use control::{
    AttachDisk, MachinesQuery, MigrateIn, MigrateOut, ProtectMachine, ReplaceMachine, RestoreMachine, Role,
};

/// Every verb.
pub fn verbs() -> Vec<Verb> {
    vec![
        verb(
            Method::GET,
            "/v1/machines",
            LOOK,
            "Protected machines, and those that libvirt has besides",
            |daemon, call: &Call<MachinesQuery>| {
                check_uri(call, call.query.uri.as_deref())?;
                let mut found = daemon.list_machines(&call.query)?;
                if !call.caller.is_whole() {
                    found.machines.retain(|machine| {
                        machine.name.as_deref().is_some_and(|name| call.caller.sees_item(name))
                    });
                    found.warnings.clear();
                }
                Ok(found)
            },
        ),
        verb(Method::GET, "/v1/machines/{item}", LOOK, "One protected machine", |daemon, call: &Call| {
            daemon.machine(call.name("item"))
        }),
        verb(
            Method::PUT,
            "/v1/machines/{item}",
            OPERATE.whole(),
            "Protects a machine of libvirt, or anew with other disks; another libvirt than the host's only for an admin",
            |daemon, call: &Call<(), ProtectMachine>| {
                check_uri(call, call.body.uri.as_deref())?;
                daemon.protect_machine(call.name("item"), &call.body)
            },
        ),
        verb(
            Method::POST,
            "/v1/definitions/{point}",
            RESTORE,
            "What a recovery point of a machine holds of it beside its disks",
            |daemon, call: &Call| daemon.definition(call.name("point")),
        ),
        verb(
            Method::POST,
            "/v1/machines/attach",
            OPERATE.whole(),
            "Gives a disk to a machine of libvirt",
            |daemon, call: &Call<(), AttachDisk>| {
                check_uri(call, call.body.uri.as_deref())?;
                daemon.attach_disk(&call.body)
            },
        ),
        verb(
            Method::POST,
            "/v1/machines/{item}/migrate-in",
            OPERATE,
            "Moves the disks of a running machine here, as a job",
            |daemon, call: &Call<(), MigrateIn>| daemon.migrate_in(call.name("item"), &call.body),
        ),
        verb(
            Method::POST,
            "/v1/machines/{item}/migrate-out",
            ADMINISTER,
            "Moves the disks of a running machine to files of its host, as a job",
            |daemon, call: &Call<(), MigrateOut>| daemon.migrate_out(call.name("item"), &call.body),
        ),
        verb(
            Method::POST,
            "/v1/machines/restores",
            RESTORE.whole(),
            "A recovery point of a machine as a new machine, as a job",
            |daemon, call: &Call<(), RestoreMachine>| {
                check_uri(call, call.body.uri.as_deref())?;
                daemon.restore_machine(&call.body)
            },
        ),
        verb(
            Method::POST,
            "/v1/machines/{item}/replace",
            RESTORE,
            "A recovery point of a machine in the place of what it holds, as a job for each disk",
            |daemon, call: &Call<(), ReplaceMachine>| daemon.replace_machine(call.name("item"), &call.body),
        ),
        verb(
            Method::DELETE,
            "/v1/machines/{item}",
            ADMINISTER,
            "Forgets a machine; its disks and recovery points stay, and it is answered as it was",
            |daemon, call: &Call| daemon.unprotect_machine(call.name("item")),
        ),
    ]
}

/// Whom to connect to, as the daemon, is for an admin to say.
fn check_uri<Q, B>(call: &Call<Q, B>, uri: Option<&str>) -> Result<()> {
    match uri {
        Some(_) => call.caller.check_role(&[Role::Admin], "another libvirt than the host's"),
        None => Ok(()),
    }
}
