//! Tests of the vault through its public interface.

mod beside;
mod damage;
mod directory;
mod history;
mod image;
mod planted;
mod power;
mod scale;
mod worked_example;
mod world;
