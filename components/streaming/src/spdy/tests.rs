//! The codec against bytes worked out from the specification, and both ends of a session against each other.

use super::{
    frame::{Control, Head, Kind, ResetStatus, encode_data},
    headers::{Decoder, Encoder, Headers},
    *,
};
use proptest::prelude::*;

/// Header blocks as zlib writes them at its best level with the protocol's dictionary and a flush after each.
const BLOCKS: [&str; 3] = [GOLDEN_0, GOLDEN_1, GOLDEN_2];
const GOLDEN_0: &str = "78f9e3c6a7c202a62346703a2b294a4dcc851625aca9a08006000000ffff";
const GOLDEN_1: &str = "c22e555c02cc2e00000000ffff";
const GOLDEN_2: &str = "02255548a95d04ce2016061606409ab30812cb99a0d4cf64688ea11b54462502000000ffff";

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn frame(frame: &Control<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    out
}

/// What was said, without borrowing, pieces of data joined.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Opened(u32, Headers),
    Replied(u32),
    Headers(u32, Headers),
    Data(u32, Vec<u8>),
    Finished(u32),
    Reset(u32, u32),
    Widened,
    Pong(u32),
    GoneAway,
}

fn note(said: &mut Vec<Said>, event: Event<'_>) {
    let next = match event {
        Event::Opened { stream, headers } => Said::Opened(stream, headers),
        Event::Replied { stream } => Said::Replied(stream),
        Event::Headers { stream, headers } => Said::Headers(stream, headers),
        Event::Data { stream, bytes } => {
            if let Some(Said::Data(last, joined)) = said.last_mut()
                && *last == stream
            {
                joined.extend_from_slice(bytes);
                return;
            }
            Said::Data(stream, bytes.to_vec())
        }
        Event::Finished { stream } => Said::Finished(stream),
        Event::Reset { stream, status } => Said::Reset(stream, status),
        Event::Widened => Said::Widened,
        Event::Pong(id) => Said::Pong(id),
        Event::GoneAway => Said::GoneAway,
    };
    said.push(next);
}

fn hear(session: &mut Session, bytes: &[u8]) -> (Vec<Said>, Result<(), SessionError>) {
    let mut said = Vec::new();
    let result = session.receive(bytes, &mut |event| note(&mut said, event));
    (said, result)
}

/// What `session` has to say, said.
fn drain(session: &mut Session) -> Vec<u8> {
    let bytes = session.output().to_vec();
    session.advance(bytes.len());
    bytes
}

/// All that `from` has to say reaches `to`.
fn pass(from: &mut Session, to: &mut Session) -> Vec<Said> {
    let bytes = drain(from);
    let (said, result) = hear(to, &bytes);
    result.unwrap();
    said
}

/// A server that has said its windows, and one stream, 1, that it has accepted.
fn server_with_stream() -> Session {
    let mut server = Session::new(Role::Server);
    let block = Encoder::default().encode(&Headers::new([("streamtype", "stdin")]));
    let open = Control::SynStream { stream: 1, fin: false, unidirectional: false, block: &block };
    hear(&mut server, &frame(&open)).1.unwrap();
    server.accept(1);
    drain(&mut server);
    server
}

#[test]
fn frames_are_what_the_specification_says() {
    let cases: [(Control<'_>, &str); 6] = [
        (Control::RstStream { stream: 5, status: 3 }, "80030003 00000008 00000005 00000003"),
        (Control::Settings(vec![(7, 0x40000)]), "80030004 0000000c 00000001 00000007 00040000"),
        (Control::Ping(3), "80030006 00000004 00000003"),
        (Control::GoAway { last: 7, status: 1 }, "80030007 00000008 00000007 00000001"),
        (Control::WindowUpdate { stream: 9, delta: 0x10000 }, "80030009 00000008 00000009 00010000"),
        (
            Control::SynStream { stream: 1, fin: true, unidirectional: true, block: &[0xab] },
            "80030001 0300000b 00000001 00000000 0000 ab",
        ),
    ];
    for (control, wire) in cases {
        let wire = unhex(&wire.replace(' ', ""));
        assert_eq!(hex(&frame(&control)), hex(&wire));
        let Head::Control { kind, flags, length } = Head::parse(wire[..8].try_into().unwrap()).unwrap()
        else {
            panic!("{control:?}")
        };
        assert_eq!(length, wire.len() - 8);
        assert_eq!(Control::parse(kind, flags, &wire[8..]).unwrap(), control);
    }
    let mut data = Vec::new();
    encode_data(0x0102_0304, true, b"xyz", &mut data);
    assert_eq!(hex(&data), "010203040100000378797a");
    let head = Head::parse(data[..8].try_into().unwrap()).unwrap();
    assert_eq!(head, Head::Data { stream: 0x0102_0304, fin: true, length: 3 });
}

#[test]
fn a_session_begins_with_its_windows_and_replies_uncompressed() {
    let mut server = Session::new(Role::Server);
    assert_eq!(
        hex(&drain(&mut server)),
        "800300040000000c000000010000000700040000800300090000000800000000001f0000"
    );
    let block = unhex(GOLDEN_0);
    let open = Control::SynStream { stream: 1, fin: false, unidirectional: false, block: &block };
    let (said, result) = hear(&mut server, &frame(&open));
    result.unwrap();
    assert_eq!(said, [Said::Opened(1, Headers::new([("streamtype", "error")]))]);
    server.accept(1);
    server.accept(1);
    // zlib's header and the dictionary's checksum; a stored block of four bytes, no pairs; an empty block.
    let reply = "80030002000000180000000178 20e3c6a7c2 00 0400fbff 00000000 00 0000ffff".replace(' ', "");
    assert_eq!(hex(&drain(&mut server)), reply);
}

#[test]
fn the_dictionary_is_the_specifications() {
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in dictionary::DICTIONARY {
        a = (a + u32::from(byte)) % 65521;
        b = (b + a) % 65521;
    }
    assert_eq!(b << 16 | a, dictionary::CHECKSUM);
}

#[test]
fn compressed_headers_of_others_are_read() {
    let expected = [
        Headers::new([("streamtype", "error")]),
        Headers::new([("streamtype", "stdin")]),
        Headers::new([("port", "8080"), ("requestid", "17"), ("streamtype", "data")]),
    ];
    let mut decoder = Decoder::default();
    for (block, expected) in BLOCKS.iter().zip(expected) {
        assert_eq!(decoder.decode(&unhex(block)).unwrap(), Some(expected));
    }
    // A later block without those before it refers to what is not there.
    assert_eq!(Decoder::default().decode(&unhex(GOLDEN_1)), Err(SessionError::Compression));
}

#[test]
fn long_headers_are_cut_into_blocks_and_too_long_ones_refused() {
    let value = "v".repeat(63 << 10);
    let headers = Headers::new([("name", value.as_str())]);
    let wire = Encoder::default().encode(&headers);
    assert_eq!(Decoder::default().decode(&wire).unwrap(), Some(headers));
    let value = "v".repeat(70 << 10);
    let wire = Encoder::default().encode(&Headers::new([("name", value.as_str())]));
    assert_eq!(Decoder::default().decode(&wire), Err(SessionError::HeadersTooLong));
}

#[test]
fn a_header_bomb_is_stopped() {
    let mut zlib = flate2::Compress::new(flate2::Compression::best(), true);
    zlib.set_dictionary(&dictionary::DICTIONARY).unwrap();
    let mut wire = Vec::with_capacity(1 << 20);
    let plain = vec![b'x'; 64 << 20];
    zlib.compress_vec(&plain, &mut wire, flate2::FlushCompress::Sync).unwrap();
    assert!(wire.len() < 100_000);
    assert_eq!(Decoder::default().decode(&wire), Err(SessionError::HeadersTooLong));
}

#[test]
fn malformed_headers_cost_the_stream_and_not_the_session() {
    let mut server = Session::new(Role::Server);
    drain(&mut server);
    let mut encoder = Encoder::default();
    let twice = encoder.encode(&Headers::new([("a", "1"), ("A", "2")]));
    let fine = encoder.encode(&Headers::new([("a", "1")]));
    let mut bytes =
        frame(&Control::SynStream { stream: 1, fin: false, unidirectional: false, block: &twice });
    bytes.extend(frame(&Control::SynStream { stream: 3, fin: false, unidirectional: false, block: &fine }));
    let (said, result) = hear(&mut server, &bytes);
    result.unwrap();
    assert_eq!(said, [Said::Opened(3, Headers::new([("a", "1")]))]);
    let reset = Control::RstStream { stream: 1, status: ResetStatus::ProtocolError as u32 };
    assert_eq!(hex(&drain(&mut server)), hex(&frame(&reset)));
}

#[test]
fn a_stream_lives_until_both_ends_have_finished() {
    let (mut client, mut server) = (Session::new(Role::Client), Session::new(Role::Server));
    let stream = client.open(&Headers::new([("streamType", "data")])).unwrap();
    let said = pass(&mut client, &mut server);
    assert_eq!(said[2], Said::Opened(1, Headers::new([("streamtype", "data")])));
    server.accept(stream);
    assert!(pass(&mut server, &mut client).contains(&Said::Replied(1)));
    assert_eq!(client.send(stream, b"question"), Ok(8));
    client.finish(stream);
    client.finish(stream);
    assert_eq!(client.send(stream, b"more"), Err(StreamClosed));
    let said = pass(&mut client, &mut server);
    assert_eq!(said, [Said::Data(1, b"question".to_vec()), Said::Finished(1)]);
    assert_eq!(server.send(stream, b"answer"), Ok(6));
    server.finish(stream);
    assert!(server.is_idle() && client.is_open(stream));
    assert_eq!(pass(&mut server, &mut client), [Said::Data(1, b"answer".to_vec()), Said::Finished(1)]);
    assert!(client.is_idle());
}

#[test]
fn a_peer_without_windows_is_sent_all() {
    let mut server = server_with_stream();
    let bytes = vec![0; 32 << 10];
    for _ in 0..100 {
        assert_eq!(server.send(1, &bytes), Ok(bytes.len()));
    }
}

#[test]
fn a_peers_windows_are_kept_once_it_has_spoken_of_them() {
    let mut server = server_with_stream();
    let bytes = vec![0; 1 << 20];
    let (said, result) = hear(&mut server, &frame(&Control::WindowUpdate { stream: 1, delta: 1000 }));
    result.unwrap();
    assert_eq!(said, [Said::Widened]);
    let mut sent = 0;
    while let Ok(count @ 1..) = server.send(1, &bytes) {
        sent += count;
    }
    assert_eq!(sent, (64 << 10) + 1000);
    // A smaller initial window takes room away, and debts are paid first.
    hear(&mut server, &frame(&Control::Settings(vec![(7, 0)]))).1.unwrap();
    hear(&mut server, &frame(&Control::WindowUpdate { stream: 1, delta: 64 << 10 })).1.unwrap();
    assert_eq!(server.send(1, &bytes), Ok(0));
    hear(&mut server, &frame(&Control::WindowUpdate { stream: 1, delta: 7 })).1.unwrap();
    assert_eq!(server.send(1, &bytes), Ok(7));
    // The session's window counts from when it is spoken of.
    hear(&mut server, &frame(&Control::WindowUpdate { stream: 1, delta: 1 << 20 })).1.unwrap();
    hear(&mut server, &frame(&Control::WindowUpdate { stream: 0, delta: 1007 + 5 })).1.unwrap();
    assert_eq!(server.send(1, &bytes), Ok(5));
    assert_eq!(server.send(1, &bytes), Ok(0));
}

#[test]
fn windows_have_an_end() {
    let mut server = server_with_stream();
    let widest = Control::WindowUpdate { stream: 1, delta: 0x7fff_ffff };
    let (said, result) = hear(&mut server, &frame(&widest));
    result.unwrap();
    assert_eq!(said[0], Said::Reset(1, ResetStatus::FlowControlError as u32));
    let widest = Control::WindowUpdate { stream: 0, delta: 0x7fff_ffff };
    assert_eq!(hear(&mut server, &frame(&widest)).1, Err(SessionError::WindowOverflow(0)));
}

#[test]
fn what_is_read_is_given_back() {
    let mut server = server_with_stream();
    let half = STREAM_WINDOW as usize / 2;
    let mut data = Vec::new();
    encode_data(1, false, &vec![0; half], &mut data);
    hear(&mut server, &data).1.unwrap();
    server.consume(1, half - 1);
    assert_eq!(server.output(), b"");
    server.consume(1, 1);
    let update = Control::WindowUpdate { stream: 1, delta: STREAM_WINDOW / 2 };
    assert_eq!(hex(&drain(&mut server)), hex(&frame(&update)));
}

#[test]
fn overrunning_our_window_is_forgiven_only_those_who_know_none() {
    let mut data = Vec::new();
    encode_data(1, false, &vec![0; STREAM_WINDOW as usize + 1], &mut data);
    let mut server = server_with_stream();
    hear(&mut server, &data).1.unwrap();
    assert!(server.is_open(1));

    let mut server = server_with_stream();
    hear(&mut server, &frame(&Control::WindowUpdate { stream: 1, delta: 1 })).1.unwrap();
    let (said, result) = hear(&mut server, &data);
    result.unwrap();
    assert_eq!(said.last(), Some(&Said::Reset(1, ResetStatus::FlowControlError as u32)));
    assert!(!server.is_open(1));
}

#[test]
fn pings_are_answered_by_the_other_end_only() {
    let (mut client, mut server) = (Session::new(Role::Client), Session::new(Role::Server));
    pass(&mut client, &mut server);
    pass(&mut server, &mut client);
    let id = client.ping();
    assert_eq!(pass(&mut client, &mut server), []);
    assert_eq!(pass(&mut server, &mut client), [Said::Pong(id)]);
    assert_eq!(pass(&mut client, &mut server), []);
    assert_eq!(server.ping(), 2);
    pass(&mut server, &mut client);
    assert_eq!(pass(&mut client, &mut server), [Said::Pong(2)]);
}

#[test]
fn stream_numbers_rise_and_are_the_openers() {
    for (first, second) in [(3, 1), (3, 3), (1, 2), (1, 0)] {
        let mut server = Session::new(Role::Server);
        let mut encoder = Encoder::default();
        let mut bytes = Vec::new();
        for stream in [first, second] {
            let block = encoder.encode(&Headers::default());
            Control::SynStream { stream, fin: false, unidirectional: false, block: &block }
                .encode(&mut bytes);
        }
        let (said, result) = hear(&mut server, &bytes);
        assert_eq!((said.len(), result), (1, Err(SessionError::StreamId(second))));
        // It is over, and the peer knows.
        let away = frame(&Control::GoAway { last: first, status: 1 });
        assert!(drain(&mut server).ends_with(&away));
        assert_eq!(hear(&mut server, b"x").1, Err(SessionError::StreamId(second)));
    }
}

#[test]
fn data_that_nobody_wants_is_passed_over() {
    let mut server = server_with_stream();
    server.reset(1, ResetStatus::Cancel);
    drain(&mut server);
    let mut bytes = Vec::new();
    encode_data(1, false, b"late", &mut bytes);
    encode_data(7, false, b"never opened", &mut bytes);
    let (said, result) = hear(&mut server, &bytes);
    result.unwrap();
    assert_eq!(said, []);
    let reset = Control::RstStream { stream: 7, status: ResetStatus::InvalidStream as u32 };
    assert_eq!(hex(&drain(&mut server)), hex(&frame(&reset)));
}

#[test]
fn data_after_the_end_resets() {
    let mut server = server_with_stream();
    let mut bytes = Vec::new();
    encode_data(1, true, b"last", &mut bytes);
    encode_data(1, false, b"after", &mut bytes);
    let (said, result) = hear(&mut server, &bytes);
    result.unwrap();
    assert_eq!(said, [Said::Data(1, b"last".to_vec()), Said::Finished(1)]);
    let reset = Control::RstStream { stream: 1, status: ResetStatus::StreamAlreadyClosed as u32 };
    assert_eq!(hex(&drain(&mut server)), hex(&frame(&reset)));
    assert!(!server.is_open(1));
}

#[test]
fn streams_are_limited() {
    let (mut client, mut server) = (Session::new(Role::Client), Session::new(Role::Server));
    for _ in 0..600 {
        client.open(&Headers::default()).unwrap();
    }
    let opened = pass(&mut client, &mut server);
    assert_eq!(opened.iter().filter(|said| matches!(said, Said::Opened(..))).count(), 512);
    let refused = pass(&mut server, &mut client);
    let status = ResetStatus::RefusedStream as u32;
    assert_eq!(refused.iter().filter(|said| matches!(said, Said::Reset(_, s) if *s == status)).count(), 88);
}

#[test]
fn what_is_no_spdy_is_refused_at_once() {
    let mut server = Session::new(Role::Server);
    assert_eq!(hear(&mut server, b"\x80\x02\x00\x01\x00\x00\x00\x00").1, Err(SessionError::Version(2)));
    let mut server = Session::new(Role::Server);
    let ping = b"\x80\x03\x00\x06\x00\x00\x00\x05";
    assert_eq!(hear(&mut server, ping).1, Err(SessionError::Length { kind: Kind::Ping as u16, length: 5 }));
    // Types that are not known are skipped.
    let mut server = Session::new(Role::Server);
    drain(&mut server);
    let (said, result) =
        hear(&mut server, b"\x80\x03\x00\x0a\x00\x00\x00\x02zz\x80\x03\x00\x06\0\0\0\x04\0\0\0\x01");
    assert_eq!((said, result), (vec![], Ok(())));
    assert_eq!(hex(&drain(&mut server)), "800300060000000400000001");
}

/// Bytes that look like a client's, with mistakes.
fn traffic() -> impl Strategy<Value = Vec<u8>> {
    let frame = prop_oneof![
        (0_u32..12, any::<bool>(), any::<bool>(), 0_usize..3).prop_map(|(stream, fin, uni, block)| {
            let block = unhex(BLOCKS[block]);
            frame(&Control::SynStream { stream, fin, unidirectional: uni, block: &block })
        }),
        (0_u32..12, any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(
            |(stream, fin, bytes)| {
                let mut out = Vec::new();
                encode_data(stream, fin, &bytes, &mut out);
                out
            }
        ),
        (0_u32..12, 0_u32..13).prop_map(|(stream, status)| frame(&Control::RstStream { stream, status })),
        (0_u32..12, any::<u32>())
            .prop_map(|(stream, delta)| frame(&Control::WindowUpdate { stream, delta: delta >> 2 })),
        any::<u32>().prop_map(|value| frame(&Control::Settings(vec![(7, value >> 1)]))),
        any::<u32>().prop_map(|id| frame(&Control::Ping(id))),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(frame, 0..12).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = hear(&mut Session::new(Role::Server), &bytes);
        let _ = hear(&mut Session::new(Role::Client), &bytes);
    }

    #[test]
    fn how_bytes_are_cut_does_not_matter(bytes in traffic(), cuts in prop::collection::vec(1_usize..50, 1..50)) {
        let mut whole = Session::new(Role::Server);
        let (said, result) = hear(&mut whole, &bytes);
        let mut cut = Session::new(Role::Server);
        let mut again = Vec::new();
        let mut rest = &bytes[..];
        let mut outcome = Ok(());
        for size in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            outcome = cut.receive(piece, &mut |event| note(&mut again, event));
            rest = after;
            if rest.is_empty() || outcome.is_err() {
                break;
            }
        }
        prop_assert_eq!(said, again);
        prop_assert_eq!(result, outcome);
        prop_assert_eq!(whole.output(), cut.output());
    }

    #[test]
    fn headers_survive(pairs in prop::collection::btree_map("[a-z-]{1,20}", "\\PC{0,60}", 0..20)) {
        let headers = Headers::new(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let mut encoder = Encoder::default();
        let mut decoder = Decoder::default();
        for _ in 0..3 {
            prop_assert_eq!(decoder.decode(&encoder.encode(&headers)).unwrap(), Some(headers.clone()));
        }
    }
}
