//! Every limit of the protocol code, by name and with its reason.

use std::time::Duration;

/// Option data accepted before an export is chosen. The largest sensible option is a list of metadata queries. With
/// the buffers of TLS a client that nobody knows takes less than 64 KiB.
pub const MAX_OPTION_LEN: u32 = 32 << 10;

/// Bytes of TLS accepted before a client's certificate is believed. A greeting and a chain of certificates take some five
/// thousand; rustls alone would keep twice as many as this for who sends a greeting without an end.
pub const MAX_TLS_HANDSHAKE: usize = 32 << 10;

/// Bytes in a name or any other text of the protocol (the protocol's own limit).
pub const MAX_TEXT_LEN: usize = 4096;

/// Options a client may send. Those who list exports ask a few times about each, and a disk may have hundreds of recovery
/// points. None of them leaves anything in memory, and the time of a handshake is limited as well.
pub const MAX_OPTIONS: u32 = 1 << 12;

/// The largest payload advertised: what the protocol says everyone accepts.
pub const MAX_PAYLOAD_ADVERTISED: u32 = 32 << 20;

/// The largest payload accepted: known clients exceed the advertised one by less than this.
pub const MAX_PAYLOAD: u32 = 64 << 20;

/// The smallest request anyone may make, in bytes. The kernel's client ignores anything larger.
pub const MIN_BLOCK: u32 = 1;

/// The block size at which requests cost least, in bytes: the unit of copy-on-write.
pub const PREFERRED_BLOCK: u32 = 4096;

/// Descriptors in one block status reply. Half a megabyte of reply; the client asks again from where it ends. The
/// protocol allows 2^20.
pub const MAX_STATUS_EXTENTS: u32 = 1 << 16;

/// Metadata contexts selected on one connection. Each may hold a map in memory; clients select one or two.
pub const MAX_CONTEXTS: usize = 16;

/// Data in one chunk of a structured read reply that may be split: big enough that chunk headers cost nothing, small
/// enough to be sent while it is still in the processor's cache.
pub const READ_CHUNK: u64 = 512 << 10;

/// Replies are sent once so many bytes of them are ready, even if more requests wait.
pub const SEND_AT: u64 = 256 << 10;

/// Replies are sent once so many are ready, so that the first one does not wait for too many others.
pub const SEND_AT_REPLIES: usize = 64;

/// Pieces of reads of so many bytes are sent by the kernel from its cache. Below, copying costs the server more and the
/// client less: what was just copied is in the processor's cache when the client takes it.
pub const SPLICE_FROM: u64 = READ_CHUNK;

/// Reads of so many bytes that lie in several files are sent by the kernel, piece after piece: a call for each piece costs
/// less than a call and a copy.
pub const JOIN_FROM: u64 = 32 << 10;

/// Reads of a connection under way to the host's disk at a time. More than any client has in flight there.
pub const MAX_FETCHES: usize = 128;

/// Bytes of a connection's reads under way to the host's disk, before the next one is looked at.
pub const MAX_FETCH_BYTES: u64 = 8 << 20;

/// Bytes of a connection's requests that wait for what is far away, before the next request is looked at: as much as one of
/// them may ask for. Clients have less in flight.
pub const MAX_FAR_BYTES: u64 = MAX_PAYLOAD as u64;

/// Threads of a connection that read what is far away. They wait for a store more than they work; one of a vault on this host
/// keeps two or three cores busy.
pub const FAR_READERS: usize = 8;

/// Fetched reads answered at a time. The host's disk finishes many at once; a client that has the first few asks for the next
/// ones while the others are still copied, and the disk does not run dry.
pub const FETCHED_AT_A_TIME: usize = 4;

/// Where a connection's input buffer starts: most handshakes need no more.
pub const HANDSHAKE_BUFFER: usize = 4 << 10;

/// A connection's input buffer in the data phase. It never grows: longer writes are placed in pieces. Two writes of
/// 128 KiB, the most that kernels ask for at a time, fit with their headers: else the second is moved each time.
pub const INPUT_BUFFER: usize = (256 << 10) + HANDSHAKE_BUFFER;

/// The input a write longer than the buffer waits for before its next piece is placed.
pub const WRITE_PIECE: u64 = 128 << 10;

/// Replies larger than this give their memory back as soon as the connection has nothing to do.
pub const IDLE_BUFFER: usize = 1 << 20;

/// Asked of the kernel for the buffers of a socket.
pub const SOCKET_BUFFER: usize = 1 << 20;

/// Names whose counters are remembered without a connection, so that ever new names do not fill memory.
pub const MAX_REMEMBERED: usize = 1024;

/// What a server allows its clients. The defaults suit a host with some hundred machines.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; more are closed at once. A connection costs a thread and about half a megabyte.
    pub connections: usize,
    /// Connections at a time that have not chosen an export yet. One more ends the oldest of them.
    pub handshakes: usize,
    /// How long a client may take to choose an export.
    pub handshake_time: Duration,
    /// How long a stopping server waits for connections to finish before it cuts them.
    pub stop_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            handshakes: 128,
            handshake_time: Duration::from_secs(10),
            stop_time: Duration::from_secs(5),
        }
    }
}
