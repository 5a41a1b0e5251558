//! Tests of the vault through its public interface.

mod history;
mod worked_example;
mod world;
