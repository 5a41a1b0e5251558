//! Starting other programs: what is started is shown first, and a failure names it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The top folder of the workspace.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_path_buf()
}

/// A command that runs in the top folder of the workspace.
pub fn program<I, S>(name: impl AsRef<OsStr>, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(name);
    command.args(args).current_dir(root());
    command
}

/// The cargo that started this task, in the top folder of the workspace.
pub fn cargo<I, S>(args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args)
}

/// Runs a command with this terminal as its own.
///
/// # Errors
/// The program cannot be started or ends with anything but success; the error names the whole command.
pub fn run(command: &mut Command) -> Result<()> {
    let line = line_of(command);
    eprintln!("+ {line}");
    let status = command.status().with_context(|| format!("cannot start: {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

/// Runs a command quietly and returns what it wrote on its standard output.
///
/// # Errors
/// As [`run`]; also output that is not UTF-8.
pub fn output(command: &mut Command) -> Result<String> {
    let line = line_of(command);
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start: {line}"))?;
    if !output.status.success() {
        bail!("{line}: {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {line}"))
}

/// The command as a person would type it, settings in the environment first.
fn line_of(command: &Command) -> String {
    let settings = command.get_envs().filter_map(|(name, value)| {
        value.map(|value| format!("{}={}", name.to_string_lossy(), quoted(value)))
    });
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(quoted(program)).chain(command.get_args().map(quoted));
    settings.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    if word.contains(|c: char| c.is_whitespace() || c == '"') { format!("'{word}'") } else { word.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_settings() {
        let error = run(program("false", ["one", "two words"]).env("SETTING", "1")).unwrap_err();
        assert_eq!(error.to_string(), "SETTING=1 false one 'two words': exit status: 1");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = output(&mut program("no-such-program", ["-x"])).unwrap_err();
        assert_eq!(error.to_string(), "cannot start: no-such-program -x");
    }

    #[test]
    fn the_top_folder_is_found() {
        assert!(root().join("Cargo.lock").is_file());
    }
}
