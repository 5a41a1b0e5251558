//! Disks that stand on something: opening what it is, and keeping it there for as long as they do.

use super::making::{Based, New};
use super::{Disks, Named};
use crate::bases::{Asked, BaseRecord, HeldImage, ImageRecord, On, Spare, Standing, StoredPoint};
use crate::disk_file::{RunRecord, Stage, layers_dir};
use crate::error::{Doing, Error, Result};
use crate::points::Held;
use crate::recover::missing_is_damage;
use crate::vaults::NamedVault;
use block::sync::lock;
use block::{BlockSource, ByteCount, DiskId, StateId, VaultId};
use control::Kind;
use layers::{Base, Disk};
use std::collections::HashMap;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use vault::ManifestId;

/// Disks that stand on each other: each is one look-up more for what the upper ones lack.
const DEPTH_LIMIT: usize = 32;

/// What a disk stands on, open.
#[derive(Clone)]
pub enum Ground {
    /// A recovery point of another disk.
    Point(Arc<Standing>),
    /// A recovery point of a vault.
    Stored(Arc<StoredPoint>),
    /// An image that is not ours.
    Image(Arc<HeldImage>),
}

impl Ground {
    fn source(&self) -> Arc<dyn BlockSource> {
        match self {
            Self::Point(point) => point.clone(),
            Self::Stored(stored) => stored.clone(),
            Self::Image(image) => image.clone(),
        }
    }

    /// Bytes of it.
    pub fn size(&self) -> ByteCount {
        self.source().size()
    }

    /// As the layers take it.
    pub(super) fn base(&self, record: &BaseRecord) -> Result<Base> {
        Ok(Base { state: record.state()?, source: self.source() })
    }
}

impl Disks {
    /// Opens a disk's layers on what it stands on.
    ///
    /// # Errors
    /// `Unavailable` if a base is missing or does not serve now, `Conflict` if it is not what it was; as
    /// [`Disk::open_on`].
    pub fn open_layers(
        &self,
        id: DiskId,
        name: &str,
        base: Option<&BaseRecord>,
    ) -> Result<(Arc<Disk>, Option<Ground>)> {
        // one that released its base needs it no more, whatever is still written down
        let is_released =
            base.is_some() && Disk::base_of(self.env(), &layers_dir(id)).is_ok_and(|on| on.is_none());
        let base = base.filter(|_| !is_released);
        let ground = base.map(|record| self.ground(name, record)).transpose()?;
        Ok((self.open_on(id, name, base.zip(ground.as_ref()))?, ground))
    }

    /// Opens a disk's layers on something that is open.
    ///
    /// # Errors
    /// As [`Disk::open_on`].
    pub fn open_on(&self, id: DiskId, name: &str, on: Option<(&BaseRecord, &Ground)>) -> Result<Arc<Disk>> {
        let base = on.map(|(record, ground)| ground.base(record)).transpose()?;
        let disk = Disk::open_on(self.env(), &layers_dir(id), base.as_ref());
        let disk = disk.doing(|| format!("open disk {name}")).map_err(missing_is_damage);
        // without a layer's map nobody can tell which blocks it has: to serve would be to serve older ones in their place
        disk.map_err(|error| match error.kind() {
            Kind::Corrupt => error.with_help(format!(
                "`blockctl point list {name}` shows what a vault holds of it, `blockctl restore disk {name}@N --to NEW` \
                 restores that; `blockctl inspect disk {} --check` shows what else is damaged",
                layers_dir(id)
            )),
            _ => error,
        })
    }

    fn ground(&self, name: &str, record: &BaseRecord) -> Result<Ground> {
        match &record.on {
            On::Point { disk, name: point } => {
                let why = |why: String| {
                    Error::said(Kind::Unavailable, format!("open disk {name}"), why).with_help(
                        "it opens by itself once the disk below serves; `blockctl disk list` shows both",
                    )
                };
                let parent = disk.parse().ok().and_then(|id| self.by_id(id));
                let parent =
                    parent.ok_or_else(|| why(format!("it stands on {point}, and its disk is not there")))?;
                let source = record.state().and_then(|state| self.standing(&parent, state, point));
                let source = source.map_err(|error| {
                    why(format!("it stands on {point}, which cannot be read: {}", error.body().message))
                })?;
                Ok(Ground::Point(source))
            }
            On::Stored { vault, name: point, .. } => {
                let stored = record.stored().ok_or_else(|| Error::not_found(format!("vault {vault}")));
                let stored =
                    stored.and_then(|(id, manifest)| self.stored(id, manifest, record.state()?, point));
                Ok(Ground::Stored(stored.map_err(|error| {
                    let why = format!("it stands on {point} in vault {vault}: {}", error.body().message);
                    Error::said(Kind::Unavailable, format!("open disk {name}"), why)
                        .with_help("it opens by itself once the vault can be read; `blockctl vault list` says what is wrong with it")
                })?))
            }
            On::Image(image) => match HeldImage::again(image) {
                Ok(held) => Ok(Ground::Image(Arc::new(held))),
                Err(error) => Err(not_as_it_was(name, image, &error)),
            },
        }
    }

    /// A point of a vault as those that stand on it read it: all through one source.
    pub(super) fn stored(
        &self,
        vault: VaultId,
        manifest: ManifestId,
        state: StateId,
        point: &str,
    ) -> Result<Arc<StoredPoint>> {
        let of_sibling =
            |sibling: &Arc<Named>| sibling.stored_point().filter(|it| it.key == (vault, manifest)).cloned();
        if let Some(stored) = self.all().iter().find_map(of_sibling) {
            return Ok(stored);
        }
        let named = self.vaults.as_ref().and_then(|vaults| vaults.by_id(vault));
        let named = named.ok_or_else(|| Error::not_found(format!("vault {vault}")))?;
        let spare = Spare::in_vaults(self.vaults.as_ref(), state, Some(vault));
        let opened = StoredPoint::open(&named.name, named.vault()?, manifest, spare, &self.patience);
        Ok(Arc::new(opened.doing(|| format!("read {point}"))?))
    }

    /// A state of a disk as those that stand on it read it: all through one source, which has one owner index.
    fn standing(&self, parent: &Named, state: StateId, point: &str) -> Result<Arc<Standing>> {
        let below = parent.served()?;
        let of_sibling = |sibling: &Arc<Named>| match &sibling.ground {
            Some(Ground::Point(standing)) if sibling.stands_on() == Some((parent.id, state)) => {
                Some(standing.clone())
            }
            _ => None,
        };
        if let Some(standing) = self.all().iter().find_map(of_sibling) {
            return Ok(standing);
        }
        let source =
            below.point_source(state).map_err(|error| parent.failed(format!("read {point}"), error))?;
        Ok(Arc::new(Standing::new(source, Spare::in_vaults(self.vaults.as_ref(), state, None))))
    }

    /// Makes a disk on a state of another one, a recovery point called `point`. It stays readable for as long as the disk is
    /// there, whatever becomes of it as a point.
    ///
    /// # Errors
    /// `NotFound` if the state is no point; as [`create`](Self::create).
    pub fn create_on_point(
        &self,
        name: &str,
        size: Option<ByteCount>,
        parent: &Arc<Named>,
        state: StateId,
        point: &str,
        run: Option<RunRecord>,
    ) -> Result<Arc<Named>> {
        let _tree = lock(&self.tree);
        let doing = || format!("make disk {name} on {point}");
        if self.depth(parent) >= DEPTH_LIMIT {
            let why = format!("{DEPTH_LIMIT} disks would stand on each other");
            return Err(Error::said(Kind::Unsupported, doing(), why)
                .with_help(format!("blockctl restore disk {point} --to NAME makes a disk of its own")));
        }
        let below = parent.disk()?;
        let id = self.fresh_id()?;
        below.pin(state).map_err(|error| parent.failed(doing(), error))?;
        let made = self.standing(parent, state, point).and_then(|standing| {
            let on = On::Point { disk: parent.id.to_string(), name: point.to_owned() };
            let record = BaseRecord { state: state.to_string(), on };
            self.make_on(id, name, size, Based { record, ground: Ground::Point(standing) }, run)
        });
        if made.is_err() {
            self.unpin_unless_needed(parent.id, state);
        }
        made
    }

    /// Makes a disk on a recovery point of a vault. The point cannot be deleted there for as long as the disk stands on it.
    ///
    /// # Errors
    /// `NotFound` if the vault does not have it; as [`create`](Self::create).
    pub fn create_on_stored(
        &self,
        name: &str,
        size: Option<ByteCount>,
        held: &Held,
        copy: &(Arc<NamedVault>, ManifestId),
        run: Option<RunRecord>,
    ) -> Result<Arc<Named>> {
        // no deletion of the point comes in between
        let _tree = lock(&self.tree);
        let (vault, manifest) = copy;
        let id = vault.vault()?.id();
        let stored = self.stored(id, *manifest, held.state, &held.name)?;
        let on = On::Stored {
            vault: vault.name.clone(),
            id: id.to_string(),
            manifest: manifest.to_string(),
            name: held.name.clone(),
        };
        let record = BaseRecord { state: held.state.to_string(), on };
        self.make_on(self.fresh_id()?, name, size, Based { record, ground: Ground::Stored(stored) }, run)
    }

    /// Deletes a point from a vault, unless a disk stands on it.
    ///
    /// # Errors
    /// `Conflict` naming the disks; what `delete` reports.
    pub fn delete_unless_stood_on<T>(
        &self,
        vault: VaultId,
        manifest: Option<&ManifestId>,
        point: &str,
        delete: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        self.unless_stood_on(vault, |check| {
            check(manifest, point)?;
            delete()
        })
    }

    /// The same of several points: `delete` asks for each whether a disk stands on it, and none comes to meanwhile.
    pub fn unless_stood_on<T>(
        &self,
        vault: VaultId,
        delete: impl FnOnce(&dyn Fn(Option<&ManifestId>, &str) -> Result<()>) -> T,
    ) -> T {
        let _tree = lock(&self.tree);
        let mut children: HashMap<ManifestId, Vec<String>> = HashMap::new();
        for named in self.all() {
            match named.base.as_ref().and_then(BaseRecord::stored) {
                Some((of, manifest)) if of == vault => {
                    children.entry(manifest).or_default().push(named.name.clone());
                }
                _ => {}
            }
        }
        delete(&|manifest, point| match manifest.and_then(|manifest| children.get(manifest)) {
            None => Ok(()),
            Some(disks) => {
                let why = format!("it is what these disks read: {}", disks.join(", "));
                Err(Error::said(Kind::Conflict, format!("delete {point} from its vault"), why).with_help(
                    "`blockctl run promote NAME` makes a disk independent, `run discard` or `disk delete` ends it",
                ))
            }
        })
    }

    /// Makes a disk on an image that is not ours and stays as it is.
    ///
    /// # Errors
    /// As [`HeldImage::begin`] and [`create`](Self::create).
    pub fn create_on_image(
        &self,
        name: &str,
        size: Option<ByteCount>,
        asked: &Asked<'_>,
    ) -> Result<Arc<Named>> {
        let (held, image) = HeldImage::begin(asked)?;
        // nobody else adopts it in between
        let _tree = lock(&self.tree);
        if asked.adopted {
            self.refuse_adopted(name, &image)?;
        }
        let state = StateId::random(&*self.env.entropy).doing(|| "draw an id for a base".to_owned())?;
        let record = BaseRecord { state: state.to_string(), on: On::Image(image) };
        let ground = Ground::Image(Arc::new(held));
        self.make_on(self.fresh_id()?, name, size, Based { record, ground }, None)
    }

    fn make_on(
        &self,
        id: DiskId,
        name: &str,
        size: Option<ByteCount>,
        based: Based,
        run: Option<RunRecord>,
    ) -> Result<Arc<Named>> {
        let size = size.unwrap_or_else(|| based.ground.size());
        if size < based.ground.size() {
            let why = format!(
                "{} bytes cut off the end of what it stands on, which has {}",
                size.get(),
                based.ground.size().get()
            );
            return Err(Error::said(Kind::Invalid, format!("make disk {name}"), why)
                .with_help("leave the size out, or make the disk and shrink it: blockctl disk resize"));
        }
        self.make(
            New { id, name, size, stage: Stage::Disk, based: Some(based), run, restoring: None },
            |_| Ok(()),
        )
    }

    /// The disk with this id, whatever it is called.
    pub(super) fn by_id(&self, id: DiskId) -> Option<Arc<Named>> {
        lock(&self.table).disks.values().find(|named| named.id == id).cloned()
    }

    /// The names of disks that stand on a point of this one.
    pub fn children(&self, parent: DiskId) -> Vec<String> {
        let stands = |named: &&Arc<Named>| named.stands_on().is_some_and(|(disk, _)| disk == parent);
        self.all().iter().filter(stands).map(|named| named.name.clone()).collect()
    }

    /// How many disks this one stands on, one on the other.
    fn depth(&self, named: &Arc<Named>) -> usize {
        let below = |named: &Arc<Named>| self.by_id(named.stands_on()?.0);
        std::iter::successors(Some(named.clone()), below).take(DEPTH_LIMIT).count()
    }

    /// Takes back the pin of a state that no disk stands on any more. One that stays is taken back at the next start.
    pub(super) fn unpin_unless_needed(&self, disk: DiskId, state: StateId) {
        if self.all().iter().any(|named| named.stands_on() == Some((disk, state))) {
            return;
        }
        let Some(parent) = self.by_id(disk) else { return };
        let Ok(below) = parent.served() else { return };
        match below.unpin(state) {
            Ok(()) | Err(layers::Error::NoSuchPoint { .. }) => {}
            Err(error) => {
                tracing::warn!(disk = parent.name, %error, "a point is kept for nothing until the next start")
            }
        }
    }

    /// Takes back the pins that no disk explains: it was not made to the end, or is gone.
    pub(super) fn take_back_pins(&self) {
        let all = self.all();
        for named in &all {
            let Ok(disk) = &named.open else { continue };
            let needed = |state| all.iter().any(|child| child.stands_on() == Some((named.id, state)));
            for state in disk.pinned().into_iter().filter(|state| !needed(*state)) {
                tracing::info!(disk = named.name, %state, "no disk stands on it any more");
                self.unpin_unless_needed(named.id, state);
            }
        }
    }

    /// Gives the disks that stand on a disk its points as they are open now: it was opened anew.
    pub fn stand_anew(&self, parent: &Named) {
        let Ok(below) = &parent.open else { return };
        let mut done = HashSet::new();
        for child in self.all() {
            let Some((_, state)) = child.stands_on().filter(|(disk, _)| *disk == parent.id) else { continue };
            let Some(Ground::Point(standing)) = &child.ground else { continue };
            // those on one state share what they read through
            if !done.insert(state) {
                continue;
            }
            match below.point_source(state) {
                Ok(source) => standing.replace(source),
                Err(error) => tracing::error!(disk = child.name, %error, "what it stands on cannot be read"),
            }
        }
    }

    /// A file is one disk's own: two that went their own ways from it would each be handed back as that file.
    fn refuse_adopted(&self, name: &str, image: &ImageRecord) -> Result<()> {
        let Some(file) = image.files.first() else { return Ok(()) };
        let number = |path: &str| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        let ours = number(&file.path);
        let all = self.all();
        let other = all.iter().find(|other| {
            let adopted = other.base.as_ref().and_then(BaseRecord::adopted);
            adopted.is_some_and(|other| {
                other.path == file.path || (ours.is_some() && number(&other.path) == ours)
            })
        });
        let Some(other) = other else { return Ok(()) };
        let why = format!("{} is the file of disk {} already", file.path, other.name);
        Err(Error::said(Kind::Conflict, format!("adopt disk {name}"), why).with_help(format!(
            "`blockctl disk create {name} --base {}` makes another disk on it",
            file.path
        )))
    }

    /// Whether another disk stands on this file too.
    pub(super) fn is_shared_file(&self, path: &str, but: &Named) -> Option<String> {
        let uses = |named: &&Arc<Named>| {
            let image = named.base.as_ref().and_then(BaseRecord::image);
            named.id != but.id && image.is_some_and(|image| image.files.iter().any(|file| file.path == path))
        };
        self.all().iter().find(uses).map(|named| named.name.clone())
    }
}

fn not_as_it_was(name: &str, image: &ImageRecord, error: &Error) -> Error {
    let body = error.body();
    let first = image.files.first().map_or("", |file| Path::new(&file.path).to_str().unwrap_or_default());
    let said = Error::said(body.kind, format!("open disk {name}"), body.message);
    match body.kind {
        Kind::Conflict => said.with_help(format!(
            "the disk stands on {first} as it was: put that back, with its times; or, if the change is yours and you \
             want the disk on what is there now, `blockctl disk recover {name} --accept-base`"
        )),
        Kind::Unavailable => said.with_help("put the file back, or mount its filesystem; the disk then opens by itself"),
        _ => match body.help {
            Some(help) => said.with_help(help),
            None => said,
        },
    }
}
