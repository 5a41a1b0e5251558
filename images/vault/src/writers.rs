//! Who writes to a vault. Specified in `docs/writers.md`.

use std::ops::ControlFlow;

use block::sync::atomic::{AtomicBool, Ordering};
use block::sync::{Arc, Mutex, lock};
use block::{BlobStore, ByteCount, ByteRange, Cursor, Kind, Malformed, Time, VaultId};

use crate::front::{Front, WRITER};
use crate::info::Info;
use crate::key::Keys;
use crate::name::{Address, ApplianceId, BlobId, Shelf};
use crate::vault::{Env, Vault};
use crate::{Error, Result, small};

/// Longest label of an appliance, in bytes.
const MAX_LABEL: usize = 255;
/// Processes of one identity that start at the same time, before one gives up.
const MAX_RACES: usize = 16;

/// What keeps the writers of a store apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusion {
    /// A lock: whoever opened the store to write is the only one.
    Locked,
    /// The store refuses to create what exists, so that there may be several.
    Refusing,
    /// Nothing: the store overwrites. There may be one.
    Nothing,
}

/// Who opens a vault to write, and where.
#[derive(Debug, Clone)]
pub struct Writer {
    /// The identity to write under; that of the vault's maker if there is none.
    pub appliance: Option<ApplianceId>,
    /// What people call the appliance.
    pub label: String,
    /// What keeps other writers of the store apart.
    pub exclusion: Exclusion,
    /// Whether a person said that no other appliance will write again.
    pub take_over: bool,
}

/// A writer that is registered in a vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredWriter {
    /// Its identity.
    pub appliance: ApplianceId,
    /// What it calls itself; none if its registration is damaged.
    pub label: Option<String>,
    /// Since when, by its own clock.
    pub since: Option<Time>,
    /// Whether this process writes under it.
    pub own: bool,
}

/// A registration: what its blob says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Registration {
    since: Time,
    label: String,
}

impl Registration {
    fn encode(&self) -> Vec<u8> {
        let mut end = self.label.len().min(MAX_LABEL);
        while !self.label.is_char_boundary(end) {
            end -= 1;
        }
        let mut body = self.since.unix_ms.to_le_bytes().to_vec();
        body.extend_from_slice(&(end as u16).to_le_bytes());
        body.extend_from_slice(&self.label.as_bytes()[..end]);
        body
    }

    fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(body);
        let since = Time { unix_ms: cursor.u64()? };
        let len = usize::from(cursor.u16()?);
        if len > MAX_LABEL {
            return Err(cursor.malformed("its label is too long"));
        }
        let text = cursor.bytes(len)?;
        let label =
            std::str::from_utf8(text).map_err(|_| cursor.malformed("its label is not UTF-8"))?.to_owned();
        cursor.end()?;
        Ok(Self { since, label })
    }
}

/// For fuzzing: decodes any bytes as the body of a registration.
pub fn fuzz_writer(bytes: &[u8]) {
    if let Ok(registration) = Registration::decode(bytes) {
        assert_eq!(registration.encode(), bytes);
    }
}

/// Every registration in the store: who, and which generation.
fn registered(store: &dyn BlobStore) -> block::Result<Vec<(ApplianceId, u128)>> {
    let mut found = Vec::new();
    store.list(Shelf::Writers.prefix(), &mut |name, _| {
        let address = Address::parse(Shelf::Writers, name);
        found.extend(address.map(|address| (address.appliance, u128::from_be_bytes(*address.id.as_bytes()))));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn newest_of(found: &[(ApplianceId, u128)], appliance: ApplianceId) -> Option<u128> {
    found.iter().filter(|(of, _)| *of == appliance).map(|(_, generation)| *generation).max()
}

fn stranger_to(found: &[(ApplianceId, u128)], appliance: ApplianceId) -> Option<ApplianceId> {
    found.iter().map(|(of, _)| *of).find(|of| *of != appliance)
}

fn address(appliance: ApplianceId, generation: u128) -> Address {
    Address { appliance, id: BlobId::from_bytes(generation.to_be_bytes()) }
}

fn name(appliance: ApplianceId, generation: u128) -> String {
    address(appliance, generation).name(Shelf::Writers)
}

fn why_alone(other: ApplianceId) -> String {
    format!("appliance {other} is registered as its writer, and the store does not keep two writers apart")
}

/// The right to write, as long as it lasts.
pub(crate) enum Token {
    /// Nobody else has the store.
    Locked,
    /// Registered in the store.
    Registered {
        /// Under which identity.
        appliance: ApplianceId,
        /// The blob that is the token.
        generation: u128,
        /// Whether a stranger's registration ends it.
        alone: bool,
        /// Why it ended, once it did.
        ended: Mutex<Option<String>>,
        /// Whether it did, to be asked without the lock.
        is_ended: AtomicBool,
    },
    /// Somebody else's.
    Refused(String),
}

impl Token {
    /// Why nothing can be written, as far as known without asking the store.
    pub(crate) fn refusal(&self) -> Option<String> {
        match self {
            Self::Locked => None,
            Self::Registered { ended, is_ended, .. } => {
                is_ended.load(Ordering::Acquire).then(|| lock(ended).clone()).flatten()
            }
            Self::Refused(why) => Some(why.clone()),
        }
    }

    /// Whether it is still good.
    pub(crate) fn check(&self, store: &dyn BlobStore) -> block::Result<()> {
        if let Some(why) = self.refusal() {
            return Err(refused(why));
        }
        let Self::Registered { appliance, generation, alone, ended, is_ended } = self else { return Ok(()) };
        if block::planted!("vault-token-unchecked") {
            return Ok(());
        }
        let found = registered(store)?;
        let why = match (newest_of(&found, *appliance), stranger_to(&found, *appliance)) {
            (Some(newest), _) if newest > *generation => {
                format!("another process opened it as appliance {appliance} later than this one did")
            }
            (Some(newest), Some(other)) if newest == *generation && *alone => why_alone(other),
            (Some(newest), _) if newest == *generation => return Ok(()),
            (_, other) => {
                let by = other.map(|other| format!(" by appliance {other}")).unwrap_or_default();
                format!("it was taken over{by}: the registration of appliance {appliance} is gone")
            }
        };
        *lock(ended) = Some(why.clone());
        is_ended.store(true, Ordering::Release);
        Err(refused(why))
    }
}

fn refused(why: String) -> block::Error {
    block::Error::Conflict { what: "the vault is read-only here".to_owned(), why }
}

/// A store as this process may use it, and under which identity.
pub(crate) struct Entered {
    pub(crate) store: Arc<dyn BlobStore>,
    pub(crate) appliance: ApplianceId,
    pub(crate) token: Arc<Token>,
}

/// Registers who opens a vault to write, if writers are told apart in its store.
pub(crate) fn enter(
    store: Arc<dyn BlobStore>,
    keys: &Keys,
    info: &Info,
    env: &Env,
    writer: Option<&Writer>,
) -> Result<Entered> {
    let maker = info.front.address.appliance;
    let appliance = writer.and_then(|writer| writer.appliance).unwrap_or(maker);
    let door = Door { store: &*store, keys, vault: info.front.vault, env };
    let token = Arc::new(writer.map_or(Ok(Token::Locked), |writer| door.enter(writer, appliance))?);
    let store = match *token {
        Token::Locked => store,
        Token::Registered { .. } | Token::Refused(_) => Arc::new(Guarded { store, token: token.clone() }),
    };
    Ok(Entered { store, appliance, token })
}

impl Vault {
    /// The identity this process writes under.
    pub fn appliance(&self) -> ApplianceId {
        self.inner.appliance
    }

    /// Why nothing can be written here, if so: somebody else is the writer.
    pub fn read_only(&self) -> Option<String> {
        self.inner.token.refusal()
    }

    /// Every registered writer; none where a lock keeps writers apart.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails.
    pub fn writers(&self) -> Result<Vec<RegisteredWriter>> {
        self.door().all(&self.inner.token)
    }

    /// Whether what excludes every other writer may begin: deleting what no point needs.
    ///
    /// # Errors
    /// [`Error::Refused`] if the store keeps no two writers apart and this process is not its only one.
    pub fn may_sweep(&self) -> Result<()> {
        self.inner.token.check(&*self.inner.store).map_err(|error| Error::Refused {
            what: "what no recovery point needs".to_owned(),
            why: error.to_string(),
        })
    }

    fn door(&self) -> Door<'_> {
        let inner = &self.inner;
        Door { store: &*inner.store, keys: &inner.keys, vault: inner.id, env: &inner.env }
    }
}

/// What registering needs to know.
struct Door<'a> {
    store: &'a dyn BlobStore,
    keys: &'a Keys,
    vault: VaultId,
    env: &'a Env,
}

impl Door<'_> {
    /// Registers a writer, or says why it may only read.
    fn enter(&self, writer: &Writer, appliance: ApplianceId) -> Result<Token> {
        let alone = match writer.exclusion {
            Exclusion::Locked => return Ok(Token::Locked),
            Exclusion::Refusing => false,
            Exclusion::Nothing => true,
        };
        let found = self.registered()?;
        if writer.take_over {
            for (other, generation) in found.iter().filter(|(other, _)| *other != appliance) {
                self.remove(*other, *generation)?;
            }
        } else if let Some(other) = stranger_to(&found, appliance).filter(|_| alone) {
            return Ok(Token::Refused(why_alone(other)));
        }
        let registration = Registration { since: self.env.clock.now(), label: writer.label.clone() };
        let generation = self.register(&registration, appliance, newest_of(&found, appliance))?;
        let found = self.registered()?;
        if let Some(other) = stranger_to(&found, appliance).filter(|_| alone) {
            self.remove(appliance, generation)?;
            return Ok(Token::Refused(why_alone(other)));
        }
        for (_, older) in found.iter().filter(|(of, older)| *of == appliance && *older < generation) {
            self.remove(appliance, *older)?;
        }
        let (ended, is_ended) = (Mutex::new(None), AtomicBool::new(false));
        Ok(Token::Registered { appliance, generation, alone, ended, is_ended })
    }

    fn registered(&self) -> Result<Vec<(ApplianceId, u128)>> {
        registered(self.store).map_err(Error::store("list", Shelf::Writers.prefix()))
    }

    fn register(
        &self,
        registration: &Registration,
        appliance: ApplianceId,
        mut newest: Option<u128>,
    ) -> Result<u128> {
        for _ in 0..MAX_RACES {
            let generation = newest.map_or(0, |newest| newest.saturating_add(1));
            let name = name(appliance, generation);
            let front = Front::fresh(WRITER, self.vault, address(appliance, generation), &*self.env.entropy)?;
            match self.store.put(&name, &small::encode(self.keys, &front, &registration.encode())) {
                Ok(()) => return Ok(generation),
                Err(error) if error.kind() == Kind::Conflict => {
                    newest = newest_of(&self.registered()?, appliance);
                }
                Err(error) => return Err(Error::store("write", &name)(error)),
            }
        }
        Err(Error::invalid("registering as a writer", "other processes of this appliance keep registering"))
    }

    fn remove(&self, appliance: ApplianceId, generation: u128) -> Result<()> {
        let name = name(appliance, generation);
        match self.store.delete(&name) {
            Err(error) if error.kind() != Kind::NotFound => Err(Error::store("delete", &name)(error)),
            _ => Ok(()),
        }
    }

    /// Every registered writer, one line each.
    fn all(&self, token: &Token) -> Result<Vec<RegisteredWriter>> {
        let own = match token {
            Token::Registered { appliance, generation, .. } => Some((*appliance, *generation)),
            Token::Locked | Token::Refused(_) => None,
        };
        let found = self.registered()?;
        let newest = found.iter().filter(|(of, generation)| newest_of(&found, *of) == Some(*generation));
        newest
            .map(|&(appliance, generation)| {
                let said = self.read(appliance, generation);
                let (label, since) = match said {
                    Ok(said) => (Some(said.label), Some(said.since)),
                    Err(error) if error.is_damage() => (None, None),
                    Err(error) => return Err(error),
                };
                let own = own == Some((appliance, generation));
                Ok(RegisteredWriter { appliance, label, since, own })
            })
            .collect()
    }

    fn read(&self, appliance: ApplianceId, generation: u128) -> Result<Registration> {
        let address = address(appliance, generation);
        let bytes = small::load(self.store, Shelf::Writers, address)?;
        let wanted = Front { format: WRITER, vault: self.vault, address, salt: [0; 32] };
        let (_, body) = small::decode(self.keys, &wanted, Shelf::Writers, &bytes)?;
        Registration::decode(&body).map_err(|why| Error::damaged(&address.name(Shelf::Writers), "body", why))
    }
}

/// A store of which this process may change only as much as its token allows.
pub(crate) struct Guarded {
    pub(crate) store: Arc<dyn BlobStore>,
    pub(crate) token: Arc<Token>,
}

impl BlobStore for Guarded {
    fn put(&self, name: &str, bytes: &[u8]) -> block::Result<()> {
        // a pack alone says nothing: what would name it is stopped
        if name.starts_with(Shelf::Packs.prefix()) {
            if let Some(why) = self.token.refusal() {
                return Err(refused(why));
            }
        } else {
            self.token.check(&*self.store)?;
        }
        self.store.put(name, bytes)
    }

    fn get(&self, name: &str, range: ByteRange) -> block::Result<Vec<u8>> {
        self.store.get(name, range)
    }

    fn size(&self, name: &str) -> block::Result<ByteCount> {
        self.store.size(name)
    }

    fn list(
        &self,
        prefix: &str,
        visit: &mut dyn FnMut(&str, ByteCount) -> ControlFlow<()>,
    ) -> block::Result<()> {
        self.store.list(prefix, visit)
    }

    fn delete(&self, name: &str) -> block::Result<()> {
        self.token.check(&*self.store)?;
        self.store.delete(name)
    }
}
