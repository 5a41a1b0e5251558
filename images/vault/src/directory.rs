//! A blob store in a directory of the host. Its promises and how they are kept are in `docs/directory.md`.

use std::collections::HashSet;
use std::ops::ControlFlow;

use block::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use block::sync::{Arc, Mutex, lock};
use block::{
    BlobStore, ByteCount, ByteRange, DirEntry, Error, Kind, Lock, Media, OpenHow, Result, check_blob_name,
};

/// Where blobs are written before they get their name. No blob's name has a segment beginning with a dot.
const INCOMING: &str = ".incoming";
/// Held by the one process that writes.
const LOCK: &str = ".lock";
/// So much is allocated for a read before anybody knows how long the blob is.
const SMALL_READ: u64 = 1 << 20;
/// Boot and mount, as words.
const MARK_WORDS: usize = 3;
/// Ends the names of files. No blob's name has capitals, so `a` and `a/b` are a file and a directory side by side.
const SUFFIX: &str = ".BLOB";

/// Blobs as files: the name of a blob is its path. A blob appears whole, under a name that lasts, or not at all.
pub struct DirectoryStore {
    media: Arc<dyn Media>,
    dir: String,
    // none in a store opened for reading
    writer: Option<Box<dyn Lock>>,
    // held from the look whether a name is free until it is taken
    naming: Mutex<()>,
    // directories whose own name this process made durable
    made: Mutex<HashSet<String>>,
    incoming: AtomicU64,
    poisoned: AtomicBool,
}

impl DirectoryStore {
    /// Opens the store in `dir` (relative to the media, `""` for its root), making the directory if its parent
    /// exists. Takes the directory's lock and removes what cut-off puts left.
    ///
    /// # Errors
    /// `Conflict` if another process writes to it, `Poisoned` if syncing one of its directories failed since the
    /// filesystem was mounted; otherwise what the media reports.
    pub fn open(media: Arc<dyn Media>, dir: &str) -> Result<Self> {
        let mut store = Self::new(media, dir);
        if !dir.is_empty() {
            store.make_dir(dir)?;
        }
        store.writer = Some(store.media.lock(&store.path(LOCK))?);
        store.refuse_if_unsynced()?;
        let incoming = store.path(INCOMING);
        store.make_dir(&incoming)?;
        for left in store.media.list(&incoming)? {
            store.media.remove(&format!("{incoming}/{}", left.name))?;
        }
        Ok(store)
    }

    /// What lies in a directory and is neither a store's beginning nor `lost+found`, by name: none may become a store while
    /// there is any.
    ///
    /// # Errors
    /// What the media reports.
    pub fn strangers(media: &dyn Media, dir: &str) -> Result<Vec<String>> {
        let names = media.list(dir)?.into_iter().map(|entry| entry.name);
        let mut strangers: Vec<_> =
            names.filter(|name| ![LOCK, INCOMING, "lost+found"].contains(&name.as_str())).collect();
        strangers.sort_unstable();
        Ok(strangers)
    }

    /// Opens the store without its lock, for reading only; a writer may be at work beside it.
    ///
    /// # Errors
    /// `NotFound` if there is no such directory.
    pub fn open_read_only(media: Arc<dyn Media>, dir: &str) -> Result<Self> {
        media.list(dir)?;
        Ok(Self::new(media, dir))
    }

    fn new(media: Arc<dyn Media>, dir: &str) -> Self {
        Self {
            media,
            dir: dir.to_owned(),
            writer: None,
            naming: Mutex::new(()),
            made: Mutex::new(HashSet::new()),
            incoming: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
        }
    }

    fn path(&self, name: &str) -> String {
        if self.dir.is_empty() { name.to_owned() } else { format!("{}/{name}", self.dir) }
    }

    fn file(&self, name: &str) -> String {
        self.path(&format!("{name}{SUFFIX}"))
    }

    fn check_writable(&self, name: &str) -> Result<()> {
        check_blob_name(name)?;
        if self.writer.is_none() {
            return Err(Error::refused(
                Kind::ReadOnly,
                format!("blob {name}"),
                "the store was opened for reading",
            ));
        }
        if self.poisoned.load(Ordering::Acquire) {
            let why = "syncing a directory of the store failed earlier";
            return Err(Error::refused(Kind::Poisoned, format!("blob {name}"), why));
        }
        Ok(())
    }

    /// Makes a directory and its name durable, once in the life of this store: a process that was killed may have left
    /// one whose name is not.
    fn make_dir(&self, path: &str) -> Result<()> {
        if lock(&self.made).contains(path) {
            return Ok(());
        }
        self.media.create_dir(path)?;
        self.sync_dir(parent(path))?;
        lock(&self.made).insert(path.to_owned());
        Ok(())
    }

    fn make_parents(&self, name: &str) -> Result<()> {
        for (at, _) in name.match_indices('/') {
            self.make_dir(&self.path(&name[..at]))?;
        }
        Ok(())
    }

    fn sync_dir(&self, path: &str) -> Result<()> {
        if block::planted!("vault-directory-unsynced") {
            return Ok(());
        }
        self.media.sync_dir(path).inspect_err(|_| {
            self.poisoned.store(true, Ordering::Release);
            // the first error says more than one met in leaving the mark, which serves later processes
            self.leave_mark().ok();
        })
    }

    /// The volatile memory that outlives this process but not what the failed sync put at risk.
    fn mark(&self) -> String {
        format!("store-unsynced-{}", &blake3::hash(self.dir.as_bytes()).to_hex()[..16])
    }

    fn leave_mark(&self) -> Result<()> {
        let mark = self.media.volatile(&self.mark(), MARK_WORDS)?;
        mark.reserve(0..MARK_WORDS)?;
        for (word, value) in mark.words().iter().zip(session_words(&*self.media)?) {
            word.store(value, Ordering::Release);
        }
        Ok(())
    }

    /// What a failed sync gave up stays visible until the filesystem is mounted again, and no later sync saves it, so
    /// a store opened meanwhile would promise what it cannot keep.
    fn refuse_if_unsynced(&self) -> Result<()> {
        let name = self.mark();
        if !self.media.list_volatile()?.contains(&name) {
            return Ok(());
        }
        let mark = self.media.volatile(&name, MARK_WORDS)?;
        mark.reserve(0..MARK_WORDS)?;
        let now = session_words(&*self.media)?;
        if mark.words().iter().zip(now).any(|(word, now)| word.load(Ordering::Acquire) != now) {
            return self.media.remove_volatile(&name);
        }
        let why = "syncing one of its directories failed; mount its filesystem again or restart the host";
        Err(Error::refused(Kind::Poisoned, format!("the store {}", self.dir), why))
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let file = self.media.open(path, OpenHow::Truncate)?;
        // read again only by whoever needs what is in it
        file.write_past(0, bytes)?;
        let (found, wanted) = (file.size()?, bytes.len() as u64);
        if found != wanted {
            return Err(Error::corrupt(
                path,
                None,
                format!("{found} bytes long after {wanted} were written"),
            ));
        }
        if block::planted!("vault-blob-unsynced") {
            return Ok(());
        }
        file.sync()
    }

    fn take_name(&self, fresh: &str, name: &str) -> Result<()> {
        let _naming = lock(&self.naming);
        let path = self.file(name);
        match self.media.open(&path, OpenHow::Read) {
            Ok(_) => {
                Err(Error::Conflict { what: format!("blob {name}"), why: "it exists already".to_owned() })
            }
            Err(error) if error.kind() == Kind::NotFound => self.media.rename(fresh, &path),
            Err(error) => Err(error),
        }
    }

    fn visit_blob(
        &self,
        name: &str,
        visit: &mut dyn FnMut(&str, ByteCount) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        match self.size(name) {
            Ok(size) => Ok(visit(name, size)),
            // deleted since it was listed
            Err(error) if error.kind() == Kind::NotFound => Ok(ControlFlow::Continue(())),
            Err(error) => Err(error),
        }
    }

    /// Visits everything below `dir` (a path inside the store, `""` or ending in `/`).
    fn visit(
        &self,
        dir: &str,
        prefix: &str,
        visit: &mut dyn FnMut(&str, ByteCount) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let listed = match self.media.list(self.path(dir).trim_end_matches('/')) {
            Err(error) if error.kind() == Kind::NotFound && !dir.is_empty() => {
                return Ok(ControlFlow::Continue(()));
            }
            listed => listed?,
        };
        let mut names: Vec<String> = listed.iter().filter_map(|entry| listed_name(dir, entry)).collect();
        // with its slash a directory sorts where the names below it do
        names.sort_unstable();
        for name in names.iter().filter(|name| name.starts_with(prefix) || prefix.starts_with(name.as_str()))
        {
            let step = if name.ends_with('/') {
                self.visit(name, prefix, visit)?
            } else if name.starts_with(prefix) {
                self.visit_blob(name, visit)?
            } else {
                ControlFlow::Continue(())
            };
            if step.is_break() {
                return Ok(step);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The name of a blob, or of a directory with a slash; `None` for what no put made.
fn listed_name(dir: &str, entry: &DirEntry) -> Option<String> {
    let name = if entry.is_dir { entry.name.as_str() } else { entry.name.strip_suffix(SUFFIX)? };
    let path = format!("{dir}{name}");
    check_blob_name(&path).ok()?;
    Some(if entry.is_dir { path + "/" } else { path })
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn session_words(media: &dyn Media) -> Result<[u64; MARK_WORDS]> {
    let session = media.session()?;
    let boot = u128::from_le_bytes(session.boot);
    Ok([boot as u64, (boot >> 64) as u64, session.mount])
}

fn missing(name: &str) -> impl FnOnce(Error) -> Error + '_ {
    move |error| match error.kind() {
        Kind::NotFound => Error::NotFound { what: format!("blob {name}") },
        _ => error,
    }
}

impl BlobStore for DirectoryStore {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.check_writable(name)?;
        self.make_parents(name)?;
        let number = self.incoming.fetch_add(1, Ordering::Relaxed);
        let fresh = self.path(&format!("{INCOMING}/{number}"));
        if let Err(error) = self.write(&fresh, bytes).and_then(|()| self.take_name(&fresh, name)) {
            // the first error says more than a second one here; what stays is removed at the next open
            self.media.remove(&fresh).ok();
            return Err(error);
        }
        // the file left one directory and came into another
        self.sync_dir(parent(&fresh))?;
        self.sync_dir(parent(&self.file(name)))
    }

    fn get(&self, name: &str, range: ByteRange) -> Result<Vec<u8>> {
        check_blob_name(name)?;
        let file = self.media.open(&self.file(name), OpenHow::Read).map_err(missing(name))?;
        let (offset, count) = (range.start(), range.count().get());
        let check = || match file.size()? {
            size if range.end() > size => Err(Error::OutOfRange { offset, count, size }),
            _ => Ok(()),
        };
        // a small read says itself that the blob ends before
        if count > SMALL_READ {
            check()?;
        }
        let mut bytes = vec![0; count as usize];
        file.read_at(offset, &mut bytes).or_else(|error| check().and(Err(error)))?;
        Ok(bytes)
    }

    fn size(&self, name: &str) -> Result<ByteCount> {
        check_blob_name(name)?;
        let file = self.media.open(&self.file(name), OpenHow::Read).map_err(missing(name))?;
        Ok(ByteCount::new(file.size()?))
    }

    fn list(&self, prefix: &str, visit: &mut dyn FnMut(&str, ByteCount) -> ControlFlow<()>) -> Result<()> {
        self.visit("", prefix, visit).map(|_| ())
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.check_writable(name)?;
        let path = self.file(name);
        self.media.remove(&path).map_err(missing(name))?;
        self.sync_dir(parent(&path))
    }
}
