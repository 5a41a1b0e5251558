//! Medians of ratios, as a Markdown table for people and as JSON for everything else.

use std::fmt::Write;

use serde_json::{Value, json};

/// One measured cell.
pub struct Sample {
    /// Counts from 0.
    pub round: u32,
    /// What was done, such as `read, 2 connections`.
    pub cell: String,
    /// Who did it.
    pub subject: &'static str,
    /// Requests a second.
    pub iops: f64,
    /// 99th percentile of latency, microseconds.
    pub p99_us: f64,
    /// Server CPU time a request, microseconds.
    pub cpu_us: f64,
    /// Client CPU time a request, microseconds.
    pub client_us: f64,
}

/// Everything one run measured.
#[derive(Default)]
pub struct Report {
    /// Facts about the machine and the run, in the order shown.
    pub facts: Vec<(&'static str, String)>,
    /// Every cell of every round.
    pub samples: Vec<Sample>,
}

impl Report {
    /// Tables of `subject` beside every other subject. Those in `bounds` are no peers: they show how far any server comes,
    /// and stand beside the peers as well.
    pub fn markdown(&self, subject: &str, bounds: &[&str]) -> String {
        let mut text = String::new();
        for (name, value) in &self.facts {
            text += &format!("- {name}: {value}\n");
        }
        let peers: Vec<&str> = self.subjects().into_iter().filter(|name| *name != subject).collect();
        text += &self.ratios(
            &format!("{subject} requests a second, as a multiple of the peer's"),
            subject,
            &peers,
        );
        let peers: Vec<&str> = peers.into_iter().filter(|name| !bounds.contains(name)).collect();
        for bound in bounds {
            text += &self.ratios(
                &format!("what limits any server: {bound}, as a multiple of the peer's"),
                bound,
                &peers,
            );
        }
        text += &self.values("requests a second", |sample| sample.iops);
        text += &self.values("99th percentile of latency, µs", |sample| sample.p99_us);
        text += &self.values("server CPU a request, µs", |sample| sample.cpu_us);
        text += &self.values("client CPU a request, µs", |sample| sample.client_us);
        text
    }

    /// All of it.
    pub fn json(&self) -> Value {
        let facts: serde_json::Map<_, _> =
            self.facts.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let samples: Vec<Value> = self.samples.iter().map(sample_json).collect();
        json!({ "facts": facts, "samples": samples })
    }

    fn ratios(&self, title: &str, subject: &str, peers: &[&str]) -> String {
        let mut text = header(title, peers);
        for cell in self.cells() {
            let row = peers.iter().map(|peer| {
                let ratio = self.ratio(cell, subject, peer);
                ratio.map_or("–".into(), |(low, mid, high)| format!("**{mid:.2}** ({low:.2}–{high:.2})"))
            });
            text += &line(cell, row);
        }
        text
    }

    fn values(&self, title: &str, field: fn(&Sample) -> f64) -> String {
        let subjects = self.subjects();
        let mut text = header(title, &subjects);
        for cell in self.cells() {
            let row = subjects.iter().map(|subject| {
                let of = self.samples.iter().filter(|s| s.cell == cell && s.subject == *subject);
                spread(of.map(field).collect()).map_or("–".into(), |(_, mid, _)| short(mid))
            });
            text += &line(cell, row);
        }
        text
    }

    /// Lowest, median and highest of the ratios of the rounds; both sides of a ratio come from the same round.
    fn ratio(&self, cell: &str, subject: &str, peer: &str) -> Option<(f64, f64, f64)> {
        let of = |name: &str, round: u32| {
            let same = |s: &&Sample| s.cell == cell && s.subject == name && s.round == round;
            self.samples.iter().find(same).map(|sample| sample.iops)
        };
        let rounds = self.samples.iter().map(|sample| sample.round).max()?;
        let ratios = (0..=rounds).filter_map(|round| Some(of(subject, round)? / of(peer, round)?));
        spread(ratios.collect())
    }

    fn cells(&self) -> Vec<&str> {
        in_order(self.samples.iter().map(|sample| sample.cell.as_str()))
    }

    fn subjects(&self) -> Vec<&'static str> {
        let mut subjects = in_order(self.samples.iter().map(|sample| sample.subject));
        subjects.sort_unstable();
        subjects
    }
}

/// Each name once, in the order of first appearance.
fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

/// Lowest, median (of an even number the lower) and highest.
pub fn spread(mut values: Vec<f64>) -> Option<(f64, f64, f64)> {
    values.sort_by(f64::total_cmp);
    let middle = values.len().checked_sub(1)? / 2;
    Some((*values.first()?, values[middle], *values.last()?))
}

fn header(title: &str, columns: &[&str]) -> String {
    format!("\n| {title} | {} |\n|---|{}\n", columns.join(" | "), "---|".repeat(columns.len()))
}

fn line(name: &str, cells: impl Iterator<Item = String>) -> String {
    let mut text = format!("| {name} |");
    for cell in cells {
        write!(text, " {cell} |").unwrap_or_default();
    }
    text + "\n"
}

fn short(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => format!("{:.0}k", v / 1000.0),
        v if v >= 100.0 => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
}

fn sample_json(sample: &Sample) -> Value {
    json!({
        "round": sample.round, "cell": sample.cell, "subject": sample.subject,
        "iops": sample.iops, "p99_us": sample.p99_us, "cpu_us": sample.cpu_us, "client_us": sample.client_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, subject: &'static str, iops: f64) -> Sample {
        Sample { round, cell: "read".into(), subject, iops, p99_us: 1.0, cpu_us: 2.0, client_us: 3.0 }
    }

    #[test]
    fn a_ratio_compares_within_a_round_and_takes_the_median() {
        // the machine halves its speed in round 1: the ratio of each round does not care
        let samples = [(0, 200.0, 100.0), (1, 100.0, 50.0), (2, 90.0, 30.0)];
        let samples = samples.iter().flat_map(|(r, a, b)| [sample(*r, "a", *a), sample(*r, "b", *b)]);
        let report = Report { facts: Vec::new(), samples: samples.collect() };
        assert_eq!(report.ratio("read", "a", "b"), Some((2.0, 2.0, 3.0)));
        let text = report.markdown("a", &[]);
        assert!(text.contains("| read | **2.00** (2.00–3.00) |"), "{text}");
        let text = report.markdown("c", &["a"]);
        assert!(text.contains("any server: a, as a multiple of the peer's | b |"), "{text}");
    }

    #[test]
    fn a_cell_nobody_measured_is_a_dash() {
        let report = Report { facts: Vec::new(), samples: vec![sample(0, "a", 1.0)] };
        assert_eq!(report.ratio("read", "a", "b"), None);
    }
}
