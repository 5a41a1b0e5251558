//! Backups that libvirt lets others pull: qemu serves the disks as they were at one instant, and says which parts changed since a
//! checkpoint. `docs/libvirt.md`.

use crate::domain::edit::escape;
use crate::error::{Error, Result};
use crate::virsh::Virsh;
use block::Kind;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A pull that is to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// Where qemu is to serve the disks, by their targets. Its user must be able to make files in that directory.
    pub socket: PathBuf,
    /// The disks.
    pub disks: Vec<PullDisk>,
    /// The checkpoint that begins at this instant; none if no disk can keep one.
    pub checkpoint: Option<String>,
}

/// A disk of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullDisk {
    /// What it is called in the machine.
    pub target: String,
    /// Whether its image can keep a checkpoint: one in qcow2 can.
    pub keeps: bool,
    /// The checkpoint since which changes are asked for.
    pub since: Option<String>,
}

impl Pull {
    /// The context in which an export says what changed since the checkpoint.
    pub fn changes(target: &str) -> String {
        format!("qemu:dirty-bitmap:backup-{target}")
    }

    /// Where what the guest overwrites meanwhile is kept.
    fn scratch(&self, target: &str) -> PathBuf {
        self.socket.with_file_name(format!("{target}.scratch"))
    }

    fn backup_xml(&self) -> String {
        let mut disks = String::new();
        for disk in &self.disks {
            let since = disk.since.as_ref().map_or_else(String::new, |since| {
                format!(" backupmode='incremental' incremental='{}'", escape(since))
            });
            let (target, scratch) = (escape(&disk.target), shown(&self.scratch(&disk.target)));
            // a string takes whatever is written
            write!(
                disks,
                "<disk name='{target}' backup='yes' type='file'{since}><scratch file='{scratch}'/></disk>"
            )
            .unwrap_or_default();
        }
        let socket = shown(&self.socket);
        format!(
            "<domainbackup mode='pull'><server transport='unix' socket='{socket}'/><disks>{disks}</disks></domainbackup>"
        )
    }

    fn checkpoint_xml(&self, name: &str) -> String {
        let mut disks = String::new();
        for disk in &self.disks {
            let keeps = if disk.keeps { "bitmap" } else { "no" };
            write!(disks, "<disk name='{}' checkpoint='{keeps}'/>", escape(&disk.target)).unwrap_or_default();
        }
        let name = escape(name);
        format!("<domaincheckpoint><name>{name}</name><disks>{disks}</disks></domaincheckpoint>")
    }
}

impl Virsh {
    /// Whether a pull is under way whose socket lies in a directory of this name's beginning: one that was left.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn has_left_pull(&self, domain: &str, begin: &str) -> Result<bool> {
        match self.ask(&["backup-dumpxml", "--domain", domain], b"") {
            Ok(xml) => Ok(xml.contains(begin)),
            Err(Error::Said { said, .. }) if said.contains("no domain backup job") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Begins a pull. The instant is when this returns, or a little before.
    ///
    /// # Errors
    /// What libvirt says, as when a checkpoint or its bitmap is gone.
    pub fn begin_pull(&self, domain: &str, pull: &Pull) -> Result<()> {
        let mut words = vec!["backup-begin".to_owned(), domain.to_owned(), "/dev/stdin".to_owned()];
        if let Some(name) = &pull.checkpoint {
            let path = pull.socket.with_file_name("checkpoint.xml");
            std::fs::write(&path, pull.checkpoint_xml(name))
                .map_err(|source| Error::Host { program: path.display().to_string(), source })?;
            words.push(path.display().to_string());
        }
        self.ask(&words, pull.backup_xml().as_bytes()).map(drop)
    }

    /// Ends a pull. One that is none any more has ended.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn end_pull(&self, domain: &str) -> Result<()> {
        match self.ask(&["domjobabort", "--domain", domain], b"") {
            Err(Error::Said { said, .. })
                if said.contains("no job is active") || said.contains("not running") =>
            {
                Ok(())
            }
            ended => ended.map(drop),
        }
    }

    /// The checkpoints of a machine, whoever made them.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn checkpoints(&self, domain: &str) -> Result<Vec<String>> {
        let text = self.ask(&["checkpoint-list", "--name", "--domain", domain], b"")?;
        Ok(text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    /// Deletes a checkpoint with its bitmaps; where those cannot be, what libvirt knows of it.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn delete_checkpoint(&self, domain: &str, name: &str) -> Result<()> {
        let words = ["checkpoint-delete", "--domain", domain, "--checkpointname", name];
        match self.ask(&words, b"") {
            // a bitmap that a crash of qemu made useless, or of a machine that is shut off
            Err(Error::Said { kind, .. }) if kind != Kind::Unavailable && kind != Kind::NotFound => {
                let words = [&words[..], &["--metadata"]].concat();
                self.ask(&words, b"").map(drop)
            }
            deleted => deleted.map(drop),
        }
    }
}

fn shown(path: &Path) -> String {
    escape(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use roxmltree::Document;

    #[test]
    fn what_libvirt_is_told_is_well_formed_whatever_the_names() {
        let disk = |target: &str, since: Option<&str>| PullDisk {
            target: target.to_owned(),
            keeps: since.is_some(),
            since: since.map(str::to_owned),
        };
        let pull = Pull {
            socket: "/tmp/a'b/<pull>".into(),
            disks: vec![disk("vda", Some("blockd-1")), disk("v\"d&b", None)],
            checkpoint: Some("blockd-2".to_owned()),
        };
        let text = pull.backup_xml();
        let document = Document::parse(&text).expect("XML");
        let disks: Vec<_> = document.descendants().filter(|node| node.has_tag_name("disk")).collect();
        assert_eq!(disks[0].attribute("incremental"), Some("blockd-1"));
        assert_eq!((disks[1].attribute("name"), disks[1].attribute("incremental")), (Some("v\"d&b"), None));
        let server = document.descendants().find(|node| node.has_tag_name("server")).expect("a server");
        assert_eq!(server.attribute("socket"), Some("/tmp/a'b/<pull>"));
        let text = pull.checkpoint_xml("blockd-2");
        let document = Document::parse(&text).expect("XML");
        let kept: Vec<_> = document.descendants().filter_map(|node| node.attribute("checkpoint")).collect();
        assert_eq!(kept, ["bitmap", "no"]);
    }
}
