//! `blockctl approval …` and `blockctl clock …`. A guard's private key is read here and never sent.

use crate::cli::{ApprovalVerb, ClockVerb};
use crate::failure::{Failure, Result};
use crate::output::{Output, sheet, table};
use crate::secret;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use block::Entropy;
use block::linux::KernelEntropy;
use control::{ApplianceTime, Approval, ApprovalState, Client, Kind, signed_text};
use std::path::{Path, PathBuf};

/// What a file with a private key begins with.
const KEY_WORD: &str = "blockd-guard-key";

/// Runs the verb.
pub fn run(verb: ApprovalVerb, client: impl FnOnce() -> Result<Client>, output: &Output) -> Result<()> {
    match verb {
        ApprovalVerb::List => output.answer(&client()?.approvals()?, |approvals| list(approvals)),
        ApprovalVerb::Show { id } => output.answer(&client()?.approval(&id)?, show),
        ApprovalVerb::Approve { id, key, yes } => decide(&client()?, output, &id, &key, true, yes),
        ApprovalVerb::Deny { id, key } => decide(&client()?, output, &id, &key, false, true),
        ApprovalVerb::Keygen { file } => keygen(&file, output),
    }
}

fn decide(client: &Client, output: &Output, id: &str, key: &Path, approves: bool, yes: bool) -> Result<()> {
    let pair = read_key(key)?;
    let approval = client.approval(id)?;
    if approves && !yes {
        eprint!("{}", approval.statement);
        output.confirm("let exactly this pass, once", false)?;
    }
    let verdict = if approves { ApprovalState::Approved } else { ApprovalState::Denied };
    let signature = hex(pair.sign(signed_text(&approval.statement, verdict).as_bytes()).as_ref());
    output.answer(&client.decide_approval(&approval.id, approves, &signature)?, |approval| {
        format!("{}: {}", approval.action, approval.state.name())
    })
}

fn keygen(file: &Path, output: &Output) -> Result<()> {
    let failed = |why: String| Failure::new(Kind::Io, format!("make a key: {why}"));
    let mut seed = [0; 32];
    KernelEntropy.fill(&mut seed).map_err(|error| failed(error.to_string()))?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|error| failed(error.to_string()))?;
    let public = hex(pair.public_key().as_ref());
    let public_file = PathBuf::from(format!("{}.pub", file.display()));
    secret::must_be_new(&public_file)?;
    secret::write_new(file, &format!("{KEY_WORD} {}\n", hex(&seed)))?;
    secret::write_new(&public_file, &format!("{public}\n"))?;
    #[derive(serde::Serialize)]
    struct Made {
        public_key: String,
        private_file: PathBuf,
        public_file: PathBuf,
    }
    let made = Made { public_key: public, private_file: file.to_owned(), public_file };
    output.answer(&made, |made| {
        format!(
            "private key {}: keep it away from the daemon's host\npublic key {}: an admin makes a guard of it with \
             `blockctl token create NAME --role guard --key {}`",
            made.private_file.display(),
            made.public_key,
            made.public_file.display()
        )
    })
}

fn read_key(path: &Path) -> Result<Ed25519KeyPair> {
    let wrong = || {
        Failure::usage(format!("key {}: it is no private key of a guard", path.display()))
            .with_help("`blockctl approval keygen FILE` makes one")
    };
    let text = secret::text("key", path)?;
    let digits = text.trim().strip_prefix(KEY_WORD).ok_or_else(wrong)?.trim();
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let seed: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    Ed25519KeyPair::from_seed_unchecked(&seed.ok_or_else(wrong)?).map_err(|_| wrong())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn list(approvals: &[Approval]) -> String {
    let row = |approval: &Approval| {
        vec![
            approval.id.chars().take(8).collect(),
            approval.state.name().to_owned(),
            approval.who.clone(),
            approval.action.clone(),
            about(approval),
            approval.expires.clone(),
        ]
    };
    table(&["approval", "state", "who", "action", "about", "expires"], approvals.iter().map(row).collect())
}

fn about(approval: &Approval) -> String {
    let part = |(key, value): (&String, &serde_json::Value)| match value.as_str() {
        Some(text) => format!("{key} {text}"),
        None => format!("{key} {value}"),
    };
    approval.about.iter().map(part).collect::<Vec<_>>().join(", ")
}

fn show(approval: &Approval) -> String {
    sheet(&[
        ("approval", approval.id.clone()),
        ("state", approval.state.name().to_owned()),
        ("guard", approval.guard.clone().unwrap_or_else(|| "none yet".to_owned())),
        ("who", approval.who.clone()),
        ("action", approval.action.clone()),
        ("about", about(approval)),
        ("created", approval.created.clone()),
        ("expires", approval.expires.clone()),
    ])
}

/// Runs the verb.
pub fn clock(verb: ClockVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        ClockVerb::Show => output.answer(&client.clock()?, time),
        ClockVerb::Accept { yes } => {
            let now = client.clock()?;
            if let Some(jump) = &now.jump {
                output.confirm(&format!("take {} for the right time, after {}", jump.to, jump.from), yes)?;
            }
            output.answer(&client.accept_clock()?, time)
        }
    }
}

fn time(now: &ApplianceTime) -> String {
    let jump = match &now.jump {
        None => "none".to_owned(),
        Some(jump) => {
            format!("from {} to {}; nothing is deleted until `blockctl clock accept`", jump.from, jump.to)
        }
    };
    sheet(&[("now", now.now.clone()), ("jump", jump)])
}
