//! `kill -9` of the driver at random instants during a random workload: no volume is lost, nothing is left.
//!
//! A round starts the driver, lets some clients work, kills it at a random moment, starts it again and compares what it
//! lists, and what is in the volumes, with what the clients were told. Every few rounds everything is removed and leaks
//! are looked for. `CAIRN_KILL_ROUNDS` and `CAIRN_KILL_SEED` repeat a run.

#![allow(clippy::unwrap_used)]

mod lab;

use cairn_contract::csi;
use lab::{Clients, Lab, MIB, Mode, Random, block, mount, number, obstacle, wanted};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

const CLIENTS: u64 = 3;
/// Volumes that a client has at the same time.
const VOLUMES: usize = 4;
const BLOCK: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Directory,
    Image,
    Block,
}

/// What is known of something that was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Known {
    /// The driver said that it is there.
    There,
    /// Asked for or asked away, and nobody heard the end.
    Doubtful,
}

#[derive(Debug, Clone)]
struct Volume {
    kind: Kind,
    made: csi::Volume,
    known: Known,
    /// What was written into it and flushed; `None` while a write may have been cut short.
    mark: Option<u64>,
    /// Where it is to be published; the staging path follows from its name.
    staged: bool,
    published: Vec<String>,
}

impl Volume {
    fn new(kind: Kind, made: csi::Volume, mark: Option<u64>) -> Self {
        Self { kind, made, known: Known::There, mark, staged: false, published: Vec::new() }
    }
}

#[derive(Debug, Default)]
struct Model {
    who: u64,
    next: u64,
    volumes: BTreeMap<String, Volume>,
    /// Identifiers of what was removed for sure.
    gone: Vec<String>,
    /// Snapshots by identifier, with what is in them.
    snapshots: BTreeMap<String, (Kind, i64, Option<u64>, Known)>,
    /// Names that were asked for and never answered.
    asked: Vec<csi::CreateVolumeRequest>,
    inline: Vec<Inline>,
}

/// A volume of one pod, that is made, published and removed with it.
#[derive(Debug)]
struct Inline {
    id: String,
    target: String,
    known: Known,
}

fn capability(kind: Kind) -> csi::VolumeCapability {
    match kind {
        Kind::Directory => mount("", Mode::SingleNodeMultiWriter),
        Kind::Image => mount("ext4", Mode::SingleNodeMultiWriter),
        Kind::Block => block(Mode::SingleNodeMultiWriter),
    }
}

fn request(kind: Kind, name: &str) -> csi::CreateVolumeRequest {
    let (bytes, parameters): (_, &[_]) = match kind {
        Kind::Directory => (2 * MIB, &[("type", "directory")]),
        Kind::Image => (16 * MIB, &[("type", "image")]),
        Kind::Block => (2 * MIB, &[("type", "image")]),
    };
    wanted(name, bytes, &capability(kind), parameters)
}

fn staging(lab: &Path, name: &str) -> String {
    lab.join("kubelet/staging").join(name).display().to_string()
}

fn write_mark(kind: Kind, target: &str, mark: u64) -> std::io::Result<()> {
    match kind {
        Kind::Block => {
            let device = fs::OpenOptions::new().write(true).open(target)?;
            device.write_all_at(&mark.to_le_bytes().repeat(BLOCK / 8), BLOCK as u64)?;
            device.sync_all()
        }
        _ => {
            let mut file = fs::File::create(Path::new(target).join("mark"))?;
            file.write_all(&mark.to_le_bytes())?;
            file.sync_all()
        }
    }
}

fn read_mark(kind: Kind, target: &str) -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    match kind {
        Kind::Block => fs::File::open(target)?.read_exact_at(&mut bytes, BLOCK as u64)?,
        _ => fs::File::open(Path::new(target).join("mark"))?.read_exact_at(&mut bytes, 0)?,
    }
    Ok(u64::from_le_bytes(bytes))
}

impl Model {
    fn pick(&self, random: &mut Random) -> Option<String> {
        let count = self.volumes.len() as u64;
        let at = usize::try_from(random.below(count.max(1))).unwrap();
        self.volumes.keys().nth(at).cloned()
    }

    /// One random call. An error changes nothing but what is known.
    async fn step(&mut self, clients: &mut Clients, lab: &Path, random: &mut Random) {
        let chosen = self.pick(random);
        match (random.below(14), chosen) {
            (0..=2, _) if self.volumes.len() < VOLUMES => {
                let kind =
                    [Kind::Directory, Kind::Image, Kind::Block][usize::try_from(random.below(3)).unwrap()];
                self.next += 1;
                let name = format!("v{}-{}", self.who, self.next);
                self.create(clients, kind, request(kind, &name), None).await;
            }
            (3..=4, Some(name)) => {
                let held = self.volumes.get_mut(&name).unwrap();
                if clients.stage(&held.made, &staging(lab, &name), &capability(held.kind)).await.is_ok() {
                    held.staged = true;
                }
            }
            (5..=6, Some(name)) => {
                let held = self.volumes.get_mut(&name).unwrap();
                let target = lab.join("kubelet/pods").join(format!("{name}-{}", random.below(2)));
                let target = target.display().to_string();
                let read_only = target.ends_with('1') && held.kind != Kind::Block;
                let (path, wanted) = (staging(lab, &name), capability(held.kind));
                let done = clients.publish(&held.made, &path, &target, &wanted, read_only).await;
                if done.is_ok() {
                    held.staged = true;
                    if !held.published.contains(&target) {
                        held.published.push(target);
                    }
                }
            }
            (7..=8, Some(name)) => {
                let held = self.volumes.get_mut(&name).unwrap();
                // A node's program writes, whether or not the driver runs.
                if let Some(target) = held.published.iter().find(|target| target.ends_with('0')) {
                    let mark = random.below(u64::MAX);
                    held.mark = None;
                    write_mark(held.kind, target, mark).unwrap();
                    held.mark = Some(mark);
                }
            }
            (9, Some(name)) => {
                let held = self.volumes.get_mut(&name).unwrap();
                if let Some(target) = held.published.pop() {
                    // Whatever comes of it, nobody relies on the path any more.
                    let _ = clients.unpublish(&held.made.volume_id, &target).await;
                }
            }
            (10, Some(name)) => {
                let held = self.volumes.get_mut(&name).unwrap();
                if held.published.is_empty() {
                    held.staged = false;
                    let _ = clients.unstage(&held.made.volume_id, &staging(lab, &name)).await;
                }
            }
            (11, Some(name)) => {
                let held = self.volumes.get_mut(&name).unwrap();
                if held.published.is_empty() && !held.staged {
                    let before = held.known;
                    held.known = Known::Doubtful;
                    match clients.delete(&held.made.volume_id).await {
                        Ok(()) => {
                            let held = self.volumes.remove(&name).unwrap();
                            self.gone.push(held.made.volume_id);
                        }
                        // In use after all: an unstage that was cut short.
                        Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                            held.known = before
                        }
                        Err(_) => {}
                    }
                }
            }
            (12, Some(name)) => self.snapshot(clients, &name, random).await,
            (13, _) => self.inline(clients, lab, random).await,
            _ => {}
        }
    }

    async fn create(
        &mut self,
        clients: &mut Clients,
        kind: Kind,
        request: csi::CreateVolumeRequest,
        mark: Option<u64>,
    ) {
        match clients.create(request.clone()).await {
            Ok(made) => {
                self.volumes.insert(request.name, Volume::new(kind, made, mark));
            }
            Err(_) => self.asked.push(request),
        }
    }

    async fn snapshot(&mut self, clients: &mut Clients, name: &str, random: &mut Random) {
        if let Some((id, (kind, bytes, mark, known))) =
            self.snapshots.iter().next().map(|(id, held)| (id.clone(), *held))
        {
            if random.below(2) == 0 && self.volumes.len() < VOLUMES && known == Known::There {
                self.next += 1;
                let source = csi::volume_content_source::SnapshotSource { snapshot_id: id };
                let name = format!("v{}-{}", self.who, self.next);
                let mut request = request(kind, &name);
                request.capacity_range = Some(csi::CapacityRange { required_bytes: bytes, limit_bytes: 0 });
                request.volume_content_source = Some(csi::VolumeContentSource {
                    r#type: Some(csi::volume_content_source::Type::Snapshot(source)),
                });
                return self.create(clients, kind, request, mark).await;
            }
            self.snapshots.get_mut(&id).unwrap().3 = Known::Doubtful;
            let request = csi::DeleteSnapshotRequest { snapshot_id: id.clone(), ..Default::default() };
            if clients.controller.delete_snapshot(request).await.is_ok() {
                self.snapshots.remove(&id);
                self.gone.push(id);
            }
            return;
        }
        let held = &self.volumes[name];
        self.next += 1;
        let request = csi::CreateSnapshotRequest {
            source_volume_id: held.made.volume_id.clone(),
            name: format!("s{}-{}", self.who, self.next),
            ..Default::default()
        };
        if let Ok(made) = clients.controller.create_snapshot(request).await {
            let made = made.into_inner().snapshot.unwrap();
            self.snapshots.insert(made.snapshot_id, (held.kind, made.size_bytes, held.mark, Known::There));
        }
    }

    async fn inline(&mut self, clients: &mut Clients, lab: &Path, random: &mut Random) {
        if let Some(held) = self.inline.last_mut() {
            held.known = Known::Doubtful;
            // As the kubelet does, until it hears that the volume is gone.
            if clients.unpublish(&held.id, &held.target).await.is_ok() {
                self.inline.pop();
            }
            return;
        }
        self.next += 1;
        let id = format!("csi-{}-{}", self.who, self.next);
        let target = lab.join("kubelet/pods").join(&id).display().to_string();
        let (size, kind) = if random.below(2) == 0 { ("1Mi", "directory") } else { ("16Mi", "image") };
        let request = csi::NodePublishVolumeRequest {
            volume_id: id.clone(),
            target_path: target.clone(),
            volume_capability: Some(mount("", Mode::SingleNodeWriter)),
            volume_context: lab::texts(&[
                ("csi.storage.k8s.io/ephemeral", "true"),
                ("size", size),
                ("type", kind),
            ]),
            ..Default::default()
        };
        let done = clients.node.node_publish_volume(request).await;
        if done.is_ok() {
            assert!(
                fs::write(Path::new(&target).join("scratch"), "x").is_ok(),
                "{id} is published and not there"
            );
        }
        // The kubelet unpublishes what it has asked for, whatever the answer.
        let known = if done.is_ok() { Known::There } else { Known::Doubtful };
        self.inline.push(Inline { id, target, known });
    }

    /// What the driver says against what this client was told; then the client knows.
    async fn compare(&mut self, clients: &mut Clients, lab: &Path, context: &str) {
        // Who was not answered asks again, as provisioners do.
        for request in std::mem::take(&mut self.asked) {
            let kind =
                match (&request.volume_capabilities[0].access_type, request.parameters["type"].as_str()) {
                    (_, "directory") => Kind::Directory,
                    (Some(csi::volume_capability::AccessType::Block(_)), _) => Kind::Block,
                    _ => Kind::Image,
                };
            match clients.create(request.clone()).await {
                Ok(made) => {
                    self.volumes.insert(request.name, Volume::new(kind, made, None));
                }
                // Its snapshot was removed, or it is a volume that is written to.
                Err(status) if status.code() == tonic::Code::NotFound => {}
                Err(status) => panic!("{context}: {} cannot be made: {status:?}", request.name),
            }
        }
        let listed =
            clients.controller.list_volumes(csi::ListVolumesRequest::default()).await.unwrap().into_inner();
        let listed: Vec<String> =
            listed.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id).collect();
        let snapshots =
            clients.controller.list_snapshots(csi::ListSnapshotsRequest::default()).await.unwrap();
        let snapshots: Vec<String> = snapshots
            .into_inner()
            .entries
            .into_iter()
            .map(|entry| entry.snapshot.unwrap().snapshot_id)
            .collect();
        for id in &self.gone {
            assert!(
                !listed.contains(id) && !snapshots.contains(id),
                "{context}: {id} was removed and is back"
            );
        }
        self.volumes.retain(|name, held| {
            let there = listed.contains(&held.made.volume_id);
            assert!(there || held.known == Known::Doubtful, "{context}: {name} is lost: {held:?}");
            held.known = Known::There;
            there
        });
        self.snapshots.retain(|id, held| {
            let there = snapshots.contains(id);
            assert!(there || held.3 == Known::Doubtful, "{context}: snapshot {id} is lost");
            held.3 = Known::There;
            there
        });
        for held in self.inline.iter().filter(|held| held.known == Known::There) {
            assert!(Path::new(&held.target).join("scratch").exists(), "{context}: {} is lost", held.id);
        }
        for (name, held) in &mut self.volumes {
            for target in &held.published {
                assert!(Path::new(target).exists(), "{context}: {name} is not at {target} any more");
            }
            // Bring it up, if it is not, and look what is in it.
            let (path, target) = (staging(lab, name), lab.join("kubelet/pods").join(format!("{name}-0")));
            let target = target.display().to_string();
            let step = |what: &str, done: Result<(), tonic::Status>| {
                done.unwrap_or_else(|status| panic!("{context}: {name}: {what}: {status:?}"));
            };
            step("stage", clients.stage(&held.made, &path, &capability(held.kind)).await);
            held.staged = true;
            step("publish", clients.publish(&held.made, &path, &target, &capability(held.kind), false).await);
            if !held.published.contains(&target) {
                held.published.push(target.clone());
            }
            if let Some(mark) = held.mark {
                let found = read_mark(held.kind, &target);
                assert_eq!(found.as_ref().ok(), Some(&mark), "{context}: {name}: {found:?} in {held:?}");
            }
        }
    }

    /// Everything goes.
    async fn remove_all(&mut self, clients: &mut Clients, lab: &Path, context: &str) {
        let step = |what: &str, name: &str, done: Result<(), tonic::Status>| {
            done.unwrap_or_else(|status| panic!("{context}: {name}: {what}: {status:?}"));
        };
        for Inline { id, target, .. } in std::mem::take(&mut self.inline) {
            step("unpublish", &id, clients.unpublish(&id, &target).await);
        }
        for (name, held) in std::mem::take(&mut self.volumes) {
            for end in 0..2 {
                let target = lab.join("kubelet/pods").join(format!("{name}-{end}")).display().to_string();
                step("unpublish", &name, clients.unpublish(&held.made.volume_id, &target).await);
            }
            step("unstage", &name, clients.unstage(&held.made.volume_id, &staging(lab, &name)).await);
            step("delete", &name, clients.delete(&held.made.volume_id).await);
        }
        self.snapshots.clear();
        self.gone.clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_left_when_killed() {
    if let Some(reason) = obstacle() {
        println!("skipped: {reason}");
        return;
    }
    let rounds = number("CAIRN_KILL_ROUNDS", 12);
    let seed = number("CAIRN_KILL_SEED", u64::from(std::process::id()));
    println!("seed {seed}, {rounds} rounds");
    let mut random = Random(seed);
    let mut lab = Lab::with_pools(if random.below(2) == 0 { lab::Pools::Xfs } else { lab::Pools::Plain }, "");
    let root = lab.root().to_path_buf();
    fs::create_dir_all(root.join("kubelet/staging")).unwrap();
    let mut models: Vec<Model> = (0..CLIENTS).map(|who| Model { who, ..Model::default() }).collect();
    let mut steps = 0;
    for round in 0..rounds {
        let context = format!("seed {seed}, round {round}");
        let clients = lab.clients().await;
        let until = Instant::now() + Duration::from_millis(20 + random.below(400));
        let workers: Vec<_> = models
            .drain(..)
            .map(|mut model| {
                let (mut clients, mut random, root) =
                    (clients.clone(), Random(random.below(u64::MAX)), root.clone());
                tokio::spawn(async move {
                    let mut taken = 0;
                    // Some calls go to a driver that is dead already.
                    while Instant::now() < until + Duration::from_millis(5) {
                        model.step(&mut clients, &root, &mut random).await;
                        taken += 1;
                        tokio::task::yield_now().await;
                    }
                    (model, taken)
                })
            })
            .collect();
        tokio::time::sleep_until(until.into()).await;
        lab.kill();
        for worker in workers {
            let (model, taken) =
                worker.await.unwrap_or_else(|error| panic!("{context}: {error}\n{}", lab.log()));
            models.push(model);
            steps += taken;
        }
        let mut clients = lab.clients().await;
        for model in &mut models {
            model.compare(&mut clients, &root, &context).await;
        }
        if round % 4 == 3 || round + 1 == rounds {
            for model in &mut models {
                model.remove_all(&mut clients, &root, &context).await;
            }
            let snapshots =
                clients.controller.list_snapshots(csi::ListSnapshotsRequest::default()).await.unwrap();
            for entry in snapshots.into_inner().entries {
                let snapshot_id = entry.snapshot.unwrap().snapshot_id;
                let request = csi::DeleteSnapshotRequest { snapshot_id, ..Default::default() };
                clients.controller.delete_snapshot(request).await.unwrap();
            }
            assert_eq!(lab.leaks(), Vec::<String>::new(), "{context}\n{}", lab.log());
        }
    }
    println!("{steps} steps, the driver killed {rounds} times, on {:?}", lab.pools);
    assert_eq!(lab.spawn().wait().unwrap().code(), Some(3), "a second driver on the same state is refused");
}
