//! Conversations in JSON, an object a line, over a unix socket: what QMP and guest agents have in common. The other side may be a
//! guest, so lines and waiting are bounded.

use crate::error::{Error, Result};
use block::Clock;
use block::linux::SystemClock;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The longest line that is taken. An answer with all block nodes of a large machine has some hundred kilobytes.
pub const LINE_LIMIT: usize = 4 << 20;

/// Announces an answer that is to be found among rubbish; JSON in UTF-8 never has it.
const DELIMITER: u8 = 0xff;

/// How long to wait before a listener with a full queue is tried again.
const STEP: Duration = Duration::from_millis(20);

/// A moment by which something has to have happened.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    end_ns: u64,
    after: Duration,
}

impl Deadline {
    /// So long from now.
    pub fn after(after: Duration) -> Self {
        let span = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        Self { end_ns: SystemClock.monotonic_ns().saturating_add(span), after }
    }

    /// What is left; none once it is over.
    pub fn left(&self) -> Option<Duration> {
        let left = self.end_ns.saturating_sub(SystemClock.monotonic_ns());
        (left > 0).then(|| Duration::from_nanos(left))
    }

    fn over(&self, what: &str) -> Error {
        Error::TimedOut { program: what.to_owned(), seconds: self.after.as_secs() }
    }
}

/// One conversation.
#[derive(Debug)]
pub struct Lines {
    socket: UnixStream,
    pending: Vec<u8>,
    what: String,
}

impl Lines {
    /// Connects to the socket of `what`, which errors name.
    ///
    /// # Errors
    /// `Unreachable` if nobody listens, `TimedOut` if who does takes no more clients.
    pub fn connect(path: &Path, what: impl Into<String>, deadline: Deadline) -> Result<Self> {
        let what = what.into();
        let unreachable = |error: Errno| Error::Unreachable { what: what.clone(), source: error.into() };
        let address = SocketAddrUnix::new(path).map_err(unreachable)?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(unreachable)?;
        loop {
            match connect(&socket, &address) {
                Ok(()) => break,
                Err(Errno::AGAIN | Errno::INTR) if deadline.left().is_some() => std::thread::sleep(STEP),
                Err(Errno::AGAIN | Errno::INTR) => return Err(deadline.over(&what)),
                Err(error) => return Err(unreachable(error)),
            }
        }
        let socket = UnixStream::from(socket);
        let blocking = socket.set_nonblocking(false);
        blocking.map_err(|source| Error::Unreachable { what: what.clone(), source })?;
        Ok(Self { socket, pending: Vec::new(), what })
    }

    /// Who is at the other end.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Says something.
    ///
    /// # Errors
    /// `TimedOut` if the other side does not take it, `Unreachable` if it is gone.
    pub fn send(&mut self, value: &Value, deadline: Deadline) -> Result<()> {
        self.send_bytes(format!("{value}\n").as_bytes(), deadline)
    }

    /// The same after a byte that makes the other side forget the beginning of a line it may have.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_delimited(&mut self, value: &Value, deadline: Deadline) -> Result<()> {
        let mut bytes = vec![DELIMITER];
        bytes.extend(format!("{value}\n").bytes());
        self.send_bytes(&bytes, deadline)
    }

    fn send_bytes(&mut self, mut bytes: &[u8], deadline: Deadline) -> Result<()> {
        while !bytes.is_empty() {
            let left = deadline.left().ok_or_else(|| deadline.over(&self.what))?;
            let sent = self.socket.set_write_timeout(Some(left)).and_then(|()| self.socket.write(bytes));
            match sent {
                Ok(0) => return Err(self.gone(io::ErrorKind::WriteZero.into())),
                Ok(count) => bytes = &bytes[count..],
                Err(error) => self.unless_again(error)?,
            }
        }
        Ok(())
    }

    /// The next line.
    ///
    /// # Errors
    /// `TimedOut`; `Unreachable` if the other side is gone; `Garbage` if it is no JSON, or longer than [`LINE_LIMIT`].
    pub fn receive(&mut self, deadline: Deadline) -> Result<Value> {
        loop {
            if let Some(value) = take_line(&mut self.pending, &self.what)? {
                return Ok(value);
            }
            let left = deadline.left().ok_or_else(|| deadline.over(&self.what))?;
            let mut bytes = [0; 4096];
            let read = self.socket.set_read_timeout(Some(left)).and_then(|()| self.socket.read(&mut bytes));
            match read {
                Ok(0) => return Err(self.gone(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.pending.extend_from_slice(&bytes[..count]),
                Err(error) => self.unless_again(error)?,
            }
        }
    }

    fn gone(&self, source: io::Error) -> Error {
        Error::Unreachable { what: self.what.clone(), source }
    }

    fn unless_again(&self, error: io::Error) -> Result<()> {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => Ok(()),
            _ => Err(self.gone(error)),
        }
    }
}

/// What the other side says no with.
pub fn refused(program: String, said: String) -> Error {
    Error::Said { program, said, kind: block::Kind::Unsupported }
}

/// Takes the first line out of what has arrived, if there is one. What stands before a delimiter in it is rubbish.
///
/// # Errors
/// `Garbage` if it is no JSON, or too long to be one of ours.
pub fn take_line(pending: &mut Vec<u8>, what: &str) -> Result<Option<Value>> {
    let garbage = |why: String| Error::Garbage { what: what.to_owned(), why };
    loop {
        let Some(end) = pending.iter().position(|byte| *byte == b'\n') else {
            if pending.len() <= LINE_LIMIT {
                return Ok(None);
            }
            // what comes of it yet is rubbish too
            pending.clear();
            return Err(garbage(format!("sent more than {LINE_LIMIT} bytes without an end of line")));
        };
        let line: Vec<u8> = pending.drain(..=end).collect();
        let clean = line.rsplit(|byte| *byte == DELIMITER).next().unwrap_or(&line);
        if clean.trim_ascii().is_empty() {
            continue;
        }
        let parsed = serde_json::from_slice(clean);
        return parsed.map(Some).map_err(|error| garbage(format!("sent a line that is no JSON: {error}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_whole_and_rubbish_before_a_delimiter_dropped() {
        let mut pending = b"\r\n{\"a\":1}\nhalf {\xff{\"b\":2}\n{\"c\"".to_vec();
        let mut next = || take_line(&mut pending, "it").map(|line| line.map(|value| value.to_string()));
        assert_eq!(next().expect("JSON").as_deref(), Some("{\"a\":1}"));
        assert_eq!(next().expect("JSON").as_deref(), Some("{\"b\":2}"));
        assert_eq!(next().expect("not yet"), None);
        assert!(take_line(&mut b"{]\n".to_vec(), "it").is_err());
        let deep = format!("{}\n", "[".repeat(100_000));
        assert!(take_line(&mut deep.into_bytes(), "it").is_err());
        assert!(take_line(&mut vec![b' '; LINE_LIMIT + 1], "it").is_err());
    }
}
