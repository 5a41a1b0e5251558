//! `blockctl completions` and `blockctl man`, made of the same definitions as the parser.

use crate::cli::Arguments;
use crate::failure::{Failure, Result};
use crate::output::Output;
use clap::CommandFactory;
use std::path::Path;

/// Prints the completions of a shell.
pub fn completions(shell: clap_complete::Shell, output: &Output) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "blockctl", &mut text);
    output.print(&String::from_utf8_lossy(&text))
}

/// Prints the first man page, or writes one for every verb.
pub fn man(dir: Option<&Path>, output: &Output) -> Result<()> {
    let command = Arguments::command();
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|error| Failure::host("write the man page", &error))?;
        return output.print(&String::from_utf8_lossy(&page));
    };
    let failed = |error| Failure::host(format!("write man pages to {}", dir.display()), &error);
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(command, dir).map_err(failed)?;
    output.print(&format!("man pages are in {}", dir.display()))
}
