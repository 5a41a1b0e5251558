//! The simulation does to its users what real machines do, and the suites hold for every implementation at hand.

#[cfg(not(blockd_shuttle))]
mod blobs;
#[cfg(not(blockd_shuttle))]
mod crash;
#[cfg(not(blockd_shuttle))]
mod faults;
#[cfg(blockd_shuttle)]
mod interleavings;
#[cfg(not(blockd_shuttle))]
mod model;
#[cfg(not(blockd_shuttle))]
mod power;
#[cfg(not(blockd_shuttle))]
mod suites;
#[cfg(not(blockd_shuttle))]
mod suites_bite;
#[cfg(not(blockd_shuttle))]
mod toy;
