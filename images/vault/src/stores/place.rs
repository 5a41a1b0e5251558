//! Where a vault's blobs lie, as people write it: a directory, or a bucket and a prefix in it.

use std::fmt;
use std::path::{Path, PathBuf};

use block::{Kind, check_blob_name};

use crate::{Error, Result};

/// Longest prefix in a bucket, so that prefix and name together stay far below every cloud's limit of 1024 bytes.
const MAX_PREFIX_LEN: usize = 200;

/// Where blobs lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A directory of this host, absolute.
    Directory(PathBuf),
    /// A bucket of an object store.
    Bucket(Bucket),
}

/// A bucket, and the prefix all names in it begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Which protocol its server speaks.
    pub cloud: Cloud,
    /// The name of the bucket; Azure calls it a container.
    pub name: String,
    /// Segments with `/` between them; empty for the whole bucket.
    pub prefix: String,
}

/// The protocols of object stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    /// Amazon S3 and the many servers that speak like it.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Gcs,
}

impl Cloud {
    /// Every protocol.
    pub const ALL: [Self; 3] = [Self::S3, Self::Azure, Self::Gcs];

    /// The scheme of its URLs.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azure => "az",
            Self::Gcs => "gs",
        }
    }
}

impl Place {
    /// Reads `/dir`, `file:///dir`, `s3://bucket/prefix`, `az://container/prefix` or `gs://bucket/prefix`.
    ///
    /// # Errors
    /// [`Error::Invalid`] saying what is wrong, [`Error::Unsupported`] naming a scheme that is not known.
    pub fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("file", text));
        if scheme == "file" {
            return directory(text, rest);
        }
        match Cloud::ALL.into_iter().find(|cloud| cloud.scheme() == scheme) {
            Some(cloud) => bucket(text, cloud, rest),
            None => {
                let why = format!(
                    "the scheme {scheme:?} is not known: a store is a directory, s3://, az:// or gs://"
                );
                Err(Error::Unsupported(block::Error::refused(Kind::Unsupported, shown(text), why)))
            }
        }
    }

    /// The directory, if it is one.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::Bucket(_) => None,
        }
    }
}

fn shown(text: &str) -> String {
    format!("store {text:?}")
}

fn directory(text: &str, path: &str) -> Result<Place> {
    if text.starts_with("file://") && path.contains('%') {
        let why = "has a percent sign, which could mean two things; give the plain path";
        return Err(Error::invalid(shown(text), why));
    }
    if !Path::new(path).is_absolute() {
        return Err(Error::invalid(
            shown(text),
            "is not an absolute path, as /srv/vault or file:///srv/vault",
        ));
    }
    Ok(Place::Directory(PathBuf::from(path)))
}

fn bucket(text: &str, cloud: Cloud, rest: &str) -> Result<Place> {
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let is_name = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    if !(3..=63).contains(&name.len()) || !name.bytes().all(is_name) {
        let why = format!("{name:?} is no name of a bucket: 3 to 63 of a-z 0-9 . _ - are valid");
        return Err(Error::invalid(shown(text), why));
    }
    if prefix.len() > MAX_PREFIX_LEN || (!prefix.is_empty() && check_blob_name(prefix).is_err()) {
        let why = format!(
            "{prefix:?} is no prefix: segments of a-z 0-9 . _ - with / between, none beginning with a dot, at \
             most {MAX_PREFIX_LEN} bytes"
        );
        return Err(Error::invalid(shown(text), why));
    }
    Ok(Place::Bucket(Bucket { cloud, name: name.to_owned(), prefix: prefix.to_owned() }))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Bucket(bucket) => bucket.fmt(f),
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.cloud.scheme(), self.name)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::Failure;

    #[test]
    fn what_people_write_is_read_and_shown_again() {
        for (text, shown) in [
            ("/srv/a b", "/srv/a b"),
            ("file:///srv/vault", "/srv/vault"),
            ("s3://backups/site-1/vault/", "s3://backups/site-1/vault"),
            ("az://backups", "az://backups"),
            ("gs://back.ups/x", "gs://back.ups/x"),
        ] {
            let place = Place::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(place.to_string(), shown);
            assert_eq!(Place::parse(shown).ok(), Some(place));
        }
    }

    #[test]
    fn what_names_no_store_is_refused() {
        for (text, kind, says) in [
            ("sftp://host/x", Kind::Unsupported, "\"sftp\""),
            ("file://host/x", Kind::Invalid, "absolute"),
            ("file:///a%20b", Kind::Invalid, "percent"),
            ("srv/vault", Kind::Invalid, "absolute"),
            ("", Kind::Invalid, "absolute"),
            ("s3://", Kind::Invalid, "bucket"),
            ("s3://Bucket/x", Kind::Invalid, "bucket"),
            ("s3://bucket//x", Kind::Invalid, "prefix"),
            ("s3://bucket/../x", Kind::Invalid, "prefix"),
            ("s3://bucket/x?y", Kind::Invalid, "prefix"),
        ] {
            let error = Place::parse(text).expect_err(text);
            assert_eq!(error.kind(), kind, "{text}: {error}");
            assert!(error.to_string().contains(says), "{text}: {error}");
        }
    }
}
