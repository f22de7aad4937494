//! Any bytes: no codec panics, how they are cut does not matter, and what is made by us is understood.

#![allow(clippy::unwrap_used)]

use cairn_nri::{
    message::Status,
    mux,
    session::{Incoming, Role, Session},
    ttrpc,
};
use proptest::prelude::*;
use std::time::Duration;

/// What a session makes of bytes, in words.
fn heard(role: Role, pieces: &[&[u8]]) -> (Vec<String>, bool) {
    let mut session = Session::new(role);
    for waiter in 0..3 {
        session.call("S", "M", Vec::new(), Duration::ZERO, waiter).unwrap();
    }
    let mut all = Vec::new();
    for piece in pieces {
        match session.receive(piece) {
            Ok(incoming) => all.extend(incoming.iter().map(|what| format!("{what:?}"))),
            Err(_) => return (all, true),
        }
    }
    (all, false)
}

/// Bytes that look like a conversation, some of them spoilt.
fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let message = (0u32..8, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40), 0u32..4, 0usize..4);
    let messages = proptest::collection::vec(message, 0..8);
    (messages, any::<prop::sample::Index>(), any::<u8>(), any::<bool>()).prop_map(
        |(messages, at, byte, spoil)| {
            let mut wire = Vec::new();
            for (stream, kind, content, connection, cut) in messages {
                let kind = match kind % 4 {
                    0 | 1 => ttrpc::Kind::Request,
                    2 => ttrpc::Kind::Response,
                    other => ttrpc::Kind::Other(other),
                };
                let bytes = ttrpc::encode(stream, kind, &content).unwrap();
                // A message may come in several frames.
                let (first, rest) = bytes.split_at(cut.min(bytes.len()));
                mux::encode(connection, first, &mut wire);
                mux::encode(connection, rest, &mut wire);
            }
            if spoil && !wire.is_empty() {
                let at = at.index(wire.len());
                wire[at] = byte;
            }
            wire
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn cutting_changes_nothing(
        wire in prop_oneof![conversation(), proptest::collection::vec(any::<u8>(), 0..200)],
        cut in any::<prop::sample::Index>(),
        plugin in any::<bool>(),
    ) {
        let role = if plugin { Role::Plugin } else { Role::Runtime };
        let whole = heard(role, &[&wire[..]]);
        let bytewise: Vec<&[u8]> = wire.chunks(1).collect();
        let (first, rest) = wire.split_at(cut.index(wire.len() + 1));
        for pieces in [&[first, rest][..], &bytewise[..]] {
            let (words, failed) = heard(role, pieces);
            prop_assert_eq!(failed, whole.1);
            // A fault later in the same piece hides what came before it.
            if !failed {
                prop_assert_eq!(&words, &whole.0);
            }
        }
    }

    #[test]
    fn calls_and_answers_arrive(
        payload in proptest::collection::vec(any::<u8>(), 0..10_000),
        answer in proptest::collection::vec(any::<u8>(), 0..10_000),
        code in 0i32..17,
        step in 1usize..5_000,
    ) {
        let (mut runtime, mut plugin) = (Session::new(Role::Runtime), Session::<()>::new(Role::Plugin));
        let call = runtime.call("S", "M", payload.clone(), Duration::from_millis(5), 7).unwrap();
        let mut called = Vec::new();
        for piece in call.chunks(step) {
            called.extend(plugin.receive(piece).unwrap());
        }
        let Some(Incoming::Called(called)) = called.pop() else { panic!("no call") };
        prop_assert_eq!(called.payload.as_ref(), payload.as_slice());
        let given = if code == 0 { Ok(answer) } else { Err(Status { code, message: "no".into() }) };
        let mut heard = Vec::new();
        for piece in plugin.answer(called.stream, given.clone()).chunks(step) {
            heard.extend(runtime.receive(piece).unwrap());
        }
        let Some(Incoming::Answered { waiter: 7, answer }) = heard.pop() else { panic!("no answer") };
        prop_assert_eq!(answer.map(|bytes| bytes.to_vec()), given);
    }
}
