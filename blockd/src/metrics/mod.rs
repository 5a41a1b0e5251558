//! How exports are used, as the API shows it and as Prometheus collects it.

mod appliance;

pub use appliance::appliance;

use control::{Export, ExportCommand};
use nbd::server::ExportStatus;
use nbd::transmission::CommandCount;
use nbd::wire;
use std::fmt::Write;

/// One number of a command.
type Value = fn(&CommandCount) -> u64;

/// The commands that are counted, with their words.
const COMMANDS: [(u16, &str); 7] = [
    (wire::CMD_READ, "read"),
    (wire::CMD_WRITE, "write"),
    (wire::CMD_FLUSH, "flush"),
    (wire::CMD_TRIM, "trim"),
    (wire::CMD_CACHE, "cache"),
    (wire::CMD_WRITE_ZEROES, "zero"),
    (wire::CMD_BLOCK_STATUS, "status"),
];

/// The commands that were used.
fn used(export: &ExportStatus) -> impl Iterator<Item = (&'static str, CommandCount)> {
    let counts = export.counts;
    COMMANDS.iter().map(move |&(command, word)| (word, counts.of(command))).filter(|(_, of)| of.requests > 0)
}

/// For the API.
pub fn exports(status: &[ExportStatus]) -> Vec<Export> {
    let command = |(word, of): (&str, CommandCount)| ExportCommand {
        command: word.to_owned(),
        requests: of.requests,
        bytes: of.bytes,
        errors: of.errors,
        p50_ns: of.latency.quantile_ns(0.5),
        p99_ns: of.latency.quantile_ns(0.99),
        p999_ns: of.latency.quantile_ns(0.999),
    };
    let export = |export: &ExportStatus| Export {
        name: export.name.clone(),
        clients: export.connections.iter().map(|connection| connection.peer.to_string()).collect(),
        commands: used(export).map(command).collect(),
    };
    status.iter().map(export).collect()
}

/// For Prometheus, in its text format 0.0.4.
pub fn prometheus(status: &[ExportStatus]) -> String {
    let mut text = Text(String::new());
    text.family("blockd_export_connections", "gauge", "Connections that use an export now.");
    for export in status {
        text.sample("blockd_export_connections", export, "", export.connections.len() as f64);
    }
    let counters: [(&str, &str, Value); 3] = [
        ("blockd_export_requests_total", "Requests, failed ones too.", |of| of.requests),
        ("blockd_export_bytes_total", "Bytes that valid requests were about.", |of| of.bytes),
        ("blockd_export_errors_total", "Requests that failed.", |of| of.errors),
    ];
    for (name, help, value) in counters {
        text.family(name, "counter", help);
        for export in status {
            for (word, of) in used(export) {
                text.sample(name, export, &format!(",command=\"{word}\""), value(&of) as f64);
            }
        }
    }
    let name = "blockd_export_latency_seconds";
    text.family(name, "histogram", "Time from the arrival of a request to the departure of its reply.");
    for export in status {
        for (word, of) in used(export) {
            let label = format!(",command=\"{word}\"");
            for (upper_ns, below) in of.latency.octaves() {
                let le = format!("{label},le=\"{}\"", seconds(upper_ns));
                text.sample(&format!("{name}_bucket"), export, &le, below as f64);
            }
            let count = of.latency.count() as f64;
            text.sample(&format!("{name}_bucket"), export, &format!("{label},le=\"+Inf\""), count);
            text.sample(&format!("{name}_sum"), export, &label, seconds(of.latency.sum_ns()));
            text.sample(&format!("{name}_count"), export, &label, count);
        }
    }
    text.0
}

/// A value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

struct Text(String);

impl Text {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // a String takes everything
        self.0.write_fmt(line).unwrap_or_default();
        self.0.push('\n');
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.line(format_args!("{name} {value}"));
    }

    fn labelled(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let label = |(label, value): &(&str, &str)| format!("{label}=\"{}\"", escaped(value));
        let labels: Vec<String> = labels.iter().map(label).collect();
        self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
    }

    fn sample(&mut self, name: &str, export: &ExportStatus, labels: &str, value: f64) {
        let export = escaped(&export.name);
        self.line(format_args!("{name}{{export=\"{export}\"{labels}}} {value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nbd::transmission::Counts;

    #[test]
    fn names_are_quoted_and_unused_commands_left_out() {
        let export =
            ExportStatus { name: "a\"b\\".into(), counts: Counts::default(), connections: Vec::new() };
        let text = prometheus(std::slice::from_ref(&export));
        assert!(text.contains("blockd_export_connections{export=\"a\\\"b\\\\\"} 0\n"), "{text}");
        assert!(!text.contains("command="), "{text}");
        assert!(exports(&[export])[0].commands.is_empty());
    }
}
