//! A network that fails: forwards connections to a server, and does to them what the test says.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// What happens to what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Weather {
    /// Everything arrives.
    Fair,
    /// Nobody answers.
    Away,
    /// Requests arrive, answers do not, for as many as were asked for; then it is fair.
    AnswersLost,
    /// Connections break after a few bytes of each request.
    Breaking,
    /// The condition of a put does not arrive, so that the server overwrites.
    Unconditional,
}

struct Shared {
    weather: AtomicU8,
    losses: AtomicU64,
    to: u16,
    over: AtomicBool,
}

pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
}

impl Proxy {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("its number").port();
        let shared = Arc::new(Shared {
            weather: AtomicU8::new(Weather::Fair as u8),
            losses: AtomicU64::new(0),
            to: port,
            over: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = accepting.clone();
                std::thread::spawn(move || shared.carry(client));
            }
        });
        Self { shared, port: own }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, weather: Weather) {
        self.shared.weather.store(weather as u8, Ordering::SeqCst);
    }

    /// The next answers get lost.
    pub fn lose_answers(&self, count: u64) {
        self.shared.losses.store(count, Ordering::SeqCst);
        self.set(Weather::AnswersLost);
    }

    /// How many are still to be lost.
    pub fn losses_left(&self) -> u64 {
        self.shared.losses.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // so that the thread that accepts looks
        let _woken = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn is(&self, weather: Weather) -> bool {
        self.weather.load(Ordering::SeqCst) == weather as u8
    }

    fn carry(self: Arc<Self>, client: TcpStream) {
        if self.is(Weather::Away) {
            return;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.to)) else { return };
        let (Ok(mut from), Ok(mut to)) = (client.try_clone(), server.try_clone()) else { return };
        let upstream = self.clone();
        let sent = std::thread::spawn(move || upstream.requests(&mut from, &mut to));
        self.answers(server, client);
        // a request that broke tells by its answer
        let _ended = sent.join();
    }

    fn requests(&self, from: &mut TcpStream, to: &mut TcpStream) {
        let (mut buffer, mut passed) = ([0; 16384], 0);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let bytes = &mut buffer[..count];
            if self.is(Weather::Unconditional) {
                replace(bytes, b"if-none-match", b"xx-none-match");
            }
            passed += count;
            let breaks = self.is(Weather::Away) || self.is(Weather::Breaking) && passed > 20_000;
            if breaks || to.write_all(bytes).is_err() {
                break;
            }
        }
        close(from);
        close(to);
    }

    fn answers(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16384];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if self.is(Weather::AnswersLost) {
                if self.losses.fetch_sub(1, Ordering::SeqCst) == 1 {
                    self.weather.store(Weather::Fair as u8, Ordering::SeqCst);
                }
                break;
            }
            if self.is(Weather::Away) || to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        close(&from);
        close(&to);
    }
}

fn close(stream: &TcpStream) {
    // the other side may have closed it
    let _closed = stream.shutdown(Shutdown::Both);
}

/// Names of headers are forwarded in the case they came in, which is small.
fn replace(bytes: &mut [u8], what: &[u8], by: &[u8]) {
    for at in 0..bytes.len().saturating_sub(what.len()) {
        if bytes[at..].starts_with(what) {
            bytes[at..at + by.len()].copy_from_slice(by);
        }
    }
}
