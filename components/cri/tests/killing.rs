//! `kill -9` of daemon and shims at random instants during a random workload: nothing is lost, doubled or left.
//!
//! A round starts the daemon, lets some clients work, kills the daemon or a shim, or both, at a random moment,
//! starts the daemon again and compares what it lists with what the clients were told. Every other round removes
//! everything and looks for leaks. `CAIRN_KILL_ROUNDS` and `CAIRN_KILL_SEED` repeat a run.

#![allow(clippy::unwrap_used)]

mod support;

use cairn_contract::cri;
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use support::{
    calls::{Client, containers, pods, remove_pod, status, try_create, try_run_pod, try_start},
    leaks::Process,
    node::Node,
    obstacle,
    pods::{container_in, pod_metadata},
    unless,
};

const CLIENTS: u64 = 3;

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A small generator (splitmix64): a run is repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// What a client was told of a container.
#[derive(Debug, Clone)]
struct Known {
    pod: String,
    /// What its program ends with by itself.
    code: Option<i32>,
    started: bool,
    /// Something was asked that may kill it.
    stopping: bool,
}

/// What a client was told, and what it asked for without hearing the end of it.
#[derive(Debug, Default)]
struct Model {
    pods: BTreeSet<String>,
    containers: BTreeMap<String, Known>,
    /// May be there or not.
    doubtful: BTreeSet<String>,
    gone: BTreeSet<String>,
    next: u64,
}

impl Model {
    fn doubt_pod(&mut self, pod: &str) {
        self.doubtful.insert(pod.to_owned());
        for (id, known) in self.containers.iter_mut().filter(|(_, known)| known.pod == pod) {
            known.stopping = true;
            self.doubtful.insert(id.clone());
        }
    }
}

fn pick<'a>(random: &mut Random, from: impl Iterator<Item = &'a String>) -> Option<String> {
    let all: Vec<&String> = from.collect();
    (!all.is_empty()).then(|| all[usize::try_from(random.below(all.len() as u64)).unwrap()].clone())
}

/// A client's work.
#[derive(Clone)]
struct Work {
    /// What every pod is but for its name, and whether it shares PIDs.
    pod: cri::PodSandboxConfig,
    until: Instant,
    /// One of the pods' shims was killed, or a child of one that was not its program yet.
    shims_killed: Arc<AtomicBool>,
}

impl Work {
    /// Works until the time has come; what cannot be done is not.
    async fn run(self, mut client: Client, mut model: Model, mut random: Random, who: u64) -> Model {
        while Instant::now() < self.until {
            self.step(&mut client, &mut model, &mut random, who).await;
            tokio::task::yield_now().await;
        }
        model
    }

    async fn step(&self, client: &mut Client, model: &mut Model, random: &mut Random, who: u64) {
        let pod = pick(random, model.pods.iter());
        let container = pick(random, model.containers.keys());
        match (random.below(12), pod, container) {
            (0..=1, ..) | (_, None, _) if model.pods.len() < 3 => {
                model.next += 1;
                let mut config = self.pod.clone();
                config.metadata = Some(pod_metadata(&format!("p{who}-{}", model.next)));
                let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
                security.namespace_options.as_mut().unwrap().set_pid(if random.below(2) == 0 {
                    cri::NamespaceMode::Pod
                } else {
                    cri::NamespaceMode::Container
                });
                if let Ok(made) = try_run_pod(client, config).await {
                    model.pods.insert(made);
                }
            }
            (2..=4, Some(pod), _) => {
                model.next += 1;
                let code = (random.below(2) == 0).then(|| i32::try_from(random.below(100)).unwrap());
                let script = code.map_or("exec sleep 1000".to_owned(), |code| format!("exit {code}"));
                let name = format!("c{who}-{}", model.next);
                let config = container_in(&name, &cri::NamespaceOption::default(), &script);
                if let Ok(made) = try_create(client, &pod, config).await {
                    let known = Known { pod, code, started: false, stopping: false };
                    model.containers.insert(made, known);
                }
            }
            (5..=6, _, Some(id)) => {
                let started = try_start(client, &id).await.is_ok();
                model.containers.get_mut(&id).unwrap().started |= started;
            }
            (7..=8, _, Some(container_id)) => {
                let known = &model.containers[&container_id];
                let request = cri::ExecSyncRequest { container_id, cmd: vec!["true".into()], timeout: 5 };
                if let Ok(done) = client.exec_sync(request).await {
                    let code = done.into_inner().exit_code;
                    // A container's end is the end of the commands in it, and a command is a shim's child first.
                    let killed = known.code.is_some() || self.shims_killed.load(Ordering::SeqCst);
                    let allowed = code == 0 || killed && code == 137;
                    assert!(allowed, "a command ended with {code}, {known:?}");
                }
            }
            (9, _, Some(container_id)) => {
                model.containers.get_mut(&container_id).unwrap().stopping = true;
                let _ = client.stop_container(cri::StopContainerRequest { container_id, timeout: 0 }).await;
            }
            (10, _, Some(container_id)) => {
                model.doubtful.insert(container_id.clone());
                let request = cri::RemoveContainerRequest { container_id: container_id.clone() };
                if client.remove_container(request).await.is_ok() {
                    model.containers.remove(&container_id);
                    model.doubtful.remove(&container_id);
                    model.gone.insert(container_id);
                } else {
                    model.containers.get_mut(&container_id).unwrap().stopping = true;
                }
            }
            (11, Some(pod_sandbox_id), _) => {
                model.doubt_pod(&pod_sandbox_id);
                let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
                if client.remove_pod_sandbox(request).await.is_ok() {
                    let inside: Vec<String> = model
                        .containers
                        .iter()
                        .filter(|(_, known)| known.pod == pod_sandbox_id)
                        .map(|(id, _)| id.clone())
                        .collect();
                    for id in inside.into_iter().chain([pod_sandbox_id]) {
                        model.pods.remove(&id);
                        model.containers.remove(&id);
                        model.doubtful.remove(&id);
                        model.gone.insert(id);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Compares what the daemon lists with what clients know; then they know what is listed.
async fn compare(client: &mut Client, models: &mut [Model], shims_killed: bool, node: &Node, context: &str) {
    let pods = pods(client).await;
    let containers = containers(client).await;
    let names: BTreeSet<_> = pods.iter().map(|pod| pod.metadata.clone().unwrap().name).collect();
    assert_eq!(names.len(), pods.len(), "{context}: a pod is doubled: {pods:?}");
    let names: BTreeSet<_> = containers.iter().map(|held| held.metadata.clone().unwrap().name).collect();
    assert_eq!(names.len(), containers.len(), "{context}: a container is doubled: {containers:?}");
    let ready: BTreeSet<&String> = pods
        .iter()
        .filter(|pod| pod.state() == cri::PodSandboxState::SandboxReady)
        .map(|pod| &pod.id)
        .collect();
    let listed: BTreeSet<String> =
        pods.iter().map(|pod| pod.id.clone()).chain(containers.iter().map(|held| held.id.clone())).collect();
    for model in models {
        for id in model.pods.iter().chain(model.containers.keys()) {
            assert!(
                listed.contains(id) || model.doubtful.contains(id),
                "{context}: {id} is lost\n{}",
                node.log()
            );
        }
        for id in &model.gone {
            assert!(!listed.contains(id), "{context}: {id} was removed and is back\n{}", node.log());
        }
        model.doubtful.clear();
        model.pods.retain(|id| listed.contains(id));
        model.containers.retain(|id, _| listed.contains(id));
        for (id, known) in &model.containers {
            // What ends by itself is waited for, and what a pod's end is about to kill.
            let ends = known.code.is_some() || !ready.contains(&known.pod);
            let settled = async || {
                let now = status(client, id).await;
                (!ends || now.state() != cri::ContainerState::ContainerRunning).then_some(now)
            };
            let matter = || {
                let (processes, log) = (node.processes(), node.log());
                format!("{context}: {id} does not end, {known:?}\n{processes:#?}\n{log}")
            };
            let now = support::until(settled, matter).await;
            match now.state() {
                cri::ContainerState::ContainerRunning => {
                    assert!(ready.contains(&known.pod), "{context}: {id} runs in a stopped pod")
                }
                cri::ContainerState::ContainerExited => {
                    let code = now.exit_code;
                    let allowed = known.code == Some(code)
                        || (known.stopping && [137, 255].contains(&code))
                        || (shims_killed && [255, 137, 128].contains(&code))
                        || (!known.started && code == 128);
                    assert!(allowed, "{context}: {id} ended with {code}, {known:?}, {now:?}\n{}", node.log());
                }
                _ => assert!(!known.started, "{context}: {id} was started and is not\n{}", node.log()),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_left_when_killed() {
    unless!(obstacle());
    let rounds = number("CAIRN_KILL_ROUNDS", 12);
    let seed = number("CAIRN_KILL_SEED", u64::from(std::process::id()));
    println!("seed {seed}, {rounds} rounds");
    let mut random = Random(seed);
    let mut node = Node::bridged(&[&format!("10.199.{}.0/24", 100 + std::process::id() % 100)]);
    let mut models: Vec<Model> = (0..CLIENTS).map(|_| Model::default()).collect();
    let shims_killed = Arc::new(AtomicBool::new(false));
    let mut kills = (0, 0);
    for round in 0..rounds {
        let client = node.start().await;
        let life = Duration::from_millis(50 + random.below(1500));
        let until = Instant::now() + life;
        let work = Work { pod: node.pod("any"), until, shims_killed: Arc::clone(&shims_killed) };
        let workers: Vec<_> = models
            .drain(..)
            .zip(0..)
            .map(|(model, who)| {
                let random = Random(random.below(u64::MAX));
                tokio::spawn(work.clone().run(client.clone(), model, random, who))
            })
            .collect();
        tokio::time::sleep(life.mul_f64(0.9)).await;
        let kind = random.below(3);
        if kind > 0 {
            let is_shim = |process: &Process| process.line.contains("cairn-shim serve");
            let shims: Vec<_> = node.processes().into_iter().filter(is_shim).collect();
            if !shims.is_empty() {
                let shim = &shims[usize::try_from(random.below(shims.len() as u64)).unwrap()];
                shims_killed.store(true, Ordering::SeqCst);
                let _ = rustix::process::kill_process(shim.pid, rustix::process::Signal::KILL);
                kills.1 += 1;
            }
        }
        if kind < 2 {
            node.kill();
            kills.0 += 1;
        }
        for worker in workers {
            models.push(worker.await.unwrap());
        }
        let context = format!("seed {seed}, round {round}");
        let mut client = node.start().await;
        compare(&mut client, &mut models, shims_killed.load(Ordering::SeqCst), &node, &context).await;
        if round % 2 == 1 || round + 1 == rounds {
            for pod in pods(&mut client).await {
                remove_pod(&mut client, &pod.id).await;
            }
            // A killed process needs a moment to be gone.
            let left = || format!("{context}: left behind: {:#?}\n{}", node.leaks(), node.log());
            support::until(async || node.leaks().is_empty().then_some(()), left).await;
            for model in &mut models {
                model.pods.clear();
                model.containers.clear();
            }
            shims_killed.store(false, Ordering::SeqCst);
        }
    }
    println!("daemon killed {} times, shims {} times", kills.0, kills.1);
    assert!(node.spawn().wait().unwrap().code() == Some(3), "a second daemon on the same state is refused");
}
