//! What a connection is carried by: the socket itself, or TLS over it.

use super::tls::Secured;
use crate::joint::Joint;
use crate::outbox::{Outbox, Splice};
use crate::socket::{Socket, SpliceEnd};
use crate::transmission::Transmission;
use block::Stored;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

pub(super) enum Transport {
    /// With what joins the pieces of a reply, once there was one that has several.
    Plain(Arc<Socket>, Option<Joint>),
    Tls(Arc<Socket>, Box<Secured>),
}

impl Transport {
    /// Receives what is there, at least one byte unless the other end closed (then none).
    pub(super) fn receive(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket, _) => socket.receive(buf),
            Self::Tls(socket, tls) => tls.receive(socket, buf),
        }
    }

    /// Whether bytes are there that polling the socket does not show.
    fn has_received(&self) -> bool {
        match self {
            Self::Plain(..) => false,
            Self::Tls(_, tls) => tls.has_received(),
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket, _) => socket.send(bytes),
            Self::Tls(socket, tls) => tls.send(socket, bytes),
        }
    }

    /// Sends all replies.
    pub(super) fn send_all(&mut self, out: &mut Outbox, transmission: &Transmission) -> io::Result<()> {
        let splices = out.take_splices();
        match self {
            Self::Plain(socket, joint) if !splices.is_empty() => {
                let rest = send_spliced(socket, joint, out, splices, transmission)?;
                socket.send(&rest)
            }
            _ => self.send(out.filled()),
        }
    }

    /// Waits until there is something to receive or one of `others` is readable; says whether it is the former.
    pub(super) fn wait(&self, others: [Option<BorrowedFd<'_>>; 2]) -> io::Result<bool> {
        if self.has_received() {
            return Ok(true);
        }
        let (Self::Plain(socket, _) | Self::Tls(socket, _)) = self;
        let socket = socket.as_fd();
        // an event of the socket that nobody asks for stands in for what is not there
        let of = |other: &'_ Option<BorrowedFd<'_>>| {
            if other.is_some() { PollFlags::IN } else { PollFlags::empty() }
        };
        let [ring, readers] = &others;
        let mut fds = [
            PollFd::new(&socket, PollFlags::IN),
            PollFd::new(ring.as_ref().unwrap_or(&socket), of(ring)),
            PollFd::new(readers.as_ref().unwrap_or(&socket), of(readers)),
        ];
        loop {
            match poll(&mut fds, None) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) => return Ok(!fds[0].revents().is_empty()),
            }
        }
    }

    /// Says good-bye, as TLS wants it before the socket closes.
    pub(super) fn close(&mut self) {
        if let Self::Tls(socket, tls) = self {
            tls.close(socket);
        }
    }
}

/// Sends replies and the parts of files between them as far as the socket takes them without waiting, and returns the
/// rest: a client that does not read must not keep hold of places that others want to give back.
fn send_spliced(
    socket: &Socket,
    joint: &mut Option<Joint>,
    out: &Outbox,
    splices: Vec<Splice>,
    transmission: &Transmission,
) -> io::Result<Vec<u8>> {
    let (mut rest, mut from) = (Vec::new(), 0);
    socket.set_waiting(false)?;
    for splice in splices {
        send_now(socket, &out.filled()[from..splice.at], &mut rest)?;
        from = splice.at;
        send_pieces(socket, joint, splice, transmission, &mut rest)?;
    }
    send_now(socket, &out.filled()[from..], &mut rest)?;
    socket.set_waiting(true)?;
    Ok(rest)
}

/// Sends what can be sent now; what cannot, or comes after such, is left in `rest`.
fn send_now(socket: &Socket, bytes: &[u8], rest: &mut Vec<u8>) -> io::Result<()> {
    let sent = if rest.is_empty() { socket.send_now(bytes)? } else { 0 };
    rest.extend_from_slice(&bytes[sent..]);
    Ok(())
}

/// The same for bytes of files. If a file fails, what is missing is made up with zeros and followed by an error; where
/// replies have no room for one, the connection ends.
fn send_pieces(
    socket: &Socket,
    joint: &mut Option<Joint>,
    splice: Splice,
    transmission: &Transmission,
    rest: &mut Vec<u8>,
) -> io::Result<()> {
    let Splice { request, pieces, .. } = splice;
    let end = match &pieces[..] {
        _ if !rest.is_empty() => SpliceEnd::Waits { missing: total(&pieces) },
        [piece] => socket.splice_now(piece)?,
        pieces => send_joined(socket, joint, pieces)?,
    };
    let (missing, failed) = match end {
        SpliceEnd::Whole => return Ok(()),
        SpliceEnd::Waits { missing } => (missing, None),
        SpliceEnd::Failed { missing, error } => (missing, Some(error)),
    };
    let begin = rest.len();
    rest.resize(begin + missing as usize, 0);
    let failed = failed.or_else(|| read_end(&pieces, &mut rest[begin..]).err());
    let Some(error) = failed else { return Ok(()) };
    rest[begin..].fill(0);
    let Some(excuse) = transmission.spliced_badly(&request, error) else {
        return Err(io::Error::other("a read failed after its reply had begun"));
    };
    rest.extend_from_slice(excuse.filled());
    Ok(())
}

fn total(pieces: &[Stored]) -> u64 {
    pieces.iter().map(|piece| piece.count).sum()
}

/// Sends what the socket takes of several pieces; nothing of them where the host has no pipe to give.
fn send_joined(socket: &Socket, joint: &mut Option<Joint>, pieces: &[Stored]) -> io::Result<SpliceEnd> {
    let made = match joint.take().map_or_else(Joint::make, Ok) {
        Ok(made) => made,
        Err(errno) => {
            tracing::debug!(%errno, "no pipe to join the pieces of a reply");
            return Ok(SpliceEnd::Waits { missing: total(pieces) });
        }
    };
    let end = made.send_now(pieces, socket)?;
    // otherwise it holds what is sent another way
    if matches!(end, SpliceEnd::Whole) {
        *joint = Some(made);
    }
    Ok(end)
}

/// Reads the last bytes of several pieces.
fn read_end(pieces: &[Stored], mut buf: &mut [u8]) -> Result<(), block::Error> {
    for piece in pieces.iter().rev() {
        let count = buf.len().min(piece.count as usize);
        let (before, end) = buf.split_at_mut(buf.len() - count);
        piece.file.read_at(piece.range().end() - count as u64, end)?;
        buf = before;
    }
    Ok(())
}
