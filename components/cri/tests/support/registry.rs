//! A registry on the loopback that has a few images, and may keep a client waiting.

use super::image::digest;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// Bytes of a document that is no layer, at most.
const LARGE: usize = 64 << 10;

/// Stops serving when it is dropped, and lets go of whom it keeps waiting.
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// By path.
    documents: Mutex<BTreeMap<String, Vec<u8>>>,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Default)]
struct Gate {
    /// Large blobs stop half-way.
    closed: bool,
    /// Requests that wait there.
    waiting: usize,
    ended: bool,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, shared) = (listener.local_addr().unwrap(), Arc::<Shared>::default());
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                if shared.gate.lock().unwrap().ended {
                    break;
                }
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { address, shared }
    }

    /// Adds an image of these layers (archives, lowest first), and returns its reference.
    pub(crate) fn image(&self, name: &str, layers: &[Vec<u8>]) -> String {
        let mut documents = self.shared.documents.lock().unwrap();
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids }, "history": []
        });
        let mut put = |bytes: Vec<u8>| {
            let descriptor = serde_json::json!({ "digest": digest(&bytes), "size": bytes.len() });
            documents.insert(format!("/v2/{name}/blobs/{}", digest(&bytes)), bytes);
            descriptor
        };
        let config = put(config.to_string().into_bytes());
        let layers: Vec<_> =
            layers.iter().map(|layer| put(zstd::encode_all(layer.as_slice(), 1).unwrap())).collect();
        let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": layers });
        documents.insert(format!("/v2/{name}/manifests/1"), manifest.to_string().into_bytes());
        format!("{}/{name}:1", self.address)
    }

    /// From now on large blobs, which layers are, stop half-way.
    pub(crate) fn hold(&self) {
        self.shared.gate.lock().unwrap().closed = true;
    }

    /// Waits, blocking, until so many requests wait half-way through a blob.
    pub(crate) fn held(&self, count: usize) {
        let gate = self.shared.gate.lock().unwrap();
        drop(self.shared.changed.wait_while(gate, |gate| gate.waiting < count).unwrap());
    }

    pub(crate) fn release(&self) {
        self.shared.gate.lock().unwrap().closed = false;
        self.shared.changed.notify_all();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.gate.lock().unwrap().ended = true;
        self.release();
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// One request a connection.
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut first = String::new();
        reader.read_line(&mut first).ok()?;
        let path = first.split(' ').nth(1)?.to_owned();
        let mut line = String::new();
        while reader.read_line(&mut line).ok()? > 2 {
            line.clear();
        }
        let body = self.documents.lock().unwrap().get(&path).cloned();
        let (status, body) = body.map_or((404, Vec::new()), |body| (200, body));
        let head =
            format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).ok()?;
        let (half, rest) = body.split_at(body.len() / 2);
        stream.write_all(half).ok()?;
        if body.len() > LARGE {
            let mut gate = self.gate.lock().unwrap();
            gate.waiting += 1;
            self.changed.notify_all();
            gate = self.changed.wait_while(gate, |gate| gate.closed).unwrap();
            gate.waiting -= 1;
        }
        stream.write_all(rest).ok()
    }
}

/// An archive with one file of `size` bytes that do not compress.
pub(crate) fn layer(name: &str, size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let content: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(size)
    .collect();
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, name, content.as_slice()).unwrap();
    builder.into_inner().unwrap()
}
