//! Patterns of names: `*`, `?`, `[a-z]`, `[!a-z]` and a backslash before what is meant as it is. Names are bytes.

/// Whether a name looks like a pattern. Takes time in proportion to both lengths multiplied, whatever they hold.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    // where the last star was, and how much of the name it has swallowed
    let mut star: Option<(usize, usize)> = None;
    while from < name.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, from));
            at += 1;
            continue;
        }
        match one(pattern.get(at..).unwrap_or_default(), name[from]) {
            Some(len) => {
                at += len;
                from += 1;
            }
            None => {
                let Some((place, swallowed)) = star else { return false };
                star = Some((place, swallowed + 1));
                (at, from) = (place + 1, swallowed + 1);
            }
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

/// The length of the pattern's first part, if it stands for this byte.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern {
        [b'?', ..] => Some(1),
        [b'[', ref rest @ ..] => {
            set(rest, byte).map_or_else(|| (byte == b'[').then_some(1), |(is, len)| is.then_some(len + 1))
        }
        [b'\\', meant, ..] => (meant == byte).then_some(2),
        [first, ..] => (first == byte).then_some(1),
        [] => None,
    }
}

/// Whether a byte is in a set, and the set's length with its bracket; `None` if the bracket is missing.
fn set(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let inverted = matches!(pattern, [b'!' | b'^', ..]);
    let start = usize::from(inverted);
    let mut at = start;
    let mut found = false;
    loop {
        match *pattern.get(at..)? {
            [b']', ..] if at > start => return Some((found != inverted, at + 1)),
            [low, b'-', high, ..] if high != b']' => {
                found |= (low..=high).contains(&byte);
                at += 3;
            }
            [its, ..] => {
                found |= its == byte;
                at += 1;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_as_shells_have_them() {
        for (pattern, name, is) in [
            ("*", "", true),
            ("*.conf", "a.conf", true),
            ("*.conf", "a.config", false),
            ("a*b*c", "a--b--b-c", true),
            ("?", "", false),
            ("?b", "ab", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[a", "[a", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("", "", true),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), is, "{pattern} {name}");
        }
        let many = "*a".repeat(100);
        assert!(!matches(many.as_bytes(), "a".repeat(99).as_bytes()));
        assert!(matches(b"*\xff", b"x\xff"));
    }
}
