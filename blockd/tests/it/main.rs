//! The real daemon, started as a process on temporary state and judged through its own doors.

#![expect(clippy::disallowed_methods, reason = "tests take files away that the daemon owns")]

mod access;
mod archive;
mod attached;
mod bad_input;
mod certificates;
mod clients;
mod consistency;
mod debian;
mod events;
mod fixture;
mod guards;
mod guest;
mod integrity;
mod interop;
mod kill;
mod libvirt;
mod lifecycle;
mod machines;
mod memory;
mod policies;
mod rehearsal;
mod replacing;
mod restart;
mod restoring;
mod runs;
mod shape;
mod space;
mod stages;
mod stores;
mod transfers;
mod trim;
mod vaults;
mod virtual_machines;
mod whole_machine;
mod worked_example;
