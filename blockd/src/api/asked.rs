//! What requests name, so that an identity with a scope names nothing outside of it; and what of them may be written down.

use crate::daemon::Daemon;
use crate::error::Result;
use crate::policies::PolicyName;
use crate::vaults::MAIN;
use control::*;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;

/// Items and vaults that a request names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Disks, machines, and recovery points of them.
    pub items: Vec<String>,
    /// Vaults.
    pub vaults: Vec<String>,
}

impl Names {
    fn items(names: &[&str]) -> Self {
        let named = names.iter().filter(|name| !name.is_empty());
        Self { items: named.map(|name| (*name).to_owned()).collect(), vaults: Vec::new() }
    }

    fn and_vault(self, vault: &str) -> Self {
        Self { vaults: vec![vault.to_owned()], ..self }
    }
}

/// The query or the body of a request.
pub trait Asked: DeserializeOwned + Serialize + JsonSchema + Send + Sync + 'static {
    /// What it names.
    fn names(&self) -> Names;

    /// Its fields that nobody may read later.
    const SECRETS: &'static [&'static str] = &[];

    /// As it is written down.
    ///
    /// # Errors
    /// What keeps it from being JSON.
    fn told(&self) -> serde_json::Result<Value> {
        let mut value = serde_json::to_value(self)?;
        if let Value::Object(fields) = &mut value {
            // what is not given says nothing
            fields.retain(|_, field| !field.is_null() && *field != Value::Bool(false));
            for secret in Self::SECRETS {
                if let Some(field) = fields.get_mut(*secret) {
                    *field = Value::from("(secret)");
                }
            }
            if fields.is_empty() {
                return Ok(Value::Null);
            }
        }
        Ok(value)
    }
}

macro_rules! asked {
    ($($kind:ty: |$it:ident| $names:expr $(, secret $secrets:expr)?;)*) => {
        $(impl Asked for $kind {
            fn names(&self) -> Names {
                let $it = self;
                $names
            }
            $(const SECRETS: &'static [&'static str] = $secrets;)?
        })*
    };
}

/// A name that may be left out.
fn given(name: &Option<String>) -> &str {
    name.as_deref().unwrap_or_default()
}

asked! {
    (): |_it| Names::default();
    CreateDisk: |it| match &it.base {
        Some(NewBase::Point(point)) => Names::items(&[&it.name, point]),
        _ => Names::items(&[&it.name]),
    };
    RecoverQuery: |_it| Names::default();
    DeleteDiskQuery: |it| Names::items(&[given(&it.unchanged_since)]);
    ResizeDisk: |_it| Names::default();
    ShareDisk: |_it| Names::default();
    RenameDisk: |it| Names::items(&[&it.to]);
    ChangesQuery: |it| Names::items(&[given(&it.since), given(&it.until)]);
    SnapshotRequest: |it| Names::items(&it.disks.iter().map(String::as_str).collect::<Vec<_>>());
    PageQuery: |_it| Names::default();
    PointsQuery: |it| Names::items(&[given(&it.item)]);
    DeletePointQuery: |_it| Names::default();
    BackupRequest: |it| Names::items(&[&it.item]).and_vault(it.vault.as_deref().unwrap_or(MAIN));
    RestoreRequest: |it| Names::items(&[&it.point, &it.to, given(&it.replace)]);
    RehearseRequest: |it| Names::items(&[&it.point]);
    RunRequest: |it| Names::items(&[&it.point, &it.name]);
    ArchivePoint: |it| Names::default().and_vault(&it.to);
    RehydratePoint: |it| Names::default().and_vault(it.vault.as_deref().unwrap_or(MAIN));
    CreateVault: |it| Names::default().and_vault(&it.name), secret &["passphrase", "store_options"];
    OpenVault: |_it| Names::default(), secret &["key", "passphrase", "store_options"];
    AddKey: |_it| Names::default(), secret &["passphrase", "current_key", "current_passphrase"];
    RepairVault: |_it| Names::default();
    ScrubVault: |_it| Names::default();
    PolicyText: |_it| Names::default();
    Protect: |it| match it.policy.as_deref().map(PolicyName::parse) {
        Some(Ok(name)) => Names::default().and_vault(&name.vault),
        // none, or one that is refused as such
        _ => Names::default(),
    };
    UnprotectQuery: |_it| Names::default();
    GroupMembers: |it| Names::items(&it.members.iter().map(String::as_str).collect::<Vec<_>>());
    HoldPoint: |_it| Names::default();
    MachinesQuery: |_it| Names::default();
    ProtectMachine: |_it| Names::default();
    MigrateIn: |_it| Names::default();
    MigrateOut: |_it| Names::default();
    AttachDisk: |it| Names::items(&[&it.disk]);
    RestoreMachine: |it| Names::items(&[&it.point, &it.name]);
    ReplaceMachine: |it| Names::items(&[&it.point]);
    WaitQuery: |_it| Names::default();
    CreateToken: |_it| Names::default();
    Verdict: |_it| Names::default();
    VaultProtection: |_it| Names::default();
    AuditQuery: |_it| Names::default();
    AuditVerifyQuery: |_it| Names::default();
}

/// Items and vaults that a path names. Other kinds of names stand only in paths of verbs for identities without a scope.
///
/// # Errors
/// Why a job or a policy cannot be looked up: what is not known is not let pass.
pub fn names_of(daemon: &Daemon, names: &BTreeMap<String, String>) -> Result<(Vec<String>, Vec<String>)> {
    let (mut items, mut vaults) = (Vec::new(), Vec::new());
    for (kind, name) in names {
        match kind.as_str() {
            "disk" | "point" | "run" => items.push(name.clone()),
            "item" | "group" => {
                items.push(name.clone());
                if let Some(protection) = daemon.policies().items()?.get(name) {
                    vaults.push(PolicyName::parse(&protection.policy)?.vault);
                }
            }
            "vault" => vaults.push(name.clone()),
            "policy" => vaults.push(PolicyName::parse(name)?.vault),
            "plan" => vaults.extend(daemon.plans().vault_of(name)),
            "job" => {
                let job = daemon.jobs().get(name)?;
                vaults.extend(job.vault.clone());
                // a check is about a vault, and calls that its item
                items.extend((job.vault.as_ref() != Some(&job.item)).then_some(job.item));
                items.extend(job.target);
            }
            _ => {}
        }
    }
    Ok((items, vaults))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_written_down() {
        let key = AddKey { kind: "passphrase".into(), passphrase: Some("open".into()), ..AddKey::default() };
        let told = key.told().expect("JSON").to_string();
        assert!(told.contains("(secret)") && told.contains("passphrase") && !told.contains("open"), "{told}");
        let vault =
            CreateVault { name: "far".into(), passphrase: Some("open".into()), ..CreateVault::default() };
        let told = vault.told().expect("JSON").to_string();
        assert!(told.contains("far") && !told.contains("\"open\""), "{told}");
        assert_eq!(().told().expect("JSON"), Value::Null);
    }

    #[test]
    fn what_a_request_names_is_found_wherever_it_stands() {
        let base = Some(NewBase::Point("web@3".into()));
        let disk = CreateDisk { name: "new".into(), base, ..CreateDisk::default() };
        assert_eq!(disk.names().items, ["new", "web@3"]);
        let backup = BackupRequest { item: "web".into(), ..BackupRequest::default() };
        assert_eq!(backup.names(), Names { items: vec!["web".into()], vaults: vec!["main".into()] });
        let restore = RestoreRequest { point: "a@1".into(), replace: Some("b".into()), ..Default::default() };
        assert_eq!(restore.names().items, ["a@1", "b"]);
    }
}
