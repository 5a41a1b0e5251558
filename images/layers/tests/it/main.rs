//! The instant tier against its model, on simulated and real machines.

#[path = "../common/mod.rs"]
mod common;

mod base;
mod consolidation;
mod cost;
mod cuts;
mod damage;
mod faults;
mod group;
mod histories;
mod hydrate;
mod integrity;
mod lifecycle;
mod real;
mod reference;
mod resize;
