//! `blockctl vault rescue …`: recovery points out of a bare store with a key, without the daemon and its catalog.

use crate::cli::{RescueOptions, RescueVerb};
use crate::disk::{self, Written};
use crate::failure::{Failure, Result};
use crate::output::{Output, table};
use crate::{secret, size};
use block::linux::{KernelEntropy, LinuxMedia, SystemClock};
use block::{BlobStore, Time};
use control::Kind;
use jiff::Timestamp;
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::{Path, absolute};
use std::sync::Arc;
use vault::{
    DirectoryStore, Env, GivenCopy, KeyMaterial, ObjectStore, ParityStore, Place, ReplicatedStore,
    StoreOptions, Survey, Vault, VaultKey, VaultPoint, unlock,
};

/// Digits of an id that name a point.
const LEAST_DIGITS: usize = 8;

/// A recovery point as the vault itself names it.
#[derive(Serialize)]
struct Found {
    name: String,
    item: String,
    epoch: u64,
    time: String,
    size: u64,
    id: String,
}

impl Found {
    fn of(point: &VaultPoint) -> Self {
        Self {
            name: name_of(point),
            item: point.item.clone(),
            epoch: point.epoch.get(),
            time: rfc3339(point.time),
            size: point.size.get(),
            id: point.manifest.to_string(),
        }
    }
}

/// Runs the verb.
pub fn run(options: RescueOptions, output: &Output) -> Result<()> {
    let store = open_store(&options)?;
    let vault = open_vault(store, &options)?;
    let survey = vault.survey()?;
    for damage in &survey.damaged {
        output.warn(&format!("blob {} is damaged in its {}: {}", damage.blob, damage.place, damage.why));
    }
    match options.verb {
        RescueVerb::List => {
            let found: Vec<Found> = survey.points.iter().map(Found::of).collect();
            output.answer(&found, |found| {
                let row = |point: &Found| {
                    vec![point.name.clone(), point.time.clone(), size::show(point.size), point.id.clone()]
                };
                table(&["point", "time", ">size", "id"], found.iter().map(row).collect())
            })
        }
        RescueVerb::Restore { point, file, image, yes } => {
            let point = find(&survey, &point)?;
            let source = vault.image(&point.manifest)?;
            let written =
                disk::write(&*source, output, &name_of(point), &file, &image, None, yes, |failure| failure)?;
            output.answer(&written, Written::show)
        }
    }
}

fn name_of(point: &VaultPoint) -> String {
    format!("{}@{}", point.item, point.epoch.get())
}

fn rfc3339(time: Time) -> String {
    let stamp = i64::try_from(time.unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", stamp.unwrap_or(Timestamp::MAX))
}

/// The newest point of that name, or the one of that id.
fn find<'a>(survey: &'a Survey, text: &str) -> Result<&'a VaultPoint> {
    let newest_first = || survey.points.iter().rev();
    let by_name = match text.rsplit_once('@') {
        Some((item, "latest")) => newest_first().find(|point| point.item == item),
        Some(_) => newest_first().find(|point| name_of(point) == text),
        None => None,
    };
    let is_id = text.len() >= LEAST_DIGITS && !text.contains('@');
    let by_id: Vec<&VaultPoint> =
        newest_first().filter(|point| is_id && point.manifest.to_string().starts_with(text)).collect();
    match (by_name, &by_id[..]) {
        (Some(point), _) => Ok(point),
        (None, [point]) => Ok(point),
        (None, [_, _, ..]) => {
            Err(Failure::new(Kind::Conflict, format!("recovery point {text}: several ids begin so")))
        }
        (None, []) => Err(Failure::new(Kind::NotFound, format!("recovery point {text} is not in the vault"))
            .with_help("`list` in the place of `restore POINT FILE` shows what is")),
    }
}

fn open_vault(store: Arc<dyn BlobStore>, options: &RescueOptions) -> Result<Vault> {
    let (material, of) = match (&options.key.key, &options.key.passphrase_file) {
        (Some(file), _) => {
            let (key, of) = VaultKey::from_text(&secret::text("key", file)?)?;
            (KeyMaterial::Key(key), of)
        }
        (None, Some(file)) => (KeyMaterial::Passphrase(secret::passphrase(file)?.into()), None),
        (None, None) => return Err(Failure::usage("neither --key nor --passphrase-file is given")),
    };
    let id = Vault::describe(&*store)?;
    if let Some(other) = of.filter(|of| *of != id) {
        let message =
            format!("wrong key: the sheet is of vault {other}, and {} holds vault {id}", options.store);
        return Err(Failure::new(Kind::Unavailable, message));
    }
    let key = unlock(&*store, &material)?;
    let env = Env { clock: Arc::new(SystemClock), entropy: Arc::new(KernelEntropy) };
    Ok(Vault::open(store, key, &env)?)
}

/// The store, to be read only.
fn open_store(options: &RescueOptions) -> Result<Arc<dyn BlobStore>> {
    let given =
        options.store_options.as_deref().map(|file| secret::text("store options", file)).transpose()?;
    match place(&options.store)? {
        Place::Bucket(bucket) if options.copy.is_empty() => {
            let options = given.map_or(Ok(StoreOptions::default()), |text| StoreOptions::parse(&text))?;
            let store = ObjectStore::new(&bucket, &options, Arc::new(KernelEntropy))?;
            // a bucket that is missing is not told from one without a vault by asking for one blob
            store.list("vault", &mut |_, _| ControlFlow::Break(()))?;
            Ok(Arc::new(store))
        }
        Place::Bucket(_) => Err(Failure::usage("--copy: is for directories, not for a bucket")),
        Place::Directory(_) if given.is_some() => {
            Err(Failure::usage("--store-options: mean nothing for a directory"))
        }
        Place::Directory(first) => {
            let mut paths = vec![first];
            for text in &options.copy {
                match place(text)? {
                    Place::Directory(path) => paths.push(path),
                    Place::Bucket(_) => {
                        return Err(Failure::usage(format!("--copy {text}: is not a directory")));
                    }
                }
            }
            open_directories(&paths)
        }
    }
}

fn place(text: &str) -> Result<Place> {
    if text.contains("://") {
        return Ok(Place::parse(text)?);
    }
    let path = absolute(text).map_err(|error| Failure::host(format!("store {text:?}"), &error))?;
    Ok(Place::Directory(path))
}

fn open_directories(paths: &[std::path::PathBuf]) -> Result<Arc<dyn BlobStore>> {
    let open = |path: &Path| -> block::Result<Arc<dyn BlobStore>> {
        Ok(Arc::new(DirectoryStore::open_read_only(Arc::new(LinuxMedia::new(path, path)?), "")?))
    };
    if let [path] = paths {
        let store = open(path)?;
        if ParityStore::has_parity(&*store)? {
            return Ok(Arc::new(ParityStore::open(store, Arc::new(KernelEntropy))?));
        }
        if !ReplicatedStore::is_copy(&*store)? {
            return Ok(store);
        }
    }
    let given = |path: &std::path::PathBuf| -> GivenCopy {
        (path.display().to_string(), open(path).map_err(|error| error.to_string()))
    };
    Ok(Arc::new(ReplicatedStore::open(paths.iter().map(given).collect())?))
}
