//! Sizes as people write and read them, in powers of 1024; and counts of things.

/// Takes `20G`, `512M`, `1.5T` or plain bytes. Units are K M G T, with or without `iB` or `B` behind.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong =
        || "a size is a number of bytes, or a number with K, M, G or T behind, such as 20G".to_owned();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim_end_matches("iB").trim_end_matches('B') {
        "" if !unit.contains('i') => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return Err(wrong()),
    };
    let size = match number.split_once('.') {
        None => number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)),
        Some((whole, part)) if shift > 0 && (1..=9).contains(&part.len()) => fraction(whole, part, shift),
        Some(_) => None,
    };
    size.ok_or_else(wrong)
}

fn fraction(whole: &str, part: &str, shift: u32) -> Option<u64> {
    let unit = 1u128 << shift;
    let scale = 10u128.pow(part.len() as u32);
    let total = whole.parse::<u64>().ok()? as u128 * unit + part.parse::<u64>().ok()? as u128 * unit / scale;
    u64::try_from(total).ok()
}

/// `20.0 GiB`.
pub fn show(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{value:.1} {}", units[unit])
}

/// `1 pack`, `2 packs`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_to_the_byte() {
        for (text, bytes) in [
            ("0", 0),
            ("513", 513),
            ("1K", 1024),
            ("20G", 20 << 30),
            ("1.5M", 3 << 19),
            ("2TiB", 2 << 40),
            ("7B", 7),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in ["", "G", "-1", "1.5", "1X", "1iB", "99999999999T", "1 G", "1.G", ".5G"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_short() {
        assert_eq!(show(512), "512 B");
        assert_eq!(show(1 << 20), "1.0 MiB");
        assert_eq!(show((1 << 20) - 1), "1.0 MiB");
        assert_eq!(show(20 << 30), "20.0 GiB");
    }

    #[test]
    fn one_thing_is_no_plural() {
        assert_eq!([0, 1, 2].map(|number| count(number, "pack")), ["0 packs", "1 pack", "2 packs"]);
    }
}
