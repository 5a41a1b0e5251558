//! Virtual machines as libvirt and qemu have them: definitions, disks, and what a running machine can be asked.
//!
//! Nothing here knows what a disk of ours is made of. `docs/` says how libvirt is reached and why.
//!
//! ```
//! let xml = "<domain type='kvm'><name>web</name><devices><disk type='file' device='disk'>\
//!     <source file='/srv/web.qcow2'/><target dev='vda' bus='virtio'/></disk></devices></domain>";
//! let domain = machines::Domain::parse(xml)?;
//! assert_eq!((domain.name.as_str(), domain.disks[0].target.as_str()), ("web", "vda"));
//! # Ok::<(), machines::Error>(())
//! ```

pub mod agent;
mod bundle;
pub mod command;
mod domain;
mod error;
mod lines;
mod mirror;
mod pull;
pub mod qmp;
pub mod report;
mod uri;
mod virsh;

pub use bundle::{BUNDLE_LIMIT_BYTES, Piece, pack, unpack};
pub use domain::{
    Choice, Domain, DomainDisk, Medium, RECONNECT_SECONDS, Reach, Renewal, ServedDisk, Source, Told, choose,
    free_target, renew, with_disk,
};
pub use error::{Error, Result};
pub use mirror::{Mirror, with_file};
pub use pull::{Pull, PullDisk};
pub use uri::Uri;
pub use virsh::{Listed, Virsh};
