//! `blockctl vault …`.

use crate::cli::VaultVerb;
use crate::failure::{Failure, Result};
use crate::job;
use crate::output::{Output, sheet, table};
use crate::size;
use control::{Client, CreateVault, JobState, OpenVault, Vault, VaultCheck, VaultUsage};
use std::io::Read;
use std::path::{Path, absolute};

/// A key file or a sheet is far smaller.
const KEY_LIMIT_BYTES: u64 = 64 << 10;

/// Runs the verb.
pub fn run(verb: VaultVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        VaultVerb::Create { name, store, soft_delete_days, lab } => {
            let store = if store.contains("://") { store } else { absolute_text(&store)? };
            let vault = client.create_vault(&CreateVault {
                name,
                store,
                soft_delete_days: Some(if lab { 0 } else { soft_delete_days }),
            })?;
            output.answer(&vault, |vault| {
                format!("{}\nPrint {} and keep it away from this host.", show(vault), vault.recovery_sheet)
            })
        }
        VaultVerb::Open { name, store, key } => {
            let store = Some(if store.contains("://") { store } else { absolute_text(&store)? });
            let request = OpenVault { store, key: key_text(&key)? };
            output.answer(&client.open_vault(&name, &request)?, show)
        }
        VaultVerb::Unlock { name, key } => {
            let request = OpenVault { store: None, key: key_text(&key)? };
            output.answer(&client.open_vault(&name, &request)?, show)
        }
        VaultVerb::List => output.answer(&client.vaults()?, |vaults| table_of(vaults)),
        VaultVerb::Show { name } => output.answer(&client.vault(&name)?, show),
        VaultVerb::Usage { name } => output.answer(&client.vault_usage(&name)?, usage),
        VaultVerb::Check { name } => check(client, output, &name),
    }
}

/// The path as the daemon understands it, whose working directory is another.
fn absolute_text(path: &str) -> Result<String> {
    let path = absolute(path).map_err(|error| Failure::host(format!("store {path:?}"), &error))?;
    Ok(path.display().to_string())
}

/// What a file with a key says; it is read here, so the daemon need not be let in to it.
fn key_text(file: &Path) -> Result<String> {
    let failed = |error| Failure::host(format!("key {}", file.display()), &error);
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(KEY_LIMIT_BYTES).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).map_err(failed)?.take(KEY_LIMIT_BYTES).read_to_string(&mut text)
    };
    read.map_err(failed)?;
    Ok(text)
}

fn check(client: &Client, output: &Output, name: &str) -> Result<()> {
    let begun = client.check_vault(name)?;
    let job = job::follow(client, output, &begun)?;
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

fn usage(usage: &VaultUsage) -> String {
    sheet(&[
        ("vault", usage.vault.clone()),
        ("points", usage.points.to_string()),
        ("packs", usage.packs.to_string()),
        ("stored", size::show(usage.bytes_stored)),
        ("needed", size::show(usage.bytes_referenced)),
        ("not needed", size::show(usage.bytes_unreferenced)),
    ])
}

/// Vaults for people.
pub fn table_of(vaults: &[Vault]) -> String {
    let row = |vault: &Vault| {
        let state = match (&vault.error, vault.locked) {
            (_, true) => "locked",
            (Some(_), false) => "failed",
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
        ("store", vault.store.clone()),
        ("points", vault.points.map_or_else(|| "?".to_owned(), |points| points.to_string())),
        ("stored", vault.stored.map_or_else(|| "?".to_owned(), size::show)),
        ("locked", if vault.locked { "yes" } else { "no" }.to_owned()),
        ("key file", vault.key_file.clone()),
        ("sheet", vault.recovery_sheet.clone()),
    ];
    if let Some(error) = &vault.error {
        rows.push(("error", error.message.clone()));
    }
    sheet(&rows)
}
