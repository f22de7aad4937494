//! Random requests, made from the protocol's own description, field by field: values that mean something to the driver (names,
//! identifiers it gave, paths it may use), values that are hostile, and bytes that are no message at all.

#![allow(clippy::unwrap_used, unreachable_pub, dead_code)]

use super::lab::{Clients, MIB, Random};
use cairn_contract::csi;
use prost::{
    Message,
    bytes::{Buf, BufMut},
};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use std::{collections::BTreeMap, fmt, path::Path};
use tonic::{
    Code, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};

/// Sends and receives bytes.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        *self
    }
    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

/// The protocol, by the names of its messages and methods.
struct Protocol {
    messages: BTreeMap<String, DescriptorProto>,
    /// Path, and the message it takes.
    methods: Vec<(String, String)>,
}

impl Protocol {
    fn read() -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contract/proto");
        let set: FileDescriptorSet = protox::compile([directory.join("csi.proto")], [&directory]).unwrap();
        let mut protocol = Self { messages: BTreeMap::new(), methods: Vec::new() };
        for file in set.file {
            let package = format!(".{}", file.package());
            for message in &file.message_type {
                protocol.add(&package, message);
            }
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    protocol.methods.push((path, method.input_type().to_owned()));
                }
            }
        }
        protocol
    }

    fn add(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        message.nested_type.iter().for_each(|nested| self.add(&name, nested));
        self.messages.insert(name, message.clone());
    }
}

/// What a stream of requests knows.
pub struct Stream<'lab> {
    random: Random,
    protocol: Protocol,
    root: &'lab Path,
    words: Words,
    /// Identifiers that the driver gave out.
    pub ids: Vec<String>,
}

/// What means something to one kind of driver.
pub struct Words {
    /// What parameters, contexts and secrets mostly begin with.
    pub base: &'static [(&'static str, &'static str)],
    /// And what else is in them.
    pub entries: &'static [(&'static str, &'static str)],
    /// So many of them at most, and one more.
    pub most: u64,
    pub fs_types: &'static [&'static str],
    pub flags: &'static [&'static str],
    /// Calls that are made more often than the others.
    pub calls: &'static [&'static str],
    /// Access modes that it takes.
    pub modes: &'static [u64],
}

/// One request of a stream, to be shown beside what came of it.
pub struct Sent {
    call: u64,
    path: String,
    bytes: Vec<u8>,
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {}: {}\n{:02x?}", self.call, self.path, self.bytes)
    }
}

impl<'lab> Stream<'lab> {
    /// A stream that begins with some identifiers.
    pub fn new(seed: u64, root: &'lab Path, words: Words, ids: Vec<String>) -> Self {
        Self { random: Random(seed), protocol: Protocol::read(), root, words, ids }
    }

    /// Sends so many requests, and learns of the answers. `look` sees each with its refusal, if it was refused. How many ended with
    /// which code.
    pub async fn send(
        &mut self,
        channel: &Channel,
        calls: u64,
        mut look: impl FnMut(&Sent, Option<&Status>),
    ) -> BTreeMap<String, u64> {
        let mut codes = BTreeMap::new();
        for call in 0..calls {
            let (path, bytes) = self.request();
            let sent = Sent { call, path, bytes };
            let answer = send(channel, &sent.path, sent.bytes.clone()).await;
            let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
            *codes.entry(format!("{code:?}")).or_default() += 1;
            if let Ok(answer) = &answer {
                self.learn(&sent.path, answer);
            }
            look(&sent, answer.err().as_ref());
        }
        codes
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[usize::try_from(self.random.below(from.len() as u64)).unwrap()]
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.random.below(one_in) == 0
    }

    fn message(&mut self, name: &str, depth: u32) -> Vec<u8> {
        let descriptor = self.protocol.messages[name].clone();
        let mut bytes = Vec::new();
        for field in &descriptor.field {
            // Most fields are there: a request without them is refused before it gets anywhere. With these it mostly is.
            let rare =
                ["accessibility_requirements", "volume_content_source", "mutable_parameters", "limit_bytes"];
            let is_left_out = if rare.contains(&field.name()) { !self.chance(6) } else { self.chance(15) };
            if is_left_out || depth > 5 {
                continue;
            }
            let times = match field.label() {
                Label::Repeated if self.is_map(field) => {
                    if !self.chance(5) {
                        self.words
                            .base
                            .iter()
                            .for_each(|(key, value)| Self::put_entry(field, key, value, &mut bytes));
                    }
                    self.random.below(self.words.most)
                }
                Label::Repeated => self.random.below(8).div_ceil(4),
                _ => 1,
            };
            for _ in 0..times {
                self.field(field, depth, &mut bytes);
            }
        }
        bytes
    }

    fn field(&mut self, field: &FieldDescriptorProto, depth: u32, bytes: &mut Vec<u8>) {
        match field.r#type() {
            Type::String => {
                let value = self.text(field.name());
                put(number(field), &value, bytes);
            }
            Type::Message if self.is_map(field) => {
                let (key, value) = self.entry();
                Self::put_entry(field, &key, &value, bytes);
            }
            Type::Message => {
                let value = self.message(field.type_name(), depth + 1);
                put(number(field), &value, bytes);
            }
            _ => {
                let value = self.number(field.name());
                prost::encoding::encode_varint(number(field) << 3, bytes);
                prost::encoding::encode_varint(value, bytes);
            }
        }
    }

    fn put_entry(
        field: &FieldDescriptorProto,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        bytes: &mut Vec<u8>,
    ) {
        let mut entry = Vec::new();
        put(1, key.as_ref(), &mut entry);
        put(2, value.as_ref(), &mut entry);
        put(number(field), &entry, bytes);
    }

    fn is_map(&self, field: &FieldDescriptorProto) -> bool {
        let message = self.protocol.messages.get(field.type_name());
        message.is_some_and(|message| message.options.as_ref().is_some_and(|options| options.map_entry()))
    }

    fn number(&mut self, field: &str) -> u64 {
        let mib = MIB.cast_unsigned();
        match field {
            "mode" if !self.chance(4) => {
                let at = usize::try_from(self.random.below(self.words.modes.len() as u64)).unwrap();
                self.words.modes[at]
            }
            "mode" | "type" => self.random.below(9),
            "max_entries" => self.random.below(4).wrapping_sub(1),
            _ => match self.random.below(6) {
                0 => self.random.below(u64::MAX),
                1 => 0,
                2 => u64::MAX,
                3 => i64::MAX.cast_unsigned(),
                _ => self.random.below(40) * mib + self.random.below(2),
            },
        }
    }

    fn text(&mut self, field: &str) -> Vec<u8> {
        if self.chance(20) {
            return self.hostile();
        }
        let root = self.root.display().to_string();
        match field {
            "volume_id" | "source_volume_id" | "snapshot_id" | "source_volume_ids" | "snapshot_ids"
            | "group_snapshot_id"
                if !self.ids.is_empty() =>
            {
                let at = usize::try_from(self.random.below(self.ids.len() as u64)).unwrap();
                self.ids[at].clone().into_bytes()
            }
            "staging_target_path" => format!("{root}/kubelet/staging-{}", self.random.below(3)).into_bytes(),
            "target_path" | "volume_path" => {
                let place = match self.random.below(4) {
                    0 => "kubelet/staging-0",
                    1 => "kubelet/link/a",
                    2 => "kubelet/full",
                    _ => "kubelet/target",
                };
                format!("{root}/{place}-{}", self.random.below(3)).into_bytes()
            }
            "fs_type" => self.pick(self.words.fs_types).into(),
            "mount_flags" => self.pick(self.words.flags).into(),
            "volume_mount_group" => self.pick(&["", "0", "1000", "-1", "root"]).into(),
            "name" => format!("name-{}", self.random.below(6)).into_bytes(),
            "starting_token" => self.pick(&["", "", "1", "after:vol-"]).into(),
            "node_id" => "node-1".into(),
            _ => self.hostile(),
        }
    }

    /// An entry of a map: at times a key with another's value, or what is neither.
    fn entry(&mut self) -> (Vec<u8>, Vec<u8>) {
        let word = |stream: &mut Self| {
            let at = usize::try_from(stream.random.below(stream.words.entries.len() as u64)).unwrap();
            stream.words.entries[at]
        };
        let (first, second) = (word(self), word(self));
        let key = if self.chance(20) { self.hostile() } else { first.0.into() };
        let value = match self.random.below(10) {
            0 => self.hostile(),
            1 => second.1.into(),
            _ => first.1.into(),
        };
        (key, value)
    }

    fn hostile(&mut self) -> Vec<u8> {
        let root = self.root.display().to_string();
        match self.random.below(12) {
            0 => "../../../../etc/passwd".into(),
            1 => format!("{root}/outside/file").into_bytes(),
            2 => format!("{root}/kubelet/../outside/file").into_bytes(),
            3 => format!("{root}/kubelet/link/file").into_bytes(),
            4 => "/".into(),
            5 => "/proc/self/root/etc".into(),
            6 => vec![b'a'; usize::try_from(self.random.below(5000)).unwrap()],
            7 => "vol-\u{202e}\u{0}\n\r\t\u{7f}é".into(),
            8 => "$(reboot); `reboot` %s%n".into(),
            9 => format!("{root}/pool/volumes").into_bytes(),
            10 => vec![0xff, 0xfe, 0x80],
            _ => Vec::new(),
        }
    }

    /// A request: usually a message, at times no more than bytes.
    fn request(&mut self) -> (String, Vec<u8>) {
        let at = usize::try_from(self.random.below(self.protocol.methods.len() as u64)).unwrap();
        let (path, input) = if self.chance(3) || self.words.calls.is_empty() {
            self.protocol.methods[at].clone()
        } else {
            let call = self.pick(self.words.calls);
            self.protocol.methods.iter().find(|(path, _)| path.ends_with(call)).unwrap().clone()
        };
        let mut bytes = self.message(&input, 0);
        if self.chance(20) && !bytes.is_empty() {
            let at = usize::try_from(self.random.below(bytes.len() as u64)).unwrap();
            if self.chance(2) {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << self.random.below(8);
            }
        }
        (path, bytes)
    }

    fn learn(&mut self, path: &str, answer: &[u8]) {
        let id = match path {
            "/csi.v1.Controller/CreateVolume" => {
                csi::CreateVolumeResponse::decode(answer).ok().and_then(|made| Some(made.volume?.volume_id))
            }
            "/csi.v1.Controller/CreateSnapshot" => csi::CreateSnapshotResponse::decode(answer)
                .ok()
                .and_then(|made| Some(made.snapshot?.snapshot_id)),
            "/csi.v1.GroupController/CreateVolumeGroupSnapshot" => {
                csi::CreateVolumeGroupSnapshotResponse::decode(answer)
                    .ok()
                    .and_then(|made| Some(made.group_snapshot?.group_snapshot_id))
            }
            _ => None,
        };
        if let Some(id) = id.filter(|id| !self.ids.contains(id)) {
            self.ids.push(id);
        }
    }
}

fn number(field: &FieldDescriptorProto) -> u64 {
    field.number().cast_unsigned().into()
}

/// A field with its length before it.
fn put(number: u64, value: &[u8], bytes: &mut Vec<u8>) {
    prost::encoding::encode_varint(number << 3 | 2, bytes);
    prost::encoding::encode_varint(value.len() as u64, bytes);
    bytes.extend_from_slice(value);
}

async fn send(channel: &Channel, path: &str, bytes: Vec<u8>) -> Result<Vec<u8>, Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(path).unwrap();
    Ok(client.unary(tonic::Request::new(bytes), path, Raw).await?.into_inner())
}

/// Volumes and paths of the driver's records.
fn records(directory: &Path, path: &str) -> Vec<(String, String)> {
    let files =
        std::fs::read_dir(directory).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    let records = files.map(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap());
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    records.filter_map(|record| Some((text(&record["id"])?, text(&record[path])?))).collect()
}

/// Takes away whatever a driver's records in `run` say is on the node.
pub async fn take_back(clients: &mut Clients, run: &Path) {
    for (volume_id, target_path) in records(&run.join("published"), "target") {
        let request = csi::NodeUnpublishVolumeRequest { volume_id, target_path };
        clients.node.node_unpublish_volume(request).await.unwrap();
    }
    for (volume_id, staging_target_path) in records(&run.join("staged"), "path") {
        let request = csi::NodeUnstageVolumeRequest { volume_id, staging_target_path };
        clients.node.node_unstage_volume(request).await.unwrap();
    }
}
