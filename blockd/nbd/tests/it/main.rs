//! Everything that needs a server and a client. Tools of others judge our server; a missing one is a failure.

mod bad_requests;
mod certificates;
mod conformance;
mod far;
mod fetches;
mod fuzzing;
mod hostile_servers;
mod lifecycle;
mod limits;
mod must_handshake;
mod must_tls;
mod must_transmission;
mod musts;
mod old_client;
mod raw;
mod scattered;
mod stage;
mod strangers;
mod transmission;
