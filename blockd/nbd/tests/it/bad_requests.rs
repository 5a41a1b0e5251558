//! Requests no decent client makes, made by libnbd with its own checks switched off. After each of them a read must
//! show that the stream is still in step.

use crate::stage::{Stage, run};

const SCRIPT: &str = r#"
import nbd, errno, os

size = 64 << 20
h.set_strict_mode(0)
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri(os.environ['URI'])
assert h.get_size() == size

def alive():
    assert h.pread(4096, 8192) == bytes(4096)

def refused(code, call):
    try:
        call()
    except nbd.Error as error:
        assert error.errnum == code, (error.errnum, code, error)
    else:
        raise AssertionError('not refused')
    alive()

def works(call):
    call()
    alive()

nothing = lambda *args: 0
# past the end
refused(errno.EINVAL, lambda: h.pread(512, size))
refused(errno.ENOSPC, lambda: h.pwrite(bytes(512), size - 1))
refused(errno.EINVAL, lambda: h.trim(512, size))
refused(errno.ENOSPC, lambda: h.zero(512, size - 1))
refused(errno.EINVAL, lambda: h.cache(512, size))
refused(errno.EINVAL, lambda: h.block_status(512, size, nothing))
# where offset + length has no 64-bit value, or only just one
for offset in [1 << 63, (1 << 64) - 1, (1 << 64) - 512]:
    refused(errno.EINVAL, lambda: h.pread(512, offset))
    refused(errno.ENOSPC, lambda: h.pwrite(bytes(512), offset))
    refused(errno.ENOSPC, lambda: h.zero(512, offset))
    refused(errno.EINVAL, lambda: h.trim(512, offset))
# flags nobody knows, and flags of other commands
refused(errno.EINVAL, lambda: h.pread(512, 0, 1 << 9))
refused(errno.EINVAL, lambda: h.pread(512, 0, nbd.CMD_FLAG_NO_HOLE))
refused(errno.EINVAL, lambda: h.pwrite(bytes(512), 0, 1 << 9))
refused(errno.EINVAL, lambda: h.pwrite(bytes(512), 0, nbd.CMD_FLAG_DF))
refused(errno.EINVAL, lambda: h.pwrite(bytes(512), 0, nbd.CMD_FLAG_REQ_ONE))
refused(errno.EINVAL, lambda: h.trim(512, 0, nbd.CMD_FLAG_FAST_ZERO))
refused(errno.EINVAL, lambda: h.flush(nbd.CMD_FLAG_DF))
refused(errno.EINVAL, lambda: h.cache(512, 0, nbd.CMD_FLAG_REQ_ONE))
refused(errno.EINVAL, lambda: h.zero(512, 0, nbd.CMD_FLAG_DF))
refused(errno.EINVAL, lambda: h.block_status(512, 0, nothing, nbd.CMD_FLAG_NO_HOLE))
# FUA is tolerated everywhere once advertised
works(lambda: h.pread(512, 0, nbd.CMD_FLAG_FUA))
works(lambda: h.flush(nbd.CMD_FLAG_FUA))
works(lambda: h.trim(512, 0, nbd.CMD_FLAG_FUA))
works(lambda: h.cache(512, 0, nbd.CMD_FLAG_FUA))
# requests of no bytes
works(lambda: h.pread(0, 0))
works(lambda: h.pwrite(b'', 0))
works(lambda: h.trim(0, 0))
works(lambda: h.zero(0, 0))
works(lambda: h.cache(0, 0))
works(lambda: h.pread(0, size))
# a byte anywhere
works(lambda: h.pwrite(b'x', 4097))
assert h.pread(3, 4096) == b'\0x\0'
works(lambda: h.zero(1, 4097))
works(lambda: h.trim(1, 4097))
# zeros, fast and keeping their space
works(lambda: h.zero(1 << 20, 0, nbd.CMD_FLAG_FAST_ZERO))
works(lambda: h.zero(1 << 20, 0, nbd.CMD_FLAG_NO_HOLE))
refused(errno.ENOTSUP, lambda: h.zero(1 << 20, 0, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO))
# one piece, if asked for
pieces = []
h.pwrite(b'y' * 4096, 65536)
h.pread_structured(1 << 20, 0, lambda buf, offset, kind, err: pieces.append((offset, len(buf), kind)))
assert len(pieces) > 1, pieces
pieces.clear()
h.pread_structured(1 << 20, 0, lambda buf, offset, kind, err: pieces.append((offset, len(buf), kind)), nbd.CMD_FLAG_DF)
assert pieces == [(0, 1 << 20, nbd.READ_DATA)], pieces
h.zero(4096, 65536)
# one extent, if asked for
h.pwrite(b'y' * 4096, 65536)
extents = []
h.block_status(1 << 20, 0, lambda context, offset, entries, err: extents.append(entries), nbd.CMD_FLAG_REQ_ONE)
assert len(extents) == 1 and len(extents[0]) == 2 and extents[0][0] <= 1 << 20, extents
h.zero(4096, 65536)
# large: all of it is served, also what passes the advertised maximum
for mib in [32, 33, 64]:
    works(lambda: h.pwrite(bytes(mib << 20), 0))
    works(lambda: h.pread(mib << 20, 0))
refused(errno.EOVERFLOW, lambda: h.pread(33 << 20, 0, nbd.CMD_FLAG_DF))
refused(errno.EOVERFLOW, lambda: h.cache(33 << 20, 0))
works(lambda: h.trim(size, 0))
works(lambda: h.zero(size, 0))
h.shutdown()

# a read-only export refuses every kind of write as such
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(os.environ['URI_POINT'])
refused(errno.EPERM, lambda: h.pwrite(bytes(512), 0))
refused(errno.EPERM, lambda: h.zero(512, 0))
refused(errno.EPERM, lambda: h.trim(512, 0))
refused(errno.EPERM, lambda: h.pwrite(bytes(512), size))
works(lambda: h.flush())
# no context was asked for
refused(errno.EINVAL, lambda: h.block_status(512, 0, nothing))
h.shutdown()

# without structured replies
h = nbd.NBD()
h.set_strict_mode(0)
h.set_request_structured_replies(False)
h.connect_uri(os.environ['URI'])
refused(errno.EINVAL, lambda: h.pread(512, size))
refused(errno.EINVAL, lambda: h.pread(512, 0, nbd.CMD_FLAG_DF))
refused(errno.EINVAL, lambda: h.block_status(512, 0, nothing))
works(lambda: h.pread(0, 0))
works(lambda: h.pread(64 << 20, 0))
h.shutdown()

# the oldest way in
h = nbd.NBD()
h.set_handshake_flags(0)
h.connect_uri(os.environ['URI'])
assert h.get_protocol() == 'newstyle', h.get_protocol()
works(lambda: h.pwrite(bytes(512), 0))
h.shutdown()
"#;

#[test]
fn every_bad_request_is_refused_as_the_protocol_says_and_the_stream_lives_on() {
    let stage = Stage::new(64 << 20);
    let script = stage.folder.path().join("script.py");
    std::fs::write(&script, SCRIPT).unwrap();
    let (uri, point) = (stage.uri("disk").to_string(), stage.uri("disk@1").to_string());
    let (uri, point) = (format!("URI={uri}"), format!("URI_POINT={point}"));
    let exec = format!("exec(open({:?}).read())", script);
    run("env", &[&uri, &point, "nbdsh", "-c", &exec]);
}
