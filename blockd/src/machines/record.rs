//! Which machines are protected: the files `machines/NAME.toml` in the state directory. `docs/machines.md` has the form.

use crate::error::{Doing, Error, Result};
use crate::names;
use block::Media;
use block::sync::{Mutex, lock};
use control::{ErrorBody, Kind};
use machines::Uri;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const DIR: &str = "machines";
/// A record larger than this is not one: a thousand disks with long serials.
const LIMIT_BYTES: u64 = 1 << 20;

/// What is known of a protected machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What libvirt calls it.
    pub domain: String,
    /// The libvirt that has it.
    pub uri: String,
    /// Only these disks, by target or serial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Not these disks, by target or serial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Whether it stays on its own images, and is pulled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attached: bool,
}

impl Record {
    /// The libvirt.
    ///
    /// # Errors
    /// `Corrupt` if the record names none.
    pub fn uri(&self) -> Result<Uri> {
        Uri::parse(&self.uri).doing(|| format!("record of machine {}", self.domain))
    }
}

/// A protected machine.
pub struct Protected {
    /// Its name as an item, `vm/web`.
    pub name: String,
    /// What is known of it.
    pub record: Record,
    /// Held while a recovery point of it is made.
    pub sealing: Mutex<()>,
    /// Why its definition was not looked at for its last point.
    pub trouble: Mutex<Option<String>>,
}

impl Protected {
    fn new(name: &str, record: Record) -> Arc<Self> {
        let (sealing, trouble) = (Mutex::new(()), Mutex::new(None));
        Arc::new(Self { name: name.to_owned(), record, sealing, trouble })
    }
}

/// All protected machines.
pub struct Machines {
    media: Arc<dyn Media>,
    table: Mutex<BTreeMap<String, Result<Arc<Protected>, ErrorBody>>>,
}

impl Machines {
    /// Reads them. One that cannot be read keeps its place and says why when it is needed.
    ///
    /// # Errors
    /// What keeps the directory from being read.
    pub fn open(media: Arc<dyn Media>) -> Result<Self> {
        let doing = || "read the machines".to_owned();
        media.create_dir(DIR).and_then(|()| media.sync_dir("")).doing(doing)?;
        let mut table = BTreeMap::new();
        for file in media.list(DIR).doing(doing)? {
            let Some(word) = file.name.strip_suffix(".toml").filter(|word| names::is_word(word)) else {
                continue;
            };
            let name = names::machine(word);
            let read = read(&*media, &path(&name)).map(|record| Protected::new(&name, record));
            table.insert(name, read.map_err(|error| error.body()));
        }
        Ok(Self { media, table: Mutex::new(table) })
    }

    /// Every one that could be read, by name.
    pub fn all(&self) -> Vec<Arc<Protected>> {
        lock(&self.table).values().filter_map(|found| found.as_ref().ok().cloned()).collect()
    }

    /// What a person should know of them.
    pub fn warnings(&self) -> Vec<String> {
        let table = lock(&self.table);
        let warning = |(name, found): (&String, &Result<Arc<Protected>, ErrorBody>)| match found {
            Err(body) => Some(format!("machine {name}: {}", body.message)),
            Ok(protected) => lock(&protected.trouble)
                .clone()
                .map(|why| format!("machine {name}: its points have its last known definition: {why}")),
        };
        table.iter().filter_map(warning).collect()
    }

    /// The machine of this name, if it is protected.
    ///
    /// # Errors
    /// Its record cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<Arc<Protected>>> {
        match lock(&self.table).get(name) {
            None => Ok(None),
            Some(Ok(protected)) => Ok(Some(protected.clone())),
            Some(Err(body)) => Err(Error::said_before(format!("machine {name}"), body)),
        }
    }

    /// The machine of this name.
    ///
    /// # Errors
    /// `NotFound`; its record cannot be read.
    pub fn get(&self, name: &str) -> Result<Arc<Protected>> {
        self.find(name)?.ok_or_else(|| {
            Error::said(Kind::NotFound, format!("machine {name}"), "is not protected")
                .with_help("`blockctl vm list` shows the machines, `blockctl vm protect DOMAIN` protects one")
        })
    }

    /// Writes a record, durably.
    ///
    /// # Errors
    /// What the host reports.
    pub fn put(&self, name: &str, record: Record) -> Result<Arc<Protected>> {
        let doing = || format!("write down machine {name}");
        let text =
            toml::to_string(&record).map_err(|error| Error::said(Kind::Io, doing(), error.to_string()))?;
        let mut table = lock(&self.table);
        self.media.replace(&path(name), text.as_bytes()).doing(doing)?;
        let protected = Protected::new(name, record);
        table.insert(name.to_owned(), Ok(protected.clone()));
        Ok(protected)
    }

    /// Removes a record.
    ///
    /// # Errors
    /// What the host reports.
    pub fn remove(&self, name: &str) -> Result<()> {
        let doing = || format!("forget machine {name}");
        let mut table = lock(&self.table);
        self.media.remove(&path(name)).and_then(|()| self.media.sync_dir(DIR)).doing(doing)?;
        table.remove(name);
        Ok(())
    }
}

fn path(name: &str) -> String {
    format!("{DIR}/{}.toml", names::machine_word(name))
}

fn read(media: &dyn Media, path: &str) -> Result<Record> {
    let bytes = media.read_whole(path, LIMIT_BYTES).doing(|| "read a machine's record".to_owned())?;
    let damaged = |why: String| Error::said(Kind::Corrupt, path, why);
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged("is not UTF-8".to_owned()))?;
    toml::from_str(text).map_err(|error| damaged(error.message().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::linux::LinuxMedia;

    #[test]
    fn records_outlive_the_daemon_and_a_damaged_one_keeps_its_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || {
            let media = LinuxMedia::new(dir.path(), dir.path()).expect("media");
            Machines::open(Arc::new(media)).expect("machines")
        };
        let record = Record {
            domain: "Web".into(),
            uri: "qemu:///system".into(),
            include: Vec::new(),
            exclude: vec!["vdb".into()],
            attached: false,
        };
        open().put("vm/web", record.clone()).expect("written");
        std::fs::write(dir.path().join("machines/db.toml"), "domain = 3").expect("written");
        let machines = open();
        assert_eq!(machines.get("vm/web").expect("it").record, record);
        assert_eq!(machines.get("vm/db").err().map(|error| error.kind()), Some(Kind::Corrupt));
        assert!(machines.warnings()[0].contains("vm/db"));
        assert!(machines.find("vm/none").expect("none").is_none());
        machines.remove("vm/web").expect("removed");
        assert!(open().find("vm/web").expect("none").is_none());
    }
}
