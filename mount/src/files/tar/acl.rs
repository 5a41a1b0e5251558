//! Access lists as archives hold them: in words (`SCHILY.acl.access`), where the kernel has an attribute of binary
//! entries (linux/posix_acl_xattr.h).

use block::Cursor;

/// The version of the attribute's format.
const VERSION: u32 = 2;
/// Read, write, execute.
const ALL: u16 = 7;

/// The key of an attribute that is an access list.
pub(super) fn key(attribute: &[u8]) -> Option<&'static [u8]> {
    match attribute {
        b"system.posix_acl_access" => Some(b"SCHILY.acl.access"),
        b"system.posix_acl_default" => Some(b"SCHILY.acl.default"),
        _ => None,
    }
}

/// The words for an attribute's value, or `None` if it is not an access list.
pub(super) fn words(value: &[u8]) -> Option<String> {
    let mut cursor = Cursor::new(value);
    if cursor.u32().ok()? != VERSION {
        return None;
    }
    let mut entries = Vec::new();
    while cursor.remaining() > 0 {
        let (tag, allowed, id) = (cursor.u16().ok()?, cursor.u16().ok()?, cursor.u32().ok()?);
        let who = match tag {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        if allowed > ALL {
            return None;
        }
        let letter = |bit: u16, letter| if allowed & bit != 0 { letter } else { '-' };
        entries.push(format!("{who}:{}{}{}", letter(4, 'r'), letter(2, 'w'), letter(1, 'x')));
    }
    (!entries.is_empty()).then(|| entries.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_become_words() {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, allowed, id) in [(1_u16, 7_u16, !0_u32), (2, 5, 1000), (4, 4, !0), (16, 5, !0), (32, 0, !0)]
        {
            value.extend([&tag.to_le_bytes()[..], &allowed.to_le_bytes(), &id.to_le_bytes()].concat());
        }
        let told = words(&value).unwrap();
        assert_eq!(told, "user::rwx,user:1000:r-x,group::r--,mask::r-x,other::---");
        for bad in [
            &value[..3],
            &value[..9],
            &[1, 0, 0, 0],
            &VERSION.to_le_bytes(),
            &[value.as_slice(), &[9; 8]].concat(),
        ] {
            assert_eq!(words(bad), None, "{bad:?}");
        }
    }
}
