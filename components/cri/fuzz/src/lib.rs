//! The targets: what [`cairn_cri`] reads that others have written.
//!
//! - `layers`: an image's layer, plain, gzip or zstd, unpacked beside files that nothing may touch, on a small file system.
//! - `documents`: manifests, indexes, configurations (and the containers made of them), records of the image store.
//! - `registries`: `hosts.toml`, Docker's `config.json`, image references, `WWW-Authenticate`, pull secrets.
//! - `state`: the runtime's records, and the messages of its shims: as written, and changed.
//!
//! What must hold is in `cairn_cri::image::fuzzing` and `cairn_cri::runtime::fuzzing`; here is that memory is bounded.

pub mod memory;
pub mod script;
pub mod vary;

use base64::{Engine, prelude::BASE64_STANDARD};
use cairn_cri::{
    image::fuzzing::{self, Arena},
    runtime,
};
use cairn_streaming_fuzz::random::{Random, mutate};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    process::geteuid,
    thread::UnshareFlags,
};
use std::{io::Write, sync::Mutex};
use vary::vary;

/// Where layers are unpacked: a file system of its own, in a mount namespace of its own. Scripts know the place.
const ARENA: &str = "/mnt";
/// Heap that unpacking a layer may take. Paths of directories are its largest part.
const LAYER_MEMORY: usize = 48 << 20;
/// Heap that a text may take, and for each of its bytes.
const TEXT_MEMORY: usize = 1 << 20;
const TEXT_FACTOR: usize = 400;

static PLACE: Mutex<Option<Arena>> = Mutex::new(None);

/// The first byte says how the rest is to be understood: see [`blob`].
pub fn layers(data: &[u8]) -> u64 {
    let blob = blob(data);
    let mut place = PLACE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let arena = place.get_or_insert_with(arena);
    let (outcome, memory) = memory::peak_of(|| arena.layer(&blob));
    assert!(memory <= LAYER_MEMORY, "{memory} bytes of heap");
    outcome
}

#[allow(unsafe_code)]
fn arena() -> Arena {
    assert!(geteuid().is_root(), "layers are unpacked as root");
    // SAFETY: no descriptors are shared or lost; this thread only gets a mount namespace of its own.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.expect("a mount namespace");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("private mounts");
    mount("fuzz", ARENA, "tmpfs", MountFlags::empty(), Some(c"size=32m,nr_inodes=8192"))
        .expect("a small tmpfs");
    Arena::new(ARENA.as_ref())
}

/// An archive out of bytes: themselves, themselves with the checksums of headers put right, or what they say as a
/// [`script`]; plain or compressed.
pub fn blob(data: &[u8]) -> Vec<u8> {
    let Some((mode, rest)) = data.split_first() else { return Vec::new() };
    let archive = match mode & 3 {
        0 => rest.to_vec(),
        1 => script::with_checksums(rest),
        _ => script::archive(rest),
    };
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory does not fail")
    };
    match mode >> 2 & 7 {
        0 => gzip(&archive),
        1 => zstd::encode_all(&archive[..], 1).expect("memory does not fail"),
        2 => {
            let (first, second) = archive.split_at(archive.len() / 2);
            [gzip(first), gzip(second)].concat()
        }
        3 => {
            // A damaged stream.
            let mut bytes = if mode & 0x80 == 0 {
                gzip(&archive)
            } else {
                zstd::encode_all(&archive[..], 1).expect("memory")
            };
            let at = usize::from(*mode) * 31 % bytes.len();
            bytes[at] ^= mode | 1;
            bytes
        }
        _ => archive,
    }
}

fn text(data: &[u8], check: fn(&[u8]) -> u64) -> u64 {
    let (outcome, memory) = memory::peak_of(|| check(data));
    assert!(memory <= TEXT_MEMORY + TEXT_FACTOR * data.len(), "{memory} bytes of heap for {}", data.len());
    outcome
}

/// A document of an image or of the store.
pub fn documents(data: &[u8]) -> u64 {
    text(data, fuzzing::document)
}

/// What a registry, or its administrator, says.
pub fn registries(data: &[u8]) -> u64 {
    text(data, fuzzing::registry)
}

/// A record of the state directory, or a shim's message: see [`record`].
pub fn state(data: &[u8]) -> u64 {
    text(&record(data), runtime::fuzzing::state)
}

/// A record out of bytes: their text as it is; or what they say as a script of [`runtime::fuzzing::record`], as the daemon
/// writes it, with some values changed, or with changes in the message of CRI that is in it.
pub fn record(data: &[u8]) -> Vec<u8> {
    let Some((mode, rest)) = data.split_first() else { return Vec::new() };
    if mode & 3 == 0 {
        return rest.to_vec();
    }
    let mut record = runtime::fuzzing::record(rest);
    // The same bytes, the same changes.
    let seed =
        rest.iter().fold(u64::from(*mode), |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let mut random = Random::new(seed);
    match mode & 3 {
        1 => {}
        2 => vary(&mut record, &mut random),
        _ => {
            let message = record["config"].as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
            if let Some(mut message) = message {
                let other = message.clone();
                mutate(&mut random, &mut message, &other);
                record["config"] = BASE64_STANDARD.encode(message).into();
            }
        }
    }
    record.to_string().into_bytes()
}
