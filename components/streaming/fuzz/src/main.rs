//! Fuzzing with any toolchain: traffic that a client could send, mutated, for so many seconds.
//!
//! With `seeds` instead of a number: writes traffic to `seeds-<target>`, for fuzzers that are guided by coverage to start from.
//!
//! The input that breaks something is written to `crash-<target>` in the working directory.

use cairn_streaming::{
    spdy::{Event, Role, Session, frame::Control, headers::Headers},
    websocket::{Channels, Codec},
};
use std::{
    panic::catch_unwind,
    time::{Duration, Instant},
};

/// Longest input.
const LENGTH_LIMIT: usize = 4096;
/// Inputs kept.
const CORPUS_LIMIT: usize = 512;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

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
                let kind = kinds[random.below(kinds.len())];
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
    let codec = [Codec::Binary, Codec::BinaryWithClose, Codec::Base64][random.below(3)];
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

fn mutate(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    const NUMBERS: [u32; 8] = [0, 1, 2, 0x7f, 0x80, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
    for _ in 0..random.below(5) {
        let at = random.below(bytes.len());
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..(at + random.below(16)).min(bytes.len()))),
            3 => {
                let new: Vec<u8> = (0..random.below(9)).map(|_| random.next() as u8).collect();
                bytes.splice(at..at, new);
            }
            4 if bytes.len() >= at + 4 => {
                bytes[at..at + 4].copy_from_slice(&NUMBERS[random.below(NUMBERS.len())].to_be_bytes());
            }
            5 if !other.is_empty() => {
                let from = random.below(other.len());
                let until = (from + random.below(200)).min(other.len());
                bytes.splice(at..at, other[from..until].iter().copied());
            }
            _ => {
                let until = (at + random.below(64)).min(bytes.len());
                let twice = bytes[at.min(until)..until].to_vec();
                bytes.splice(at..at, twice);
            }
        }
    }
    bytes.truncate(LENGTH_LIMIT);
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

fn write_seeds(random: &mut Random, targets: &[Target]) -> std::io::Result<()> {
    for (name, traffic, _) in targets {
        let folder = format!("seeds-{name}");
        std::fs::create_dir_all(&folder)?;
        for number in 0..200 {
            std::fs::write(format!("{folder}/{number}"), traffic(random))?;
        }
    }
    Ok(())
}

/// A name, what a client of it sends, and what must hold.
type Target = (&'static str, fn(&mut Random) -> Vec<u8>, fn(&[u8]));

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(60);
    let seed = std::env::args()
        .nth(2)
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64 | 1));
    println!("{seconds} s, seed {seed}");
    let mut random = Random(seed);
    let targets: [Target; 2] = [
        ("spdy", spdy_traffic, cairn_streaming_fuzz::spdy),
        ("websocket", websocket_traffic, cairn_streaming_fuzz::websocket),
    ];
    if std::env::args().nth(1).is_some_and(|text| text == "seeds") {
        return write_seeds(&mut random, &targets).expect("seeds can be written");
    }
    let mut corpora: [(Vec<Vec<u8>>, std::collections::HashSet<u64>); 2] = Default::default();
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut said = Instant::now();
    let mut runs = 0_u64;
    while Instant::now() < until {
        for ((name, traffic, check), (corpus, seen)) in targets.iter().zip(&mut corpora) {
            for _ in 0..200 {
                let mut bytes = if corpus.is_empty() || random.below(4) == 0 {
                    traffic(&mut random)
                } else {
                    corpus[random.below(corpus.len())].clone()
                };
                let other = traffic(&mut random);
                mutate(&mut random, &mut bytes, &other);
                if catch_unwind(|| check(&bytes)).is_err() {
                    let path = format!("crash-{name}");
                    let written = std::fs::write(&path, &bytes);
                    eprintln!("{name} broke after {runs} runs; the input: {path} ({written:?})");
                    std::process::exit(1);
                }
                runs += 1;
                if seen.insert(signature(name, &bytes)) {
                    if corpus.len() >= CORPUS_LIMIT {
                        let at = random.below(corpus.len());
                        corpus[at] = bytes;
                    } else {
                        corpus.push(bytes);
                    }
                }
            }
        }
        if said.elapsed() > Duration::from_secs(60) {
            said = Instant::now();
            let kept: Vec<usize> = corpora.iter().map(|(_, seen)| seen.len()).collect();
            println!("{runs} runs, {kept:?} kinds of outcome");
        }
    }
    println!("clean: {runs} runs");
}
