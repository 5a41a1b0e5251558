//! The paths of vaults, their keys and copies.

use super::verb::{ADMINISTER, Call, LOOK, OPERATE, Verb, critical, verb};
use axum::http::Method;
use control::{AddKey, CreateVault, OpenVault, RepairVault, ScrubVault, VaultProtection};

/// Every verb.
pub fn verbs() -> Vec<Verb> {
    vec![
        verb(Method::GET, "/v1/vaults", LOOK, "Every vault", |daemon, call: &Call| {
            let mut vaults = daemon.vaults()?;
            vaults.retain(|vault| call.caller.sees_vault(&vault.name));
            Ok(vaults)
        }),
        verb(
            Method::POST,
            "/v1/vaults",
            ADMINISTER.whole().secret(),
            "Makes a vault with a fresh key",
            |daemon, call: &Call<(), CreateVault>| daemon.create_vault(&call.body),
        ),
        verb(Method::GET, "/v1/vaults/{vault}", LOOK, "One vault", |daemon, call: &Call| {
            daemon.vault(call.name("vault"))
        }),
        verb(
            Method::POST,
            "/v1/vaults/{vault}/open",
            ADMINISTER,
            "Brings in a vault that exists, or unlocks one that is known",
            |daemon, call: &Call<(), OpenVault>| daemon.open_vault(call.name("vault"), &call.body),
        ),
        verb(
            Method::GET,
            "/v1/vaults/{vault}/usage",
            LOOK,
            "What a vault takes, and how much of it nothing needs",
            |daemon, call: &Call| daemon.tiers().vaults.usage(call.name("vault")),
        ),
        verb(
            Method::POST,
            "/v1/vaults/{vault}/check",
            OPERATE,
            "Reads and verifies everything in a vault, as a job",
            |daemon, call: &Call| daemon.check_vault(call.name("vault")),
        ),
        verb(
            Method::POST,
            "/v1/vaults/{vault}/scrub",
            OPERATE,
            "Reads and proves all packs of a vault at a pace, as a job",
            |daemon, call: &Call<(), ScrubVault>| daemon.scrub_vault(call.name("vault"), &call.body),
        ),
        verb(
            Method::POST,
            "/v1/vaults/{vault}/repair",
            OPERATE,
            "Gives the copies of a vault what they lack, as a job",
            |daemon, call: &Call<(), RepairVault>| daemon.repair_vault(call.name("vault"), &call.body),
        ),
        critical(
            Method::PUT,
            "/v1/vaults/{vault}/protection",
            ADMINISTER,
            "Changes for how long deletions can be undone, and for how long nothing can be deleted",
            |daemon, call: &Call<(), VaultProtection>| {
                daemon.tiers().vaults.loosens(call.name("vault"), &call.body)
            },
            |daemon, call: &Call<(), VaultProtection>| daemon.protect_vault(call.name("vault"), &call.body),
        ),
        verb(Method::GET, "/v1/vaults/{vault}/keys", LOOK, "What opens a vault", |daemon, call: &Call| {
            daemon.tiers().vaults.keys(call.name("vault"))
        }),
        critical(
            Method::POST,
            "/v1/vaults/{vault}/keys",
            ADMINISTER.secret(),
            "Lets something more open a vault",
            |_, _: &Call<(), AddKey>| Ok(true),
            |daemon, call: &Call<(), AddKey>| daemon.tiers().vaults.add_key(call.name("vault"), &call.body),
        ),
        critical(
            Method::DELETE,
            "/v1/vaults/{vault}/keys/{slot}",
            ADMINISTER,
            "Lets something open a vault no more",
            |_, _: &Call| Ok(true),
            |daemon, call: &Call| daemon.tiers().vaults.remove_key(call.name("vault"), call.name("slot")),
        ),
        critical(
            Method::POST,
            "/v1/vaults/{vault}/rotate",
            ADMINISTER,
            "Puts a fresh key file in the place of the one in the state",
            |_, _: &Call| Ok(true),
            |daemon, call: &Call| daemon.tiers().vaults.rotate_key(call.name("vault")),
        ),
        verb(
            Method::POST,
            "/v1/vaults/{vault}/sweep",
            ADMINISTER,
            "Puts what no recovery point needs into quarantine, and deletes what was there long enough, as a job",
            |daemon, call: &Call| daemon.sweep_vault(call.name("vault")),
        ),
        verb(
            Method::GET,
            "/v1/vaults/{vault}/sweeps",
            LOOK,
            "What is in quarantine",
            |daemon, call: &Call| daemon.sweeps(call.name("vault")),
        ),
        verb(
            Method::POST,
            "/v1/vaults/{vault}/sweeps/{sweep}/undo",
            ADMINISTER,
            "Takes what a sweep put into quarantine out of it; it is answered as it was",
            |daemon, call: &Call| daemon.undo_sweep(call.name("vault"), call.name("sweep")),
        ),
    ]
}
