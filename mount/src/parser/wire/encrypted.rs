//! What the header of an encrypted volume says, between supervisor and parser.

use super::input::{bytes, flag, one_of, range};
use super::out::Out;
use crate::luks::{Cipher, Digest, Hash, Kdf, Luks, MAX_SALT, MAX_SLOTS, Slot};
use block::{ByteRange, Cursor, Malformed};

fn place<T: PartialEq>(all: &[(&str, T)], wanted: &T) -> u8 {
    all.iter().position(|(_, it)| it == wanted).unwrap_or_default() as u8
}

fn put_range(out: &mut Out, range: ByteRange) {
    out.u64(range.start());
    out.u64(range.count().get());
}

pub(super) fn put_luks(out: &mut Out, luks: &Luks) {
    out.u8(luks.version);
    out.u8(place(&Cipher::ALL, &luks.cipher));
    out.u16(luks.key_len as u16);
    out.u32(luks.sector);
    put_range(out, luks.content);
    out.u64(luks.tweak);
    out.u8(place(&Hash::ALL, &luks.digest.hash));
    out.u32(luks.digest.rounds);
    out.bytes(&luks.digest.salt);
    out.bytes(&luks.digest.value);
    out.u8(luks.slots.len() as u8);
    luks.slots.iter().for_each(|slot| put_slot(out, slot));
}

fn put_slot(out: &mut Out, slot: &Slot) {
    match slot.kdf {
        Kdf::Pbkdf2 { hash, rounds } => {
            out.u8(0);
            out.u8(place(&Hash::ALL, &hash));
            out.u32(rounds);
        }
        Kdf::Argon2 { id, passes, memory_kib, lanes } => {
            out.u8(1);
            out.u8(u8::from(id));
            [passes, memory_kib, lanes].into_iter().for_each(|number| out.u32(number));
        }
    }
    out.bytes(&slot.salt);
    out.u8(place(&Cipher::ALL, &slot.cipher));
    out.u16(slot.area_key as u16);
    put_range(out, slot.area);
    out.u32(slot.stripes);
    out.u8(place(&Hash::ALL, &slot.spread));
}

fn of<T: Copy>(cursor: &mut Cursor<'_>, all: &[(&str, T)]) -> Result<T, Malformed> {
    let place = cursor.u8()?;
    one_of(cursor, all, place).map(|(_, it)| it)
}

/// Whether what it says can be is checked with the question ([`Luks::is_possible`]).
pub(super) fn luks(cursor: &mut Cursor<'_>) -> Result<Luks, Malformed> {
    Ok(Luks {
        version: cursor.u8()?,
        cipher: of(cursor, &Cipher::ALL)?,
        key_len: usize::from(cursor.u16()?),
        sector: cursor.u32()?,
        content: range(cursor)?,
        tweak: cursor.u64()?,
        digest: Digest {
            hash: of(cursor, &Hash::ALL)?,
            rounds: cursor.u32()?,
            salt: bytes(cursor, MAX_SALT)?,
            value: bytes(cursor, MAX_SALT)?,
        },
        slots: slots(cursor)?,
    })
}

fn slots(cursor: &mut Cursor<'_>) -> Result<Vec<Slot>, Malformed> {
    let count = usize::from(cursor.u8()?);
    if count > MAX_SLOTS {
        return Err(cursor.malformed(format!("{count} key slots")));
    }
    (0..count).map(|_| slot(cursor)).collect()
}

fn slot(cursor: &mut Cursor<'_>) -> Result<Slot, Malformed> {
    let kdf = match cursor.u8()? {
        0 => Kdf::Pbkdf2 { hash: of(cursor, &Hash::ALL)?, rounds: cursor.u32()? },
        1 => Kdf::Argon2 {
            id: flag(cursor)?,
            passes: cursor.u32()?,
            memory_kib: cursor.u32()?,
            lanes: cursor.u32()?,
        },
        other => return Err(cursor.malformed(format!("no such derivation: {other}"))),
    };
    Ok(Slot {
        kdf,
        salt: bytes(cursor, MAX_SALT)?,
        cipher: of(cursor, &Cipher::ALL)?,
        area_key: usize::from(cursor.u16()?),
        area: range(cursor)?,
        stripes: cursor.u32()?,
        spread: of(cursor, &Hash::ALL)?,
    })
}
