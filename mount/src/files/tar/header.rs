//! The blocks of an archive: POSIX.1-2001 (pax) headers, with the records GNU tar and star write for attributes, access
//! lists and sparse files.

use crate::guest::Stamp;

/// Everything in an archive is in blocks of this many bytes.
pub(super) const BLOCK: u64 = 512;
/// Names and targets longer than this are in a record.
const MAX_NAME: usize = 100;
/// The largest numbers that fit into fields of 8 and 12 bytes.
const MAX_SHORT: u64 = 0o777_7777;
const MAX_LONG: u64 = 0o777_7777_7777;

/// What a header says.
#[derive(Debug, Default)]
pub(super) struct Header<'a> {
    pub(super) name: &'a [u8],
    pub(super) link: &'a [u8],
    /// The letter of its kind.
    pub(super) kind: u8,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Bytes that follow.
    pub(super) size: u64,
    pub(super) mtime: Stamp,
    pub(super) atime: Stamp,
    pub(super) device: (u32, u32),
    /// Further records: keys and values.
    pub(super) records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Header<'_> {
    /// The blocks of it, records first.
    pub(super) fn encode(&self) -> Vec<u8> {
        let records = self.all_records();
        let mut bytes = Vec::new();
        if !records.is_empty() {
            let size = records.len() as u64;
            bytes.extend(block(&Fields {
                name: b"PaxHeaders/record",
                kind: b'x',
                size,
                ..Fields::default()
            }));
            bytes.extend(records);
            pad(&mut bytes);
        }
        let seconds = u64::try_from(self.mtime.seconds).unwrap_or(0).min(MAX_LONG);
        bytes.extend(block(&Fields {
            name: self.name,
            link: self.link,
            kind: self.kind,
            mode: self.mode.into(),
            uid: u64::from(self.uid).min(MAX_SHORT),
            gid: u64::from(self.gid).min(MAX_SHORT),
            size: self.size.min(MAX_LONG),
            mtime: seconds,
            device: self.device,
        }));
        bytes
    }

    fn all_records(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let long = [(&b"path"[..], self.name), (b"linkpath", self.link)];
        let long = long.into_iter().filter(|(_, value)| value.len() > MAX_NAME);
        let named: Vec<_> = long.collect();
        if named.iter().any(|(_, value)| std::str::from_utf8(value).is_err()) {
            record(&mut out, b"hdrcharset", b"BINARY");
        }
        named.iter().for_each(|(key, value)| record(&mut out, key, value));
        for (key, value, limit) in [
            (&b"size"[..], self.size, MAX_LONG),
            (b"uid", self.uid.into(), MAX_SHORT),
            (b"gid", self.gid.into(), MAX_SHORT),
        ] {
            if value > limit {
                record(&mut out, key, value.to_string().as_bytes());
            }
        }
        for (key, stamp) in [(&b"mtime"[..], self.mtime), (b"atime", self.atime)] {
            if stamp.nanos != 0
                || !u64::try_from(stamp.seconds).is_ok_and(|it| it <= MAX_LONG)
                || key == b"atime"
            {
                record(&mut out, key, time(stamp).as_bytes());
            }
        }
        self.records.iter().for_each(|(key, value)| record(&mut out, key, value));
        out
    }
}

/// A decimal fraction; before 1970 both parts count backwards.
fn time(stamp: Stamp) -> String {
    match (stamp.seconds, stamp.nanos) {
        (seconds, 0) => seconds.to_string(),
        (seconds @ 0.., nanos) => format!("{seconds}.{nanos:09}"),
        (seconds, nanos) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos),
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    out.extend(format!("{len} ").into_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Fills up to a whole number of blocks.
pub(super) fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
}

#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    link: &'a [u8],
    kind: u8,
    mode: u64,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    device: (u32, u32),
}

/// One block: the ustar header of POSIX.
fn block(fields: &Fields<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK as usize);
    let text = |out: &mut Vec<u8>, value: &[u8], width: usize| {
        let end = out.len() + width;
        out.extend_from_slice(value.get(..width).unwrap_or(value));
        out.resize(end, 0);
    };
    let number = |out: &mut Vec<u8>, value: u64, width: usize| {
        out.extend(format!("{value:0width$o}\0", width = width - 1).into_bytes());
    };
    text(&mut out, fields.name, MAX_NAME);
    for value in [fields.mode, fields.uid, fields.gid] {
        number(&mut out, value, 8);
    }
    for value in [fields.size, fields.mtime] {
        number(&mut out, value, 12);
    }
    // the checksum is over the block with spaces in its place
    let sum_at = out.len();
    text(&mut out, b"        ", 8);
    out.push(fields.kind);
    text(&mut out, fields.link, MAX_NAME);
    out.extend_from_slice(b"ustar\x0000");
    text(&mut out, b"", 64);
    for value in [fields.device.0, fields.device.1] {
        number(&mut out, u64::from(value).min(MAX_SHORT), 8);
    }
    out.resize(BLOCK as usize, 0);
    let sum: u32 = out.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    for (place, byte) in out.iter_mut().skip(sum_at).zip(sum.bytes()) {
        *place = byte;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for value_len in [0, 1, 80, 87, 88, 89, 90, 91, 980, 990, 991, 992, 993, 994, 9990] {
            let mut out = Vec::new();
            record(&mut out, b"path", &vec![b'x'; value_len]);
            let text = String::from_utf8(out.clone()).unwrap();
            let told: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(told, out.len(), "{value_len}");
        }
    }

    #[test]
    fn times_before_1970_count_backwards() {
        let told = |seconds, nanos| time(Stamp { seconds, nanos });
        assert_eq!(told(5, 0), "5");
        assert_eq!(told(5, 1), "5.000000001");
        assert_eq!(told(-1, 0), "-1");
        assert_eq!(told(-1, 250_000_000), "-0.750000000");
        assert_eq!(told(-86_400, 123_456_789), "-86399.876543211");
    }
}
