//! The state directory: finding it, owning it, and what lies in it. Its layout is specified in `docs/state.md`.

use crate::appliance_clock::ApplianceClock;
use crate::error::{Doing, Error, Result};
use block::linux::{KernelEntropy, LinuxMedia};
use block::{Clock, Entropy, Lock, Media, StateId};
use control::Kind;
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The version of the state directory this program writes and the newest it reads.
const VERSION: u32 = 1;

/// The file that says so.
const FILE: &str = "state";

/// A state file larger than this is not one.
const FILE_LIMIT_BYTES: u64 = 4096;

/// Where memory outlives a process on Linux.
const SHARED_MEMORY: &str = "/dev/shm";

/// `f_type` of tmpfs, from the kernel's `magic.h`.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// How often a lock is tried that is held, and how long it is waited in between: two seconds in all.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The group whose members may open the sockets, where it exists.
const GROUP: &str = "blockd";

/// A state directory that this process owns until it is dropped.
pub struct State {
    dir: PathBuf,
    volatile: PathBuf,
    media: Arc<dyn Media>,
    clock: Arc<ApplianceClock>,
    id: StateId,
    group: Option<u32>,
    _lock: Box<dyn Lock>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    id: String,
}

/// Only the version, whatever else a newer program wrote.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// The state directory to use when none is named.
///
/// # Errors
/// `Invalid` if nothing in the environment says where a user's state lives.
pub fn default_dir() -> Result<PathBuf> {
    control::default_state_dir().ok_or_else(|| {
        Error::said(Kind::Invalid, "state directory", "neither BLOCKD_STATE, XDG_STATE_HOME nor HOME is set")
            .with_help("name it with --state DIR")
    })
}

impl State {
    /// Takes the directory for this process, making it if it does not exist.
    ///
    /// # Errors
    /// `Refused` if another daemon has it, or if it was written by a newer version; both name the directory.
    pub fn open(dir: &Path) -> Result<Self> {
        let failed = |what: &str| format!("{what} {}", dir.display());
        make_dir(dir).map_err(|error| {
            Error::host(failed("make state directory"), error).with_help(
                "name a directory that this user may make or write, with --state DIR or BLOCKD_STATE",
            )
        })?;
        let dir =
            fs::canonicalize(dir).map_err(|error| Error::host(failed("find state directory"), error))?;
        refuse_long(&dir)?;
        refuse_foreign(&dir)?;
        let plain = LinuxMedia::new(&dir, &dir).doing(|| failed("open state directory"))?;
        let lock = lock_in_time(&plain).map_err(|error| refuse_second(&dir, error))?;
        let id = read_or_make(&plain)?;
        let group = group_id(GROUP);
        share_with_group(&dir, group, if group.is_some() { 0o750 } else { 0o700 })?;
        for name in ["disks", "vaults", "keys"] {
            plain.create_dir(name).doing(|| failed("lay out"))?;
        }
        plain.sync_dir("").doing(|| failed("lay out"))?;
        let volatile = volatile_dir(&dir, id)?;
        let media = LinuxMedia::new(&dir, &volatile).doing(|| failed("open state directory"))?;
        let media: Arc<dyn Media> = Arc::new(media);
        let clock = Arc::new(ApplianceClock::open(media.clone())?);
        Ok(Self { dir, volatile, media, clock, id, group, _lock: lock })
    }

    /// The directory, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory as media.
    pub fn media(&self) -> &Arc<dyn Media> {
        &self.media
    }

    /// The appliance's clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    /// The same, as what knows of its jumps.
    pub fn appliance_clock(&self) -> &Arc<ApplianceClock> {
        &self.clock
    }

    /// The id of the directory.
    pub fn id(&self) -> StateId {
        self.id
    }

    /// The appliance's randomness.
    pub fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::new(KernelEntropy)
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// After a clean end: removes the directory of live maps, unless one is left in it.
    pub fn forget_volatile(&self) {
        if let Err(error) = fs::remove_dir(&self.volatile) {
            tracing::debug!("{} stays: {error}", self.volatile.display());
        }
    }

    /// Makes room for a socket of this name; what lies there is a leftover, since this process holds the lock.
    ///
    /// # Errors
    /// What the host reports.
    pub fn free_socket(&self, name: &str) -> Result<PathBuf> {
        match self.media.remove(name) {
            Err(error) if error.kind() != block::Kind::NotFound => {
                Err(Error::below(format!("remove the old socket {name}"), error))
            }
            _ => Ok(self.path(name)),
        }
    }

    /// Lets the group connect to a socket.
    ///
    /// # Errors
    /// What the host reports.
    pub fn open_socket(&self, path: &Path) -> Result<()> {
        share_with_group(path, self.group, 0o660)
    }
}

/// The kernel takes 107 bytes as the path of a socket.
fn refuse_long(dir: &Path) -> Result<()> {
    const LONGEST: usize = 107 - "/api.sock".len();
    let length = dir.as_os_str().len();
    if length <= LONGEST {
        return Ok(());
    }
    let why = format!("its path has {length} bytes, and a path of sockets has room for {LONGEST}");
    Err(Error::said(Kind::Invalid, format!("state directory {}", dir.display()), why)
        .with_help("name a shorter one with --state DIR"))
}

/// A directory that has something in it and never was a state is somebody else's: its mode would be changed and its
/// files mixed with ours. What a person may put there beforehand, and what a first start that was cut off leaves, is none.
fn refuse_foreign(dir: &Path) -> Result<()> {
    const OURS: [&str; 4] = [FILE, "lock", "blockd.toml", "disks"];
    let failed = |error| Error::host(format!("look into state directory {}", dir.display()), error);
    let mut foreign = None;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if OURS.iter().any(|ours| name == *ours) {
            return Ok(());
        }
        if name != "lost+found" {
            foreign.get_or_insert(name);
        }
    }
    let Some(name) = foreign else { return Ok(()) };
    let why = format!("is no state of blockd and not empty: {} is in it", Path::new(&name).display());
    Err(Error::said(Kind::Refused, format!("state directory {}", dir.display()), why)
        .with_help("name an empty or a new directory with --state DIR or BLOCKD_STATE"))
}

/// A daemon that was killed holds its lock until the kernel has closed its last file, which takes a moment on a busy host.
fn lock_in_time(media: &LinuxMedia) -> block::Result<Box<dyn Lock>> {
    for _ in 0..LOCK_TRIES {
        match media.lock("lock") {
            Err(error) if error.kind() == block::Kind::Conflict => std::thread::sleep(LOCK_PAUSE),
            locked => return locked,
        }
    }
    media.lock("lock")
}

fn make_dir(dir: &Path) -> std::io::Result<()> {
    match fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "it is a file, not a directory",
            ));
        }
        Err(_) => {}
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn refuse_second(dir: &Path, error: block::Error) -> Error {
    if error.kind() != block::Kind::Conflict {
        return Error::below(format!("lock state {}", dir.display()), error);
    }
    Error::said(Kind::Refused, format!("state {}", dir.display()), "another blockd serves it")
        .with_help("stop that one, or give this one a state of its own with --state DIR")
}

fn read_or_make(media: &LinuxMedia) -> Result<StateId> {
    let media: &dyn Media = media;
    match media.read_whole(FILE, FILE_LIMIT_BYTES) {
        Ok(bytes) => parse(&bytes),
        Err(error) if error.kind() == block::Kind::NotFound => make(media),
        Err(error) => Err(Error::below("read the state file", error)),
    }
}

fn make(media: &dyn Media) -> Result<StateId> {
    let names = media.list("").doing(|| "list the state directory".to_owned())?;
    if names.iter().any(|entry| entry.is_dir && entry.name == "disks") {
        return Err(Error::said(Kind::Corrupt, "state file", "is missing though there are disks")
            .with_help("put the file `state` back from a copy of the state directory; it says which state the disks belong to"));
    }
    let id = StateId::random(&KernelEntropy).doing(|| "draw an id for the state".to_owned())?;
    let file = StateFile { version: VERSION, id: id.to_string() };
    let text =
        toml::to_string(&file).map_err(|error| Error::said(Kind::Io, "state file", error.to_string()))?;
    media.replace(FILE, text.as_bytes()).doing(|| "write the state file".to_owned())?;
    Ok(id)
}

fn parse(bytes: &[u8]) -> Result<StateId> {
    let damaged = |why: String| Error::said(Kind::Corrupt, "state file", why);
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("is not UTF-8".to_owned()))?;
    let VersionOnly { version } =
        toml::from_str(text).map_err(|error| damaged(error.message().to_owned()))?;
    if version > VERSION {
        let why = format!("has version {version}, this blockd knows versions up to {VERSION}");
        return Err(Error::said(Kind::Refused, "state file", why).with_help("serve it with the newer blockd"));
    }
    let file: StateFile = toml::from_str(text).map_err(|error| damaged(error.message().to_owned()))?;
    file.id.parse::<StateId>().map_err(|error| damaged(error.to_string()))
}

/// A directory of ours on tmpfs, named after this very directory, so that a copied state does not share it.
fn volatile_dir(dir: &Path, id: StateId) -> Result<PathBuf> {
    let failed = |error| Error::host(format!("look at {}", dir.display()), error);
    let meta = fs::metadata(dir).map_err(failed)?;
    let on_tmpfs = rustix::fs::statfs(SHARED_MEMORY).is_ok_and(|stat| stat.f_type == TMPFS_MAGIC);
    let path = if on_tmpfs {
        Path::new(SHARED_MEMORY).join(format!("blockd-{id}-{:x}-{:x}", meta.dev(), meta.ino()))
    } else {
        dir.join("volatile")
    };
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::host(format!("make {}", path.display()), error));
        }
        _ => {}
    }
    // anyone may make names in /dev/shm: believe only a directory that is ours alone
    let found = fs::symlink_metadata(&path).map_err(failed)?;
    let ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    if !ours || found.permissions().mode() & 0o077 != 0 {
        let why = "is not a directory of this user alone";
        return Err(Error::said(Kind::Refused, format!("live maps in {}", path.display()), why)
            .with_help("find out who made it, then remove it"));
    }
    Ok(path)
}

/// The id of a group, from the host's own file.
fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

fn share_with_group(path: &Path, group: Option<u32>, mode: u32) -> Result<()> {
    let failed = |error| Error::host(format!("set the mode of {}", path.display()), error);
    if let Some(group) = group
        && rustix::process::geteuid().is_root()
    {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(failed)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_state_is_refused_whatever_else_it_says() {
        let error = parse(b"version = 2\nshards = 3\n").expect_err("a newer state");
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("version 2"), "{error}");
        for damaged in [&b"version = 1\n"[..], b"", b"\xff", b"version = 1\nid = \"x\"\n"] {
            assert_eq!(parse(damaged).map_err(|error| error.kind()), Err(Kind::Corrupt), "{damaged:?}");
        }
    }

    #[test]
    fn a_directory_of_somebody_else_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("lost+found")).expect("a directory");
        fs::write(dir.path().join("letters"), "dear").expect("a file");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        let error = State::open(dir.path()).err().expect("refused");
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("letters"), "{error}");
        assert_eq!(fs::metadata(dir.path()).expect("it").permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(dir.path()).expect("it").count(), 2, "nothing was made in it");
        fs::remove_dir_all(dir.path().join("lost+found")).expect("removed");
        fs::write(dir.path().join("blockd.toml"), "").expect("a file");
        State::open(dir.path()).expect("a person prepared it");
    }

    #[test]
    fn a_state_is_owned_by_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = State::open(dir.path()).expect("the first");
        let error = State::open(dir.path()).err().expect("the second is refused");
        assert_eq!(error.kind(), Kind::Refused);
        drop(first);
        State::open(dir.path()).expect("free again");
    }
}
