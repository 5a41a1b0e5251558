//! The requests behind each call of the seam.

use std::collections::HashSet;

use block::sync::atomic::{AtomicBool, Ordering};
use block::sync::{Arc, Mutex, lock};
use block::{ByteCount, ByteRange, Entropy, Error, Kind, Result};
use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectMeta, ObjectStore, PutMode, PutOptions, PutPayload,
};

use super::retry::{Failed, Patience, exists};

/// How finely a body is cut, so that a bandwidth limit is smooth and a slow line is no stall.
const PIECE: usize = 64 << 10;
/// Entries of a listing fetched at a time; what S3 gives in one answer.
pub(super) const PAGE: usize = 1000;
/// Names of an attempt's mark in an object's metadata.
const MARK: &str = "blockdput";

/// A bucket and how to talk to it.
pub(super) struct Core {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) prefix: String,
    /// Place of the store, for messages.
    pub(super) shown: String,
    pub(super) patience: Patience,
    pub(super) entropy: Arc<dyn Entropy>,
    /// Whether the server was seen to refuse a second create. Until then a put looks first.
    pub(super) creates: AtomicBool,
    /// Names being put by this process, where the server does not tell who was first.
    pub(super) putting: Mutex<HashSet<String>>,
}

/// A listing on its way.
pub(super) type Listing = BoxStream<'static, object_store::Result<ObjectMeta>>;

/// What says which attempt wrote an object.
pub(super) struct Mark(pub(super) String);

impl Core {
    pub(super) fn path(&self, name: &str) -> Path {
        if self.prefix.is_empty() { Path::from(name) } else { Path::from(format!("{}/{name}", self.prefix)) }
    }

    pub(super) fn mark(&self) -> Result<Mark> {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes)?;
        Ok(Mark(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    pub(super) fn failed(&self, name: &str) -> impl Fn(Failed) -> Error {
        let (shown, name) = (self.shown.clone(), name.to_owned());
        move |failed| failed.at(&shown, &name)
    }

    /// Stores an object whole and once.
    pub(super) async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        let mark = self.mark()?;
        if self.creates.load(Ordering::Acquire) {
            return self.create(name, &mark, || self.put_once(name, &bytes, &mark, PutMode::Create)).await;
        }
        if !lock(&self.putting).insert(name.to_owned()) {
            return Err(exists(name));
        }
        let put = self.put_looking(name, &bytes, &mark).await;
        lock(&self.putting).remove(name);
        put
    }

    /// Where the server overwrites: right as long as nobody else writes, which the vault sees to.
    async fn put_looking(&self, name: &str, bytes: &Bytes, mark: &Mark) -> Result<()> {
        self.must_be_free(name).await?;
        let put = || self.put_once(name, bytes, mark, PutMode::Overwrite);
        self.patience.try_until(put).await.map_err(self.failed(name))
    }

    pub(super) async fn must_be_free(&self, name: &str) -> Result<()> {
        match self.head(name).await {
            Ok(_) => Err(exists(name)),
            Err(failed) if failed.is_not_found() => Ok(()),
            Err(failed) => Err(self.failed(name)(failed)),
        }
    }

    pub(super) async fn put_once(
        &self,
        name: &str,
        bytes: &Bytes,
        mark: &Mark,
        mode: PutMode,
    ) -> object_store::Result<()> {
        let options = PutOptions { mode, attributes: mark.attributes(), ..PutOptions::default() };
        self.store.put_opts(&self.path(name), payload(bytes), options).await.map(|_| ())
    }

    /// Attempts to create an object, until one did or somebody else was first. An attempt whose answer was lost may have
    /// succeeded: then the object carries our mark.
    pub(super) async fn create<F>(&self, name: &str, mark: &Mark, attempt: impl Fn() -> F) -> Result<()>
    where
        F: Future<Output = object_store::Result<()>>,
    {
        let mut failed = 0;
        loop {
            let error = match self.patience.once(attempt()).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_exists() => match self.marked(name).await {
                    Ok(found) if found.as_deref() == Some(mark.0.as_str()) => return Ok(()),
                    Ok(_) => return Err(exists(name)),
                    // of two creates at once S3 may refuse both
                    Err(gone) if gone.is_not_found() => error,
                    Err(away) => return Err(self.failed(name)(away)),
                },
                Err(error @ Failed::Passing(_)) => error,
                Err(error) => return Err(self.failed(name)(error)),
            };
            failed += 1;
            if !self.patience.again(failed).await {
                return Err(self.failed(name)(error));
            }
        }
    }

    /// The mark an object carries.
    async fn marked(&self, name: &str) -> Result<Option<String>, Failed> {
        let found =
            self.patience.try_until(|| self.get_once(name, GetOptions::new().with_head(true))).await?;
        Ok(found.attributes.get(&Attribute::Metadata(MARK.into())).map(|mark| mark.as_ref().to_owned()))
    }

    async fn get_once(
        &self,
        name: &str,
        options: GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        self.store.get_opts(&self.path(name), options).await
    }

    pub(super) async fn head(&self, name: &str) -> Result<ByteCount, Failed> {
        let head = || self.get_once(name, GetOptions::new().with_head(true));
        Ok(ByteCount::new(self.patience.try_until(head).await?.meta.size))
    }

    /// Reads a range, whole or not at all.
    pub(super) async fn get(&self, name: &str, range: ByteRange) -> Result<Vec<u8>> {
        let past = |size: u64| Error::OutOfRange { offset: range.start(), count: range.count().get(), size };
        if range.is_empty() {
            let size = self.head(name).await.map_err(self.failed(name))?.get();
            return if range.end() > size { Err(past(size)) } else { Ok(Vec::new()) };
        }
        let mut read = self.patience.once(self.read_once(name, range)).await;
        if read.as_ref().is_err_and(|failed| !failed.is_not_found()) {
            // a range that begins past the end is an error in the words of each server
            let size = self.head(name).await.map_err(self.failed(name))?.get();
            if range.end() > size {
                return Err(past(size));
            }
            read = self.patience.try_until(|| self.read_once(name, range)).await;
        }
        match read.map_err(self.failed(name))? {
            (size, _) if range.end() > size => Err(past(size)),
            (_, bytes) => Ok(bytes.into()),
        }
    }

    /// The size of the object and the bytes of the range in it.
    async fn read_once(&self, name: &str, range: ByteRange) -> object_store::Result<(u64, Bytes)> {
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(range.start()..range.end())));
        let found = self.get_once(name, options).await?;
        let size = found.meta.size;
        if range.end() > size {
            return Ok((size, Bytes::new()));
        }
        let bytes = found.bytes().await?;
        if bytes.len() as u64 != range.count().get() {
            let source = format!("{} bytes came of {}", bytes.len(), range.count()).into();
            return Err(object_store::Error::Generic { store: "read", source });
        }
        Ok((size, bytes))
    }

    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        // a server says "deleted" of what was not there
        self.head(name).await.map_err(self.failed(name))?;
        let path = self.path(name);
        let delete = || object_store::ObjectStoreExt::delete(&*self.store, &path);
        match self.patience.try_until(delete).await {
            // an attempt whose answer was lost
            Err(failed) if failed.is_not_found() => Ok(()),
            done => done.map_err(self.failed(name)),
        }
    }

    /// A listing of everything below `dir`, behind `after` if there is one.
    pub(super) fn listing(&self, dir: &str, after: Option<&str>) -> Listing {
        let dir = if dir.is_empty() { Path::from(self.prefix.as_str()) } else { self.path(dir) };
        let dir = (!dir.as_ref().is_empty()).then_some(dir);
        match after {
            Some(after) => self.store.list_with_offset(dir.as_ref(), &self.path(after)),
            None => self.store.list(dir.as_ref()),
        }
    }

    /// The next entries of a listing by the names of blobs, and the listing. One that broke is taken up behind the last name.
    pub(super) async fn page(
        &self,
        mut listing: Listing,
        dir: &str,
        mut last: Option<String>,
    ) -> Result<(Listing, Vec<(String, u64)>)> {
        let (mut page, mut failed, mut resumed) = (Vec::new(), 0, None);
        while page.len() < PAGE {
            match self.patience.once(listing.try_next()).await {
                Ok(None) => break,
                Ok(Some(entry)) => {
                    failed = 0;
                    // a server may begin at the start again
                    let is_seen = |name: &String| resumed.as_ref().is_some_and(|resumed| name <= resumed);
                    if let Some(name) = self.name_of(&entry.location).filter(|name| !is_seen(name)) {
                        last = Some(name.clone());
                        page.push((name, entry.size));
                    }
                }
                Err(error @ Failed::Passing(_)) => {
                    failed += 1;
                    if !self.patience.again(failed).await {
                        return Err(self.failed("")(error));
                    }
                    resumed = last.clone();
                    listing = self.listing(dir, last.as_deref());
                }
                Err(error) => return Err(self.failed("")(error)),
            }
        }
        Ok((listing, page))
    }

    /// The name of the blob an object is, if it is one.
    fn name_of(&self, path: &Path) -> Option<String> {
        let path = path.as_ref();
        let name = if self.prefix.is_empty() {
            path
        } else {
            path.strip_prefix(self.prefix.as_str())?.strip_prefix('/')?
        };
        block::check_blob_name(name).is_ok().then(|| name.to_owned())
    }
}

impl Mark {
    pub(super) fn attributes(&self) -> Attributes {
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::Metadata(MARK.into()), self.0.clone().into());
        attributes
    }
}

/// A body in pieces that share the buffer.
pub(super) fn payload(bytes: &Bytes) -> PutPayload {
    (0..bytes.len()).step_by(PIECE).map(|at| bytes.slice(at..bytes.len().min(at + PIECE))).collect()
}

/// What a listing out of order says: what reads it relies on the order.
pub(super) fn out_of_order(shown: &str) -> Error {
    Error::refused(Kind::Unsupported, format!("store {shown}"), "its server lists names out of order")
}
