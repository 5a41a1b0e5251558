//! The simulation does to its users what real machines do, and the suites hold for every implementation at hand.

#![cfg(not(blockd_shuttle))]

mod blobs;
mod crash;
mod faults;
mod model;
mod power;
mod suites;
mod suites_bite;
mod toy;
