//! Key slots: what opens a vault, and what never does.

use std::sync::Arc;

use block::{BlobStore, ByteRange, Failure, Kind};
use sim::SimBlobStore;
use vault::{Error, KeyMaterial, SlotKind, Vault, VaultKey, unlock};

use super::world::{World, create, env, key, open};

fn key_file(byte: u8) -> KeyMaterial {
    KeyMaterial::Key(VaultKey::from_bytes([byte; 32]))
}

fn passphrase(text: &str) -> KeyMaterial {
    KeyMaterial::Passphrase(text.to_owned().into())
}

fn command(answer: &str) -> KeyMaterial {
    KeyMaterial::Command(answer.as_bytes().to_vec().into())
}

fn is_wrong_key(store: &SimBlobStore, material: &KeyMaterial) -> bool {
    let error = unlock(store, material).expect_err("it opens nothing");
    let is_wrong = matches!(error, Error::WrongKey { .. });
    assert!(error.kind() != Kind::Corrupt || !is_wrong);
    is_wrong
}

fn slots_of(store: &SimBlobStore) -> Vec<String> {
    store.blobs().into_iter().map(|(name, _)| name).filter(|name| name.starts_with("keys/")).collect()
}

#[test]
fn each_kind_of_slot_opens_the_vault_and_a_wrong_key_is_said_to_be_one() {
    let store = SimBlobStore::new();
    let vault = create(Arc::new(store.clone()), &env());
    assert!(is_wrong_key(&store, &passphrase("horse")), "there is no slot yet");
    let materials = [key_file(1), passphrase("horse battery"), command("tpm says\n")];
    for material in &materials {
        vault.add_slot(&key(), material).expect("a slot");
    }
    assert!(unlock(&store, &KeyMaterial::Key(key())).is_ok(), "the key of the sheet needs no slot");
    for material in &materials {
        let unlocked = unlock(&store, material).expect("its slot opens");
        assert!(Vault::open(Arc::new(store.clone()), unlocked, &env()).is_ok());
    }
    for wrong in [key_file(2), passphrase("horse"), passphrase("tpm says\n"), command("horse battery")] {
        assert!(is_wrong_key(&store, &wrong));
    }
    let other = VaultKey::from_bytes([9; 32]);
    assert!(
        matches!(vault.add_slot(&other, &key_file(3)), Err(Error::WrongKey { .. })),
        "it would wrap nothing"
    );
    for empty in [passphrase(""), command("")] {
        assert_eq!(vault.add_slot(&key(), &empty).expect_err("empty").kind(), Kind::Invalid);
    }
    let kinds: Vec<_> = vault.slots().expect("slots").into_iter().map(|slot| slot.kind).collect();
    for kind in [SlotKind::KeyFile, SlotKind::Passphrase, SlotKind::Command] {
        assert_eq!(kinds.iter().filter(|its| **its == Some(kind)).count(), 1);
    }
}

/// Rotation: a fresh key file opens, the old one does not, and no blob but slots was touched.
#[test]
fn rotation_wraps_anew_and_touches_nothing_else() {
    let store = SimBlobStore::new();
    let vault = create(Arc::new(store.clone()), &env());
    let mut world = World::new(1 << 20, 3);
    world.scribble();
    world.backup(&vault).expect("a backup");
    let old = vault.add_slot(&key(), &key_file(1)).expect("a slot");
    let others = |store: &SimBlobStore| {
        let mut blobs = store.blobs();
        blobs.retain(|(name, _)| !name.starts_with("keys/"));
        blobs
    };
    let before = others(&store);
    let unlocked = unlock(&store, &key_file(1)).expect("the old file opens");
    let new = vault.add_slot(&unlocked, &key_file(2)).expect("a slot");
    assert_eq!(vault.slot_of(&key_file(1)).expect("looked"), Some(old));
    vault.remove_slot(old).expect("removed");
    assert_eq!(before, others(&store));
    assert!(is_wrong_key(&store, &key_file(1)));
    let unlocked = unlock(&store, &key_file(2)).expect("the new file opens");
    world.verify(&Vault::open(Arc::new(store.clone()), unlocked, &env()).expect("opened"));
    let error = vault.remove_slot(new).expect_err("the last one");
    assert!(error.to_string().contains("last one"), "{error}");
    assert_eq!(vault.remove_slot(old).expect_err("gone").kind(), Kind::NotFound);
}

/// Damage of a slot is named as damage, and hides neither another slot nor a wrong key.
#[test]
fn a_damaged_slot_is_told_from_a_wrong_key() {
    let store = SimBlobStore::new();
    let vault = create(Arc::new(store.clone()), &env());
    vault.add_slot(&key(), &key_file(1)).expect("a slot");
    let first = slots_of(&store).remove(0);
    for offset in 0..store.size(&first).expect("a slot").get() {
        let hurt = store.fork();
        hurt.flip_bit(&first, offset, 3);
        let error = unlock(&hurt, &key_file(1)).expect_err("its only slot is damaged");
        // a header that says it is of another version or kind is not called damage
        assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported), "byte {offset}: {error}");
    }
    vault.add_slot(&key(), &key_file(2)).expect("a slot");
    store.flip_bit(&first, 140, 3);
    assert!(unlock(&store, &key_file(2)).is_ok());
    assert!(is_wrong_key(&store, &key_file(3)), "a whole slot of this kind was tried");
    let slots = vault.slots().expect("slots");
    let damaged = slots.iter().find(|slot| slot.kind.is_none()).expect("shown as damaged");
    vault.remove_slot(damaged.id).expect("what is damaged may go");
    assert_eq!(slots_of(&store).len(), 1);
}

/// A slot of another vault, or under another name, opens nothing.
#[test]
fn swapped_slots_are_refused() {
    let stores = [SimBlobStore::new(), SimBlobStore::new()];
    let keys = [key(), VaultKey::from_bytes([0x33; 32])];
    for (store, key) in stores.iter().zip(keys) {
        let bytes = KeyMaterial::Key(VaultKey::from_bytes([1; 32]));
        let vault = Vault::create(Arc::new(store.clone()), unlock_copy(&key), &env()).expect("a vault");
        vault.add_slot(&key, &bytes).expect("a slot");
    }
    let names: Vec<String> = stores.iter().map(|store| slots_of(store).remove(0)).collect();
    let bytes: Vec<Vec<u8>> = stores
        .iter()
        .zip(&names)
        .map(|(store, name)| store.get(name, ByteRange::whole(store.size(name).unwrap())).unwrap())
        .collect();
    let swapped = stores[0].fork();
    swapped.remove(&names[0]);
    swapped.put(&names[0], &bytes[1]).expect("put");
    assert_eq!(unlock(&swapped, &key_file(1)).expect_err("another vault's").kind(), Kind::Corrupt);
    let renamed = stores[0].fork();
    renamed.remove(&names[0]);
    let other = names[0].replace('0', "1");
    renamed.put(&other, &bytes[0]).expect("put");
    if other != names[0] {
        assert_eq!(unlock(&renamed, &key_file(1)).expect_err("another name's").kind(), Kind::Corrupt);
    }
    drop(open(Arc::new(stores[0].clone()), &env()).expect("opens"));
}

fn unlock_copy(key: &VaultKey) -> VaultKey {
    VaultKey::from_file_text(&key.to_file_text()).expect("its own text")
}

/// A creation cut off between the slot and the vault is begun again, and what is made opens with what it was made with.
#[test]
fn a_vault_opens_from_its_first_moment() {
    let made = |store: &SimBlobStore| {
        Vault::create_with(Arc::new(store.clone()), key(), Some(&passphrase("horse")), &env())
    };
    for calls in 0..3 {
        let store = SimBlobStore::new();
        store.crash_after(calls, sim::Cut::BeforeEffect);
        let done = made(&store).is_ok();
        let store = store.crash();
        match unlock(&store, &passphrase("horse")) {
            Ok(_) => assert!(done || calls > 1),
            Err(error) => {
                assert!(!done && matches!(error, Error::NoVault), "{error}");
                drop(made(&store).expect("begun again"));
                assert!(unlock(&store, &passphrase("horse")).is_ok());
            }
        }
        assert_eq!(slots_of(&store).len(), 1, "nothing is left of the first attempt");
    }
}
