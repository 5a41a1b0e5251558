//! Which of a machine's disks are protected.

use super::{DomainDisk, Medium, Source};
use crate::error::{Error, Result};

/// What becomes of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its target.
    pub target: String,
    /// Why it is left out; none if it is not.
    pub left_out: Option<String>,
}

/// Chooses: every disk but what is no disk, cannot change, is thrown away at the machine's end or shared with others. Disks named
/// by `include` (target or serial) are the only ones then, and taken although they are scratch disks; those named by `exclude` are not.
///
/// # Errors
/// `Invalid` if a name names no disk, or one that cannot be taken.
pub fn choose(disks: &[DomainDisk], include: &[String], exclude: &[String]) -> Result<Vec<Choice>> {
    for name in include.iter().chain(exclude) {
        let Some(disk) = disks.iter().find(|disk| is_called(disk, name)) else {
            let known: Vec<&str> = disks.iter().map(|disk| disk.target.as_str()).collect();
            let why = format!("no disk has the target or serial {name:?}; there are {}", known.join(", "));
            return Err(Error::Invalid(why));
        };
        if include.contains(name)
            && let Some(why) = cannot(disk)
        {
            return Err(Error::Invalid(format!("disk {}: {why}", disk.target)));
        }
    }
    let names = |list: &[String], disk: &DomainDisk| list.iter().any(|name| is_called(disk, name));
    let choice = |disk: &DomainDisk| {
        let left_out = if names(exclude, disk) {
            Some("excluded".to_owned())
        } else if names(include, disk) {
            None
        } else if !include.is_empty() {
            Some("not included".to_owned())
        } else {
            cannot(disk).or_else(|| scratch(disk)).map(str::to_owned)
        };
        Choice { target: disk.target.clone(), left_out }
    };
    Ok(disks.iter().map(choice).collect())
}

fn is_called(disk: &DomainDisk, name: &str) -> bool {
    disk.target == name || disk.serial.as_deref() == Some(name)
}

/// What cannot be protected, whoever asks.
fn cannot(disk: &DomainDisk) -> Option<&'static str> {
    match (disk.medium, &disk.source) {
        (Medium::Other, _) => Some("is no disk of its own: a CD, a floppy or a device passed through"),
        (_, Source::Empty) => Some("is empty"),
        _ if disk.readonly => Some("is read-only"),
        _ if disk.shareable => Some("is written by several machines"),
        _ => None,
    }
}

/// What nobody wants back: thrown away at the machine's end, or called so.
fn scratch(disk: &DomainDisk) -> Option<&'static str> {
    let is_called_so = |name: &Option<String>| {
        name.as_deref().is_some_and(|name| name.trim_start_matches("ua-").starts_with("scratch"))
    };
    (disk.transient || is_called_so(&disk.serial) || is_called_so(&disk.alias)).then_some("is a scratch disk")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Domain;

    #[test]
    fn scratch_disks_and_media_are_left_out_unless_named() {
        let domain = Domain::parse(include_str!("../../tests/data/web.xml")).expect("a definition");
        let chosen = |include: &[&str], exclude: &[&str]| {
            let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            let choices = choose(&domain.disks, &owned(include), &owned(exclude));
            choices.map(|choices| {
                let taken = choices.into_iter().filter(|choice| choice.left_out.is_none());
                taken.map(|choice| choice.target).collect::<Vec<_>>()
            })
        };
        assert_eq!(chosen(&[], &[]).expect("a choice"), ["vda", "vdb", "vdd"]);
        assert_eq!(chosen(&[], &["data & more", "vda"]).expect("by serial"), ["vdb"]);
        assert_eq!(chosen(&["vdc"], &[]).expect("a scratch disk"), ["vdc"]);
        for (include, says) in [("sda", "no disk of its own"), ("vdz", "vda, vdb")] {
            let error = chosen(&[include], &[]).expect_err("refused").to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
