//! Enters the parser's sandbox and then tries to get out of it, one way at a time: `blockd-mount-redteam WALLS
//! ATTEMPT`. WALLS is
//! `all`, `landlock` for that one alone, or `none`, under which every attempt has to succeed. Says `done` on its standard input (the pipe) if the attempt succeeded,
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
const ATTEMPTS: [Attempt; 21] = [
    ("nothing", || true),
    ("read a file", || File::open("/etc/passwd").is_ok()),
    ("write a file", || File::create("/tmp/redteam").is_ok()),
    ("list a directory", || read_dir("/").is_ok()),
    ("look at itself", || File::open("/proc/self/mem").is_ok()),
    // that nobody listens there is an answer too
    ("connect", || match TcpStream::connect("127.0.0.1:1") {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
    }),
    ("listen", || TcpListener::bind("127.0.0.1:0").is_ok()),
    ("send a datagram", || UdpSocket::bind("127.0.0.1:0").is_ok()),
    ("make a pipe", || UnixStream::pair().is_ok()),
    ("run a program", || Command::new("/bin/true").status().is_ok()),
    ("start a thread", || std::thread::Builder::new().spawn(|| {}).is_ok()),
    ("signal its parent", || rustix::process::test_kill_process(parent()).is_ok()),
    ("write to another descriptor", || rustix::io::write(std::io::stdout().as_fd(), b"x").is_ok()),
    ("make a file in memory", || rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).is_ok()),
    ("run bytes as code", || mapped(libc::PROT_READ | libc::PROT_EXEC)),
    ("read its parent's memory", || {
        let parent = rustix::process::Pid::as_raw(Some(parent()));
        call(libc::SYS_pidfd_open, parent as usize, 0) && call(libc::SYS_process_vm_readv, parent as usize, 0)
    }),
    ("make a ring", || {
        // io_uring_params is 120 bytes
        let mut parameters = [0_u64; 15];
        call(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr() as usize)
    }),
    ("make a namespace", || call(libc::SYS_unshare, libc::CLONE_NEWUTS as usize, 0)),
    ("become another user", || call(libc::SYS_setuid, 65_534, 0)),
    ("change its personality", || call(libc::SYS_personality, 0, 0)),
    ("take all memory", || {
        let mut hoard = Vec::new();
        let mut room = Vec::<u8>::new();
        while hoard.len() < 1024 && room.try_reserve_exact(1 << 20).is_ok() {
            hoard.push(std::mem::take(&mut room));
        }
        hoard.len() == 1024
    }),
];

/// Whether the kernel takes a call.
fn call(number: libc::c_long, first: usize, second: usize) -> bool {
    // SAFETY: the calls above read no memory but the parameters of the ring, which are there and as long as they
    // must be; the others take numbers only, and a count of nothing.
    unsafe { libc::syscall(number, first, second, 0, 0, 0, 0) >= 0 }
}

/// Whether memory can be had that allows this.
fn mapped(allows: libc::c_int) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: fresh memory at an address of the kernel's choice, which nobody uses.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), 4096, allows, flags, -1, 0) };
    memory != libc::MAP_FAILED
}

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
        "none" => Ok(()),
        _ => sandbox::enter(),
    };
    let said = match (entered, ATTEMPTS.iter().find(|(name, _)| name == attempt)) {
        (Ok(()), Some((_, attempt))) if attempt() => "done",
        (Ok(()), Some(_)) => "denied",
        _ => "not entered",
    };
    let _told = rustix::io::write(std::io::stdin().as_fd(), said.as_bytes());
}
