//! Keys and passphrases from files, standard input or a terminal; never from the command line.

use crate::cli::PassphraseOptions;
use crate::failure::{Failure, Result};
use mount::Passphrases;
use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};
use std::io::{BufRead, Read, Write, stdin};
use std::path::{Path, PathBuf};

/// A key file or a sheet is far smaller.
const LIMIT_BYTES: u64 = 64 << 10;

/// What a file says; - is standard input.
///
/// # Errors
/// What the host reports, naming the file.
pub fn text(what: &str, file: &Path) -> Result<String> {
    let failed = |error| Failure::host(format!("{what} {}", file.display()), &error);
    let mut text = String::new();
    let read = if file == Path::new("-") {
        stdin().take(LIMIT_BYTES).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).map_err(failed)?.take(LIMIT_BYTES).read_to_string(&mut text)
    };
    read.map_err(failed)?;
    Ok(text)
}

/// The first line of a file; - asks on the terminal without showing what is typed.
///
/// # Errors
/// What the host reports; an empty passphrase.
pub fn passphrase(file: &Path) -> Result<String> {
    let line = if file == Path::new("-") && isatty(stdin()) {
        typed()?
    } else {
        text("passphrase", file)?.lines().next().unwrap_or_default().to_owned()
    };
    if line.is_empty() {
        return Err(Failure::usage(format!("passphrase {}: it is empty", file.display())));
    }
    Ok(line)
}

impl PassphraseOptions {
    /// What the files say.
    ///
    /// # Errors
    /// As [`passphrase`]; too many or too long ones.
    pub fn read(&self) -> Result<Passphrases> {
        let read = |file: &PathBuf| passphrase(file).map(|line| line.into_bytes().into());
        Ok(Passphrases::new(self.passphrase_files.iter().map(read).collect::<Result<_>>()?)?)
    }
}

fn typed() -> Result<String> {
    let failed = |error: std::io::Error| Failure::host("read the passphrase", &error);
    eprint!("passphrase: ");
    std::io::stderr().flush().map_err(failed)?;
    let before = tcgetattr(stdin()).map_err(|errno| failed(errno.into()))?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(stdin(), OptionalActions::Flush, &hidden).map_err(|errno| failed(errno.into()))?;
    let mut line = String::new();
    let read = stdin().lock().read_line(&mut line);
    // the terminal shows again what is typed, whatever came of the reading
    tcsetattr(stdin(), OptionalActions::Flush, &before).map_err(|errno| failed(errno.into()))?;
    eprintln!();
    read.map_err(failed)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Writes a secret into a new file that only its owner reads.
///
/// # Errors
/// `Conflict` if the file exists; what the host reports.
pub fn write_new(file: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |error| Failure::host(format!("write {}", file.display()), &error);
    let mut opened =
        std::fs::File::options().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all()).map_err(failed)
}

/// Refuses a name that is taken, before anything is done whose outcome has to be written there.
///
/// # Errors
/// `Conflict` if the file exists.
pub fn must_be_new(file: &Path) -> Result<()> {
    if file.symlink_metadata().is_ok() {
        let taken = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        return Err(Failure::host(format!("write {}", file.display()), &taken));
    }
    Ok(())
}
