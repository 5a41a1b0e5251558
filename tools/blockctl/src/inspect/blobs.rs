//! `blockctl inspect pack|index|manifest`: single blobs of a vault in a directory. With the vault's key what is sealed in them is shown too.

use super::{beside, damaged};
use crate::cli::InspectKey;
use crate::failure::{Failure, Result};
use crate::output::{Output, sheet, table};
use crate::{secret, size};
use block::Media;
use block::linux::LinuxMedia;
use serde::Serialize;
use std::path::{Path, absolute};
use std::sync::Arc;
use vault::{
    BlobFront, DirectoryStore, KeyMaterial, MAX_SHOWN, VaultKey, inspect_index, inspect_pack, inspect_point,
    unlock,
};

/// The file that says which vault a directory holds.
const VAULT_FILE: &str = "vault.BLOB";

#[derive(Serialize)]
struct Shown {
    file: String,
    vault: String,
    name: String,
    size: u64,
    #[serde(flatten)]
    content: Content,
    problems: Vec<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content {
    Pack { entries: u32, chunks: u32, table: Option<Vec<Entry>> },
    Index { packs: u32, hooks: u32, table: Option<Vec<Pack>> },
    Manifest { point: Option<Point> },
}

#[derive(Serialize)]
struct Entry {
    offset: u32,
    stored: u32,
    raw: u32,
    kind: &'static str,
    encoding: &'static str,
}

#[derive(Serialize)]
struct Pack {
    name: String,
    size: u64,
}

#[derive(Serialize)]
struct Point {
    item: String,
    disk: String,
    state: String,
    base: Option<String>,
    epoch: u64,
    size: u64,
    kind: &'static str,
    root: Option<String>,
}

/// Shows a pack.
pub fn pack(output: &Output, file: &Path, key: &InspectKey, check: bool) -> Result<()> {
    let (bytes, key) = read(file, key)?;
    let shown = inspect_pack(&bytes, key.as_ref(), check)?;
    let table = shown.table.map(|rows| {
        let entry = |row: vault::ShownEntry| Entry {
            offset: row.offset,
            stored: row.stored,
            raw: row.raw,
            kind: row.kind,
            encoding: row.encoding,
        };
        rows.into_iter().map(entry).collect()
    });
    let content = Content::Pack { entries: shown.entries, chunks: shown.chunks, table };
    answer(output, file, shown.front, content, shown.problems, check)
}

/// Shows an index.
pub fn index(output: &Output, file: &Path, key: &InspectKey, check: bool) -> Result<()> {
    let (bytes, key) = read(file, key)?;
    let shown = inspect_index(&bytes, key.as_ref())?;
    let pack = |(name, size): (String, block::ByteCount)| Pack { name, size: size.get() };
    let table = shown.table.map(|rows| rows.into_iter().map(pack).collect());
    let content = Content::Index { packs: shown.packs, hooks: shown.hooks, table };
    answer(output, file, shown.front, content, shown.problems, check)
}

/// Shows the blob of a recovery point.
pub fn manifest(output: &Output, file: &Path, key: &InspectKey, check: bool) -> Result<()> {
    let (bytes, key) = read(file, key)?;
    let shown = inspect_point(&bytes, key.as_ref())?;
    let point = shown.point.map(|(about, root)| Point {
        item: about.item,
        disk: about.disk.to_string(),
        state: about.state.to_string(),
        base: about.base.map(|base| base.to_string()),
        epoch: about.epoch.get(),
        size: about.size.get(),
        kind: match about.kind {
            vault::PointKind::Full => "full",
            vault::PointKind::Incremental => "incremental",
        },
        root,
    });
    answer(output, file, shown.front, Content::Manifest { point }, Vec::new(), check)
}

/// The bytes of a blob, and the key of the vault whose directory it lies in.
fn read(file: &Path, key: &InspectKey) -> Result<(Vec<u8>, Option<VaultKey>)> {
    let (media, name) = beside(file)?;
    let files: &dyn Media = &media;
    let bytes = files.read_whole(&name, MAX_SHOWN)?;
    Ok((bytes, key.key.as_deref().map(|key| key_of(file, key)).transpose()?))
}

fn key_of(file: &Path, key: &Path) -> Result<VaultKey> {
    let whole = absolute(file).map_err(|error| Failure::host(file.display().to_string(), &error))?;
    let Some(root) = whole.ancestors().find(|dir| dir.join(VAULT_FILE).is_file()) else {
        let why =
            format!("{}: lies in no vault's directory: there is no {VAULT_FILE} above it", file.display());
        return Err(Failure::usage(why).with_help(
            "leave --key away, or put the file where it was: its key is wrapped in the vault's blobs under keys/",
        ));
    };
    let store = DirectoryStore::open_read_only(Arc::new(LinuxMedia::new(root, root)?), "")?;
    let (key, _) = VaultKey::from_text(&secret::text("key", key)?)?;
    Ok(unlock(&store, &KeyMaterial::Key(key))?)
}

fn answer(
    output: &Output,
    file: &Path,
    front: BlobFront,
    content: Content,
    problems: Vec<String>,
    check: bool,
) -> Result<()> {
    let shown = Shown {
        file: file.display().to_string(),
        vault: front.vault.to_string(),
        name: front.name,
        size: front.len.get(),
        content,
        problems,
    };
    output.answer(&shown, Shown::text)?;
    match shown.problems.first() {
        Some(first) if check => Err(damaged(file, first)),
        _ => Ok(()),
    }
}

impl Shown {
    fn text(&self) -> String {
        let mut rows = vec![
            ("file", self.file.clone()),
            ("vault", self.vault.clone()),
            ("blob", self.name.clone()),
            ("size", size::show(self.size)),
        ];
        let mut below = String::new();
        match &self.content {
            Content::Pack { entries, chunks, table: inside } => {
                rows.extend([("entries", entries.to_string()), ("chunks", chunks.to_string())]);
                let row = |(number, entry): (usize, &Entry)| {
                    let (offset, stored, raw) = (entry.offset, entry.stored, entry.raw);
                    let numbers = [number as u64, offset.into(), stored.into(), raw.into()];
                    let words = [entry.kind, entry.encoding].map(str::to_owned);
                    numbers.iter().map(u64::to_string).chain(words).collect()
                };
                if let Some(inside) = inside {
                    let titles = [">entry", ">offset", ">stored", ">raw", "kind", "encoding"];
                    below = table(&titles, inside.iter().enumerate().map(row).collect());
                }
            }
            Content::Index { packs, hooks, table: inside } => {
                rows.extend([("packs", packs.to_string()), ("hooks", hooks.to_string())]);
                if let Some(inside) = inside {
                    let row = |pack: &Pack| vec![pack.name.clone(), size::show(pack.size)];
                    below = table(&["pack", ">size"], inside.iter().map(row).collect());
                }
            }
            Content::Manifest { point } => rows.extend(point.iter().flat_map(Point::rows)),
        }
        sheet(&rows)
            + &below
            + &self.problems.iter().map(|problem| format!("{problem}\n")).collect::<String>()
    }
}

impl Point {
    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            ("item", self.item.clone()),
            ("disk", self.disk.clone()),
            ("state", self.state.clone()),
            ("epoch", self.epoch.to_string()),
            ("disk size", size::show(self.size)),
            ("kind", self.kind.to_owned()),
        ];
        rows.extend(self.base.clone().map(|base| ("base", base)));
        rows.push(("root", self.root.clone().unwrap_or_else(|| "none: the disk is empty".to_owned())));
        rows
    }
}
