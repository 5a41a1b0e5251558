//! What a command says: a table for people, or one JSON value; and a progress bar on a terminal when it takes long.

use crate::failure::{Failure, Result};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

/// No bar for what is over before one has looked.
const BAR_AFTER: Duration = Duration::from_secs(1);

/// Where and how to answer.
pub struct Output {
    json: bool,
}

impl Output {
    /// Answers as JSON, or for people.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether the answer is JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Answers with a value: as JSON, or as the text made of it.
    pub fn answer<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        if !self.json {
            return self.print(&text(value));
        }
        let json = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::new(control::Kind::Io, format!("write JSON: {error}")))?;
        self.print(&json)
    }

    /// Prints lines, ended by a line end.
    pub fn print(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let text = text.strip_suffix('\n').unwrap_or(text);
        let written = if text.is_empty() { Ok(()) } else { writeln!(out, "{text}") };
        written.and_then(|()| out.flush()).map_err(|error| Failure::host("write the answer", &error))
    }

    /// A warning, on standard error.
    pub fn warn(&self, text: &str) {
        eprintln!("warning: {text}");
    }

    /// A bar for something that may take long.
    pub fn progress(&self, what: &str) -> Progress {
        let visible = !self.json && std::io::stderr().is_terminal();
        Progress { what: what.to_owned(), started: visible.then(now), bar: None, is_shown: false }
    }

    /// A line that counts, for something that may take long and whose end is not known.
    pub fn counter(&self, what: &str) -> Counter {
        let visible = !self.json && std::io::stderr().is_terminal();
        Counter { what: what.to_owned(), started: visible.then(now), bar: None }
    }

    /// Says what will happen and asks, unless that was answered on the command line.
    ///
    /// # Errors
    /// Invalid usage if there is nobody to ask, `Cancelled` if the answer is not yes.
    pub fn confirm(&self, what: &str, yes: bool) -> Result<()> {
        if yes {
            return Ok(());
        }
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Err(
                Failure::usage(format!("{what}: nobody is there to confirm it")).with_help("give --yes")
            );
        }
        eprint!("{what}. Go on? [y/N] ");
        let mut line = String::new();
        stdin.lock().read_line(&mut line).map_err(|error| Failure::host("read the answer", &error))?;
        match line.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Failure::new(control::Kind::Cancelled, "nothing was done")),
        }
    }
}

/// Now, for showing how long things take.
#[expect(clippy::disallowed_methods, reason = "how long a person waits, not a decision about data")]
pub fn now() -> Instant {
    Instant::now()
}

/// A progress bar that appears when it is worth looking at.
pub struct Progress {
    what: String,
    // none where nobody would see it
    started: Option<Instant>,
    bar: Option<ProgressBar>,
    is_shown: bool,
}

impl Progress {
    /// So far.
    pub fn at(&mut self, done: u64, total: u64) {
        let Some(started) = self.started else { return };
        if self.bar.is_none() {
            // from the beginning, so that its rate is that of the whole time, and hidden at first
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
            let template = "{msg}  {bar:30}  {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("━╸ "));
            }
            bar.set_message(self.what.clone());
            self.bar = Some(bar);
        }
        if let Some(bar) = self.bar.as_ref().filter(|_| !self.is_shown && started.elapsed() > BAR_AFTER) {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            self.is_shown = true;
        }
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    }
}

/// A line that counts files and bytes; it appears when it is worth looking at.
pub struct Counter {
    what: String,
    // none where nobody would see it
    started: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl Counter {
    /// So far.
    pub fn at(&mut self, files: u64, bytes: u64) {
        let Some(started) = self.started else { return };
        if self.bar.is_none() && started.elapsed() > BAR_AFTER {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{prefix}  {msg}  {bytes}  {bytes_per_sec}") {
                bar.set_style(style);
            }
            bar.set_prefix(self.what.clone());
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_message(crate::size::count(files, "file"));
            bar.set_position(bytes);
        }
    }

    /// Says something without tearing the line apart.
    pub fn aside(&self, say: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A table without frames. Columns whose title begins with `>` are numbers and stand to the right.
pub fn table(titles: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(titles.iter().map(|title| Cell::new(title.trim_start_matches('>').to_uppercase())));
    for (column, title) in table.column_iter_mut().zip(titles) {
        column.set_padding((0, 2));
        if title.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.add_rows(rows);
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Names and values below each other.
pub fn sheet(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}
