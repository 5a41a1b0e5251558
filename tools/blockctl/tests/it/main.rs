//! `blockctl` as people and scripts meet it: the real program, against the real daemon.

#![expect(clippy::disallowed_methods, reason = "tests move files away that a disk stands on")]

mod access;
mod bases;
mod cli;
mod damage;
mod demo;
mod files;
mod fixture;
mod history;
mod hooks;
mod images;
mod policies;
mod rescue;
mod runs;
