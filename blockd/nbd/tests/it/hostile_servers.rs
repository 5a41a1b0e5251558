//! The client against servers that lie, stall or go away.

use crate::stage::{Stage, noise};
use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, ExtentKind, Failure, Kind};
use nbd::client::Patience;
use nbd::wire::{self, ChunkHeader, Errno, ExportFacts, Greeting, OptionReply, Request, SimpleReply};
use nbd::{Client, Uri};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

const IMPATIENT: Patience =
    Patience { connect: Duration::from_millis(500), request: Duration::from_millis(500) };

/// Plays a server: `script` has the first connection for itself.
fn against<T>(script: impl FnOnce(&mut UnixStream) + Send, client: impl FnOnce(&Uri) -> T) -> T {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            script(&mut stream);
            // hold the connection until the client is done with it
            drop(listener);
            drop(stream.read_to_end(&mut Vec::new()));
        });
        client(&Uri::unix(path, "x"))
    })
}

fn read<const N: usize>(stream: &mut UnixStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// The option the client sends next.
fn option(stream: &mut UnixStream) -> u32 {
    let header = wire::OptionHeader::decode(&read(stream)).unwrap();
    stream.read_exact(&mut vec![0; header.length as usize]).unwrap();
    header.option
}

fn greet(stream: &mut UnixStream) {
    stream.write_all(&Greeting::OURS.encode()).unwrap();
    read::<4>(stream);
}

/// An honest handshake for a megabyte.
fn handshake(stream: &mut UnixStream, flags: u16) {
    greet(stream);
    loop {
        let option = option(stream);
        let mut out = Vec::new();
        match option {
            wire::OPT_SET_META_CONTEXT => wire::put_meta_context(&mut out, option, 42, wire::BASE_ALLOCATION),
            wire::OPT_GO => wire::put_info_export(&mut out, option, ExportFacts { size: 1 << 20, flags }),
            _ => {}
        }
        OptionReply::ack(&mut out, option);
        stream.write_all(&out).unwrap();
        if option == wire::OPT_GO {
            return;
        }
    }
}

fn connect(uri: &Uri) -> nbd::Result<Client> {
    Client::connect_patiently(uri, 1, IMPATIENT)
}

/// What the client makes of a handshake.
fn refuses(script: impl FnOnce(&mut UnixStream) + Send) -> (Kind, String) {
    let error = against(script, |uri| connect(uri).err()).expect("an error");
    (error.kind(), error.to_string())
}

#[test]
fn handshakes_that_lie_are_errors_not_memory() {
    let (kind, text) = refuses(|stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap());
    assert!(kind == Kind::Io && text.contains("this is no NBD server"), "{text}");

    let (kind, text) = refuses(|stream| {
        greet(stream);
        let option = option(stream);
        let reply = wire::OptionReplyHeader { option, reply: wire::REP_ACK, length: u32::MAX };
        stream.write_all(&reply.encode()).unwrap();
    });
    assert!(kind == Kind::Io && text.contains("a reply of 4294967295 bytes"), "{text}");

    let (kind, text) = refuses(|stream| {
        greet(stream);
        option(stream);
        let reply = wire::OptionReplyHeader { option: 99, reply: wire::REP_ACK, length: 0 };
        stream.write_all(&reply.encode()).unwrap();
    });
    assert!(kind == Kind::Io && text.contains("option 99"), "{text}");
}

#[test]
fn a_server_that_says_nothing_or_too_slowly_is_left() {
    let (kind, text) = refuses(|_| {});
    assert!(kind == Kind::Unavailable && text.contains("did not answer within 500 ms"), "{text}");
    let (kind, _) = refuses(|stream| {
        let dripping = Greeting::OURS.encode().iter().all(|byte| {
            std::thread::sleep(Duration::from_millis(100));
            stream.write_all(&[*byte]).is_ok()
        });
        assert!(!dripping, "the client listened to the end");
    });
    assert_eq!(kind, Kind::Unavailable);
}

#[test]
fn a_queue_nobody_serves_is_not_waited_in_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _listener = UnixListener::bind(&path).unwrap();
    let uri = Uri::unix(&path, "x");
    // the kernel's queue fills up; after that connecting itself would wait
    let (mut waiting, mut error) = (Vec::new(), None);
    while error.is_none() && waiting.len() < 5000 {
        let stream = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::NONBLOCK,
            None,
        );
        let stream = stream.unwrap();
        error = rustix::net::connect(&stream, &rustix::net::SocketAddrUnix::new(&path).unwrap()).err();
        waiting.push(stream);
    }
    assert_eq!(error, Some(rustix::io::Errno::AGAIN));
    let error = connect(&uri).err().expect("nobody accepts");
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[test]
fn endless_lists_end() {
    let result = against(
        |stream| {
            greet(stream);
            let option = option(stream);
            let mut out = Vec::new();
            (0..1000).for_each(|_| wire::put_server(&mut out, option, "again", ""));
            while stream.write_all(&out).is_ok() {}
        },
        Client::list,
    );
    assert!(result.unwrap_err().to_string().contains("more than 65536 exports"));
}

const RW: u16 = wire::SEND_HAS_FLAGS | wire::SEND_FLUSH;

/// The client's error when it reads 4096 bytes at 4096 and gets this instead of a reply (the cookie comes first).
fn read_fails(reply: impl FnOnce(u64) -> Vec<u8> + Send) -> String {
    let script = |stream: &mut UnixStream| {
        handshake(stream, RW);
        let request = Request::decode(&read(stream)).unwrap();
        stream.write_all(&reply(request.cookie)).unwrap();
    };
    against(script, |uri| {
        let client = connect(uri).unwrap();
        let error = client.read_at(ByteOffset::new(4096), &mut [0; 4096]).expect_err("a bad reply");
        // and the connection is not used again
        assert!(client.read_at(ByteOffset::new(4096), &mut [0; 4096]).is_err());
        error.to_string()
    })
}

fn chunk(cookie: u64, kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ChunkHeader { flags, kind, cookie, length: payload.len() as u32 }.encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

fn data(offset: u64, count: usize) -> Vec<u8> {
    let mut payload = offset.to_be_bytes().to_vec();
    payload.extend(vec![7; count]);
    payload
}

fn hole(offset: u64, count: u32) -> Vec<u8> {
    [&offset.to_be_bytes()[..], &count.to_be_bytes()].concat()
}

#[test]
fn replies_to_reads_that_lie_are_errors_not_data() {
    let (data_chunk, hole_chunk) = (wire::REPLY_OFFSET_DATA, wire::REPLY_OFFSET_HOLE);
    type Reply = Box<dyn FnOnce(u64) -> Vec<u8> + Send>;
    let lies: Vec<(&str, Reply)> = vec![
        ("before the request", Box::new(move |c| chunk(c, data_chunk, 1, &data(4095, 4096)))),
        ("past the request", Box::new(move |c| chunk(c, data_chunk, 1, &data(4096, 4097)))),
        ("a hole past the request", Box::new(move |c| chunk(c, hole_chunk, 1, &hole(4096, u32::MAX)))),
        ("a hole of nothing", Box::new(move |c| chunk(c, hole_chunk, 1, &hole(4096, 0)))),
        ("a hole that wraps", Box::new(move |c| chunk(c, hole_chunk, 1, &hole(u64::MAX, 4096)))),
        ("no data", Box::new(move |c| chunk(c, data_chunk, 1, &data(4096, 0)))),
        ("a gap", Box::new(move |c| chunk(c, data_chunk, 1, &data(4096, 4095)))),
        ("nothing", Box::new(|c| chunk(c, wire::REPLY_NONE, 1, &[]))),
        (
            "twice the same",
            Box::new(move |c| {
                [chunk(c, data_chunk, 0, &data(4096, 512)), chunk(c, hole_chunk, 1, &hole(4096, 4096))]
                    .concat()
            }),
        ),
        ("an unknown chunk", Box::new(|c| chunk(c, 77, 1, &[]))),
        ("somebody else's reply", Box::new(move |c| chunk(c + 1, data_chunk, 1, &data(4096, 4096)))),
        ("a simple reply", Box::new(|cookie| SimpleReply { errno: Errno::NONE, cookie }.encode().to_vec())),
        (
            "a text longer than its chunk",
            Box::new(|c| chunk(c, wire::REPLY_ERROR, 1, &[0, 0, 0, 5, 0xff, 0xff])),
        ),
        (
            "a huge chunk",
            Box::new(move |cookie| {
                ChunkHeader { flags: 1, kind: data_chunk, cookie, length: u32::MAX }.encode().to_vec()
            }),
        ),
        ("garbage", Box::new(|_| vec![0x55; 40])),
    ];
    for (what, lie) in lies {
        let text = read_fails(lie);
        assert!(text.contains("does not speak the protocol"), "{what}: {text}");
    }
}

#[test]
fn chunks_in_any_order_make_a_read() {
    let script = |stream: &mut UnixStream| {
        handshake(stream, RW);
        let cookie = Request::decode(&read(stream)).unwrap().cookie;
        let chunks = [
            chunk(cookie, wire::REPLY_OFFSET_HOLE, 0, &hole(2048, 2048)),
            chunk(cookie, wire::REPLY_OFFSET_DATA, 0, &data(0, 1)),
            chunk(cookie, wire::REPLY_OFFSET_DATA, 0, &data(1, 2047)),
            chunk(cookie, wire::REPLY_NONE, 1, &[]),
        ];
        stream.write_all(&chunks.concat()).unwrap();
    };
    against(script, |uri| {
        let mut buf = [1; 4096];
        connect(uri).unwrap().read_at(ByteOffset::ZERO, &mut buf).unwrap();
        assert!(buf[..2048] == [7; 2048] && buf[2048..] == [0; 2048]);
    });
}

#[test]
fn block_status_that_lies_is_an_error_and_one_that_overruns_is_cut() {
    let status = |payload: Vec<u8>| {
        let script = move |stream: &mut UnixStream| {
            handshake(stream, RW);
            let cookie = Request::decode(&read(stream)).unwrap().cookie;
            stream.write_all(&chunk(cookie, wire::REPLY_BLOCK_STATUS, 1, &payload)).unwrap();
        };
        against(script, |uri| {
            let mut seen = Vec::new();
            let walked = connect(uri).unwrap().extents(ByteRange::between(512, 4096), &mut |extent| {
                seen.push((extent.range.start(), extent.range.end(), extent.kind));
                ControlFlow::Continue(())
            });
            walked.map(|()| seen).map_err(|error| error.to_string())
        })
    };
    let payload = |context: u32, extents: &[(u32, u32)]| {
        let mut bytes = context.to_be_bytes().to_vec();
        extents.iter().for_each(|(length, flags)| {
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&flags.to_be_bytes());
        });
        bytes
    };
    let overrun = status(payload(42, &[(88, 0), (u32::MAX, 3), (u32::MAX, 0)]));
    assert_eq!(overrun, Ok(vec![(512, 600, ExtentKind::Data), (600, 4096, ExtentKind::Hole)]));
    for lie in [
        payload(42, &[]),
        payload(43, &[(4096, 0)]),
        payload(42, &[(0, 0)]),
        payload(42, &[(88, 0)])[..9].to_vec(),
        vec![],
    ] {
        let text = status(lie).unwrap_err();
        assert!(text.contains("does not speak the protocol"), "{text}");
    }
}

#[test]
fn the_server_s_errors_are_typed_and_the_connection_goes_on() {
    let stage = Stage::new(1 << 20);
    stage.disk.write_at(ByteOffset::ZERO, &noise(1 << 20, 4)).unwrap();
    stage.disk.damage(65_536, 65_537);
    let client = stage.client("disk");
    let error = client.read_at(ByteOffset::new(0), &mut vec![0; 1 << 20]).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.to_string().contains("read 1048576 bytes at offset 0: layer 3 is damaged"), "{error}");
    client.read_at(ByteOffset::new(0), &mut [0; 4096]).unwrap();
    assert_eq!(client.read_at(ByteOffset::new(1 << 20), &mut [0]).unwrap_err().kind(), Kind::OutOfRange);
    stage.disk.refuse_flush(Kind::NoSpace);
    assert_eq!(client.flush().unwrap_err().kind(), Kind::NoSpace);

    let point = stage.client("disk@1");
    assert!(point.read_only() && !client.read_only());
    assert_eq!(point.write_at(ByteOffset::ZERO, &[1]).unwrap_err().kind(), Kind::ReadOnly);
    let unknown = Client::connect(&stage.uri("nothing"), 1).err().unwrap();
    assert_eq!(unknown.kind(), Kind::NotFound);
    assert!(unknown.to_string().contains(r#"export "nothing" does not exist"#), "{unknown}");
    assert_eq!(Client::connect(&stage.uri("locked"), 1).err().unwrap().kind(), Kind::Unavailable);
}

#[test]
fn a_server_that_went_away_is_told_from_one_that_came_back() {
    let stage = Stage::new(1 << 20);
    stage.disk.write_at(ByteOffset::ZERO, &noise(4096, 9)).unwrap();
    let (disk, point) = (stage.client("disk"), stage.client("disk@1"));
    stage.server.stop();
    let mut buf = [0; 4096];
    assert_eq!(point.read_at(ByteOffset::ZERO, &mut buf).unwrap_err().kind(), Kind::Unavailable);
    let listener = nbd::Listener::unix(&stage.socket(), 0o600).unwrap();
    let exports = std::sync::Arc::new(crate::stage::Disks(stage.disk.clone()));
    let _again = nbd::Server::start(vec![listener], exports, nbd::Limits::default()).unwrap();
    // nothing written could be lost, so the point goes on; the disk does not
    point.read_at(ByteOffset::ZERO, &mut buf).unwrap();
    assert!(buf[..] == noise(4096, 9));
    assert_eq!(disk.read_at(ByteOffset::ZERO, &mut buf).unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(disk.flush().unwrap_err().kind(), Kind::Unavailable);
}

#[test]
fn large_requests_are_split_and_many_threads_share_the_connections() {
    let stage = Stage::new(80 << 20);
    let client = stage.client("disk");
    let bytes = noise(80 << 20, 5);
    client.write_at(ByteOffset::ZERO, &bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    client.read_at(ByteOffset::ZERO, &mut back).unwrap();
    assert!(back == bytes);
    std::thread::scope(|scope| {
        for thread in 0..8usize {
            let (client, bytes) = (&client, &bytes);
            scope.spawn(move || {
                for step in 0..50usize {
                    let start = (thread * 50 + step) * 65_537;
                    let mut buf = vec![0; 65_537];
                    client.read_at(ByteOffset::new(start as u64), &mut buf).unwrap();
                    assert!(buf == bytes[start..start + buf.len()]);
                }
            });
        }
    });
    let connections = stage.server.stats()[0].connections.len();
    assert!((2..=4).contains(&connections), "{connections} connections");
}

#[test]
fn other_servers_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    for (name, args) in [
        ("nbdkit", vec!["-f", "-U", socket.to_str().unwrap(), "memory", "8M"]),
        ("nbdkit", vec!["-f", "--mask-handshake=0", "-U", socket.to_str().unwrap(), "memory", "8M"]),
        ("nbdkit", vec!["-f", "--no-sr", "-U", socket.to_str().unwrap(), "memory", "8M"]),
        ("qemu-nbd", vec!["-t", "-f", "raw", "-k", socket.to_str().unwrap(), "FILE"]),
    ] {
        let file = folder.path().join("image");
        std::fs::File::create(&file).unwrap().set_len(8 << 20).unwrap();
        let args = args.into_iter().map(|arg| if arg == "FILE" { file.to_str().unwrap() } else { arg });
        let mut server = std::process::Command::new(name).args(args).spawn().unwrap();
        let uri = Uri::unix(&socket, "");
        let mut client = Client::connect(&uri, 4);
        for _ in 0..500 {
            if client.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            client = Client::connect(&uri, 4);
        }
        let client = client.unwrap();
        assert_eq!(client.size(), ByteCount::new(8 << 20));
        sim::conformance::block_source(&client, &vec![0; 8 << 20]);
        client.write_at(ByteOffset::new(12_345), &noise(70_000, 2)).unwrap();
        let mut back = vec![0; 70_000];
        client.read_at(ByteOffset::new(12_345), &mut back).unwrap();
        assert!(back == noise(70_000, 2), "{name}");
        client.discard(ByteRange::between(0, 8 << 20)).unwrap();
        client.flush().unwrap();
        client.read_at(ByteOffset::new(12_345), &mut back).unwrap();
        assert!(back.iter().all(|&byte| byte == 0), "{name}");
        drop(client);
        server.kill().unwrap();
        server.wait().unwrap();
        // qemu-nbd removes it itself
        assert!(matches!(rustix::fs::unlink(&socket), Ok(()) | Err(rustix::io::Errno::NOENT)));
    }
}
