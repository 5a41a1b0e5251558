//! A blob store in a bucket. What is promised and how it is kept is in `docs/object-store.md`.

mod build;
mod core;
mod http;
mod parts;
mod probe;
mod retry;
mod runtime;

use std::collections::HashSet;
use std::ops::ControlFlow;

use block::sync::atomic::{AtomicBool, Ordering};
use block::sync::{Arc, Mutex};
use block::{BlobStore, ByteCount, ByteRange, Entropy, Result, check_blob_name};
use bytes::Bytes;

use self::core::{Core, PAGE, out_of_order};
use self::parts::PARTS_FROM;
use self::retry::{ATTEMPTS, Patience};
use self::runtime::Threads;
use super::{Bucket, StoreOptions};

/// Blobs as objects of a bucket: the name of a blob behind the prefix is its key.
pub struct ObjectStore {
    core: Arc<Core>,
    threads: Threads,
}

impl ObjectStore {
    /// A client for the bucket. Nothing is asked of the server yet; until [`probe`](Self::probe) found that it refuses
    /// to create what exists, a put looks whether its name is free.
    ///
    /// # Errors
    /// `Invalid` naming the option that makes no sense.
    pub fn new(bucket: &Bucket, options: &StoreOptions, entropy: Arc<dyn Entropy>) -> crate::Result<Self> {
        let core = Core {
            store: build::client(bucket, options)?,
            prefix: bucket.prefix.clone(),
            shown: bucket.to_string(),
            patience: Patience::new(entropy.clone()),
            entropy,
            creates: AtomicBool::new(false),
            putting: Mutex::new(HashSet::new()),
        };
        let threads = Threads::start().map_err(crate::Error::store("reach", ""))?;
        Ok(Self { core: Arc::new(core), threads })
    }

    /// Finds out whether the server refuses to create what exists, by trying. Costs about a dozen small requests.
    ///
    /// # Errors
    /// `Unavailable` if the bucket does not exist, may not be written or cannot be reached.
    pub fn probe(&self) -> Result<bool> {
        let core = self.core.clone();
        let creates = self.threads.run(async move { core.probe().await })?;
        self.core.creates.store(creates, Ordering::Release);
        Ok(creates)
    }

    /// How many attempts a request gets; `None` for as many as a vault in use wants, which bridges about two minutes.
    pub fn set_attempts(&self, attempts: Option<u32>) {
        self.core.patience.set_attempts(attempts.unwrap_or(ATTEMPTS));
    }
}

impl BlobStore for ObjectStore {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        check_blob_name(name)?;
        let (core, name, bytes) = (self.core.clone(), name.to_owned(), Bytes::copy_from_slice(bytes));
        self.threads.run(async move {
            if bytes.len() > PARTS_FROM {
                core.put_parts(&name, bytes).await
            } else {
                core.put(&name, bytes).await
            }
        })
    }

    fn get(&self, name: &str, range: ByteRange) -> Result<Vec<u8>> {
        check_blob_name(name)?;
        let (core, name) = (self.core.clone(), name.to_owned());
        self.threads.run(async move { core.get(&name, range).await })
    }

    fn size(&self, name: &str) -> Result<ByteCount> {
        check_blob_name(name)?;
        let (core, name) = (self.core.clone(), name.to_owned());
        self.threads.run(async move { core.head(&name).await.map_err(core.failed(&name)) })
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(&str, ByteCount) -> ControlFlow<()>) -> Result<()> {
        let dir = prefix.rsplit_once('/').map_or("", |(dir, _)| dir).to_owned();
        let mut listing = self.core.listing(&dir, None);
        let mut last: Option<String> = None;
        loop {
            let (core, dir, after) = (self.core.clone(), dir.clone(), last.clone());
            let (rest, page) = self.threads.run(async move { core.page(listing, &dir, after).await })?;
            listing = rest;
            for (name, size) in &page {
                if last.as_ref().is_some_and(|last| last >= name) {
                    return Err(out_of_order(&self.core.shown));
                }
                last = Some(name.clone());
                if name.starts_with(prefix) && visit(name, ByteCount::new(*size)).is_break() {
                    return Ok(());
                }
            }
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_blob_name(name)?;
        let (core, name) = (self.core.clone(), name.to_owned());
        self.threads.run(async move { core.delete(&name).await })
    }
}
