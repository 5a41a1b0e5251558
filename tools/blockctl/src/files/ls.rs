//! `files ls`.

use super::show::{Shown, escaped, mode, time};
use super::{Access, Named, open};
use crate::failure::{Failure, Result};
use crate::output::{Output, table};
use control::Kind;
use mount::files::{Child, Files};
use mount::guest::{Node, NodeKind};
use serde::Serialize;
use std::ffi::OsStr;

#[derive(Serialize)]
struct Volume {
    number: u32,
    name: String,
    readable: bool,
    content: String,
}

/// Lists a directory, a file, or the partitions of a point.
pub fn run(access: &Access<'_>, output: &Output, path: &OsStr) -> Result<()> {
    if let Some(point) = path.to_str().filter(|text| !text.contains(":/")) {
        return volumes(&open(access, point)?, output);
    }
    let named = Named::parse(path)?;
    let files = named.open(access)?;
    let node = named.find(&files, false)?;
    let children = match node.kind {
        NodeKind::Directory => files.list(&node).map_err(|error| named.failed(error, &files))?,
        _ => vec![Ok(Child { name: named.path.clone(), node: Ok(node) })],
    };
    let mut rows = Vec::new();
    let mut shown = Vec::new();
    let mut damage = Vec::new();
    for child in children {
        match child {
            Ok(Child { name, node: Ok(node) }) => {
                let target = target(&files, &node);
                rows.push(row(&name, &node, target.as_deref()));
                shown.push(Shown::new(&name, &node, target.as_deref()));
            }
            Ok(Child { name, node: Err(error) }) => {
                let empty = || "?".to_owned();
                rows.push(vec![empty(), empty(), empty(), empty(), escaped(&name)]);
                damage.push(format!("{}: {}", escaped(&name), error.with_causes()));
                shown.push(Shown::unknown(&name, Some(error.with_causes())));
            }
            Err(error) => damage.push(format!("the rest of the directory: {}", error.with_causes())),
        }
    }
    output.answer(&shown, |_| table(&["mode", "owner", ">size", "changed", "name"], rows))?;
    damage.iter().for_each(|line| output.warn(line));
    match damage.len() {
        0 => Ok(()),
        count => {
            let what = crate::size::count(count as u64, "entry").replace("entrys", "entries");
            Err(Failure::new(Kind::Corrupt, format!("list {named}: {what} cannot be read")))
        }
    }
}

fn volumes(files: &Files, output: &Output) -> Result<()> {
    let volumes: Vec<Volume> = files
        .volumes()
        .into_iter()
        .map(|mount::files::Volume { number, name, content }| Volume {
            number,
            name,
            readable: content.is_ok(),
            content: content.unwrap_or_else(|why| why),
        })
        .collect();
    output.answer(&volumes, |volumes| {
        let row = |volume: &Volume| vec![volume.name.clone(), escaped(volume.content.as_bytes())];
        table(&[">partition", "content"], volumes.iter().map(row).collect())
    })
}

/// What a link leads to, if it is one and that can be read.
pub fn target(files: &Files, node: &Node) -> Option<Vec<u8>> {
    (node.kind == NodeKind::Symlink).then(|| files.link(node).ok()).flatten()
}

fn row(name: &[u8], node: &Node, target: Option<&[u8]>) -> Vec<String> {
    let size = match node.kind {
        NodeKind::CharDevice | NodeKind::BlockDevice => {
            format!("{},{}", node.rdev >> 8 & 0xfff, node.rdev & 0xff | node.rdev >> 12 & 0xfff00)
        }
        _ => node.size.to_string(),
    };
    let changed = time(mount::guest::Stamp { nanos: 0, ..node.mtime });
    let target = target.map_or_else(String::new, |target| format!(" -> {}", escaped(target)));
    vec![mode(node), format!("{}:{}", node.uid, node.gid), size, changed, escaped(name) + &target]
}
