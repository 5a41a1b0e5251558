//! `blockctl policy …`, `protect` and `unprotect`.

use crate::cli::{PolicyFile, PolicyVerb, ProtectOptions, UnprotectOptions};
use crate::failure::{Failure, Result};
use crate::output::{Output, sheet, table};
use crate::size;
use control::{Client, Item, KeptBy, PlannedPoint, Policy, PolicyPlan, UnprotectQuery};
use std::io::Read;
use std::path::Path;

/// A policy is far smaller.
const LIMIT_BYTES: u64 = 64 << 10;

/// Runs the verb.
pub fn run(verb: PolicyVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        PolicyVerb::List => output.answer(&client.policies()?, |policies| list(policies)),
        PolicyVerb::Show { name } => output.answer(&client.policy(&name)?, show),
        PolicyVerb::Export { name } => {
            output.answer(&client.policy(&name)?, |policy| policy.text.clone().unwrap_or_default())
        }
        PolicyVerb::Plan(file) => {
            let (name, text) = read(&file.file, file.name.as_deref())?;
            output.answer(&client.plan_policy(&name, &text)?, plan)
        }
        PolicyVerb::Apply { plan: Some(id), .. } => output.answer(&client.apply_plan(&id)?, show),
        PolicyVerb::Apply { file, plan: None } => {
            let file = PolicyFile { file: file.file.unwrap_or_default(), name: file.name };
            let (name, text) = read(&file.file, file.name.as_deref())?;
            output.answer(&client.apply_policy(&name, &text)?, show)
        }
        PolicyVerb::Delete { name, yes } => {
            let found = client.policy(&name)?;
            output.confirm(&format!("delete policy {}", found.name), yes)?;
            output.answer(&client.delete_policy(&name)?, |policy| format!("deleted policy {}", policy.name))
        }
        PolicyVerb::Items => output.answer(&client.items()?, |items| table_of(items)),
    }
}

/// `blockctl protect`.
pub fn protect(client: &Client, output: &Output, options: &ProtectOptions) -> Result<()> {
    output.answer(&client.protect(&options.item, options.policy.as_deref())?, |item| {
        let next = item.next.as_deref().unwrap_or("unknown");
        format!("{} stands under {}; its next backup: {next}", item.item, item.policy)
    })
}

/// `blockctl unprotect`.
pub fn unprotect(client: &Client, output: &Output, options: &UnprotectOptions) -> Result<()> {
    let query = UnprotectQuery { delete_data: options.data.delete_data, pause: options.data.pause };
    if query.delete_data {
        let what =
            format!("end the protection of {} and delete its recovery points in the vault", options.item);
        output.confirm(&what, options.yes)?;
    }
    output.answer(&client.unprotect(&options.item, &query)?, |item| match (query.pause, query.delete_data) {
        (true, _) => {
            format!("{}: no backups and no pruning until `blockctl protect {}`", item.item, item.item)
        }
        (_, true) => format!(
            "{} is protected no longer; its recovery points in vaults are deleted (`blockctl point undelete` brings them back for a while), those of the instant tier stay",
            item.item
        ),
        (_, false) => format!("{} is protected no longer; its recovery points stay", item.item),
    })
}

/// Name and text of a policy's file.
fn read(file: &Path, name: Option<&str>) -> Result<(String, String)> {
    let failed = |error| Failure::host(format!("policy {}", file.display()), &error);
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened.take(LIMIT_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    let stem = || file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok((name.map_or_else(stem, str::to_owned), text))
}

fn list(policies: &[Policy]) -> String {
    let row = |policy: &Policy| {
        let state = policy.error.as_ref().map_or("in force", |_| "cannot be read");
        let next = policy.next.clone().unwrap_or_default();
        vec![policy.name.clone(), state.to_owned(), next, policy.items.join(" ")]
    };
    table(&["policy", "state", "next slot", "items"], policies.iter().map(row).collect())
}

fn show(policy: &Policy) -> String {
    let head = sheet(&[
        ("name", policy.name.clone()),
        ("vault", policy.vault.clone()),
        ("items", policy.items.join(" ")),
        ("next slot", policy.next.clone().unwrap_or_default()),
    ]);
    let body = match (&policy.text, &policy.error) {
        (_, Some(error)) => format!("cannot be used: {}", error.message),
        (Some(text), None) => text.clone(),
        (None, None) => String::new(),
    };
    format!("{head}\n\n{body}")
}

fn table_of(items: &[Item]) -> String {
    let row = |item: &Item| {
        let next = match (&item.error, item.stopped) {
            (Some(error), _) => error.message.clone(),
            (None, true) => "paused".to_owned(),
            (None, false) => item.next.clone().unwrap_or_default(),
        };
        let newest = item.newest.clone().unwrap_or_else(|| "none".to_owned());
        let late = if item.is_late { "yes" } else { "no" }.to_owned();
        let restore = item.restore_estimate_ms.map_or_else(String::new, |ms| {
            format!("{} s{}", ms.div_ceil(1000), if item.is_slow { ", too slow" } else { "" })
        });
        vec![item.item.clone(), item.policy.clone(), newest, late, restore, next]
    };
    table(
        &["item", "policy", "newest point", "late", ">restore takes", "next backup"],
        items.iter().map(row).collect(),
    )
}

fn plan(plan: &PolicyPlan) -> String {
    let row = |point: &PlannedPoint| {
        vec![
            point.point.clone(),
            point.time.clone(),
            size::show(point.bytes),
            reasons(&point.before),
            reasons(&point.after),
        ]
    };
    let rows = |points: &[PlannedPoint]| {
        table(&["point", "time", ">stored", "kept now", "then"], points.iter().map(row).collect())
    };
    let bytes: u64 = plan.lost.iter().map(|point| point.bytes).sum();
    let mut text = format!("policy {}, items: {}\n", plan.policy, plan.items.join(" "));
    if plan.lost.is_empty() {
        text.push_str("no recovery point goes\n");
    } else {
        let count = size::count(plan.lost.len() as u64, "recovery point");
        let stored = size::show(bytes);
        text.push_str(&format!("{count} would go, {stored} when they were stored:\n{}\n", rows(&plan.lost)));
    }
    if !plan.longer.is_empty() {
        let count = size::count(plan.longer.len() as u64, "recovery point");
        text.push_str(&format!("{count} would stay longer:\n{}\n", rows(&plan.longer)));
    }
    text.push_str(&format!("`blockctl policy apply --plan {}` does it", plan.id));
    text
}

/// Reasons to keep a point, with the day each ends.
pub fn reasons(kept: &[KeptBy]) -> String {
    let shown = |kept: &KeptBy| match &kept.until {
        Some(until) => format!("{} until {until}", kept.reason),
        None => kept.reason.clone(),
    };
    kept.iter().map(shown).collect::<Vec<_>>().join(", ")
}
