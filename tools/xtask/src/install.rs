//! Putting blockd in place on a host: the programs, their manual pages and completions, the units and the hook.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{output, program, root, run as run_program};
use crate::demo::{build, built};

/// What is installed as a program.
pub const PROGRAMS: &[&str] = &["blockd", "blockctl", "blockd-mount"];

/// Options of `install`.
#[derive(clap::Args)]
pub struct Args {
    /// Where programs, manual pages and units go: DIR/bin, DIR/share, DIR/lib
    #[arg(long, default_value = "/usr/local")]
    prefix: PathBuf,
    /// Where the configuration of others lies, for libvirt's hook
    #[arg(long, default_value = "/etc")]
    sysconfdir: PathBuf,
    /// Put everything below this directory instead of the root, as for a package
    #[arg(long)]
    destdir: Option<PathBuf>,
}

/// Builds in release and installs.
///
/// # Errors
/// The build fails, or a file cannot be written; the error names it.
pub fn run(args: &Args) -> Result<()> {
    build(PROGRAMS)?;
    let place = Place {
        prefix: args.prefix.clone(),
        sysconfdir: args.sysconfdir.clone(),
        // manual pages are written by a program whose working directory is another
        destdir: std::path::absolute(args.destdir.as_deref().unwrap_or(Path::new("/")))?,
    };
    place.fill()
}

/// Where it goes.
pub struct Place {
    pub prefix: PathBuf,
    pub sysconfdir: PathBuf,
    pub destdir: PathBuf,
}

impl Place {
    /// Installs what was built.
    pub fn fill(&self) -> Result<()> {
        for name in PROGRAMS {
            self.copy(&built(name)?, &self.prefix.join("bin").join(name), 0o755)?;
        }
        let hooks = root().join("tools/hooks");
        let units = self.prefix.join("lib/systemd/system");
        for unit in ["blockd.socket", "blockd-api.socket"] {
            self.copy(&hooks.join("systemd").join(unit), &units.join(unit), 0o644)?;
        }
        let service = fs::read_to_string(hooks.join("systemd/blockd.service"))?;
        let bin = self.prefix.join("bin");
        let service = service.replace("@bindir@", &bin.display().to_string());
        self.write(service.as_bytes(), &units.join("blockd.service"), 0o644)?;
        let group = self.prefix.join("lib/sysusers.d/blockd.conf");
        self.copy(&hooks.join("systemd/blockd.sysusers"), &group, 0o644)?;
        let hook = self.sysconfdir.join("libvirt/hooks/qemu.d/blockd");
        self.copy(&hooks.join("libvirt/qemu"), &hook, 0o755)?;
        let guest = hooks.join("guest");
        let share = self.prefix.join("share/blockd/guest");
        for script in ["fsfreeze-hook", "fsfreeze-hook.d/postgresql", "fsfreeze-hook.d/mysql"] {
            self.copy(&guest.join(script), &share.join(script), 0o755)?;
        }
        self.documents()
    }

    /// Manual pages and completions, made by the programs themselves.
    fn documents(&self) -> Result<()> {
        let share = self.prefix.join("share");
        let pages = self.path(&share.join("man/man1"));
        fs::create_dir_all(&pages).with_context(|| format!("make {}", pages.display()))?;
        for name in ["blockctl", "blockd"] {
            run_program(program(built(name)?, ["man", "--dir"]).arg(&pages))?;
        }
        for (shell, place) in [
            ("bash", "bash-completion/completions/blockctl"),
            ("zsh", "zsh/site-functions/_blockctl"),
            ("fish", "fish/vendor_completions.d/blockctl.fish"),
        ] {
            let text = output(&mut program(built("blockctl")?, ["completions", shell]))?;
            self.write(text.as_bytes(), &share.join(place), 0o644)?;
        }
        for name in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            self.copy(&root().join(name), &share.join("doc/blockd").join(name), 0o644)?;
        }
        Ok(())
    }

    /// A path below the root of the installation.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.destdir.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn copy(&self, from: &Path, to: &Path, mode: u32) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.write(&bytes, to, mode)
    }

    /// Written beside and renamed, so that a program that runs keeps its file.
    #[expect(
        clippy::disallowed_methods,
        reason = "programs put in place by a development tool, not data of ours"
    )]
    fn write(&self, bytes: &[u8], to: &Path, mode: u32) -> Result<()> {
        let to = self.path(to);
        let fresh = to.with_extension("new");
        let written = fs::create_dir_all(to.parent().unwrap_or(&to))
            .and_then(|()| fs::write(&fresh, bytes))
            .and_then(|()| fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)))
            .and_then(|()| fs::rename(&fresh, &to));
        written.with_context(|| format!("install {}", to.display()))?;
        eprintln!("{}", to.display());
        Ok(())
    }
}
