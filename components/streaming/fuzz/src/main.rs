//! Fuzzing with any toolchain; see [`runner::main`] for what it takes.

use cairn_streaming::{
    spdy::{Event, Role, Session, frame::Control, headers::Headers},
    websocket::{Channels, Codec},
};
use cairn_streaming_fuzz::{
    random::Random,
    runner::{self, Target},
};
use std::process::ExitCode;

/// Longest input.
const LENGTH_LIMIT: usize = 4096;

/// What a well-behaved client sends.
fn spdy_traffic(random: &mut Random) -> Vec<u8> {
    let mut client = Session::new(Role::Client);
    let mut extra = Vec::new();
    let kinds = ["error", "stdin", "stdout", "stderr", "resize", "data"];
    for _ in 0..random.below(12) {
        let stream = 1 + 2 * random.below(6) as u32;
        match random.below(9) {
            0..=2 => {
                let (port, id) = (random.below(70000).to_string(), random.below(9).to_string());
                let kind = *random.one(&kinds);
                client.open(&Headers::new([("streamtype", kind), ("port", &port), ("requestid", &id)]));
            }
            3 | 4 => drop(client.send(stream, &vec![random.next() as u8; random.below(300)])),
            5 => client.finish(stream),
            6 => drop(client.ping()),
            7 => client.consume(stream, random.below(1 << 20)),
            _ => {
                let delta = random.next() as u32 & 0x7fff_ffff;
                let frame = match random.below(4) {
                    0 => Control::WindowUpdate { stream: stream & random.next() as u32, delta },
                    1 => Control::Settings(vec![(random.below(9) as u32, delta)]),
                    2 => Control::RstStream { stream, status: random.below(14) as u32 },
                    _ => Control::GoAway { last: stream, status: 0 },
                };
                frame.encode(&mut extra);
            }
        }
        if random.below(3) == 0 {
            extra.extend_from_slice(client.output());
            let count = client.output().len();
            client.advance(count);
        }
    }
    extra.extend_from_slice(client.output());
    extra
}

fn websocket_traffic(random: &mut Random) -> Vec<u8> {
    let codec = *random.one(&[Codec::Binary, Codec::BinaryWithClose, Codec::Base64]);
    let mut client = Channels::new(Role::Client, codec, 5, None);
    for _ in 0..random.below(12) {
        let channel = random.below(6) as u32;
        match random.below(6) {
            0..=2 => drop(client.send(channel, &vec![random.next() as u8; random.below(400)])),
            3 => client.signal_close(channel),
            4 => client.greet(channel),
            _ if random.below(4) == 0 => client.close(),
            _ => {}
        }
    }
    client.output().to_vec()
}

/// A number of what happens to a server that gets this: inputs with a new one are kept to be mutated further.
fn signature(name: &str, bytes: &[u8]) -> u64 {
    let mut kinds = 0_u64;
    let mut count = 0;
    let mut note = |event: Event<'_>| {
        count += 1;
        kinds |= match event {
            Event::Opened { .. } => 1,
            Event::Replied { .. } => 2,
            Event::Headers { .. } => 4,
            Event::Data { .. } => 8,
            Event::Finished { .. } => 16,
            Event::Reset { status, .. } => 32 << (status % 12),
            Event::Widened => 1 << 20,
            Event::Pong(_) => 1 << 21,
            Event::GoneAway => 1 << 22,
        };
    };
    let error = if name == "spdy" {
        Session::new(Role::Server).receive(bytes, &mut note).err().map(|error| error.to_string().len())
    } else {
        let mut channels = Channels::new(Role::Server, Codec::BinaryWithClose, 5, None);
        channels.receive(bytes, &mut note).err().map(|error| error.to_string().len())
    };
    kinds | (error.unwrap_or(0) as u64 & 0xff) << 32 | (count as u64 & 0x1f) << 48
}

fn main() -> ExitCode {
    runner::main(&[
        Target {
            name: "spdy",
            input: spdy_traffic,
            check: |bytes| {
                cairn_streaming_fuzz::spdy(bytes);
                signature("spdy", bytes)
            },
            limit: LENGTH_LIMIT,
        },
        Target {
            name: "websocket",
            input: websocket_traffic,
            check: |bytes| {
                cairn_streaming_fuzz::websocket(bytes);
                signature("websocket", bytes)
            },
            limit: LENGTH_LIMIT,
        },
    ])
}
