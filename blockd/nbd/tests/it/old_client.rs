//! An independent client of the old kind: the crate `nbd` of crates.io speaks EXPORT_NAME, simple replies and one
//! request at a time. Why it is used for nothing else: `docs/decisions/the-crate-nbd.md`.

use crate::stage::{Stage, noise};
use nbd_old::client::{NbdClient, handshake};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;

#[test]
fn reads_and_writes_by_the_old_way_in() {
    let stage = Stage::new(1 << 20);
    let mut stream = UnixStream::connect(stage.socket()).unwrap();
    let export = handshake(&mut stream, b"disk").unwrap();
    assert_eq!(export.size, 1 << 20);
    assert!(!export.readonly && export.send_flush && export.send_trim);

    let mut client = NbdClient::new(&mut stream, &export);
    let bytes = noise(70_000, 3);
    client.seek(SeekFrom::Start(4000)).unwrap();
    client.write_all(&bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    client.seek(SeekFrom::Start(4000)).unwrap();
    client.read_exact(&mut back).unwrap();
    assert!(back == bytes);
    assert!(stage.disk.contents()[4000..74_000] == bytes);
}

#[test]
fn a_point_is_read_only_to_it_too() {
    let stage = Stage::new(1 << 20);
    let mut stream = UnixStream::connect(stage.socket()).unwrap();
    let export = handshake(&mut stream, b"disk@1").unwrap();
    assert!(export.readonly);
    let mut client = NbdClient::new(&mut stream, &export);
    let error = client.write(&[1; 512]).expect_err("a write to a point");
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    client.read_exact(&mut [1; 512]).unwrap();
}

#[test]
fn a_name_that_does_not_exist_closes_the_connection() {
    let stage = Stage::new(1 << 20);
    let mut stream = UnixStream::connect(stage.socket()).unwrap();
    assert!(handshake(&mut stream, b"nothing").is_err());
}
