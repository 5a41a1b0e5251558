//! `blockctl vault …`.

use crate::cli::VaultVerb;
use crate::failure::{Failure, Result};
use crate::job;
use crate::output::{Output, sheet, table};
use crate::size;
use control::{Client, CreateVault, JobState, Vault, VaultCheck};
use std::path::absolute;

/// Runs the verb.
pub fn run(verb: VaultVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        VaultVerb::Create { name, store } => {
            let store = absolute(&store).map_err(|error| Failure::host(store.display(), &error))?;
            let vault = client.create_vault(&CreateVault { name, store: store.display().to_string() })?;
            output.answer(&vault, |vault| {
                format!("{}\nPrint {} and keep it away from this host.", show(vault), vault.recovery_sheet)
            })
        }
        VaultVerb::List => output.answer(&client.vaults()?, |vaults| table_of(vaults)),
        VaultVerb::Show { name } => output.answer(&client.vault(&name)?, show),
        VaultVerb::Check { name } => check(client, output, &name),
    }
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
        "vault {}: {} recovery points, {} packs, {} chunks, {} read: {}\n",
        check.vault,
        check.points,
        check.packs,
        check.chunks,
        size::show(check.bytes_read),
        if check.ok { "all as it was written" } else { "DAMAGED" },
    );
    for problem in &check.problems {
        text.push_str(&format!("  {}: {}\n", problem.what, problem.why));
    }
    text
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
