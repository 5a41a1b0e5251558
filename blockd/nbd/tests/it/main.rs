//! Everything that needs a server and a client. Tools of others judge our server; a missing one is a failure.

mod bad_requests;
mod conformance;
mod fuzzing;
mod hostile_servers;
mod lifecycle;
mod old_client;
mod raw;
mod stage;
mod strangers;
mod transmission;
