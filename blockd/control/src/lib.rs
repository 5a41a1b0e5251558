//! What the daemon and its clients say to each other: the objects of the HTTP API, their stable field names, and a
//! blocking client over the daemon's unix socket.
//!
//! The paths are listed in `docs/api.md`. Bytes are integers, times are RFC 3339 in UTC. This crate knows nothing of
//! disks or vaults; it is the vocabulary of requests, not of storage.
//!
//! ```
//! let body = r#"{"kind":"not-found","message":"disk web-root: does not exist","help":"blockctl disk list"}"#;
//! let error: control::ErrorBody = serde_json::from_str(body)?;
//! assert_eq!(error.kind.exit_code(), 3);
//! # Ok::<(), serde_json::Error>(())
//! ```

mod access;
mod approvals;
mod archive;
mod audit;
mod client;
mod endpoint;
mod error;
mod events;
mod kind;
mod machines;
mod objects;
mod policies;
mod rehearsals;
mod requests;
mod runs;
mod state_dir;
mod vaults;

pub use access::{CreateToken, Role, Token, TokenCreated};
pub use approvals::{ApplianceTime, Approval, ApprovalState, ClockJump, Verdict, signed_text};
pub use archive::{ArchiveCost, ArchivePoint, PointCost, RehydratePoint};
pub use audit::{AuditEntry, AuditOutcome, AuditQuery, AuditVerified, AuditVerifyQuery};
pub use client::Client;
pub use error::{Error, ErrorBody, with_causes};
pub use events::{Event, EventKind};
pub use kind::Kind;
pub use machines::{
    AttachDisk, Definition, DiskAttached, Machine, MachineDisk, MachineNetwork, MachineReplaced, Machines,
    MachinesQuery, MigrateIn, MigrateOut, ProtectMachine, ReplaceMachine, RestoreMachine,
};
pub use objects::{
    Base, Change, ChangeKind, Changes, Consistency, Consolidation, Daemon, Disk, DiskAudit, DiskClient,
    DiskScrub, DiskState, Export, ExportCommand, Hurt, Job, JobState, LastCheck, Point, PointDeleted, Points,
    Problem, Shed, Space, SpaceState, Status, SweepRun, Tier, TransferKind, Vault, VaultCheck, VaultSweep,
    VaultUsage,
};
pub use policies::{
    Group, GroupMembers, HoldPoint, Item, KeptBy, PlannedPoint, Policy, PolicyPlan, PolicyText, Protect,
    UnprotectQuery,
};
pub use rehearsals::{CheckedVolume, Probe, Rehearsal, RehearseRequest};
pub use requests::{
    BackupRequest, ChangesQuery, CreateDisk, CreateVault, DeleteDiskQuery, DeletePointQuery, NewBase,
    OpenVault, PageQuery, PointsQuery, RecoverQuery, RenameDisk, ResizeDisk, ScrubVault, ShareDisk,
    SnapshotRequest, WaitQuery,
};
pub use runs::{CacheUse, Preflight, RestoreRequest, Restored, Run, RunRequest, RunState};
pub use state_dir::default_state_dir;
pub use vaults::{
    AddKey, Immutability, KeyAdded, RepairVault, VaultCopy, VaultKeySlot, VaultProtection, VaultRepair,
    VaultWriter,
};
