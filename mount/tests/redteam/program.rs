//! Enters the parser's sandbox and then tries to get out of it, one way at a time: `blockd-mount-redteam WALLS
//! ATTEMPT`. WALLS is
//! `all`, or `landlock` for that one alone. Says `done` on its standard input (the pipe) if the attempt succeeded,
//! `denied` if it was refused; a call that is not allowed ends the process before it can say anything. Run by the
//! tests, which fail unless every attempt fails.

use mount::parser::sandbox;
use std::fs::{File, read_dir};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

/// A way out, and whether it led anywhere.
type Attempt = (&'static str, fn() -> bool);

/// Every way out that is tried.
const ATTEMPTS: [Attempt; 14] = [
    ("nothing", || true),
    ("read a file", || File::open("/etc/passwd").is_ok()),
    ("write a file", || File::create("/tmp/redteam").is_ok()),
    ("list a directory", || read_dir("/").is_ok()),
    ("look at itself", || File::open("/proc/self/mem").is_ok()),
    ("connect", || TcpStream::connect("127.0.0.1:80").is_ok()),
    ("listen", || TcpListener::bind("127.0.0.1:0").is_ok()),
    ("send a datagram", || UdpSocket::bind("127.0.0.1:0").is_ok()),
    ("make a pipe", || UnixStream::pair().is_ok()),
    ("run a program", || Command::new("/bin/true").status().is_ok()),
    ("start a thread", || std::thread::Builder::new().spawn(|| {}).is_ok()),
    ("signal its parent", || rustix::process::test_kill_process(parent()).is_ok()),
    ("write to another descriptor", || rustix::io::write(std::io::stdout().as_fd(), b"x").is_ok()),
    ("take all memory", || {
        let mut hoard = Vec::new();
        let mut room = Vec::<u8>::new();
        while hoard.len() < 1024 && room.try_reserve_exact(1 << 20).is_ok() {
            hoard.push(std::mem::take(&mut room));
        }
        hoard.len() == 1024
    }),
];

fn parent() -> rustix::process::Pid {
    rustix::process::getppid().unwrap_or(rustix::process::Pid::INIT)
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, walls, attempt] = arguments.as_slice() else {
        ATTEMPTS.iter().for_each(|(name, _)| println!("{name}"));
        return;
    };
    let entered = match walls.as_str() {
        "landlock" => sandbox::deny_files(),
        _ => sandbox::enter(),
    };
    let said = match (entered, ATTEMPTS.iter().find(|(name, _)| name == attempt)) {
        (Ok(()), Some((_, attempt))) if attempt() => "done",
        (Ok(()), Some(_)) => "denied",
        _ => "not entered",
    };
    let _told = rustix::io::write(std::io::stdin().as_fd(), said.as_bytes());
}
