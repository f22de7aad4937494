//! What must hold for any bytes that a client can send.
//!
//! - Nothing panics, overflows or loops.
//! - How bytes are cut into reads does not matter.
//! - Whatever the caller does in between, what we answer is itself well-formed: the other end takes it without an error.
//! - What we answer is bounded by what we were sent.

pub mod random;
pub mod runner;

use cairn_streaming::{
    spdy::{Event, Role, Session, frame::ResetStatus, headers::Headers},
    websocket::{Channels, Codec},
};

/// Bytes that we may send for one that came: resets for streams of eight bytes' frames, and what a session begins with.
const ANSWER_FACTOR: usize = 8;
const ANSWER_START: usize = 256;

/// Events in one text, pieces of data joined, and nothing else.
#[derive(Default, PartialEq, Debug)]
struct Heard {
    text: String,
    last: Option<u32>,
}

impl Heard {
    fn note(&mut self, event: &Event<'_>) {
        if let Event::Data { stream, bytes } = event {
            if self.last != Some(*stream) {
                self.text.push_str(&format!("data {stream}: "));
                self.last = Some(*stream);
            }
            self.text.extend(bytes.iter().map(|byte| char::from(*byte)));
        } else {
            self.last = None;
            self.text.push_str(&format!("{event:?};"));
        }
    }
}

/// Cuts: the sizes come from the bytes themselves.
fn cuts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    let mut at = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        at += 1;
        let size = usize::from(data[(at * 7) % data.len()] & 0x1f) + 1;
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        Some(piece)
    })
}

/// A SPDY session, server and client, fed with `data`.
pub fn spdy(data: &[u8]) {
    for role in [Role::Server, Role::Client] {
        cut_or_whole(data, role);
        in_use(data, role);
    }
}

fn cut_or_whole(data: &[u8], role: Role) {
    let (mut whole, mut heard) = (Session::new(role), Heard::default());
    let result = whole.receive(data, &mut |event| heard.note(&event));
    let (mut cut, mut again) = (Session::new(role), Heard::default());
    let mut outcome = Ok(());
    for piece in cuts(data) {
        outcome = cut.receive(piece, &mut |event| again.note(&event));
        if outcome.is_err() {
            break;
        }
    }
    assert_eq!(result, outcome);
    assert_eq!(heard, again);
    assert_eq!(whole.output(), cut.output());
    assert!(whole.output().len() <= data.len() * ANSWER_FACTOR + ANSWER_START);
}

fn in_use(data: &[u8], role: Role) {
    let other = if role == Role::Server { Role::Client } else { Role::Server };
    let (mut session, mut peer) = (Session::new(role), Session::new(other));
    if role == Role::Client {
        for _ in 0..3 {
            session.open(&Headers::new([("streamtype", "data")]));
        }
    }
    let mut waiting: Vec<(u32, usize)> = Vec::new();
    for (turn, piece) in cuts(data).enumerate() {
        let mut opened = Vec::new();
        let result = session.receive(piece, &mut |event| match event {
            Event::Opened { stream, .. } => opened.push(stream),
            Event::Data { stream, bytes } => waiting.push((stream, bytes.len())),
            _ => {}
        });
        for stream in opened {
            session.accept(stream);
        }
        let stream = (turn as u32 * 3) % 16;
        match piece[0] % 7 {
            0 => drop(session.send(stream, &[piece[0]; 100])),
            1 => session.finish(stream),
            2 => session.reset(stream, ResetStatus::Cancel),
            3 => drop(session.ping()),
            4 | 5 => {
                for (stream, count) in waiting.drain(..) {
                    session.consume(stream, count);
                }
            }
            _ => {}
        }
        if turn % 3 == 0 {
            let output = session.output().to_vec();
            session.advance(output.len());
            peer.receive(&output, &mut |_| {}).expect("what we send is well-formed");
        }
        if result.is_err() {
            break;
        }
    }
    peer.receive(session.output(), &mut |_| {}).expect("what we send is well-formed");
}

/// The channels of a WebSocket, in each of their ways, fed with `data`.
pub fn websocket(data: &[u8]) {
    for codec in [Codec::Binary, Codec::BinaryWithClose, Codec::Base64] {
        let mut whole = Channels::new(Role::Server, codec, 5, Some(3));
        let mut heard = Heard::default();
        let result = whole.receive(data, &mut |event| heard.note(&event));
        let mut cut = Channels::new(Role::Server, codec, 5, Some(3));
        let mut again = Heard::default();
        let mut outcome = Ok(());
        for piece in cuts(data) {
            outcome = cut.receive(piece, &mut |event| again.note(&event));
            if outcome.is_err() {
                break;
            }
        }
        assert_eq!(result, outcome);
        // A message that turns out to be no base64 at its end may have been handed on in part.
        if codec != Codec::Base64 || result.is_ok() {
            assert_eq!(heard, again);
        }
        assert_eq!(whole.output(), cut.output());
        assert!(whole.output().len() <= data.len() + 4);
        let mut peer = Channels::new(Role::Client, codec, 5, None);
        peer.receive(whole.output(), &mut |_| {}).expect("what we send is well-formed");
    }
}
