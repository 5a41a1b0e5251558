//! What the protocol text says a server MUST do while options are haggled: a test for each, named after it.

use crate::raw::Raw;
use crate::stage::Stage;
use nbd::wire::{self, BlockSizes, ExportFacts, Greeting, OptionHeader, Refusal, ReplyStyle, Request};

const SIZE: u64 = 1 << 20;

fn acks(raw: &mut Raw, option: u32) {
    raw.option(option, b"");
    assert_eq!(raw.reply().0, wire::REP_ACK, "option {option}");
}

/// The flags an INFO tells now.
fn flags(raw: &mut Raw) -> u16 {
    raw.go(wire::OPT_INFO, "disk");
    let (reply, data) = raw.reply();
    assert_eq!(reply, wire::REP_INFO);
    assert_eq!(raw.reply().0, wire::REP_ACK);
    ExportFacts::decode(&data[2..]).unwrap().flags
}

/// A session goes on: the next option is understood.
fn goes_on(raw: &mut Raw) {
    raw.option(wire::OPT_LIST, b"");
    while raw.reply().0 == wire::REP_SERVER {}
}

#[test]
fn server_must_close_if_it_does_not_recognize_the_clients_flags() {
    let stage = Stage::new(SIZE);
    for flags in [4u32, 0x8000_0001, 0xffff_ffff] {
        let mut raw = Raw::greeted(&stage);
        raw.send(&flags.to_be_bytes());
        raw.expect_end();
    }
}

#[test]
fn server_must_terminate_if_it_is_unwilling_to_allow_the_export_by_export_name() {
    let stage = Stage::new(SIZE);
    for name in ["nothing", "locked"] {
        let mut raw = Raw::haggling(&stage);
        raw.option(wire::OPT_EXPORT_NAME, name.as_bytes());
        raw.expect_end();
    }
}

#[test]
fn server_must_not_send_the_124_zeroes_when_the_client_declined_them() {
    let stage = Stage::new(SIZE);
    for (flags, zeroes) in [(1u32, 124), (3, 0)] {
        let mut raw = Raw::greeted(&stage);
        raw.send(&flags.to_be_bytes());
        raw.option(wire::OPT_EXPORT_NAME, b"disk");
        assert_eq!(u64::from_be_bytes(raw.read()), SIZE);
        raw.read::<2>();
        (0..zeroes).for_each(|_| assert_eq!(raw.read::<1>(), [0]));
        raw.is_alive();
    }
}

#[test]
fn server_must_not_send_zero_padding_after_the_ack_of_go() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::greeted(&stage);
    raw.send(&1u32.to_be_bytes());
    raw.go(wire::OPT_GO, "disk");
    assert_eq!((raw.reply().0, raw.reply().0), (wire::REP_INFO, wire::REP_ACK));
    raw.is_alive();
}

#[test]
fn server_must_reply_err_unsup_to_options_it_does_not_implement_and_parse_the_next() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    for option in [0, 4, 12, 77, u32::MAX] {
        raw.option(option, &[1; 5000]);
        assert_eq!(raw.reply().0, Refusal::Unsupported.reply(), "{option}");
        goes_on(&mut raw);
    }
}

#[test]
fn server_must_ack_abort_and_the_session_ends() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    raw.option(wire::OPT_ABORT, b"data of it is ignored");
    assert_eq!(raw.reply().0, wire::REP_ACK);
    raw.expect_end();
}

#[test]
fn server_must_list_every_export_then_ack_and_refuse_data() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    raw.option(wire::OPT_LIST, b"x");
    assert_eq!(raw.reply().0, Refusal::Invalid.reply());
    raw.option(wire::OPT_LIST, b"");
    let names = std::iter::from_fn(|| {
        let (reply, data) = raw.reply();
        (reply == wire::REP_SERVER).then(|| data[4..4 + data[3] as usize].to_vec())
    });
    let names: Vec<Vec<u8>> = names.collect();
    assert_eq!(names, [b"disk".to_vec(), b"disk@1".to_vec()]);
}

#[test]
fn server_must_send_info_export_before_the_ack() {
    let stage = Stage::new(SIZE);
    for option in [wire::OPT_INFO, wire::OPT_GO] {
        let mut raw = Raw::haggling(&stage);
        raw.go(option, "disk");
        let (reply, data) = raw.reply();
        assert_eq!((reply, &data[..2]), (wire::REP_INFO, &wire::INFO_EXPORT.to_be_bytes()[..]));
        assert_eq!(ExportFacts::decode(&data[2..]).unwrap().size, SIZE);
        assert_eq!(raw.reply().0, wire::REP_ACK);
    }
}

#[test]
fn server_must_give_the_same_answer_to_info_and_then_go() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    acks(&mut raw, wire::OPT_EXTENDED_HEADERS);
    raw.meta(wire::OPT_SET_META_CONTEXT, "disk", &[wire::BASE_ALLOCATION]);
    let answers = [wire::OPT_INFO, wire::OPT_GO].map(|option| {
        raw.go(option, "disk");
        (raw.reply(), raw.reply())
    });
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn block_sizes_must_be_powers_of_two_within_the_bounds_of_the_text() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    let asks = [0, 0, 0, 4, b'd', b'i', b's', b'k', 0, 1, 0, 3];
    raw.option(wire::OPT_GO, &asks);
    raw.reply();
    let (_, data) = raw.reply();
    assert_eq!((data.len(), &data[..2]), (14, &wire::INFO_BLOCK_SIZE.to_be_bytes()[..]));
    // the decoder refuses sizes that the text forbids
    let sizes = BlockSizes::decode(&data[2..]).unwrap();
    assert_eq!((sizes.minimum, sizes.preferred, sizes.maximum), (1, 4096, 32 << 20));
}

#[test]
fn unknown_information_requests_are_ignored() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    raw.option(wire::OPT_GO, &[0, 0, 0, 4, b'd', b'i', b's', b'k', 0, 2, 0x7f, 0xff, 0, 9]);
    assert_eq!((raw.reply().0, raw.reply().0), (wire::REP_INFO, wire::REP_ACK));
    raw.is_alive();
}

#[test]
fn syntactically_invalid_options_must_fail_with_err_invalid() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    acks(&mut raw, wire::OPT_STRUCTURED_REPLY);
    let long = [&5000u32.to_be_bytes()[..], &[b'a'; 5000], &[0, 0]].concat();
    let bad: [(u32, &[u8]); 8] = [
        (wire::OPT_GO, b""),
        (wire::OPT_GO, &[0, 0, 0, 9, b'd']),
        (wire::OPT_INFO, &[0, 0, 0, 1, b'd', 0, 1]),
        (wire::OPT_INFO, &[0, 0, 0, 1, 0xff, 0, 0]),
        (wire::OPT_GO, &long),
        (wire::OPT_SET_META_CONTEXT, &[0, 0, 0, 4, b'd', b'i', b's', b'k', 0, 0, 0, 1, 0, 0, 0, 9, b'b']),
        (wire::OPT_LIST_META_CONTEXT, &[0, 0, 0, 4, b'd', b'i', b's', b'k', 0xff, 0xff, 0xff, 0xff]),
        (wire::OPT_LIST_META_CONTEXT, &[0, 0, 0, 4, b'd', b'i', b's', b'k', 0, 0, 0, 0, 1]),
    ];
    for (option, data) in bad {
        raw.option(option, data);
        assert_eq!(raw.reply().0, Refusal::Invalid.reply(), "{option} {data:?}");
        goes_on(&mut raw);
    }
}

#[test]
fn server_must_ignore_contexts_it_does_not_know() {
    let stage = Stage::new(SIZE);
    for option in [wire::OPT_LIST_META_CONTEXT, wire::OPT_SET_META_CONTEXT] {
        let mut raw = Raw::haggling(&stage);
        acks(&mut raw, wire::OPT_STRUCTURED_REPLY);
        let replies = raw.meta(option, "disk", &["x-unknown:leaf", "base:nothing", "base", "", ":"]);
        assert_eq!(replies, [(wire::REP_ACK, Vec::new())]);
    }
}

#[test]
fn base_must_be_a_wildcard_to_list_and_must_be_ignored_by_set() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    acks(&mut raw, wire::OPT_STRUCTURED_REPLY);
    let listed = raw.meta(wire::OPT_LIST_META_CONTEXT, "disk", &["base:"]);
    assert_eq!((listed.len(), &listed[0].1[4..]), (2, wire::BASE_ALLOCATION.as_bytes()));
    let set = raw.meta(wire::OPT_SET_META_CONTEXT, "disk", &["base:"]);
    assert_eq!(set, [(wire::REP_ACK, Vec::new())]);
}

#[test]
fn zero_queries_must_list_all_contexts_and_select_none() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    acks(&mut raw, wire::OPT_STRUCTURED_REPLY);
    assert_eq!(raw.meta(wire::OPT_LIST_META_CONTEXT, "disk", &[]).len(), 2);
    assert_eq!(raw.meta(wire::OPT_SET_META_CONTEXT, "disk", &[]), [(wire::REP_ACK, Vec::new())]);
}

#[test]
fn context_ids_must_be_unique() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    acks(&mut raw, wire::OPT_STRUCTURED_REPLY);
    let queries = [wire::BASE_ALLOCATION, wire::BASE_ALLOCATION, "x-stage:parity", "x-stage:parity"];
    let mut replies = raw.meta(wire::OPT_SET_META_CONTEXT, "parity", &queries);
    assert_eq!(replies.pop().unwrap().0, wire::REP_ACK);
    assert_eq!(replies.len(), 2);
    assert_ne!(replies[0].1[..4], replies[1].1[..4]);
}

#[test]
fn set_must_replace_what_was_selected_even_when_it_fails() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    acks(&mut raw, wire::OPT_STRUCTURED_REPLY);
    raw.meta(wire::OPT_SET_META_CONTEXT, "disk", &[wire::BASE_ALLOCATION]);
    raw.option(wire::OPT_SET_META_CONTEXT, b"\0\0\0");
    assert_eq!(raw.reply().0, Refusal::Invalid.reply());
    raw.go(wire::OPT_GO, "disk");
    assert_eq!((raw.reply().0, raw.reply().0), (wire::REP_INFO, wire::REP_ACK));
    let request = Request { flags: 0, command: wire::CMD_BLOCK_STATUS, cookie: 1, offset: 0, length: 512 };
    raw.ask(ReplyStyle::Structured, request, b"");
    assert_eq!(raw.chunk(ReplyStyle::Structured).errno(), wire::Errno::INVALID);
}

#[test]
fn df_must_be_clear_without_structured_replies_and_set_with_them() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    assert_eq!(flags(&mut raw) & wire::SEND_DF, 0);
    acks(&mut raw, wire::OPT_STRUCTURED_REPLY);
    assert_ne!(flags(&mut raw) & wire::SEND_DF, 0);
}

#[test]
fn block_status_payload_must_not_be_advertised_without_extended_headers() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    acks(&mut raw, wire::OPT_STRUCTURED_REPLY);
    raw.meta(wire::OPT_SET_META_CONTEXT, "disk", &[wire::BASE_ALLOCATION]);
    assert_eq!(flags(&mut raw) & wire::SEND_BLOCK_STATUS_PAYLOAD, 0);
    acks(&mut raw, wire::OPT_EXTENDED_HEADERS);
    assert_ne!(flags(&mut raw) & wire::SEND_BLOCK_STATUS_PAYLOAD, 0);
    raw.meta(wire::OPT_SET_META_CONTEXT, "disk", &[]);
    assert_eq!(flags(&mut raw) & wire::SEND_BLOCK_STATUS_PAYLOAD, 0, "nothing to choose from");
}

#[test]
fn extended_headers_take_precedence_over_structured_replies() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    raw.option(wire::OPT_EXTENDED_HEADERS, b"x");
    assert_eq!(raw.reply().0, Refusal::Invalid.reply());
    acks(&mut raw, wire::OPT_STRUCTURED_REPLY);
    acks(&mut raw, wire::OPT_EXTENDED_HEADERS);
    raw.option(wire::OPT_STRUCTURED_REPLY, b"");
    assert_eq!(raw.reply().0, Refusal::ExtendedHeaders.reply());
    raw.option(wire::OPT_EXPORT_NAME, b"disk");
    raw.expect_end();
}

#[test]
fn server_must_not_fail_go_with_err_unsup_after_extended_headers() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    acks(&mut raw, wire::OPT_EXTENDED_HEADERS);
    raw.go(wire::OPT_GO, "nothing");
    assert_eq!(raw.reply().0, Refusal::Unknown.reply());
    raw.go(wire::OPT_GO, "disk");
    assert_eq!((raw.reply().0, raw.reply().0), (wire::REP_INFO, wire::REP_ACK));
}

#[test]
fn strings_must_not_pass_4096_bytes() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    let name = "é".repeat(2047);
    raw.go(wire::OPT_GO, &name);
    let (reply, text) = raw.reply();
    assert_eq!(reply, Refusal::Unknown.reply());
    assert!(text.len() <= 4096 && std::str::from_utf8(&text).is_ok(), "{}", text.len());
    let header = OptionHeader { option: wire::OPT_EXPORT_NAME, length: 4097 }.encode();
    raw.send(&header);
    raw.send(&[b'a'; 4097]);
    raw.expect_end();
}

#[test]
fn the_greeting_must_set_no_flags_but_the_two_there_are() {
    let stage = Stage::new(SIZE);
    // `greeted` compares the bytes; this says which ones
    let raw = Raw::greeted(&stage);
    assert_eq!(
        Greeting::OURS.encode()[16..],
        (wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES).to_be_bytes()
    );
    drop(raw);
}

#[test]
fn has_flags_must_be_set_and_flags_must_not_name_what_the_export_cannot_do() {
    let stage = Stage::new(SIZE);
    let told = |name: &str| {
        let mut raw = Raw::haggling(&stage);
        raw.go(wire::OPT_INFO, name);
        ExportFacts::decode(&raw.reply().1[2..]).unwrap().flags
    };
    let zeroes = wire::SEND_WRITE_ZEROES | wire::SEND_FAST_ZERO;
    let writes = zeroes | wire::SEND_TRIM;
    assert_eq!(told("disk") & (wire::SEND_HAS_FLAGS | writes), wire::SEND_HAS_FLAGS | writes);
    let read_only = told("disk@1");
    assert_eq!(read_only & wire::SEND_HAS_FLAGS, wire::SEND_HAS_FLAGS);
    // fast zeroes without zeroes are forbidden, writes to what is read-only are refused
    assert_eq!(read_only & (writes | wire::SEND_READ_ONLY), wire::SEND_READ_ONLY);
}

#[test]
fn contexts_must_not_be_selected_without_structured_replies() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    for option in [wire::OPT_SET_META_CONTEXT, wire::OPT_LIST_META_CONTEXT] {
        let replies = raw.meta(option, "disk", &[wire::BASE_ALLOCATION]);
        assert_eq!((replies.len(), replies[0].0), (1, Refusal::Invalid.reply()));
    }
    acks(&mut raw, wire::OPT_STRUCTURED_REPLY);
    assert_eq!(raw.meta(wire::OPT_SET_META_CONTEXT, "disk", &[wire::BASE_ALLOCATION]).len(), 2);
}

#[test]
fn contexts_must_count_only_for_the_export_they_were_selected_for() {
    let stage = Stage::new(SIZE);
    let mut raw = Raw::haggling(&stage);
    acks(&mut raw, wire::OPT_STRUCTURED_REPLY);
    raw.meta(wire::OPT_SET_META_CONTEXT, "disk@1", &[wire::BASE_ALLOCATION]);
    raw.go(wire::OPT_GO, "disk");
    assert_eq!((raw.reply().0, raw.reply().0), (wire::REP_INFO, wire::REP_ACK));
    let request = Request { flags: 0, command: wire::CMD_BLOCK_STATUS, cookie: 1, offset: 0, length: 512 };
    raw.ask(ReplyStyle::Structured, request, b"");
    assert_eq!(raw.chunk(ReplyStyle::Structured).errno(), wire::Errno::INVALID);
}
