//! What the hook in a guest reports of its applications: the file the scripts of `tools/hooks/guest` write, `docs/report.md`.

use std::collections::BTreeSet;

/// Where it lies in the guest.
pub const PATH: &str = "/run/blockd/quiesced";

/// A longer one is none: it has a line or two for each application.
pub const LIMIT_BYTES: u32 = 64 << 10;

/// The report of one freeze.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Differs from freeze to freeze.
    pub id: String,
    /// Applications that were quiet from before the freeze until after the thaw.
    pub kept: BTreeSet<String>,
    /// Those that were not, and why.
    pub failed: Vec<String>,
}

impl Report {
    /// Reads one; none if it is not finished, or not one at all.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.lines();
        if bytes.len() > LIMIT_BYTES as usize || lines.next()? != "blockd 1" || !text.ends_with('\n') {
            return None;
        }
        let (mut report, mut held, mut is_finished) = (Self::default(), BTreeSet::new(), false);
        for line in lines {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "id" => report.id = rest.to_owned(),
                "held" => drop(held.insert(rest.to_owned())),
                "kept" => drop(report.kept.insert(rest.to_owned())),
                "failed" => report.failed.push(rest.chars().take(200).collect()),
                "thawed" => is_finished = true,
                // a later version says more
                _ => {}
            }
        }
        let lost = held.difference(&report.kept).map(|name| format!("{name}: went on meanwhile"));
        report.failed.extend(lost);
        report.kept.retain(|name| held.contains(name));
        (is_finished && !report.id.is_empty()).then_some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_quiet_to_the_end_counts() {
        let whole =
            "blockd 1\nid 7\nheld postgresql\nheld mysql\nfailed redis: no\nkept postgresql\nthawed\n";
        let report = Report::parse(whole.as_bytes()).expect("a report");
        assert_eq!(report.kept.iter().collect::<Vec<_>>(), ["postgresql"]);
        assert_eq!(report.failed, ["redis: no", "mysql: went on meanwhile"]);
        for bad in ["", "blockd 1\nid 7\nheld a\n", "blockd 2\nid 7\nthawed\n", "blockd 1\nthawed\n"] {
            assert_eq!(Report::parse(bad.as_bytes()), None, "{bad:?}");
        }
        let claims = Report::parse(b"blockd 1\nid 7\nkept a\nthawed\n").expect("a report");
        assert!(claims.kept.is_empty(), "kept and never held");
        assert_eq!(Report::parse(b"\xff"), None);
    }
}
