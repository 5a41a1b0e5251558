//! `blockctl` as people and scripts meet it: the real program, against the real daemon.

mod cli;
mod damage;
mod demo;
mod fixture;
mod images;
