//! LVM2: labels and metadata on physical volumes, and the logical volumes they describe. Written from the manual pages
//! `lvmsystemid(7)` and `vgcfgbackup(8)` and from what the tools write.

mod group;
mod label;
mod text;

pub(super) use group::{Group, InPool, PoolOf};
pub(super) use label::read;
