//! A mount from its start to its end: connect, start the parser, mount, serve, unmount.

use crate::history::History;
use crate::luks::Passphrases;
use crate::points::PointsFrom;
use crate::tree::fuse::Served;
use crate::tree::item::Item as ItemTree;
use crate::tree::shown::Shown;
use crate::tree::{FETCHERS, Tree};
use crate::umount::{Unmounter, resolve};
use crate::{Error, Result};
use block::{BlockSource, Failure};
use fuser::{Config, MountOption, Session, SessionACL};
use rustix::io::Errno;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

/// The name of every mount's source begins with this, so that [`umount`](crate::umount) knows its own.
pub(crate) const SOURCE: &str = "blockd:";
/// Event loops: one for each core would do for content, and a slow question must not stop the rest.
const LOOPS: usize = 4;
/// Connections to the server of the recovery point: one for each event loop, and for each thread that reads ahead.
const CONNECTIONS: usize = LOOPS + FETCHERS;

/// What to mount, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The NBD URI of the recovery point; of an item, the text that `points` knows it by.
    pub uri: String,
    /// What the disk is called in the tree, where there are several; empty for one alone.
    pub name: String,
    /// Further disks of the same machine, as (name, URI): what is put together of all of them is shown.
    pub beside: Vec<(String, String)>,
    /// For a mount of all points of an item.
    pub item: Option<Item>,
    /// An empty directory.
    pub dir: PathBuf,
    /// Serve in this process, until unmounted or interrupted, instead of leaving a process behind.
    pub foreground: bool,
    /// Let users other than the one who mounts look in, each as far as the modes of the files allow. Without it only
    /// that user can, and sees everything.
    pub allow_other: bool,
    /// What encrypted volumes are opened with.
    pub passphrases: Passphrases,
    /// The executable to start parsers from, which must call [`child_entry`](crate::child_entry) first; without one,
    /// the executable of this process.
    pub executable: Option<PathBuf>,
}

/// An item whose points are to be mounted.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its name, if it is a machine, whose disks are told apart.
    pub machine: Option<String>,
    /// Makes its points of [`Options::uri`]; the same as in [`child_entry`](crate::child_entry).
    pub points: PointsFrom,
}

impl Options {
    /// A mount of `uri` at `dir`, in the background, for the user alone.
    pub fn new(uri: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        Self {
            uri: uri.into(),
            name: String::new(),
            beside: Vec::new(),
            item: None,
            dir: dir.into(),
            foreground: false,
            allow_other: false,
            passphrases: Passphrases::default(),
            executable: None,
        }
    }
}

/// A mount being served by threads of this process.
pub struct Mount {
    tree: Option<Arc<Tree>>,
    unmounter: Unmounter,
    session: JoinHandle<std::io::Result<()>>,
    dir: PathBuf,
}

impl Mount {
    /// Mounts; the tree is usable on return.
    ///
    /// # Errors
    /// `NotFound` or `Conflict` about the directory; [`Error::Connect`] if the recovery point cannot be opened;
    /// [`Error::Sandbox`] if guests' bytes cannot be read safely; [`Error::Fuse`] saying what is missing.
    pub fn start(options: &Options) -> Result<Self> {
        check_dir(&options.dir)?;
        if let Some(item) = &options.item {
            let history = History::new(
                (item.points)(&options.uri)?,
                options.executable.as_deref(),
                options.passphrases.clone(),
            );
            // whoever cannot be asked later can most often not be asked now
            history.points()?;
            let tree = Arc::new(ItemTree::new(history, item.machine.clone()));
            ItemTree::close_idle(&tree);
            return Self::show(tree, options);
        }
        let mut disks = vec![(options.name.clone(), connect(&options.uri)?)];
        for (name, uri) in &options.beside {
            disks.push((name.clone(), connect(uri)?));
        }
        Self::over(disks, options)
    }

    /// Mounts a source that is at hand; `options.uri` is only shown.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn serve(source: Arc<dyn BlockSource>, options: &Options) -> Result<Self> {
        Self::over(vec![(options.name.clone(), source)], options)
    }

    fn over(disks: Vec<(String, Arc<dyn BlockSource>)>, options: &Options) -> Result<Self> {
        check_dir(&options.dir)?;
        let own = own_executable();
        let tree = Arc::new(Tree::start(
            disks,
            options.executable.as_deref().unwrap_or(&own),
            &options.passphrases,
        )?);
        let parsed = Some(Arc::clone(&tree));
        Ok(Self { tree: parsed, ..Self::show(tree, options)? })
    }

    fn show(tree: Arc<dyn Shown>, options: &Options) -> Result<Self> {
        // looking at it takes an answer of ours once it is mounted
        let path = resolve(&options.dir)?;
        let failed = |error| mount_failed(&options.dir, error);
        let session = Session::new(Served(tree), &options.dir, &config(options)).map_err(failed)?;
        let unmounter = Unmounter::new(&options.dir, path)?;
        let session = std::thread::Builder::new().name("mount".to_owned()).spawn(move || session.run());
        Ok(Self { tree: None, unmounter, session: session.map_err(failed)?, dir: options.dir.clone() })
    }

    /// The parser processes of a mounted point alive now.
    pub fn parsers(&self) -> Vec<u32> {
        self.tree.as_ref().map(|tree| tree.parsers()).unwrap_or_default()
    }

    /// Something to unmount with from elsewhere, a handler of signals for instance.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// Serves until somebody unmounts.
    ///
    /// # Errors
    /// [`Error::Host`] if the kernel ended the conversation in another way.
    pub fn wait(self) -> Result<()> {
        let ended = self.session.join();
        let ended = ended.unwrap_or_else(|_| Err(std::io::Error::other("a thread of it panicked")));
        ended.map_err(|error| Error::host("serve", &self.dir, error))
    }
}

/// The executable of this process, also after it was replaced on the disk.
pub(crate) fn own_executable() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

pub(crate) fn connect(uri: &str) -> Result<Arc<dyn BlockSource>> {
    let failed = |error: nbd::Error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Error::Connect { uri: uri.to_owned(), why: format!("{error}{cause}"), kind: error.kind() }
    };
    let parsed: nbd::Uri = uri.parse().map_err(failed)?;
    // written to by nobody here: the client is only ever used as a source
    Ok(Arc::new(nbd::Client::connect(&parsed, CONNECTIONS).map_err(failed)?))
}

/// The directory must be there, empty, and not a mount that died.
fn check_dir(dir: &Path) -> Result<()> {
    let conflict = |why: &str| Err(Error::Conflict { what: dir.display().to_string(), why: why.to_owned() });
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            Some(_) => conflict("the directory is not empty"),
            None => Ok(()),
        },
        Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {
            conflict("an earlier mount died here; unmount it first")
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::not_found(format!("the directory {}", dir.display())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => conflict("it is not a directory"),
        Err(error) => Err(Error::host("look into", dir, error)),
    }
}

fn config(options: &Options) -> Config {
    // the name travels in a list separated by commas
    let name = format!("{SOURCE}{}", options.uri.replace(',', "%2C"));
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::FSName(name),
        MountOption::Subtype("blockd".to_owned()),
    ];
    if options.allow_other {
        config.acl = SessionACL::All;
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.n_threads = Some(LOOPS);
    config.clone_fd = true;
    config
}

/// Says what to do, where that is known.
fn mount_failed(dir: &Path, error: std::io::Error) -> Error {
    let why = match error.kind() {
        std::io::ErrorKind::NotFound if !Path::new("/dev/fuse").exists() => {
            "this host has no /dev/fuse; load the kernel module fuse (modprobe fuse)".to_owned()
        }
        std::io::ErrorKind::NotFound => "fusermount3 is missing; install the package fuse3".to_owned(),
        _ if error.to_string().contains("user_allow_other") => {
            "other users may be let in only where /etc/fuse.conf has the line user_allow_other".to_owned()
        }
        _ => error.to_string().trim().to_owned(),
    };
    Error::Fuse { path: dir.to_owned(), why }
}
