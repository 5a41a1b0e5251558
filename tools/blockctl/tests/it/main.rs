//! `blockctl` as people and scripts meet it: the real program, against the real daemon.

mod cli;
mod demo;
mod fixture;
