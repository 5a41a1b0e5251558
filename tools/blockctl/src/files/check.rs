//! `files check`: every name and every attribute of every filesystem of recovery points is read.

use super::show::escaped;
use super::{Access, open};
use crate::failure::{Failure, Result};
use crate::output::{Output, table};
use crate::size;
use control::{CheckedVolume, Kind};
use mount::files::{Files, Step, Volume};

/// How much damage is told of a volume.
const TOLD: usize = 20;

/// Reads the volumes of all points through; of a machine's point those of every disk.
pub fn run(access: &Access<'_>, output: &Output, points: &[String]) -> Result<()> {
    let mut checked = Vec::new();
    for name in points {
        for point in access.client.points(Some(name))?.points {
            let files = open(access, &point.name)?;
            checked.extend(files.volumes().into_iter().map(|volume| check(&files, &point.name, volume)));
        }
    }
    output.answer(&checked, |checked| {
        let row = |volume: &CheckedVolume| {
            let state = match (volume.readable, volume.damaged) {
                (false, _) => "no files".to_owned(),
                (true, 0) => "read through".to_owned(),
                (true, count) => format!("{} not read", size::count(count, "name")),
            };
            let content = escaped(volume.content.as_bytes());
            vec![volume.point.clone(), volume.volume.clone(), content, volume.entries.to_string(), state]
        };
        let damage = checked.iter().flat_map(|volume| &volume.damage).map(|line| format!("{line}\n"));
        let head = ["point", ">volume", "content", ">entries", "state"];
        table(&head, checked.iter().map(row).collect()) + &damage.collect::<String>()
    })?;
    match checked.iter().map(|volume| volume.damaged).sum::<u64>() {
        0 => Ok(()),
        count => Err(Failure::new(
            Kind::Corrupt,
            format!("check files: {} cannot be read", size::count(count, "name")),
        )),
    }
}

fn check(files: &Files, point: &str, volume: Volume) -> CheckedVolume {
    let readable = volume.content.is_ok();
    let content = volume.content.unwrap_or_else(|why| why);
    let mut checked = CheckedVolume {
        point: point.to_owned(),
        volume: volume.name,
        content,
        readable,
        ..CheckedVolume::default()
    };
    if !readable {
        return checked;
    }
    let hurt = |checked: &mut CheckedVolume, path: &[u8], error: &mount::Error| {
        checked.damaged += 1;
        if checked.damage.len() < TOLD {
            checked.damage.push(format!("/{}: {}", escaped(path), error.with_causes()));
        }
    };
    let root = match files.root(volume.number) {
        Ok(root) => root,
        Err(error) => {
            hurt(&mut checked, b"", &error);
            return checked;
        }
    };
    for step in files.walk(&root) {
        match step {
            Step::At(found) => {
                checked.entries += 1;
                if let Err(error) = files.attributes(&found.node) {
                    hurt(&mut checked, &found.path, &error);
                }
            }
            Step::Left(_) => {}
            Step::Failed { path, error } => hurt(&mut checked, &path, &error),
        }
    }
    checked
}
