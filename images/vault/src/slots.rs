//! Key slots: the vault key, wrapped by something a person or a machine has. Specified in `docs/keys.md`.

use std::ops::ControlFlow;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use block::{BlobStore, ByteRange, Cursor, Kind, Malformed, Time, VaultId};
use zeroize::Zeroizing;

use crate::front::{FRONT_LEN, Front, SLOT};
use crate::info::Info;
use crate::key::Keys;
use crate::name::{Address, BlobId, Shelf, SlotId};
use crate::seal::TAG_LEN;
use crate::vault::{Env, Vault};
use crate::{Error, Result, VaultKey};

/// Bytes under the seal's protection: front and fields.
const BOUND_LEN: usize = FRONT_LEN + 24;
const SLOT_LEN: usize = BOUND_LEN + 32 + TAG_LEN + 4;
/// Slots of a vault at most: each costs whoever gives a passphrase a derivation.
const MAX_SLOTS: usize = 32;
/// Longest passphrase or answer of a command.
pub const MAX_SECRET: usize = 4096;

/// How hard a passphrase is to try: argon2id with 128 MiB, three passes, one lane; about half a second on one core.
const COST: Cost = Cost { memory_kib: 128 << 10, passes: 3, lanes: 1 };
/// What a slot may ask of whoever opens it, as anybody could write one.
const MAX_COST: Cost = Cost { memory_kib: 1 << 20, passes: 16, lanes: 16 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// What a slot is opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// A key file.
    KeyFile,
    /// A passphrase.
    Passphrase,
    /// What a command of the host prints.
    Command,
}

impl SlotKind {
    const ALL: [(Self, u8, &str); 3] =
        [(Self::KeyFile, 1, "key-file"), (Self::Passphrase, 2, "passphrase"), (Self::Command, 3, "command")];

    /// Its name, as `key-file`.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].2
    }

    fn code(self) -> u8 {
        Self::ALL[self as usize].1
    }

    fn context(self) -> &'static str {
        match self {
            Self::KeyFile => "blockd vault v1 slot key file",
            Self::Passphrase => "blockd vault v1 slot passphrase",
            Self::Command => "blockd vault v1 slot command",
        }
    }
}

/// What a person or a machine has to open a vault with.
pub enum KeyMaterial {
    /// A key from a key file or a sheet: the vault's own, or a slot's.
    Key(VaultKey),
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// What a command printed.
    Command(Zeroizing<Vec<u8>>),
}

impl KeyMaterial {
    fn kind(&self) -> SlotKind {
        match self {
            Self::Key(_) => SlotKind::KeyFile,
            Self::Passphrase(_) => SlotKind::Passphrase,
            Self::Command(_) => SlotKind::Command,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Key(key) => key.bytes(),
            Self::Passphrase(text) => text.as_bytes(),
            Self::Command(bytes) => bytes,
        }
    }

    fn check(&self) -> Result<()> {
        match self.bytes().len() {
            0 => Err(Error::invalid(self.kind().name(), "it is empty")),
            len if len > MAX_SECRET => Err(Error::invalid(
                self.kind().name(),
                format!("{len} bytes long, at most {MAX_SECRET} are valid"),
            )),
            _ => Ok(()),
        }
    }

    /// The key that wraps, for a slot with this salt and cost.
    fn wrapping(&self, salt: &[u8; 32], cost: Cost) -> Result<LessSafeKey> {
        let mut input = Zeroizing::new(vec![0; 32]);
        match self {
            Self::Key(key) => input.copy_from_slice(key.bytes()),
            Self::Passphrase(_) | Self::Command(_) => {
                let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
                    .map_err(|why| Error::invalid("a key slot", why.to_string()))?;
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into(self.bytes(), salt, &mut input)
                    .map_err(|why| Error::invalid("a key slot", why.to_string()))?;
            }
        }
        input.extend_from_slice(salt);
        let raw = Zeroizing::new(blake3::derive_key(self.kind().context(), &input));
        let key = UnboundKey::new(&AES_256_GCM, &*raw).expect("AES-256 takes any 32 bytes as its key");
        Ok(LessSafeKey::new(key))
    }
}

/// A slot of a vault, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its id.
    pub id: SlotId,
    /// What opens it; none if its blob is damaged.
    pub kind: Option<SlotKind>,
    /// When it was made.
    pub made: Option<Time>,
}

/// A slot as its blob says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wrapped {
    front: Front,
    kind: SlotKind,
    cost: Cost,
    made: Time,
    sealed: [u8; 32 + TAG_LEN],
}

/// The salt is fresh for every slot, so a wrapping key seals one thing in its life.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

impl Wrapped {
    fn seal(front: Front, material: &KeyMaterial, key: &VaultKey, cost: Cost, made: Time) -> Result<Self> {
        let mut wrapped = Self { front, kind: material.kind(), cost, made, sealed: [0; 32 + TAG_LEN] };
        let mut bytes = Zeroizing::new(key.bytes().to_vec());
        let tag = material
            .wrapping(&wrapped.front.salt, cost)?
            .seal_in_place_separate_tag(nonce(), Aad::from(wrapped.bound()), &mut bytes)
            .expect("a key is far below the cipher's limit");
        wrapped.sealed[..32].copy_from_slice(&bytes);
        wrapped.sealed[32..].copy_from_slice(tag.as_ref());
        Ok(wrapped)
    }

    /// The vault key, if this is what the slot is opened with.
    fn open(&self, material: &KeyMaterial) -> Result<Option<VaultKey>> {
        let mut bytes = Zeroizing::new(self.sealed.to_vec());
        let wrapping = material.wrapping(&self.front.salt, self.cost)?;
        let opened = wrapping.open_in_place(nonce(), Aad::from(self.bound()), &mut bytes);
        Ok(opened.ok().and_then(|raw| <[u8; 32]>::try_from(&*raw).ok()).map(VaultKey::from_bytes))
    }

    fn bound(&self) -> [u8; BOUND_LEN] {
        let mut bytes = [0; BOUND_LEN];
        let (front, fields) = bytes.split_at_mut(FRONT_LEN);
        front.copy_from_slice(&self.front.encode());
        fields[0] = self.kind.code();
        fields[4..8].copy_from_slice(&self.cost.memory_kib.to_le_bytes());
        fields[8..12].copy_from_slice(&self.cost.passes.to_le_bytes());
        fields[12..16].copy_from_slice(&self.cost.lanes.to_le_bytes());
        fields[16..24].copy_from_slice(&self.made.unix_ms.to_le_bytes());
        bytes
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.bound().to_vec();
        bytes.extend_from_slice(&self.sealed);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a slot as far as that is possible without what opens it; damage is told here.
    fn decode(bytes: &[u8], blob: &str) -> Result<Self> {
        let front = Front::decode(bytes, SLOT, blob)?;
        Self::fields(bytes, front).map_err(|why| Error::damaged(blob, "body", why))
    }

    fn fields(bytes: &[u8], front: Front) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        cursor.bytes(FRONT_LEN)?;
        let [code, zeros @ ..] = cursor.array::<4>()?;
        let cost = Cost { memory_kib: cursor.u32()?, passes: cursor.u32()?, lanes: cursor.u32()? };
        let made = Time { unix_ms: cursor.u64()? };
        let sealed = cursor.array()?;
        let covered = cursor.position();
        if cursor.u32()? != crc32fast::hash(&bytes[..covered]) {
            return Err(cursor.malformed("its checksum disagrees"));
        }
        cursor.end()?;
        let kind = SlotKind::ALL.into_iter().find(|(_, its, _)| *its == code).map(|(kind, ..)| kind);
        let kind =
            kind.filter(|_| zeros == [0; 3]).ok_or_else(|| cursor.malformed(format!("kind {code}")))?;
        let Cost { memory_kib, passes, lanes } = cost;
        if memory_kib > MAX_COST.memory_kib || passes > MAX_COST.passes || lanes > MAX_COST.lanes {
            return Err(
                cursor.malformed(format!("{memory_kib} KiB, {passes} passes, {lanes} lanes are too much"))
            );
        }
        Ok(Self { front, kind, cost, made, sealed })
    }
}

/// For fuzzing: decodes any bytes as a slot.
pub fn fuzz_slot(bytes: &[u8]) {
    if let Ok(wrapped) = Wrapped::decode(bytes, "fuzz") {
        // feature bits a reader may ignore are the only bytes not kept
        assert_eq!(wrapped.encode()[32..SLOT_LEN - 4], bytes[32..SLOT_LEN - 4]);
    }
}

/// Every slot of a vault; the error of one that is damaged.
fn load(store: &dyn BlobStore, vault: VaultId) -> Result<Vec<(Address, Result<Wrapped>)>> {
    let mut found = Vec::new();
    let mut look = |name: &str, size: block::ByteCount| {
        found.extend(Address::parse(Shelf::Slots, name).map(|address| (address, size)));
        if found.len() < MAX_SLOTS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    store.list(Shelf::Slots.prefix(), &mut look).map_err(Error::store("list", Shelf::Slots.prefix()))?;
    let mut slots = Vec::new();
    for (address, size) in found {
        let name = address.name(Shelf::Slots);
        let read = if size.get() == SLOT_LEN as u64 {
            store.get(&name, ByteRange::whole(size)).map_err(Error::store("read", &name)).and_then(|bytes| {
                Front::expect(&bytes, SLOT, vault, address, Shelf::Slots)?;
                Wrapped::decode(&bytes, &name)
            })
        } else {
            Err(Error::damaged(&name, "length", format!("{size} bytes, {SLOT_LEN} expected")))
        };
        match read {
            Err(error @ Error::Store { .. }) => return Err(error),
            read => slots.push((address, read)),
        }
    }
    Ok(slots)
}

/// The key of the vault in a store, by whatever opens it: the key itself, or what one of its slots is opened with.
///
/// # Errors
/// [`Error::WrongKey`] if it opens nothing, [`Error::Damaged`] if the only slots it could open are damaged;
/// [`Error::NoVault`].
pub fn unlock(store: &dyn BlobStore, material: &KeyMaterial) -> Result<VaultKey> {
    material.check()?;
    let (info, bytes) = Info::load(store)?;
    let is_vaults = |key: &VaultKey| info.verify(&Keys::derive(key), &bytes);
    if let KeyMaterial::Key(key) = material {
        match is_vaults(key) {
            Err(Error::WrongKey { .. }) => {}
            told => return told.map(|()| VaultKey::from_bytes(*key.bytes())),
        }
    }
    let (mut tried, mut damaged) = (0, None);
    for (address, slot) in load(store, info.front.vault)? {
        match slot {
            Ok(slot) if slot.kind == material.kind() => {
                tried += 1;
                if let Some(key) = slot.open(material)? {
                    let forged =
                        |_| Error::damaged(&address.name(Shelf::Slots), "key", "it is not the vault's key");
                    return is_vaults(&key).map(|()| key).map_err(forged);
                }
            }
            Ok(_) => {}
            Err(error) => damaged = Some(error),
        }
    }
    match damaged {
        Some(error) if tried == 0 => Err(error),
        _ => Err(Error::WrongKey { vault: info.front.vault }),
    }
}

/// Removes the slots of a vault that never came to be. The store holds nothing else.
pub(crate) fn remove_leftovers(store: &dyn BlobStore) -> Result<()> {
    let mut names = Vec::new();
    let mut look = |name: &str, _| {
        names.push(name.to_owned());
        ControlFlow::Continue(())
    };
    store.list(Shelf::Slots.prefix(), &mut look).map_err(Error::store("list", Shelf::Slots.prefix()))?;
    names.iter().try_for_each(|name| store.delete(name).map_err(Error::store("delete", name)))
}

/// A slot's blob: who may write it is the caller's to know.
pub(crate) fn wrap(
    info: &Front,
    material: &KeyMaterial,
    key: &VaultKey,
    env: &Env,
) -> Result<(String, Vec<u8>)> {
    material.check()?;
    let entropy = &*env.entropy;
    let address = Address { appliance: info.address.appliance, id: BlobId::random(entropy)? };
    let front = Front::fresh(SLOT, info.vault, address, entropy)?;
    let slot = Wrapped::seal(front, material, key, COST, env.clock.now())?;
    Ok((address.name(Shelf::Slots), slot.encode()))
}

impl Vault {
    /// Every slot.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails.
    pub fn slots(&self) -> Result<Vec<Slot>> {
        let slots = load(&*self.inner.store, self.inner.id)?;
        let shown = |(address, slot): (Address, Result<Wrapped>)| {
            let slot = slot.ok();
            Slot {
                id: SlotId::from_bytes(*address.id.as_bytes()),
                kind: slot.as_ref().map(|slot| slot.kind),
                made: slot.map(|slot| slot.made),
            }
        };
        Ok(slots.into_iter().map(shown).collect())
    }

    /// Adds a slot: from now on `material` opens the vault too. `key` is the vault's.
    ///
    /// # Errors
    /// [`Error::WrongKey`] if `key` is another's, [`Error::Invalid`] if there are too many slots or the material is empty.
    pub fn add_slot(&self, key: &VaultKey, material: &KeyMaterial) -> Result<SlotId> {
        let inner = &self.inner;
        let (info, bytes) = Info::load(&*inner.store)?;
        info.verify(&Keys::derive(key), &bytes)?;
        if self.slots()?.len() >= MAX_SLOTS {
            return Err(Error::invalid("key slots", format!("there are {MAX_SLOTS} already; remove one")));
        }
        let mut front = info.front;
        front.address.appliance = inner.appliance;
        let (name, bytes) = wrap(&front, material, key, &inner.env)?;
        inner.put(&name, &bytes)?;
        let address = Address::parse(Shelf::Slots, &name).expect("a name just made");
        Ok(SlotId::from_bytes(*address.id.as_bytes()))
    }

    /// Removes a slot: what opened it alone opens the vault no more.
    ///
    /// # Errors
    /// [`Error::NoSlot`] if there is none of this id, [`Error::Refused`] if it is the last one that is whole.
    pub fn remove_slot(&self, id: SlotId) -> Result<()> {
        let inner = &self.inner;
        let slots = load(&*inner.store, inner.id)?;
        let is_it = |address: &Address| address.id.as_bytes() == id.as_bytes();
        let (address, _) = slots.iter().find(|(address, _)| is_it(address)).ok_or(Error::NoSlot(id))?;
        if !slots.iter().any(|(other, slot)| !is_it(other) && slot.is_ok()) {
            return Err(Error::Refused {
                what: format!("key slot {id}"),
                why: "it is the last one: only the recovery sheet would open the vault; add another first"
                    .to_owned(),
            });
        }
        let name = address.name(Shelf::Slots);
        match inner.store.delete(&name) {
            Err(error) if error.kind() != Kind::NotFound => Err(Error::store("delete", &name)(error)),
            _ => Ok(()),
        }
    }

    /// The slot this opens, if one.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails.
    pub fn slot_of(&self, material: &KeyMaterial) -> Result<Option<SlotId>> {
        for (address, slot) in load(&*self.inner.store, self.inner.id)? {
            let Ok(slot) = slot else { continue };
            if slot.kind == material.kind() && slot.open(material)?.is_some() {
                return Ok(Some(SlotId::from_bytes(*address.id.as_bytes())));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::ApplianceId;
    use block::linux::KernelEntropy;

    const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

    fn passphrase(text: &str) -> KeyMaterial {
        KeyMaterial::Passphrase(Zeroizing::new(text.to_owned()))
    }

    fn slot(material: &KeyMaterial) -> Wrapped {
        let address = Address { appliance: ApplianceId::from_bytes([2; 8]), id: BlobId::from_bytes([3; 16]) };
        let front = Front::fresh(SLOT, VaultId::from_bytes([1; 16]), address, &KernelEntropy).unwrap();
        Wrapped::seal(front, material, &VaultKey::from_bytes([9; 32]), CHEAP, Time { unix_ms: 5 }).unwrap()
    }

    #[test]
    fn a_slot_opens_with_what_it_was_sealed_with_and_nothing_else() {
        let key = || KeyMaterial::Key(VaultKey::from_bytes([7; 32]));
        let command = || KeyMaterial::Command(Zeroizing::new(b"horse".to_vec()));
        for (at, material) in [key(), passphrase("horse"), command()].into_iter().enumerate() {
            let bytes = slot(&material).encode();
            assert_eq!(bytes.len(), SLOT_LEN);
            let read = Wrapped::decode(&bytes, "x").unwrap();
            assert_eq!(read.open(&material).unwrap().unwrap().bytes(), &[9; 32]);
            for (other, wrong) in
                [key(), passphrase("horse"), command(), passphrase("house")].iter().enumerate()
            {
                assert!(other == at || read.open(wrong).unwrap().is_none(), "{at} opened with {other}");
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_damage_and_a_forged_field_opens_nothing() {
        let bytes = slot(&passphrase("horse")).encode();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Wrapped::decode(&flipped, "x").is_err(), "at {at}");
        }
        let whole = Wrapped::decode(&bytes, "x").unwrap();
        let mut other_vault = whole.clone();
        other_vault.front.vault = VaultId::from_bytes([4; 16]);
        let mut other_name = whole.clone();
        other_name.front.address.id = BlobId::from_bytes([4; 16]);
        let mut other_time = whole;
        other_time.made = Time { unix_ms: 6 };
        for forged in [other_vault, other_name, other_time] {
            let read = Wrapped::decode(&forged.encode(), "x").unwrap();
            assert!(read.open(&passphrase("horse")).unwrap().is_none());
        }
    }

    #[test]
    fn a_slot_cannot_ask_for_all_of_memory() {
        let mut greedy = slot(&passphrase("horse"));
        greedy.cost.memory_kib = u32::MAX;
        assert!(Wrapped::decode(&greedy.encode(), "x").is_err());
    }
}
