//! The real daemon, started as a process on temporary state and judged through its own doors.

#![expect(clippy::disallowed_methods, reason = "tests take files away that the daemon owns")]

mod bad_input;
mod fixture;
mod kill;
mod lifecycle;
mod restart;
mod worked_example;
