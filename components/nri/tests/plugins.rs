//! Plugins over real sockets: who is told what, in which order, and what becomes of those that misbehave.

#![allow(clippy::unwrap_used)]

use cairn_nri::{
    Host, Plugins, ServeError, Settings,
    api::{
        ChangeResponse, ConfigureRequest, ConfigureResponse, Container, ContainerAdjustment,
        ContainerEviction, ContainerRequest, ContainerUpdate, CreateContainerResponse, Empty, Event,
        KeyValue, PodSandbox, RegisterPluginRequest, StateChangeEvent, SynchronizeRequest,
        SynchronizeResponse, UpdateContainersRequest, UpdateContainersResponse,
        ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
    },
    connection::{CallError, Connection, Request},
    event::{Events, RUNTIME_SERVICE},
    message::Status,
    session::{Role, code},
};
use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::UnixStream, sync::mpsc};

/// A runtime with a thousand containers, each of which takes a few kilobytes to describe.
#[derive(Clone, Default)]
struct Runtime {
    changed: Arc<Mutex<Vec<String>>>,
    containers: usize,
}

impl Host for Runtime {
    async fn inventory(&self) -> (Vec<PodSandbox>, Vec<Container>) {
        let container = |number| Container {
            id: format!("c{number}"),
            env: vec!["X".repeat(8000)],
            ..Default::default()
        };
        (vec![pod("p0")], (0..self.containers).map(container).collect())
    }

    async fn update(&self, updates: Vec<ContainerUpdate>) -> Vec<ContainerUpdate> {
        let mut failed = Vec::new();
        for update in updates {
            self.changed.lock().unwrap().push(format!("update {}", update.container_id));
            if update.container_id == "bad" {
                failed.push(update);
            }
        }
        failed
    }

    fn evict(&self, evictions: Vec<ContainerEviction>) {
        for eviction in evictions {
            self.changed.lock().unwrap().push(format!("evict {}", eviction.container_id));
        }
    }
}

fn pod(id: &str) -> PodSandbox {
    PodSandbox { id: id.into(), ..Default::default() }
}

fn container(id: &str) -> Container {
    Container { id: id.into(), ..Default::default() }
}

fn settings(directory: &Path) -> Settings {
    Settings {
        socket: Some(directory.join("nri/nri.sock")),
        plugins: directory.join("plugins"),
        configs: directory.join("conf.d"),
        registration_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_secs(1),
        runtime_name: "test".into(),
        runtime_version: "1".into(),
    }
}

async fn serve(directory: &Path, host: Runtime) -> Plugins {
    let plugins = Plugins::default();
    plugins.serve(settings(directory), host).await.unwrap();
    plugins
}

/// How a plugin behaves: what it answers to a call, `None` being nothing at all.
type Behaviour = Box<dyn FnMut(&Request) -> Option<Result<Vec<u8>, Status>> + Send>;

/// A plugin that is connected and synchronized; its log is one line a call.
struct Plugin {
    connection: Connection,
    log: mpsc::UnboundedReceiver<String>,
}

fn bytes(message: &impl prost::Message) -> Option<Result<Vec<u8>, Status>> {
    Some(Ok(message.encode_to_vec()))
}

/// An answer of bytes that are a message already.
#[derive(Clone, Debug, Default, PartialEq)]
struct Raw(Vec<u8>);

impl prost::Message for Raw {
    fn encode_raw(&self, buffer: &mut impl prost::bytes::BufMut) {
        buffer.put_slice(&self.0);
    }
    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl prost::bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        Ok(())
    }
    fn encoded_len(&self) -> usize {
        self.0.len()
    }
    fn clear(&mut self) {}
}

impl Plugin {
    /// Connects, registers, and behaves; returns once it has been synchronized.
    async fn connect(directory: &Path, name: &str, events: &[Event], mut behaviour: Behaviour) -> Self {
        let socket = UnixStream::connect(directory.join("nri/nri.sock")).await.unwrap();
        let (connection, mut calls) = Connection::open(socket, Role::Plugin).unwrap();
        let (write, mut log) = mpsc::unbounded_channel();
        let events = Events::of(events).mask();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Some(call) = calls.recv().await {
                let mut line = call.method().to_owned();
                let answer = behaviour(&call);
                let answer = match (call.method(), answer) {
                    (_, Some(answer)) => Some(answer),
                    ("Configure", None) => {
                        let wanted: ConfigureRequest = call.message().unwrap();
                        line = format!("Configure {} {}", wanted.runtime_name, wanted.request_timeout);
                        bytes(&ConfigureResponse { events })
                    }
                    ("Synchronize", None) => {
                        let page: SynchronizeRequest = call.message().unwrap();
                        line = format!(
                            "Synchronize {} {} {}",
                            page.pods.len(),
                            page.containers.len(),
                            page.more
                        );
                        bytes(&SynchronizeResponse { more: page.more, ..Default::default() })
                    }
                    (_, None) => None,
                };
                let _ = write.send(line);
                match answer {
                    Some(answer) => call.answer(answer.map(Raw)).await,
                    None => held.push(call),
                }
            }
        });
        let (index, base) = name.split_once('-').unwrap();
        let wanted = RegisterPluginRequest {
            plugin_name: base.into(),
            plugin_idx: index.into(),
            ..Default::default()
        };
        let registered: Empty = call(&connection, "RegisterPlugin", &wanted).await.unwrap();
        assert_eq!(registered, Empty {});
        loop {
            let line = log.recv().await.unwrap();
            if line.starts_with("Synchronize") && line.ends_with("false") {
                break;
            }
        }
        // It is asked once it is one of them, which is a moment after it has been synchronized.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Self { connection, log }
    }

    fn told(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.log.try_recv().ok()).collect()
    }
}

async fn call<M: prost::Message + Default>(
    connection: &Connection,
    method: &str,
    message: &impl prost::Message,
) -> Result<M, CallError> {
    connection.call(RUNTIME_SERVICE, method, message, Duration::from_secs(2)).await
}

/// Sets a variable, and records its name in `order`.
fn setting(name: &'static str, order: Arc<Mutex<Vec<&'static str>>>) -> Behaviour {
    Box::new(move |call| {
        (call.method() == "CreateContainer").then(|| {
            order.lock().unwrap().push(name);
            let request: ContainerRequest = call.message().unwrap();
            let seen = request.container.unwrap().env.join(" ");
            let variable = KeyValue { key: name.into(), value: format!("after[{seen}]") };
            let adjust = ContainerAdjustment { env: vec![variable], ..Default::default() };
            Ok(prost::Message::encode_to_vec(&CreateContainerResponse {
                adjust: Some(adjust),
                ..Default::default()
            }))
        })
    })
}

#[tokio::test]
async fn plugins_are_asked_by_index_and_see_what_the_ones_before_want() {
    let directory = tempfile::tempdir().unwrap();
    let plugins = serve(directory.path(), Runtime::default()).await;
    assert!(!plugins.are_there());
    let order = Arc::new(Mutex::new(Vec::new()));
    let events = [Event::CreateContainer];
    let _late = Plugin::connect(directory.path(), "20-b", &events, setting("B", Arc::clone(&order))).await;
    let _early = Plugin::connect(directory.path(), "10-a", &events, setting("A", Arc::clone(&order))).await;
    assert!(plugins.are_there());
    let created = plugins.create_container(pod("p"), container("c")).await.unwrap();
    assert_eq!(*order.lock().unwrap(), ["A", "B"]);
    let set: Vec<String> =
        created.adjust.env.iter().map(|set| format!("{}={}", set.key, set.value)).collect();
    assert_eq!(set, ["A=after[]", "B=after[A=after[]]"]);
    let _same = Plugin::connect(directory.path(), "30-c", &events, setting("A", order)).await;
    let conflict = plugins.create_container(pod("p"), container("c")).await.unwrap_err().to_string();
    assert!(conflict.contains("10-a and 30-c both set Env A"), "{conflict}");
}

#[tokio::test]
async fn a_plugin_is_told_what_it_subscribes_to() {
    let directory = tempfile::tempdir().unwrap();
    let plugins = serve(directory.path(), Runtime::default()).await;
    let answer: fn() -> Behaviour = || {
        Box::new(|call| match call.method() {
            "StopPodSandbox" => Some(Err(Status::new(code::UNKNOWN, "not now"))),
            "Configure" | "Synchronize" => None,
            _ => Some(Ok(Vec::new())),
        })
    };
    let mut plugin = Plugin::connect(
        directory.path(),
        "00-x",
        &[Event::RunPodSandbox, Event::StopPodSandbox, Event::StopContainer],
        answer(),
    )
    .await;
    plugins.tell_pod(Event::RunPodSandbox, pod("p")).await.unwrap();
    plugins.tell_container(Event::StartContainer, pod("p"), container("c")).await.unwrap();
    plugins.stop_container(pod("p"), container("c")).await.unwrap();
    let error = plugins.tell_pod(Event::StopPodSandbox, pod("p")).await.unwrap_err();
    assert_eq!(error.to_string(), "NRI plugin 00-x fails StopPodSandbox: not now");
    assert_eq!(plugin.told(), ["RunPodSandbox", "StopContainer", "StopPodSandbox"]);
}

#[tokio::test]
async fn an_old_plugin_is_told_by_state_change() {
    let directory = tempfile::tempdir().unwrap();
    let plugins = serve(directory.path(), Runtime::default()).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let old: Behaviour = Box::new(move |call| match call.method() {
        "Configure" | "Synchronize" => None,
        "StateChange" => {
            let change: StateChangeEvent = call.message().unwrap();
            note.lock().unwrap().push((
                change.event(),
                change.pod.unwrap().id,
                change.container.map(|held| held.id),
            ));
            Some(Ok(Vec::new()))
        }
        method => Some(Err(Status::new(code::UNIMPLEMENTED, format!("method {method}")))),
    });
    let _plugin =
        Plugin::connect(directory.path(), "00-old", &[Event::RunPodSandbox, Event::PostStartContainer], old)
            .await;
    plugins.tell_pod(Event::RunPodSandbox, pod("p")).await.unwrap();
    plugins.tell_container(Event::PostStartContainer, pod("p"), container("c")).await.unwrap();
    assert_eq!(
        *seen.lock().unwrap(),
        [
            (Event::RunPodSandbox, "p".into(), None),
            (Event::PostStartContainer, "p".into(), Some("c".to_owned()))
        ]
    );
}

#[tokio::test]
async fn a_hung_plugin_is_cut_off_and_a_vanished_one_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let plugins = serve(directory.path(), Runtime::default()).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let hung =
        Plugin::connect(directory.path(), "10-hung", &[Event::CreateContainer], Box::new(|_| None)).await;
    let _good = Plugin::connect(
        directory.path(),
        "20-good",
        &[Event::CreateContainer],
        setting("G", Arc::clone(&order)),
    )
    .await;
    let created = plugins.create_container(pod("p"), container("c")).await.unwrap();
    assert_eq!(created.adjust.env.len(), 1, "the call goes on without it");
    assert!(
        hung.connection.call::<Empty>(RUNTIME_SERVICE, "X", &Empty {}, Duration::from_secs(5)).await.is_err()
    );
    _good.connection.close();
    for _ in 0..200 {
        if !plugins.are_there() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!plugins.are_there());
    assert_eq!(plugins.create_container(pod("p"), container("c")).await.unwrap().adjust.env, []);
}

#[tokio::test]
async fn more_than_fits_into_a_message_comes_in_pages() {
    let directory = tempfile::tempdir().unwrap();
    let _plugins = serve(directory.path(), Runtime { containers: 1000, ..Default::default() }).await;
    let seen = Arc::new(Mutex::new((0, 0)));
    let count = Arc::clone(&seen);
    let behaviour: Behaviour = Box::new(move |call| {
        if call.method() == "Synchronize" {
            let page: SynchronizeRequest = call.message().unwrap();
            let mut count = count.lock().unwrap();
            *count = (count.0 + 1, count.1 + page.containers.len());
        }
        None
    });
    let _plugin = Plugin::connect(directory.path(), "00-x", &[Event::RunPodSandbox], behaviour).await;
    assert_eq!(*seen.lock().unwrap(), (2, 1000), "8 MB in two pages");
}

#[tokio::test]
async fn nobody_comes_in_while_something_is_held() {
    let directory = tempfile::tempdir().unwrap();
    let plugins = serve(directory.path(), Runtime::default()).await;
    let held = plugins.hold().await;
    let path = directory.path().to_owned();
    let coming = tokio::spawn(async move {
        Plugin::connect(&path, "00-x", &[Event::RunPodSandbox], Box::new(|_| None)).await
    });
    tokio::time::timeout(Duration::from_millis(200), async {
        while !coming.is_finished() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap_err();
    assert!(plugins.are_there(), "one that is coming counts");
    drop(held);
    let mut plugin = coming.await.unwrap();
    assert_eq!(plugin.told(), Vec::<String>::new());
}

#[tokio::test]
async fn a_plugin_asks_for_updates_and_evictions_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = Runtime::default();
    let _plugins = serve(directory.path(), runtime.clone()).await;
    let plugin = Plugin::connect(directory.path(), "00-x", &[Event::RunPodSandbox], Box::new(|_| None)).await;
    let update = |id: &str| ContainerUpdate { container_id: id.into(), ..Default::default() };
    let wanted = UpdateContainersRequest {
        update: vec![update("good"), update("bad")],
        evict: vec![ContainerEviction { container_id: "e".into(), reason: "r".into() }],
    };
    let answer: UpdateContainersResponse =
        call(&plugin.connection, "UpdateContainers", &wanted).await.unwrap();
    assert_eq!(answer.failed, [update("bad")]);
    assert_eq!(*runtime.changed.lock().unwrap(), ["evict e", "update good", "update bad"]);
    let unknown = call::<Empty>(&plugin.connection, "Reboot", &Empty {}).await.unwrap_err();
    assert!(unknown.is_unimplemented());
}

#[tokio::test]
async fn a_validator_may_reject() {
    let directory = tempfile::tempdir().unwrap();
    let plugins = serve(directory.path(), Runtime::default()).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let _plugin =
        Plugin::connect(directory.path(), "00-a", &[Event::CreateContainer], setting("A", order)).await;
    let judge: Behaviour = Box::new(|call| {
        (call.method() == "ValidateContainerAdjustment").then(|| {
            let request: ValidateContainerAdjustmentRequest = call.message().unwrap();
            let owners = request.owners.unwrap().owners.remove("c").unwrap();
            let owner = owners.compound.values().next().unwrap().owners["A"].clone();
            let verdict = ValidateContainerAdjustmentResponse {
                reject: owner == "00-a",
                reason: format!("{owner} sets A"),
            };
            Ok(prost::Message::encode_to_vec(&verdict))
        })
    });
    let _judge =
        Plugin::connect(directory.path(), "99-judge", &[Event::ValidateContainerAdjustment], judge).await;
    let error = plugins.create_container(pod("p"), container("c")).await.unwrap_err().to_string();
    assert!(error.contains("99-judge rejects") && error.contains("00-a sets A"), "{error}");
}

#[tokio::test]
async fn who_does_not_register_is_turned_away() {
    let directory = tempfile::tempdir().unwrap();
    let plugins = serve(directory.path(), Runtime::default()).await;
    let connect = || async {
        let socket = UnixStream::connect(directory.path().join("nri/nri.sock")).await.unwrap();
        Connection::open(socket, Role::Plugin).unwrap()
    };
    let (_silent, mut calls) = connect().await;
    assert!(tokio::time::timeout(Duration::from_secs(10), calls.recv()).await.unwrap().is_none());
    let (odd, _calls) = connect().await;
    let wanted =
        RegisterPluginRequest { plugin_name: "x".into(), plugin_idx: "7".into(), ..Default::default() };
    let error = call::<Empty>(&odd, "RegisterPlugin", &wanted).await.unwrap_err().to_string();
    assert!(error.contains("not two digits"), "{error}");
    assert!(!plugins.are_there());
}

#[tokio::test]
async fn the_socket_is_roots_and_taken_from_no_one() {
    let directory = tempfile::tempdir().unwrap();
    let _plugins = serve(directory.path(), Runtime::default()).await;
    let mode =
        |path: &str| std::fs::metadata(directory.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("nri"), mode("nri/nri.sock")), (0o700, 0o600));
    let second = Plugins::default().serve(settings(directory.path()), Runtime::default()).await;
    assert!(matches!(second, Err(ServeError::InUse(_))));
}

#[tokio::test]
async fn a_stop_brings_changes_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let plugins = serve(directory.path(), Runtime::default()).await;
    let behaviour: Behaviour = Box::new(|call| {
        (call.method() == "StopContainer").then(|| {
            let update = vec![ContainerUpdate { container_id: "other".into(), ..Default::default() }];
            Ok(prost::Message::encode_to_vec(&ChangeResponse { update, ..Default::default() }))
        })
    });
    let _plugin = Plugin::connect(directory.path(), "00-x", &[Event::StopContainer], behaviour).await;
    let changes = plugins.stop_container(pod("p"), container("c")).await.unwrap();
    assert_eq!(changes.update[0].container_id, "other");
}
