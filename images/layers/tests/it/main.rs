//! The instant tier against its model, on simulated and real machines.

#[path = "../common/mod.rs"]
mod common;

mod damage;
mod faults;
mod histories;
mod lifecycle;
mod real;
