//! `blockctl vault …`.

use crate::cli::{
    ImmutabilityName, KeyArguments, KeyVerb, NewKey, ProtectArguments, StoreArguments, VaultVerb,
};
use crate::failure::{Failure, Result};
use crate::job;
use crate::output::{Output, sheet, table};
use crate::{secret, size};
use control::{
    AddKey, Client, CreateVault, Immutability, Job, JobState, OpenVault, RepairVault, ScrubVault, SweepRun,
    Vault, VaultCheck, VaultKeySlot, VaultProtection, VaultRepair, VaultSweep, VaultUsage,
};
use std::path::{Path, absolute};

/// Runs the verb.
pub fn run(verb: VaultVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        VaultVerb::Create { name, place, parity, passphrase_file, sheet, soft_delete_days, lab } => {
            let archive = place.archive;
            let (store, copies, store_options) = places(place)?;
            let passphrase = passphrase_file.as_deref().map(secret::passphrase).transpose()?;
            let soft_delete_days = Some(if lab { 0 } else { soft_delete_days });
            sheet.as_deref().map_or(Ok(()), secret::must_be_new)?;
            let request = CreateVault {
                name,
                store,
                copies,
                parity,
                store_options,
                passphrase,
                soft_delete_days,
                archive,
            };
            let mut vault = client.create_vault(&request)?;
            if let (Some(text), Some(file)) = (vault.recovery_sheet_text.take(), &sheet) {
                secret::write_new(file, &text)?;
                vault.recovery_sheet = absolute_text(&file.display().to_string())?;
            }
            output.answer(&vault, |vault| {
                format!("{}\nPrint {} and keep it away from this host.", show(vault), vault.recovery_sheet)
            })
        }
        VaultVerb::Open { name, place, key, take_over } => {
            let archive = place.archive;
            let (store, copies, store_options) = places(place)?;
            let (key, passphrase) = given(&key)?;
            let store = Some(store);
            let request = OpenVault { store, copies, store_options, key, passphrase, take_over, archive };
            output.answer(&client.open_vault(&name, &request)?, show)
        }
        VaultVerb::Unlock { name, key } => {
            let (key, passphrase) = given(&key)?;
            let request = OpenVault { key, passphrase, ..OpenVault::default() };
            output.answer(&client.open_vault(&name, &request)?, show)
        }
        VaultVerb::Key(verb) => key(verb, client, output),
        VaultVerb::List => output.answer(&client.vaults()?, |vaults| table_of(vaults)),
        VaultVerb::Show { name } => output.answer(&client.vault(&name)?, show),
        VaultVerb::Usage { name } => output.answer(&client.vault_usage(&name)?, usage),
        VaultVerb::Check { name } => check(client, output, &name),
        VaultVerb::Repair { name, all, copy, store } => {
            let store = store.as_deref().map(absolute_text).transpose()?;
            repair(client, output, &name, &RepairVault { all, copy, store })
        }
        VaultVerb::Scrub { name, rate, restart } => {
            let request = ScrubVault { bytes_per_second: rate, restart };
            checked(client, output, &client.scrub_vault(&name, &request)?)
        }
        VaultVerb::Sweep { name, undo: Some(run), .. } => output
            .answer(&client.undo_sweep(&name, &run)?, |run| {
                format!("sweep {} undone: {} are in use again\n", run.run, size::count(run.packs, "pack"))
            }),
        VaultVerb::Sweep { name, list: true, .. } => {
            output.answer(&client.sweeps(&name)?, |runs| runs_of(runs))
        }
        VaultVerb::Sweep { name, yes, .. } => sweep(client, output, &name, yes),
        VaultVerb::Protect { name, how, yes } => {
            let request = protection(&how);
            if request.immutability == Some(Immutability::Locked) {
                output.confirm(
                    &format!("lock the immutability of vault {name}: nobody can ever take that back"),
                    yes,
                )?;
            }
            output.answer(&client.protect_vault(&name, &request)?, show)
        }
        VaultVerb::Rescue(_) => Err(Failure::usage("vault rescue: needs no daemon")),
    }
}

fn key(verb: KeyVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        KeyVerb::List { name } => output.answer(&client.vault_keys(&name)?, |slots| slots_of(slots)),
        KeyVerb::Add { name, new, current_key, current_passphrase_file } => {
            let NewKey { key_file, passphrase_file, command } = new;
            let passphrase = passphrase_file.as_deref().map(secret::passphrase).transpose()?;
            let kind = match (&passphrase, command) {
                (Some(_), _) => "passphrase",
                (None, true) => "command",
                (None, false) => "key-file",
            };
            key_file.as_deref().map_or(Ok(()), secret::must_be_new)?;
            let current_key = current_key.as_deref().map(|file| secret::text("key", file)).transpose()?;
            let current_passphrase =
                current_passphrase_file.as_deref().map(secret::passphrase).transpose()?;
            let request = AddKey {
                kind: kind.to_owned(),
                passphrase,
                current_key: current_key.unwrap_or_default(),
                current_passphrase,
            };
            let mut added = client.add_vault_key(&name, &request)?;
            if let (Some(text), Some(file)) = (added.key_file.take(), &key_file) {
                secret::write_new(file, &text)?;
                added.key_file = Some(file.display().to_string());
            }
            output.answer(&added, |added| match &added.key_file {
                Some(file) => format!("vault {name}: slot {} opens with {file}", added.slot),
                None => format!("vault {name}: slot {} opens with a {kind}", added.slot),
            })
        }
        KeyVerb::Remove { name, slot, yes } => {
            output.confirm(&format!("let slot {slot} open vault {name} no more"), yes)?;
            output.answer(&client.remove_vault_key(&name, &slot)?, |slots| slots_of(slots))
        }
        KeyVerb::Rotate { name } => output.answer(&client.rotate_vault_key(&name)?, |slots| slots_of(slots)),
    }
}

fn slots_of(slots: &[VaultKeySlot]) -> String {
    let row = |slot: &VaultKeySlot| {
        vec![slot.slot.clone(), slot.kind.clone(), slot.made.clone().unwrap_or_else(|| "?".to_owned())]
    };
    table(&["slot", "kind", "made"], slots.iter().map(row).collect())
}

/// Store, copies and options as the daemon takes them.
fn places(place: StoreArguments) -> Result<(String, Vec<String>, Option<String>)> {
    let one = |text: &str| if text.contains("://") { Ok(text.to_owned()) } else { absolute_text(text) };
    let copies = place.copy.iter().map(|text| one(text)).collect::<Result<_>>()?;
    let read = |file: &Path| secret::text("store options", file);
    Ok((one(&place.store)?, copies, place.store_options.as_deref().map(read).transpose()?))
}

/// The text of a key, empty if there is none, and a passphrase.
fn given(key: &KeyArguments) -> Result<(String, Option<String>)> {
    let text = key.key.as_deref().map(|file| secret::text("key", file)).transpose()?;
    Ok((text.unwrap_or_default(), key.passphrase_file.as_deref().map(secret::passphrase).transpose()?))
}

/// The path as the daemon understands it, whose working directory is another.
fn absolute_text(path: &str) -> Result<String> {
    let path = absolute(path).map_err(|error| Failure::host(format!("store {path:?}"), &error))?;
    Ok(path.display().to_string())
}

fn repair(client: &Client, output: &Output, name: &str, request: &RepairVault) -> Result<()> {
    let begun = client.repair_vault(name, request)?;
    let job = job::follow(client, output, &begun)?;
    if let Some(repair) = &job.repair {
        output.answer(repair, repaired)?;
    }
    if job.state == JobState::Done { Ok(()) } else { Err(job::failure(&job)) }
}

fn repaired(repair: &VaultRepair) -> String {
    let mut text = format!(
        "vault {}: {} looked at, {} read, {} made right in the store\n",
        repair.vault,
        size::count(repair.blobs, "blob"),
        size::show(repair.bytes_read),
        size::count(repair.repaired, "blob"),
    );
    if !repair.packs_healed.is_empty() {
        text.push_str(&format!(
            "  {} healed: {} from other packs, {} from disks\n",
            size::count(repair.packs_healed.len() as u64, "damaged pack"),
            size::count(repair.chunks_from_vault, "chunk"),
            size::count(repair.chunks_from_disks, "chunk"),
        ));
    }
    if repair.hopeless > 0 {
        text.push_str(&format!("  {} stay damaged\n", size::count(repair.hopeless, "blob")));
    }
    for problem in &repair.problems {
        text.push_str(&format!("  {}: {}\n", problem.what, problem.why));
    }
    text
}

fn check(client: &Client, output: &Output, name: &str) -> Result<()> {
    checked(client, output, &client.check_vault(name)?)
}

/// Follows a check or a scrub to its end.
fn checked(client: &Client, output: &Output, begun: &Job) -> Result<()> {
    let job = job::follow(client, output, begun)?;
    if let Some(check) = &job.check {
        output.answer(check, found)?;
    }
    if job.state == JobState::Done { Ok(()) } else { Err(job::failure(&job)) }
}

fn found(check: &VaultCheck) -> String {
    let mut text = format!(
        "vault {}: {}, {}, {}, {} read: {}\n",
        check.vault,
        size::count(check.points, "recovery point"),
        size::count(check.packs, "pack"),
        size::count(check.chunks, "chunk"),
        size::show(check.bytes_read),
        if check.ok { "all as it was written" } else { "DAMAGED" },
    );
    if let Some(bytes) = check.bytes_unreferenced.filter(|&bytes| bytes > 0) {
        text.push_str(&format!("  {} no recovery point needs\n", size::show(bytes)));
    }
    for problem in &check.problems {
        text.push_str(&format!("  {}: {}\n", problem.what, problem.why));
    }
    text
}

fn sweep(client: &Client, output: &Output, name: &str, yes: bool) -> Result<()> {
    let runs = client.sweeps(name)?;
    if !runs.is_empty() {
        let bytes = runs.iter().map(|run| run.bytes).sum();
        let what = format!("delete {} for good that are in quarantine of vault {name}", size::show(bytes));
        output.confirm(&what, yes)?;
    }
    let job = job::follow(client, output, &client.sweep_vault(name)?)?;
    if let Some(sweep) = &job.sweep {
        output.answer(sweep, swept)?;
    }
    if job.state == JobState::Done { Ok(()) } else { Err(job::failure(&job)) }
}

fn swept(sweep: &VaultSweep) -> String {
    let packs = |names: &[String]| size::count(names.len() as u64, "pack");
    let mut text = format!(
        "vault {}: {}, {} deleted\n",
        sweep.vault,
        packs(&sweep.deleted),
        size::show(sweep.bytes_deleted)
    );
    if let Some(run) = &sweep.run {
        let all = size::count((sweep.quarantined.len() + sweep.rewritten.len()) as u64, "pack");
        let bytes = size::show(sweep.bytes_quarantined);
        text.push_str(&format!(
            "  {all}, {bytes} in quarantine: the next sweep deletes them, `blockctl vault sweep {} --undo {run}` brings them back\n",
            sweep.vault
        ));
    }
    if !sweep.rewritten.is_empty() {
        text.push_str(&format!(
            "  {} of these were needed in part, which was written anew: {}\n",
            sweep.rewritten.len(),
            size::show(sweep.bytes_rewritten)
        ));
    }
    if !sweep.released.is_empty() {
        text.push_str(&format!("  {} in use again\n", packs(&sweep.released)));
    }
    text
}

fn runs_of(runs: &[SweepRun]) -> String {
    let row = |run: &SweepRun| {
        vec![run.run.clone(), run.time.clone(), run.packs.to_string(), size::show(run.bytes)]
    };
    table(&["run", "time", ">packs", ">size"], runs.iter().map(row).collect())
}

fn usage(usage: &VaultUsage) -> String {
    let rest = usage.bytes_stored.saturating_sub(usage.bytes_referenced + usage.bytes_unreferenced);
    sheet(&[
        ("vault", usage.vault.clone()),
        ("points", usage.points.to_string()),
        ("packs", usage.packs.to_string()),
        ("stored", size::show(usage.bytes_stored)),
        ("needed", size::show(usage.bytes_referenced)),
        ("not needed", size::show(usage.bytes_unreferenced)),
        ("rest", format!("{} (points, indexes, what packs say of themselves)", size::show(rest))),
    ])
}

/// Vaults for people.
pub fn table_of(vaults: &[Vault]) -> String {
    let row = |vault: &Vault| {
        let is_damaged = vault.checked.as_ref().is_some_and(|check| check.problems > 0);
        let state = match (&vault.error, vault.locked) {
            (_, true) => "locked",
            (Some(_), false) => "failed",
            (None, false) if is_damaged => "damaged",
            (None, false) if vault.read_only.is_some() => "read-only",
            (None, false) if vault.copies.iter().any(|copy| copy.why.is_some()) => "degraded",
            (None, false) => "ready",
        };
        vec![
            vault.name.clone(),
            vault.points.map_or_else(|| "?".to_owned(), |points| points.to_string()),
            vault.stored.map_or_else(|| "?".to_owned(), size::show),
            state.to_owned(),
            vault.store.clone(),
        ]
    };
    table(&["vault", ">points", ">stored", "state", "store"], vaults.iter().map(row).collect())
}

fn show(vault: &Vault) -> String {
    let mut rows = vec![
        ("name", vault.name.clone()),
        ("id", vault.id.clone().unwrap_or_else(|| "?".to_owned())),
        ("kind", if vault.archive { "archive" } else { "vault" }.to_owned()),
        ("store", vault.store.clone()),
        ("redundancy", vault.redundancy.clone()),
        ("points", vault.points.map_or_else(|| "?".to_owned(), |points| points.to_string())),
        ("stored", vault.stored.map_or_else(|| "?".to_owned(), size::show)),
        ("soft delete", format!("{} days", vault.soft_delete_days)),
        ("immutability", immutability(vault)),
        ("locked", if vault.locked { "yes" } else { "no" }.to_owned()),
        ("key file", vault.key_file.clone()),
        ("sheet", vault.recovery_sheet.clone()),
    ];
    let found = |problems| if problems == 0 { "all as it was written" } else { "DAMAGED" };
    rows.push(match &vault.checked {
        Some(check) => ("checked", format!("{}: {}", check.time, found(check.problems))),
        None => ("checked", "never".to_owned()),
    });
    if let Some(error) = &vault.error {
        rows.push(("error", error.message.clone()));
    }
    if let Some(why) = &vault.read_only {
        rows.push(("read-only", why.clone()));
    }
    for copy in &vault.copies {
        let why = copy.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        rows.push(("copy", format!("{} {} {}{why}", copy.number, copy.state, copy.place)));
    }
    for writer in &vault.writers {
        let label = writer.label.as_deref().unwrap_or("damaged registration");
        let own = if writer.own { ", this one" } else { "" };
        rows.push(("writer", format!("{} {label}{own}", writer.appliance)));
    }
    sheet(&rows)
}

fn immutability(vault: &Vault) -> String {
    match vault.immutability {
        Immutability::Off => "off".to_owned(),
        how => format!("{}, {} days", how.name(), vault.immutable_days),
    }
}

fn protection(how: &ProtectArguments) -> VaultProtection {
    let immutability = how.immutability.map(|name| match name {
        ImmutabilityName::Off => Immutability::Off,
        ImmutabilityName::On => Immutability::On,
        ImmutabilityName::Locked => Immutability::Locked,
    });
    let (soft_delete_days, immutable_days) = (how.soft_delete_days, how.immutable_days);
    VaultProtection { soft_delete_days, immutability, immutable_days }
}
