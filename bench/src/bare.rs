//! A server with nothing but the protocol's bare bytes: no checks, no map, no counters, one thread a connection, one
//! answer for all requests of a receive. Without a file it has no data path either: what it reaches is what the client
//! allows. With one it reads and writes that, once a request: what the host's file system allows as well. Neither is for
//! anything but to stand beside servers in a benchmark.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use block::{ByteCount, MemoryDisk};
use nbd::handshake::{Handshake, Step, Tls};
use nbd::wire::{
    CMD_DISC, CMD_READ, CMD_WRITE, ChunkHeader, Errno, REPLY_FLAG_DONE, REPLY_OFFSET_DATA, ReplyStyle,
    Request, SimpleReply,
};
use nbd::{Access, Export, ExportInfo, Exports, Peer};
use rustix::net::sockopt;

/// Asked of the kernel for the buffers of a socket, as blockd does.
const SOCKET_BUFFER: usize = 1 << 20;
/// An answer is sent once it has so many bytes.
const SEND_AT: usize = 256 << 10;
/// Or so many replies.
const SEND_AT_REPLIES: usize = 64;
/// The largest request there is in a workload, and room for others behind it.
const INPUT: usize = 2 << 20;

/// Options of the server.
#[derive(clap::Args)]
pub struct Options {
    /// Where to listen
    #[arg(long)]
    socket: PathBuf,
    /// Bytes of the export
    #[arg(long)]
    size: u64,
    /// The file to read and write
    #[arg(long)]
    file: Option<PathBuf>,
}

/// Serves until it is ended.
///
/// # Errors
/// The host refuses the socket or the file.
pub fn run(options: &Options) -> Result<()> {
    let open = |path: &PathBuf| File::options().read(true).write(true).open(path);
    let file = options.file.as_ref().map(open).transpose()?.map(Arc::new);
    let listener = UnixListener::bind(&options.socket)?;
    for stream in listener.incoming() {
        let (stream, size, file) = (stream?, options.size, file.clone());
        std::thread::spawn(move || {
            let served = serve(stream, size, file.as_deref());
            // whoever only looks whether it listens does not wait for the greeting
            let failed = served.err().filter(|error| !is_hangup(error));
            if let Some(error) = failed {
                eprintln!("a connection of the bare server: {error:#}");
            }
        });
    }
    Ok(())
}

fn is_hangup(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    matches!(kind, Some(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset))
}

struct One(u64);

impl Exports for One {
    fn list(&self, _peer: &Peer) -> Vec<ExportInfo> {
        Vec::new()
    }

    fn open(&self, _name: &str, _peer: &Peer) -> Result<Export, block::Error> {
        Ok(Export::new(Access::ReadWrite(Arc::new(MemoryDisk::new(ByteCount::new(self.0)))), ""))
    }
}

fn serve(mut stream: UnixStream, size: u64, file: Option<&File>) -> Result<()> {
    sockopt::set_socket_send_buffer_size_force(&stream, SOCKET_BUFFER)?;
    sockopt::set_socket_recv_buffer_size_force(&stream, SOCKET_BUFFER)?;
    let Some(style) = negotiate(&mut stream, size)? else { return Ok(()) };
    let (mut input, mut start, mut end) = (vec![0; INPUT], 0, 0);
    let mut out = vec![0; SEND_AT + INPUT];
    loop {
        let answered = answer(style, &input[start..end], &mut out, file)?;
        stream.write_all(&out[..answered.out])?;
        start += answered.input;
        if answered.is_over {
            return Ok(());
        }
        if answered.is_full {
            continue;
        }
        if answered.replies > 1 {
            std::thread::yield_now();
        }
        input.copy_within(start..end, 0);
        (start, end) = (0, end - start);
        match stream.read(&mut input[end..]) {
            Ok(0) => return Ok(()),
            Ok(count) => end += count,
            Err(error) => return Err(error.into()),
        }
    }
}

/// The handshake; `None` if the client only looked.
fn negotiate(stream: &mut UnixStream, size: u64) -> Result<Option<ReplyStyle>> {
    let (exports, peer) = (One(size), Peer::Unix { uid: 0, gid: 0, pid: 0 });
    let mut handshake = Handshake::new(&exports, &peer, Tls::Unsupported);
    let (mut input, mut out) = (Vec::new(), Handshake::greeting().to_vec());
    loop {
        let (used, step) = handshake.advance(&input, &mut out);
        input.drain(..used);
        stream.write_all(&out)?;
        out.clear();
        match step {
            Step::Input(_) => {
                let mut bytes = [0; 4096];
                match stream.read(&mut bytes)? {
                    0 => return Ok(None),
                    count => input.extend_from_slice(&bytes[..count]),
                }
            }
            Step::Transmission(negotiated) if negotiated.style == ReplyStyle::Extended => {
                bail!("extended headers, which the bare server does not speak")
            }
            Step::Transmission(negotiated) => return Ok(Some(negotiated.style)),
            Step::StartTls | Step::Close(_) => return Ok(None),
        }
    }
}

/// What became of a look at the input.
#[derive(Default)]
struct Answered {
    input: usize,
    out: usize,
    replies: usize,
    is_full: bool,
    is_over: bool,
}

fn answer(style: ReplyStyle, input: &[u8], out: &mut [u8], file: Option<&File>) -> Result<Answered> {
    let mut done = Answered::default();
    while let Some(header) = input[done.input..].first_chunk() {
        let request = Request::decode(header).context("out of step")?;
        let (offset, length, cookie) = (request.offset, request.length as usize, request.cookie);
        let body = done.input + Request::LEN;
        let payload = if request.command == CMD_WRITE { length } else { 0 };
        let Some(payload) = input.get(body..body + payload) else { break };
        done.input = body + payload.len();
        if request.command == CMD_DISC {
            done.is_over = true;
            break;
        }
        if let (Some(file), CMD_WRITE) = (file, request.command) {
            file.write_all_at(payload, offset)?;
        }
        if request.command == CMD_READ {
            if style == ReplyStyle::Structured {
                let (flags, kind, length) = (REPLY_FLAG_DONE, REPLY_OFFSET_DATA, request.length as u32 + 8);
                put(out, &mut done.out, &ChunkHeader { flags, kind, cookie, length }.encode());
                put(out, &mut done.out, &offset.to_be_bytes());
            } else {
                put(out, &mut done.out, &SimpleReply { errno: Errno::NONE, cookie }.encode());
            }
            if let Some(file) = file {
                file.read_exact_at(&mut out[done.out..][..length], offset)?;
            }
            done.out += length;
        } else {
            put(out, &mut done.out, &SimpleReply { errno: Errno::NONE, cookie }.encode());
        }
        done.replies += 1;
        done.is_full = done.out >= SEND_AT || done.replies >= SEND_AT_REPLIES;
        if done.is_full {
            break;
        }
    }
    Ok(done)
}

fn put(out: &mut [u8], at: &mut usize, bytes: &[u8]) {
    out[*at..*at + bytes.len()].copy_from_slice(bytes);
    *at += bytes.len();
}
