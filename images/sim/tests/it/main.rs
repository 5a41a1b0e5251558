//! The simulation does to its users what real machines do, and the suites hold for every implementation at hand.

#![cfg(not(blockd_shuttle))]

mod crash;
mod faults;
mod power;
mod suites;
