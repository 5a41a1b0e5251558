//! Tests of the vault through its public interface.

mod beside;
mod compact;
mod compare;
mod copies;
mod damage;
mod directory;
mod gcs;
mod golden;
mod history;
mod image;
mod keys;
mod object;
mod parity;
mod planted;
mod power;
mod proxy;
mod repair;
mod resume;
mod scale;
mod servers;
mod sharing;
mod sweep;
mod worked_example;
mod world;
mod writers;
