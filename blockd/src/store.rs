//! Where a vault's store may be: a directory of the host, several of them, or a bucket of an object store.

use crate::error::{Doing, Error, Result, wire_kind};
use crate::names;
use block::{Failure, Media};
use control::Kind;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vault::{Bucket, DirectoryStore, MAX_COPIES, Place, Vault};

/// The directory in the state directory that may hold stores.
pub const VAULTS: &str = "vaults";

/// Names of what is in the way of a new store that one message holds.
const SHOWN_STRANGERS: usize = 3;

/// What a vault's own making may have left in a directory that holds no vault yet.
const BEGUN: [&str; 3] = ["copies", "keys", "parity"];

/// Where a vault lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In a directory, or the same in each of several.
    Directories(Vec<PathBuf>),
    /// In a bucket.
    Bucket(Bucket),
}

impl Location {
    /// What a person named: a store, and further directories that are to hold copies of it.
    ///
    /// # Errors
    /// `Unsupported` naming a scheme this version does not know, `Invalid` for a path that is not absolute or a bucket with
    /// copies.
    pub fn parse(store: &str, copies: &[String]) -> Result<Self> {
        let mut directories = Vec::new();
        for text in std::iter::once(store).chain(copies.iter().map(String::as_str)) {
            match (Place::parse(text), copies.is_empty()) {
                (Ok(Place::Directory(path)), _) => directories.push(path),
                (Ok(Place::Bucket(bucket)), true) => return Ok(Self::Bucket(bucket)),
                (Ok(Place::Bucket(_)), false) => {
                    let why =
                        "copies are kept in directories; a bucket is kept several times by its own service";
                    return Err(Error::said(Kind::Invalid, format!("store {text:?}"), why)
                        .with_help("give directories only, or the bucket alone"));
                }
                (Err(error), _) => {
                    let kind = wire_kind(Failure::kind(&error));
                    return Err(Error::said(kind, "where the vault is to lie", error.to_string()).with_help(
                        "give a directory, as /srv/vault, or s3://BUCKET/PREFIX, az://CONTAINER/PREFIX, gs://BUCKET/PREFIX",
                    ));
                }
            }
        }
        if directories.len() > MAX_COPIES {
            let why = format!("{} copies are too many, {MAX_COPIES} at most are kept", directories.len());
            return Err(Error::said(Kind::Invalid, format!("store {store:?}"), why));
        }
        Ok(Self::Directories(directories))
    }

    /// The directories; none of a bucket.
    pub fn directories(&self) -> &[PathBuf] {
        match self {
            Self::Directories(paths) => paths,
            Self::Bucket(_) => &[],
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directories(paths) => {
                let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
                f.write_str(&shown.join(", "))
            }
            Self::Bucket(bucket) => bucket.fmt(f),
        }
    }
}

/// The path of a store that is to be made, without links and dots, if a vault may lie there: not among the disks and
/// keys of the state, and not in or around another vault's store.
///
/// # Errors
/// `Refused` or `Conflict` naming what is in the way, `NotFound` if the directory above does not exist.
pub fn place_for(store: &Path, state: &Path, taken: &[(String, PathBuf)]) -> Result<PathBuf> {
    let what = || format!("store {}", store.display());
    let path = resolve(store).map_err(|error| {
        Error::host(what(), error)
            .with_help(format!("make the directory above it first: mkdir -p {}", above(store)))
    })?;
    let state = resolve(state).map_err(|error| Error::host(what(), error))?;
    if path.starts_with(&state) && path.parent() != Some(&state.join(VAULTS)) {
        let why = format!("lies in the state directory {}, among what is not the vault's", state.display());
        return Err(Error::said(Kind::Refused, what(), why)
            .with_help("choose a directory elsewhere, best on another device than the disks"));
    }
    if state.starts_with(&path) {
        let why = format!("holds the state directory {}", state.display());
        return Err(Error::said(Kind::Refused, what(), why).with_help("choose an empty directory"));
    }
    for (vault, other) in taken {
        let other = resolve(other).unwrap_or_else(|_| other.clone());
        if path.starts_with(&other) || other.starts_with(&path) {
            let why = format!("vault {vault} lives in {}", other.display());
            return Err(Error::said(Kind::Conflict, what(), why).with_help("choose an empty directory"));
        }
    }
    Ok(path)
}

/// A new store begins in an empty directory, and one whose making was cut off goes on where a vault is.
///
/// # Errors
/// `Refused` naming what lies there; what the host reports.
pub fn refuse_strangers(directory: &Arc<dyn Media>, doing: impl Fn() -> String) -> Result<()> {
    let looked_at = DirectoryStore::open_read_only(directory.clone(), "").doing(&doing)?;
    if !matches!(Vault::describe(&looked_at), Err(vault::Error::NoVault)) {
        return Ok(());
    }
    let mut strangers = DirectoryStore::strangers(&**directory, "").doing(&doing)?;
    strangers.retain(|name| !BEGUN.contains(&name.as_str()));
    let shown =
        strangers.iter().take(SHOWN_STRANGERS).map(|name| names::shown(name)).collect::<Vec<_>>().join(", ");
    let why = match strangers.len() {
        0 => return Ok(()),
        count @ 1..=SHOWN_STRANGERS => {
            format!("the directory is not empty: it holds {shown} ({count} in all)")
        }
        count => format!("the directory is not empty: it holds {shown} and more ({count} in all)"),
    };
    Err(Error::said(Kind::Refused, doing(), why).with_help("choose an empty directory"))
}

/// A path whose last part may not exist yet.
fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(parent.canonicalize()?.join(name))
        }
        (found, ..) => found,
    }
}

fn above(path: &Path) -> String {
    path.parent().unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_store_is_a_directory_several_or_a_bucket() {
        let parse = |store: &str, copies: &[&str]| {
            let copies: Vec<String> = copies.iter().map(|text| (*text).to_owned()).collect();
            Location::parse(store, &copies)
        };
        assert_eq!(parse("/srv/a b", &[]).ok(), Some(Location::Directories(vec!["/srv/a b".into()])));
        let two = parse("file:///srv/vault", &["/mnt/b"]).expect("two directories");
        assert_eq!(two.directories().len(), 2);
        assert_eq!(two.to_string(), "/srv/vault, /mnt/b");
        assert_eq!(parse("s3://bucket/x", &[]).expect("a bucket").to_string(), "s3://bucket/x");
        for (text, copies, kind, says) in [
            ("sftp://host/x", &[][..], Kind::Unsupported, "\"sftp\""),
            ("file://host/x", &[], Kind::Invalid, "absolute"),
            ("file:///a%20b", &[], Kind::Invalid, "percent"),
            ("srv/vault", &[], Kind::Invalid, "absolute"),
            ("", &[], Kind::Invalid, "absolute"),
            ("/a", &["s3://bucket/x"], Kind::Invalid, "directories"),
            ("/a", &["/b", "/c", "/d", "/e", "/f", "/g", "/h", "/i"], Kind::Invalid, "too many"),
        ] {
            let body = parse(text, copies).expect_err(text).body();
            assert_eq!(body.kind, kind, "{text}: {}", body.message);
            assert!(body.message.contains(says), "{}", body.message);
        }
    }

    #[test]
    fn a_store_stays_out_of_what_is_not_the_vaults() {
        let dir = tempfile::tempdir().expect("a directory");
        let (state, main) = (dir.path().join("state"), dir.path().join("state/vaults/main"));
        fs::create_dir_all(main.join("packs")).expect("directories");
        fs::create_dir_all(state.join("disks")).expect("directories");
        std::os::unix::fs::symlink(&state, dir.path().join("link")).expect("a link");
        let taken = [("main".to_owned(), main)];
        let place =
            |text: &str| place_for(&dir.path().join(text), &state, &taken).map_err(|error| error.kind());
        let root = dir.path().canonicalize().expect("a path");
        assert_eq!(place("elsewhere"), Ok(root.join("elsewhere")));
        assert_eq!(place("state/vaults/second"), Ok(root.join("state/vaults/second")));
        for refused in
            ["state", "state/disks", "state/disks/x", "state/x", "link/keys", "state/../state/x", ""]
        {
            assert_eq!(place(refused), Err(Kind::Refused), "{refused}");
        }
        for taken in ["state/vaults/main", "link/vaults/main"] {
            assert_eq!(place(taken), Err(Kind::Conflict), "{taken}");
        }
        assert_eq!(place("state/vaults/main/packs"), Err(Kind::Refused));
        assert_eq!(place("no/such/place"), Err(Kind::NotFound));
    }
}
