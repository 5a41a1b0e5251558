//! Small blobs that are a front and one sealed body: registrations of writers.

use block::{BlobStore, ByteRange};

use crate::front::{FRONT_LEN, Front};
use crate::key::Keys;
use crate::name::{Address, Shelf};
use crate::seal::{BlobKey, Place, TAG_LEN};
use crate::{Error, Result};

const BODY: Place = Place::new(1, 0);
/// The longest body.
const MAX_BODY: usize = 1024;
/// The longest blob of this form.
pub(crate) const MAX_LEN: usize = FRONT_LEN + MAX_BODY + TAG_LEN;

/// Seals a body behind its front.
pub(crate) fn encode(keys: &Keys, front: &Front, body: &[u8]) -> Vec<u8> {
    let mut bytes = front.encode().to_vec();
    BlobKey::derive(keys, front).seal(BODY, &[], body, &mut bytes);
    bytes
}

/// The front and the body of a blob that must be the one of this name.
pub(crate) fn decode(keys: &Keys, wanted: &Front, shelf: Shelf, bytes: &[u8]) -> Result<(Front, Vec<u8>)> {
    let Front { format, vault, address, .. } = *wanted;
    let front = Front::expect(bytes, format, vault, address, shelf)?;
    let mut sealed = bytes[FRONT_LEN..].to_vec();
    let opened = BlobKey::derive(keys, &front).open(BODY, &[], &mut sealed);
    let body = opened.map_err(|why| Error::damaged(&address.name(shelf), "body", why))?.to_vec();
    Ok((front, body))
}

/// Reads a whole blob of this form.
pub(crate) fn load(store: &dyn BlobStore, shelf: Shelf, address: Address) -> Result<Vec<u8>> {
    let name = address.name(shelf);
    let size = store.size(&name).map_err(Error::store("read", &name))?;
    if size.get() > MAX_LEN as u64 {
        return Err(Error::damaged(&name, "length", format!("{size} bytes, at most {MAX_LEN} are valid")));
    }
    store.get(&name, ByteRange::whole(size)).map_err(Error::store("read", &name))
}
