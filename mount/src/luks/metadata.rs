//! The text of a LUKS2 header: JSON, of which only what is needed to open the volume is looked at.

use super::header::{area, cipher, hash, range, whole_sectors};
use super::{Digest, Kdf, Luks, MAX_SLOTS, Slot};
use crate::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;

pub(super) fn damaged(why: impl Into<String>) -> Error {
    Error::corrupt("the header of LUKS", why)
}

pub(super) fn unreadable(why: impl Into<String>) -> Error {
    Error::unsupported("the header of LUKS", format!("{}, which this version does not know", why.into()))
}

#[derive(Deserialize)]
struct Text {
    keyslots: BTreeMap<String, KeySlot>,
    segments: BTreeMap<String, Segment>,
    digests: BTreeMap<String, KeyDigest>,
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    requirements: Requirements,
}

#[derive(Deserialize, Default)]
struct Requirements {
    #[serde(default)]
    mandatory: Vec<String>,
}

#[derive(Deserialize)]
struct KeySlot {
    #[serde(rename = "type")]
    kind: String,
    /// Of the volume's key, in bytes.
    #[serde(default)]
    key_size: usize,
    af: Option<Spread>,
    area: Area,
    kdf: Option<Derivation>,
    /// 0 is for whoever asks for this slot alone.
    priority: Option<u32>,
}

#[derive(Deserialize)]
struct Spread {
    stripes: u32,
    hash: String,
}

/// Numbers of 64 bits are written as text.
#[derive(Deserialize)]
struct Area {
    offset: String,
    #[serde(default)]
    encryption: String,
    #[serde(default)]
    key_size: usize,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Derivation {
    #[serde(rename = "pbkdf2")]
    Pbkdf2 { salt: String, hash: String, iterations: u32 },
    #[serde(rename = "argon2i")]
    Argon2i { salt: String, time: u32, memory: u32, cpus: u32 },
    #[serde(rename = "argon2id")]
    Argon2id { salt: String, time: u32, memory: u32, cpus: u32 },
}

#[derive(Deserialize)]
struct Segment {
    #[serde(rename = "type")]
    kind: String,
    offset: String,
    size: String,
    #[serde(default)]
    iv_tweak: String,
    #[serde(default)]
    encryption: String,
    #[serde(default)]
    sector_size: u32,
    integrity: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct KeyDigest {
    #[serde(rename = "type")]
    kind: String,
    keyslots: Vec<String>,
    segments: Vec<String>,
    hash: String,
    iterations: u32,
    salt: String,
    digest: String,
}

/// What the text says, of a volume of `len` bytes. Whether that is possible is for [`Luks::is_possible`] to tell.
///
/// # Errors
/// `Corrupt` if it is no such text, `Unsupported` naming what this version does not know.
pub fn luks2(json: &[u8], len: u64) -> Result<Luks> {
    let end = json.iter().position(|byte| *byte == 0).unwrap_or(json.len());
    let text: Text = serde_json::from_slice(json.get(..end).unwrap_or_default())
        .map_err(|error| damaged(format!("its text: {error}")))?;
    if let Some(required) = text.config.requirements.mandatory.first() {
        return Err(unreadable(format!("it requires {required:?}")));
    }
    let mut segments = text.segments.iter();
    let (Some((name, segment)), None) = (segments.next(), segments.next()) else {
        return Err(unreadable(format!("its content is in {} segments", text.segments.len())));
    };
    if segment.kind != "crypt" || segment.integrity.is_some() {
        return Err(unreadable(match segment.integrity {
            Some(_) => "its content has checksums of its own".to_owned(),
            None => format!("its content is of the kind {:?}", segment.kind),
        }));
    }
    let digest = text.digests.values().find(|digest| digest.segments.contains(name));
    let digest = digest.ok_or_else(|| damaged("nothing tells the right key of its content"))?;
    if digest.kind != "pbkdf2" {
        return Err(unreadable(format!("its key has a digest of the kind {:?}", digest.kind)));
    }
    let slots: Vec<&KeySlot> = digest.keyslots.iter().filter_map(|slot| text.keyslots.get(slot)).collect();
    let key_len = slots.first().map_or(0, |slot| slot.key_size);
    let (mut usable, mut why) = (Vec::new(), None);
    for slot in slots.into_iter().filter(|slot| slot.priority != Some(0)).take(MAX_SLOTS) {
        match self::slot(slot) {
            Ok(slot) => usable.push(slot),
            // another slot may open it
            Err(error) => why = Some(error),
        }
    }
    if let (true, Some(why)) = (usable.is_empty(), why) {
        return Err(why);
    }
    let sector = u64::from(segment.sector_size).max(1);
    let start = number(&segment.offset)?;
    let content = match segment.size.as_str() {
        "dynamic" => whole_sectors(start, len, sector)?,
        size => range(start, number(size)?)?,
    };
    Ok(Luks {
        version: 2,
        cipher: cipher(&segment.encryption)?,
        key_len,
        sector: segment.sector_size,
        content,
        tweak: number(&segment.iv_tweak)?,
        digest: Digest {
            hash: hash(&digest.hash)?,
            rounds: digest.iterations,
            salt: decoded(&digest.salt)?,
            value: decoded(&digest.digest)?,
        },
        slots: usable,
    })
}

fn slot(slot: &KeySlot) -> Result<Slot> {
    let (Some(spread), Some(derivation)) = (&slot.af, &slot.kdf) else {
        return Err(unreadable(format!("a key slot is of the kind {:?}", slot.kind)));
    };
    let (kdf, salt) = match derivation {
        Derivation::Pbkdf2 { salt, hash: name, iterations } => {
            (Kdf::Pbkdf2 { hash: hash(name)?, rounds: *iterations }, salt)
        }
        Derivation::Argon2i { salt, time, memory, cpus } => {
            (Kdf::Argon2 { id: false, passes: *time, memory_kib: *memory, lanes: *cpus }, salt)
        }
        Derivation::Argon2id { salt, time, memory, cpus } => {
            (Kdf::Argon2 { id: true, passes: *time, memory_kib: *memory, lanes: *cpus }, salt)
        }
    };
    Ok(Slot {
        kdf,
        salt: decoded(salt)?,
        cipher: cipher(&slot.area.encryption)?,
        area_key: slot.area.key_size,
        area: area(number(&slot.area.offset)?, slot.key_size, spread.stripes)?,
        stripes: spread.stripes,
        spread: hash(&spread.hash)?,
    })
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| damaged(format!("{text:?} where a number belongs")))
}

fn decoded(text: &str) -> Result<Vec<u8>> {
    STANDARD.decode(text).map_err(|_| damaged("a salt or digest that is no base64"))
}
