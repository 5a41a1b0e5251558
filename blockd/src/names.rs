//! The names people use: disks as `web-root` or, of a machine, `vm/web/vda`; machines as `vm/web`; groups as `group/shop`;
//! and recovery points of them all as `web-root@3`, `vm/web@latest`, `vm/web/vda@2026-11-20T12:00`.

use crate::error::{Error, Result};
use block::Time;
use control::Kind;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// The longest word of a name. It stays readable in a table and fits any export name with a time behind it.
const WORD_LIMIT: usize = 64;

/// What begins the names of machines and of their disks.
const MACHINES: &str = "vm/";

/// What begins the names of groups.
const GROUPS: &str = "group/";

/// Whether a text is one word of a name: `[a-z0-9][a-z0-9._-]*`.
pub fn is_word(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= WORD_LIMIT
        && text.bytes().next().is_some_and(letter)
        && text.bytes().all(|byte| letter(byte) || matches!(byte, b'.' | b'_' | b'-'))
}

/// As much of a name as a message or the log should hold: clients send names of any length.
pub fn shown(name: &str) -> String {
    name.chars().take(2 * WORD_LIMIT).collect()
}

/// A word that is not one, with the reason and, where there is one, the name that was probably meant.
fn no_word(what: &str, name: &str) -> Error {
    let shown = shown(name);
    let why = format!(
        "a name begins with a lower-case letter or digit and goes on with a-z 0-9 . _ -, at most {WORD_LIMIT} in all"
    );
    let error = Error::said(Kind::Invalid, format!("{what} {shown:?}"), why);
    let lower = name.to_ascii_lowercase();
    if lower != name && (is_word(&lower) || parts(&lower).is_some()) {
        return error.with_help(format!("only lower-case letters are allowed: {lower}"));
    }
    let form = match what {
        "disk" => "a disk is called like web-root, or vm/MACHINE/DISK like vm/web/vda",
        "group" => "a group is called group/NAME, like group/shop",
        _ => "such as backup-2",
    };
    error.with_help(form)
}

/// Checks the name of a vault: one word.
///
/// # Errors
/// `Invalid` saying what a name looks like.
pub fn check_vault(name: &str) -> Result<()> {
    if is_word(name) { Ok(()) } else { Err(no_word("vault", name)) }
}

/// Checks the name of a policy without its vault: one word.
///
/// # Errors
/// `Invalid` saying what a name looks like.
pub fn check_policy(name: &str) -> Result<()> {
    if is_word(name) { Ok(()) } else { Err(no_word("policy", name)) }
}

/// Checks the name of a disk: one word, or `vm/MACHINE/DISK`.
///
/// # Errors
/// `Invalid` saying what a name looks like.
pub fn check_disk(name: &str) -> Result<()> {
    match parts(name) {
        Some(Parts::Disk) => Ok(()),
        Some(Parts::Machine) => Err(Error::said(
            Kind::Invalid,
            format!("disk {name:?}"),
            "is the name of a machine, which is not one disk",
        )
        .with_help(format!("its disks are called like {name}/vda; `blockctl disk list` shows them"))),
        Some(Parts::Group) => Err(Error::said(
            Kind::Invalid,
            format!("disk {name:?}"),
            "is the name of a group, which is not one disk",
        )
        .with_help(format!("`blockctl group show {name}` shows its disks"))),
        None => match PointName::parse(name) {
            Ok(point) => Err(Error::said(
                Kind::Invalid,
                format!("disk {name:?}"),
                "is a recovery point, and this takes a disk",
            )
            .with_help(format!("its disk is {}; `blockctl point show {name}` shows the point", point.item))),
            Err(_) => Err(no_word("disk", name)),
        },
    }
}

/// What a well-formed name names.
#[derive(PartialEq, Eq)]
enum Parts {
    Disk,
    Machine,
    Group,
}

fn parts(name: &str) -> Option<Parts> {
    if let Some(group) = name.strip_prefix(GROUPS) {
        return is_word(group).then_some(Parts::Group);
    }
    let Some(rest) = name.strip_prefix(MACHINES) else {
        return is_word(name).then_some(Parts::Disk);
    };
    match rest.split_once('/') {
        None => is_word(rest).then_some(Parts::Machine),
        Some((machine, disk)) => (is_word(machine) && is_word(disk)).then_some(Parts::Disk),
    }
}

/// The disk of a machine that holds what is kept of it beside its disks.
pub const DEFINITION: &str = "definition";

/// The name of a machine, of one word.
pub fn machine(word: &str) -> String {
    format!("{MACHINES}{word}")
}

/// The one word of a machine's name.
pub fn machine_word(name: &str) -> &str {
    name.strip_prefix(MACHINES).unwrap_or(name)
}

/// The item of a point's name.
pub fn item_of(point: &str) -> &str {
    point.split('@').next().unwrap_or(point)
}

/// The machine of one of its disks.
pub fn machine_of(disk: &str) -> &str {
    disk.rsplit_once('/').map_or(disk, |(machine, _)| machine)
}

/// Whether a disk holds what is kept of a machine, which no guest is given.
pub fn is_definition(disk: &str) -> bool {
    disk.starts_with(MACHINES) && disk.rsplit('/').next() == Some(DEFINITION)
}

/// Whether this is the name of a machine, `vm/web`.
pub fn is_machine(name: &str) -> bool {
    parts(name) == Some(Parts::Machine)
}

/// Whether this is the name of a group, `group/shop`.
pub fn is_group(name: &str) -> bool {
    parts(name) == Some(Parts::Group)
}

/// Checks the name of a group: `group/NAME`.
///
/// # Errors
/// `Invalid` saying what a name looks like.
pub fn check_group(name: &str) -> Result<()> {
    if is_group(name) { Ok(()) } else { Err(no_word("group", name)) }
}

/// Whether this is the name of a machine or of a group: of what has several disks.
pub fn has_members(name: &str) -> bool {
    is_machine(name) || is_group(name)
}

/// The machine that a disk of this name belongs to, if it is a machine's.
pub fn machine_of_disk(disk: &str) -> Option<String> {
    let (machine, _) = disk.strip_prefix(MACHINES)?.split_once('/')?;
    Some(format!("{MACHINES}{machine}"))
}

/// Whether a disk of this name is what an item names: the disk itself, or a disk of the machine.
pub fn is_of(item: &str, disk: &str) -> bool {
    disk == item || (is_machine(item) && disk.strip_prefix(item).is_some_and(|rest| rest.starts_with('/')))
}

/// Which of an item's recovery points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one with this number.
    Epoch(u64),
    /// The newest.
    Latest,
    /// The newest not after this time.
    At(Time),
}

/// The name of a recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointName {
    /// The name of the disk or machine.
    pub item: String,
    /// Which of its points.
    pub which: Which,
}

impl PointName {
    /// Takes a name apart. A time without a zone is local to the appliance.
    ///
    /// # Errors
    /// `Invalid` saying what a point's name looks like.
    pub fn parse(text: &str) -> Result<Self> {
        let shown: String = text.chars().take(4 * WORD_LIMIT).collect();
        let wrong = || {
            let why = "a recovery point is called DISK@NUMBER, DISK@latest or DISK@TIME";
            Error::said(Kind::Invalid, format!("point {shown:?}"), why)
                .with_help("such as web@3 or web@2026-11-20T12:00; `blockctl point list` shows them")
        };
        let (item, which) = text.split_once('@').ok_or_else(wrong)?;
        if parts(item).is_none() {
            return Err(no_word("disk", item));
        }
        let which = match which {
            "latest" => Which::Latest,
            digits if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Which::Epoch(digits.parse().map_err(|_| wrong())?)
            }
            time => Which::At(parse_time(time).ok_or_else(wrong)?),
        };
        Ok(Self { item: item.to_owned(), which })
    }
}

/// A time somebody wrote. What lies before 1970 or past the last time that can be told is taken for the nearest that can:
/// nothing was made before the one or after the other.
fn parse_time(text: &str) -> Option<Time> {
    if let Some(late) = in_an_earlier_year(text) {
        return parse_time(&late).map(|_| Time { unix_ms: u64::MAX });
    }
    let stamp = match text.parse::<Timestamp>() {
        Ok(stamp) => stamp,
        Err(_) => {
            let local = text.parse::<DateTime>().ok()?;
            let edge = if local.year() > 0 { Timestamp::MAX } else { Timestamp::MIN };
            local.to_zoned(TimeZone::system()).map_or(edge, |zoned| zoned.timestamp())
        }
    };
    Some(Time { unix_ms: u64::try_from(stamp.as_millisecond()).unwrap_or(0) })
}

/// The same time of another year, if its own is the last with four digits, whose end cannot be told, or has more.
fn in_an_earlier_year(text: &str) -> Option<String> {
    let (year, rest) = text.strip_prefix('+').unwrap_or(text).split_once('-')?;
    let is_late = year.parse::<u64>().is_ok_and(|year| year >= 9999) && !year.starts_with('+');
    // a leap year, so that every day exists
    is_late.then(|| format!("2096-{rest}"))
}

/// A time as the API writes it: RFC 3339, UTC, with milliseconds.
pub fn rfc3339(time: Time) -> String {
    // beyond the year 9999 there is no such text; such a clock was never right
    let stamp = i64::try_from(time.unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", stamp.unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_disks_and_machines() {
        for good in ["web-root", "0", "a.b_c-d", "vm", "vm/web/vda", "vm/0/0"] {
            assert!(check_disk(good).is_ok(), "{good}");
        }
        let long = "x".repeat(65);
        for bad in
            ["", "-a", ".a", "A", "a b", "a@1", "a/b", "ü", &long, "vm/", "vm/web/", "vm//vda", "vm/a/b/c"]
        {
            assert!(check_disk(bad).is_err() && check_vault(bad).is_err(), "{bad:?}");
        }
        assert!(check_vault("main").is_ok() && check_vault("vm/web/vda").is_err());
        assert!(is_machine("vm/web") && !is_machine("vm") && !is_machine("vm/web/vda"));
        assert!(
            is_group("group/shop") && !is_group("group/") && !is_group("group/a/b") && !is_group("group")
        );
        assert!(check_disk("group/shop").is_err() && check_disk("group").is_ok());
        assert!(is_of("vm/web", "vm/web/vda") && !is_of("vm/web", "vm/web2/vda") && !is_of("web", "web/vda"));
    }

    #[test]
    fn a_name_that_is_none_says_what_would_be_one() {
        let help = |name| check_disk(name).err().and_then(|error| error.body().help);
        assert!(
            help("Web-Root").is_some_and(|help| help.contains("lower-case") && help.ends_with("web-root"))
        );
        assert!(help("vm/Web/vda").is_some_and(|help| help.ends_with("vm/web/vda")));
        assert!(help("a b").is_some_and(|help| help.contains("web-root")));
        assert!(help("vm/web").is_some_and(|help| help.contains("vm/web/vda")));
    }

    #[test]
    fn names_of_points() {
        let which = |text| PointName::parse(text).map(|name| name.which).ok();
        assert_eq!(which("web@3"), Some(Which::Epoch(3)));
        assert_eq!(which("web@latest"), Some(Which::Latest));
        let noon = Time { unix_ms: 1_795_176_000_000 };
        assert_eq!(which("web@2026-11-20T12:00:00Z"), Some(Which::At(noon)));
        assert_eq!(which("web@2026-11-20T13:00+01:00"), Some(Which::At(noon)));
        assert!(which("web@2026-11-20T12:00").is_some());
        assert_eq!(which("vm/web/vda@3"), Some(Which::Epoch(3)));
        assert_eq!(which("vm/web@latest"), Some(Which::Latest));
        for late in [
            which("web@9999-12-31T23:59"),
            which("web@9999-12-31T23:59:59Z"),
            which("web@10000-01-01"),
            which("web@+012345-02-29T12:00Z"),
        ] {
            assert!(matches!(late, Some(Which::At(time)) if time > noon), "{late:?}");
        }
        assert_eq!(which("web@1969-12-31T12:00Z"), Some(Which::At(Time { unix_ms: 0 })));
        for bad in [
            "web",
            "web@",
            "web@10000-13-01",
            "web@99999-1",
            "web@12345-",
            "@3",
            "web@-1",
            "web@yesterday",
            "web@99999999999999999999",
            "we b@1",
        ] {
            assert!(PointName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_round_trip() {
        let time = Time { unix_ms: 1_795_176_000_042 };
        assert_eq!(rfc3339(time), "2026-11-20T12:00:00.042Z");
        assert_eq!(parse_time(&rfc3339(time)), Some(time));
    }
}
