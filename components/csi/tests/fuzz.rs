//! A stream of random requests: the driver lives, answers with codes that blame the caller, and leaves alone what is not its
//! own.
//!
//! Requests are made from the protocol's own description, field by field: values that mean something to the driver
//! (names, identifiers it gave, paths it may use), values that are hostile, and bytes that are no message at all.
//! `CAIRN_FUZZ_CALLS` and `CAIRN_FUZZ_SEED` repeat a run; a longer one is in docs/testing.md.

#![allow(clippy::unwrap_used)]

mod lab;

use cairn_contract::csi;
use lab::{Lab, MIB, Mode, Random, mount, number, obstacle, wanted};
use prost::{
    Message,
    bytes::{Buf, BufMut},
};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use std::{collections::BTreeMap, fs, path::Path};
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
struct Stream<'lab> {
    random: Random,
    protocol: Protocol,
    root: &'lab Path,
    ids: Vec<String>,
}

impl Stream<'_> {
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
            // Most fields are there: a request without them is refused before it gets anywhere.
            if self.chance(6) || depth > 5 {
                continue;
            }
            let times = if field.label() == Label::Repeated { self.random.below(3) } else { 1 };
            for _ in 0..times {
                self.field(field, depth, &mut bytes);
            }
        }
        bytes
    }

    fn field(&mut self, field: &FieldDescriptorProto, depth: u32, bytes: &mut Vec<u8>) {
        let key = |wire: u64| u64::from(field.number().cast_unsigned()) << 3 | wire;
        let delimited = |bytes: &mut Vec<u8>, value: &[u8]| {
            prost::encoding::encode_varint(key(2), bytes);
            prost::encoding::encode_varint(value.len() as u64, bytes);
            bytes.extend_from_slice(value);
        };
        match field.r#type() {
            Type::String => {
                let value = self.text(field.name());
                delimited(bytes, &value);
            }
            Type::Message => {
                let value = self.message(field.type_name(), depth + 1);
                delimited(bytes, &value);
            }
            _ => {
                let value = self.number(field.name());
                prost::encoding::encode_varint(key(0), bytes);
                prost::encoding::encode_varint(value, bytes);
            }
        }
    }

    fn number(&mut self, field: &str) -> u64 {
        let mib = MIB.cast_unsigned();
        match field {
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
        if self.chance(12) {
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
            "fs_type" => self.pick(&["", "", "ext4", "xfs", "ntfs"]).into(),
            "mount_flags" => {
                self.pick(&["ro", "noatime", "discard", "logdev=/dev/vda", "commit=99999999999"]).into()
            }
            "volume_mount_group" => self.pick(&["", "0", "1000", "-1", "root"]).into(),
            "name" => format!("name-{}", self.random.below(6)).into_bytes(),
            // Keys and values of maps.
            "key" => self
                .pick(&[
                    "type",
                    "type",
                    "pool",
                    "size",
                    "encryption",
                    "fsType",
                    "csi.storage.k8s.io/ephemeral",
                    "x",
                ])
                .into(),
            "value" => {
                self.pick(&["image", "directory", "true", "disk", "10Mi", "luks2", "../../etc", "1Ki"]).into()
            }
            "starting_token" => self.pick(&["", "", "1", "after:vol-"]).into(),
            "node_id" => "node-1".into(),
            _ => self.hostile(),
        }
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
        let (path, input) = self.protocol.methods[at].clone();
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

async fn send(channel: &Channel, path: &str, bytes: Vec<u8>) -> Result<Vec<u8>, Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(path).unwrap();
    Ok(client.unary(tonic::Request::new(bytes), path, Raw).await?.into_inner())
}

#[tokio::test]
async fn random_requests_do_no_harm() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let calls = number("CAIRN_FUZZ_CALLS", 1500);
    let seed = number("CAIRN_FUZZ_SEED", u64::from(std::process::id()));
    println!("seed {seed}, {calls} calls");
    let mut lab = Lab::with_pools(lab::Pools::Xfs, "limit_bytes = 600_000_000");
    let root = lab.root().to_path_buf();
    // What must not be touched: beside the kubelet's directory, behind a link in it, in it, in the pool.
    fs::create_dir_all(root.join("outside/file")).unwrap();
    fs::create_dir_all(root.join("kubelet/full-0")).unwrap();
    std::os::unix::fs::symlink(root.join("outside"), root.join("kubelet/link")).unwrap();
    let untouched = ["outside/untouched", "kubelet/full-0/untouched", "kubelet/full-1"];
    for path in untouched {
        fs::write(root.join(path), path).unwrap();
    }
    let mut clients = lab.clients().await;
    let capability = mount("", Mode::SingleNodeMultiWriter);
    let own = clients.create(wanted("ours", MIB, &capability, &[])).await.unwrap();
    let (staging, target) = (lab.target("ours/staging"), lab.target("ours/pod/target"));
    clients.stage(&own, &staging, &capability).await.unwrap();
    clients.publish(&own, &staging, &target, &capability, false).await.unwrap();
    fs::write(Path::new(&target).join("ours"), "ours").unwrap();
    let pid = lab.pid();

    let channel = lab::connect(&root.join("run/local.sock")).await.unwrap();
    let mut stream =
        Stream { random: Random(seed), protocol: Protocol::read(), root: &root, ids: Vec::new() };
    let mut codes: BTreeMap<String, u64> = BTreeMap::new();
    for call in 0..calls {
        let (path, bytes) = stream.request();
        let answer = send(&channel, &path, bytes.clone()).await;
        let code = answer.as_ref().map_or_else(|status| status.code(), |_| Code::Ok);
        *codes.entry(format!("{code:?}")).or_default() += 1;
        match answer {
            Ok(answer) => stream.learn(&path, &answer),
            Err(status) => {
                let decoding = status.message().contains("decode");
                assert!(
                    !matches!(code, Code::Unknown | Code::Unavailable | Code::Internal) || decoding,
                    "seed {seed}, call {call}: {path}: {status:?}\n{bytes:02x?}\n{}",
                    lab.log()
                );
                assert!(!status.message().is_empty(), "{path}: {status:?}");
            }
        }
    }
    println!("{codes:?}");
    assert_eq!(lab.pid(), pid);
    assert!(codes.len() >= 6 && codes["Ok"] > calls / 20, "the stream reaches deep enough: {codes:?}");
    for path in untouched {
        assert_eq!(fs::read_to_string(root.join(path)).unwrap(), path);
    }
    assert_eq!(fs::read_dir(root.join("outside")).unwrap().count(), 2);
    assert_eq!(fs::read_to_string(Path::new(&target).join("ours")).unwrap(), "ours", "seed {seed}");

    // The driver can take everything away again.
    let published: Vec<csi::NodeUnpublishVolumeRequest> =
        records(&root.join("run/local/published"), "target")
            .into_iter()
            .map(|(volume_id, target_path)| csi::NodeUnpublishVolumeRequest { volume_id, target_path })
            .collect();
    for request in published {
        clients.node.node_unpublish_volume(request).await.unwrap();
    }
    for (volume_id, staging_target_path) in records(&root.join("run/local/staged"), "path") {
        let request = csi::NodeUnstageVolumeRequest { volume_id, staging_target_path };
        clients.node.node_unstage_volume(request).await.unwrap();
    }
    let listed =
        clients.controller.list_snapshots(csi::ListSnapshotsRequest::default()).await.unwrap().into_inner();
    for snapshot in listed.entries.into_iter().map(|entry| entry.snapshot.unwrap()) {
        if snapshot.group_snapshot_id.is_empty() {
            let request =
                csi::DeleteSnapshotRequest { snapshot_id: snapshot.snapshot_id, ..Default::default() };
            clients.controller.delete_snapshot(request).await.unwrap();
        } else {
            let group_snapshot_id = snapshot.group_snapshot_id;
            let request = csi::DeleteVolumeGroupSnapshotRequest { group_snapshot_id, ..Default::default() };
            clients.group.delete_volume_group_snapshot(request).await.unwrap();
        }
    }
    let listed =
        clients.controller.list_volumes(csi::ListVolumesRequest::default()).await.unwrap().into_inner();
    for volume in listed.entries.into_iter().map(|entry| entry.volume.unwrap()) {
        clients.delete(&volume.volume_id).await.unwrap();
    }
    assert_eq!(lab.leaks(), Vec::<String>::new(), "seed {seed}\n{}", lab.log());
}

/// Volumes and paths of the driver's records.
fn records(directory: &Path, path: &str) -> Vec<(String, String)> {
    let files = fs::read_dir(directory).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let records = files.map(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap());
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    records.filter_map(|record| Some((text(&record["id"])?, text(&record[path])?))).collect()
}
