//! The fuzz targets' checks, on inputs that proptest varies and on those that once failed.

#[path = "../../fuzz/drive.rs"]
mod drive;

use drive::{LARGE, SMALL, Wish};
use nbd::handshake::Tls;
use nbd::wire::{self, GoRequest, MetaRequest, OptionHeader, ReplyStyle};
use proptest::collection::vec;
use proptest::prelude::*;
use std::path::Path;

fn wish(size: u64) -> impl Strategy<Value = Wish> {
    let flags = prop_oneof![4 => Just(0u16), 2 => 0u16..64, 1 => any::<u16>()];
    let command = prop_oneof![12 => 0u16..2, 1 => Just(2u16), 12 => 3u16..8, 1 => any::<u16>()];
    let offset = prop_oneof![8 => 0..size, 1 => size - 10..size + 10, 1 => any::<u64>()];
    let length = prop_oneof![
        4 => 0u64..10_000,
        2 => Just(0u64),
        2 => Just(4096u64),
        2 => 32_768u64..60_000,
        1 => 0u64..600_000,
        1 => Just(1u64 << 40),
    ];
    (flags, command, offset, length, any::<u8>()).prop_map(|(flags, command, offset, length, fill)| Wish {
        flags,
        command,
        offset,
        length,
        fill,
    })
}

/// An option, whole or lying about its length.
fn option() -> impl Strategy<Value = Vec<u8>> {
    let go = |option: u32| {
        "[a-c]{0,10}".prop_map(move |name| {
            let mut bytes = Vec::new();
            GoRequest { name: &name, wants_name: true, wants_description: true, wants_block_size: true }
                .put(&mut bytes, option);
            bytes
        })
    };
    let meta = |option: u32| {
        ("[a-c]{0,10}", vec("(base:|base:allocation|x-y:|.{0,9})", 0..4)).prop_map(move |(name, queries)| {
            let queries = queries.iter().map(String::as_str).collect();
            let mut bytes = Vec::new();
            MetaRequest { name: &name, queries }.put(&mut bytes, option);
            bytes
        })
    };
    let any_option = (0u32..15, vec(any::<u8>(), 0..40), -3i32..4).prop_map(|(option, data, lie)| {
        let length = (data.len() as u32).saturating_add_signed(lie);
        [&OptionHeader { option, length }.encode()[..], &data].concat()
    });
    prop_oneof![
        go(wire::OPT_INFO),
        go(wire::OPT_GO),
        meta(wire::OPT_LIST_META_CONTEXT),
        meta(wire::OPT_SET_META_CONTEXT),
        Just(OptionHeader { option: wire::OPT_STRUCTURED_REPLY, length: 0 }.encode().to_vec()),
        Just(OptionHeader { option: wire::OPT_EXTENDED_HEADERS, length: 0 }.encode().to_vec()),
        Just(OptionHeader { option: wire::OPT_STARTTLS, length: 0 }.encode().to_vec()),
        Just(OptionHeader { option: wire::OPT_LIST, length: 0 }.encode().to_vec()),
        any_option,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoders_take_anything(data in vec(any::<u8>(), 0..80), magic in 0usize..7) {
        drive::fuzz_wire(&data);
        let magics: [&[u8]; 7] = [
            &wire::NBDMAGIC.to_be_bytes(),
            &wire::IHAVEOPT.to_be_bytes(),
            &wire::REQUEST_MAGIC.to_be_bytes(),
            &wire::SIMPLE_REPLY_MAGIC.to_be_bytes(),
            &wire::STRUCTURED_REPLY_MAGIC.to_be_bytes(),
            &wire::EXTENDED_REQUEST_MAGIC.to_be_bytes(),
            &wire::EXTENDED_REPLY_MAGIC.to_be_bytes(),
        ];
        drive::fuzz_wire(&[magics[magic], &data].concat());
    }

    #[test]
    fn uris_take_anything(text in "(nbd|nbd\\+unix)://[a-z%0-9/:\\[\\]?=&@#]{0,30}") {
        drive::fuzz_wire(text.as_bytes());
    }

    #[test]
    fn handshakes_take_anything(
        flags in prop_oneof![9 => 0u32..4, 1 => any::<u32>()],
        options in vec(option(), 0..40),
        piece in 1usize..200,
        tls in prop_oneof![Just(Tls::Unsupported), Just(Tls::Required), Just(Tls::Active)],
    ) {
        let mut stream = flags.to_be_bytes().to_vec();
        options.iter().for_each(|option| stream.extend_from_slice(option));
        let cut = drive::handshake(&stream, piece, tls);
        // how the bytes are cut does not matter
        prop_assert_eq!(cut, drive::handshake(&stream, usize::MAX, tls));
    }

    #[test]
    fn every_request_is_answered_once_and_truly(
        (size, wishes) in prop_oneof![Just(SMALL), Just(LARGE)]
            .prop_flat_map(|size| (Just(size), vec(wish(size), 0..40))),
        seed in prop::option::of(any::<u64>()),
        style in prop_oneof![Just(ReplyStyle::Simple), Just(ReplyStyle::Structured), Just(ReplyStyle::Extended)],
        piece in prop_oneof![1usize..100, 1000usize..200_000],
    ) {
        drive::transmission(&wishes, size, style, piece, seed);
    }

    #[test]
    fn streams_of_anything_end_or_wait(data in vec(any::<u8>(), 0..300)) {
        drive::fuzz_transmission(&data);
        drive::fuzz_handshake(&data);
    }
}

/// Inputs that failed once, or that others' servers failed on.
#[test]
fn regressions() {
    for data in [
        &b""[..],
        &[0],
        &[0, 2],
        &[0, 1, 0x25, 0x60, 0x95, 0x13],
        &[0, 5, 0x21, 0xe4, 0x1c, 0x71],
        &[255; 64],
    ] {
        drive::fuzz_transmission(data);
        drive::fuzz_handshake(data);
        drive::fuzz_wire(data);
    }
}

/// Runs a target's checks on an input.
type Replay = fn(&[u8]);

/// A read of what is far away is answered while the long write behind it is placed piece by piece.
#[test]
fn a_read_that_waits_may_see_half_of_a_write() {
    let wish = |command, offset, length| Wish { flags: 0, command, offset, length, fill: 0 };
    let wishes = [wish(3, 0, 0), wish(3, 0, 0), wish(0, 262_145, 4096), wish(1, 112_113, 266_213)];
    for style in [ReplyStyle::Simple, ReplyStyle::Structured, ReplyStyle::Extended] {
        for seed in [2_857_199_137_309_575_126].into_iter().chain(0..64) {
            drive::transmission(&wishes, LARGE, style, 30_848, Some(seed));
        }
    }
}

/// What the fuzzers found worth keeping, one file an input: each reached something no other did.
#[test]
fn the_kept_corpus_is_replayed() {
    let targets: [(&str, Replay); 3] = [
        ("nbd_wire", drive::fuzz_wire),
        ("nbd_handshake", drive::fuzz_handshake),
        ("nbd_transmission", drive::fuzz_transmission),
    ];
    for (target, replay) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files =
            std::fs::read_dir(&folder).expect("a corpus").map(|entry| entry.expect("an input").path());
        let kept = files.filter(|path| path.extension().is_some_and(|end| end == "kept"));
        let inputs: Vec<Vec<u8>> = kept.map(|path| std::fs::read(path).expect("an input")).collect();
        assert!(inputs.len() > 20, "{} has {} inputs", folder.display(), inputs.len());
        inputs.iter().for_each(|input| replay(input));
    }
}
