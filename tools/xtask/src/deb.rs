//! A Debian package of what `install` puts in place, made with dpkg-deb alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{output, program, run as run_program};
use crate::demo::{build, built, target_folder};
use crate::install::{PROGRAMS, Place};

/// Builds in release and packs. The package lies in `target/debian`.
///
/// # Errors
/// The build fails, or dpkg-deb is missing or fails.
pub fn run() -> Result<()> {
    build(PROGRAMS)?;
    let folder = target_folder().join("debian");
    let tree = folder.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("clear {}", tree.display()))?;
    }
    let place = Place { prefix: "/usr".into(), sysconfdir: "/etc".into(), destdir: tree.clone() };
    place.fill()?;
    // the programs that were built keep what a profile needs
    for name in PROGRAMS {
        run_program(program("strip", ["--strip-unneeded"]).arg(tree.join("usr/bin").join(name)))?;
    }
    let architecture = output(&mut program("dpkg", ["--print-architecture"]))?.trim().to_owned();
    let version = env!("CARGO_PKG_VERSION");
    let control = tree.join("DEBIAN");
    fs::create_dir_all(&control)?;
    let needs = needs(&folder)?;
    write(&control.join("control"), &control_file(version, &architecture, &needs, size_kib(&tree)?), 0o644)?;
    write(&control.join("conffiles"), "/etc/libvirt/hooks/qemu.d/blockd\n", 0o644)?;
    write(&control.join("postinst"), POSTINST, 0o755)?;
    write(&control.join("prerm"), PRERM, 0o755)?;
    let package = folder.join(format!("blockd_{version}_{architecture}.deb"));
    let build = ["--root-owner-group", "--build"];
    run_program(program("dpkg-deb", build).arg(&tree).arg(&package))?;
    println!("{}", package.display());
    Ok(())
}

/// The state is never touched: it holds the last copy of somebody's data.
const POSTINST: &str = "#!/bin/sh
set -e
if [ \"$1\" = configure ]; then
    systemd-sysusers blockd.conf
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        if [ -n \"$2\" ]; then
            # an upgrade: the daemon becomes the new program and refuses nobody
            systemctl try-reload-or-restart blockd.service
        else
            systemctl enable --now blockd.service
        fi
    fi
fi
";

const PRERM: &str = "#!/bin/sh
set -e
if [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --now blockd.service blockd.socket blockd-api.socket
fi
";

fn control_file(version: &str, architecture: &str, needs: &str, size_kib: u64) -> String {
    format!(
        "Package: blockd
Version: {version}
Architecture: {architecture}
Maintainer: blockd developers <blockd@localhost>
Installed-Size: {size_kib}
Depends: {needs}, systemd
Recommends: fuse3
Suggests: libvirt-daemon-system, qemu-system-x86
Section: admin
Priority: optional
Description: block backup appliance for virtual machines
 Serves the disks of KVM machines over NBD, takes recovery points in milliseconds,
 moves what changed into a deduplicated, encrypted vault, and shows the files
 inside any recovery point.
"
    )
}

/// The libraries the programs are linked to, by the packages that hold them.
fn needs(folder: &Path) -> Result<String> {
    // dpkg-shlibdeps wants to be called from a source package
    let source = folder.join("source");
    fs::create_dir_all(source.join("debian"))?;
    write(&source.join("debian/control"), "Source: blockd\n\nPackage: blockd\nArchitecture: any\n", 0o644)?;
    let programs: Vec<PathBuf> = PROGRAMS.iter().map(|name| built(name)).collect::<Result<_>>()?;
    let mut find = program("dpkg-shlibdeps", ["-O"]);
    let found = output(find.args(programs).current_dir(&source))?;
    match found.trim().strip_prefix("shlibs:Depends=") {
        Some(needs) => Ok(needs.to_owned()),
        None => bail!("dpkg-shlibdeps says {found:?}"),
    }
}

fn size_kib(tree: &Path) -> Result<u64> {
    let said = output(&mut program(
        "du",
        ["--summarize", "--apparent-size", "--block-size=1024"]
            .iter()
            .map(AsRef::as_ref)
            .chain([tree.as_os_str()]),
    ))?;
    said.split_whitespace().next().and_then(|count| count.parse().ok()).context("what du says")
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("write {}", path.display()))
}
