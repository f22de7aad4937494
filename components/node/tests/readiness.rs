//! The monitor against a runtime on a Unix socket that does as the test says: how a node becomes ready, and how
//! it stops being so.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use cairn_contract::cri::image_service_server::{ImageService, ImageServiceServer};
use cairn_contract::cri::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use cairn_contract::cri::*;
use cairn_node::monitor::{Monitor, NODE_READY, Places, RUNTIME_READY};
use cairn_node::screen::Screen;
use cairn_node::status::{NodeStatus, StatusBoard};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// What the runtime does, and what was done to it.
#[derive(Default)]
struct Script {
    network_ready: AtomicBool,
    sandboxes_fail: AtomicBool,
    sandboxes_made: AtomicUsize,
    sandboxes: Mutex<BTreeSet<String>>,
}

#[derive(Clone)]
struct Runtime(Arc<Script>);

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let condition =
            |kind: &str, status| RuntimeCondition { r#type: kind.into(), status, ..Default::default() };
        let conditions = vec![
            condition("RuntimeReady", true),
            condition("NetworkReady", self.0.network_ready.load(Ordering::SeqCst)),
        ];
        Ok(Response::new(StatusResponse { status: Some(RuntimeStatus { conditions }), ..Default::default() }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Result<Response<RunPodSandboxResponse>, Status> {
        if self.0.sandboxes_fail.load(Ordering::SeqCst) {
            return Err(Status::internal("no address is left"));
        }
        let config = request.into_inner().config.unwrap();
        assert!(config.labels.contains_key("cairn.boot-check"), "{config:?}");
        let count = self.0.sandboxes_made.fetch_add(1, Ordering::SeqCst);
        let pod_sandbox_id = format!("sandbox-{count}");
        self.0.sandboxes.lock().unwrap().insert(pod_sandbox_id.clone());
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn list_pod_sandbox(
        &self,
        _: Request<ListPodSandboxRequest>,
    ) -> Result<Response<ListPodSandboxResponse>, Status> {
        let known = self.0.sandboxes.lock().unwrap();
        let items = known.iter().map(|id| PodSandbox { id: id.clone(), ..Default::default() }).collect();
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn stop_pod_sandbox(
        &self,
        _: Request<StopPodSandboxRequest>,
    ) -> Result<Response<StopPodSandboxResponse>, Status> {
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Result<Response<RemovePodSandboxResponse>, Status> {
        let id = request.into_inner().pod_sandbox_id;
        assert!(self.0.sandboxes.lock().unwrap().remove(&id), "{id} is unknown");
        Ok(Response::new(RemovePodSandboxResponse {}))
    }
}

#[tonic::async_trait]
impl ImageService for Runtime {
    async fn list_images(
        &self,
        _: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        Ok(Response::new(ListImagesResponse::default()))
    }
}

/// A node with a monitor that runs, and a runtime that may.
struct Node {
    folder: tempfile::TempDir,
    board: Arc<StatusBoard>,
    script: Arc<Script>,
    /// A tokio runtime of its own: its end is the end of every connection, as with a process.
    runtime: Option<tokio::runtime::Runtime>,
    monitor: JoinHandle<()>,
}

impl Node {
    /// The runtime is not there yet.
    fn boot() -> Self {
        Self::configured(r#"{"source": "credential x", "problems": []}"#)
    }

    /// As [`Self::boot`], with this report of how the machine config was applied.
    fn configured(report: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("report.json"), report).unwrap();
        let places = Places {
            cri_socket: path("cri.sock"),
            kubelet: path("kubelet"),
            bootstrap: path("bootstrap.kubeconfig"),
            ready_file: path("ready"),
            resolv_conf: path("resolv.conf"),
            config_report: path("report.json"),
        };
        let board = Arc::new(StatusBoard::default());
        let monitor =
            Monitor::new(places, board.clone(), Screen::none()).looking_every(Duration::from_millis(200));
        let monitor = tokio::spawn(monitor.run());
        Self { folder, board, script: Arc::default(), runtime: None, monitor }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start_runtime(&mut self) {
        let socket = self.path("cri.sock");
        let _ = std::fs::remove_file(&socket);
        let script = Runtime(self.script.clone());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = {
            let _inside = runtime.enter();
            UnixListenerStream::new(UnixListener::bind(socket).unwrap())
        };
        let server = tonic::transport::Server::builder()
            .add_service(RuntimeServiceServer::new(script.clone()))
            .add_service(ImageServiceServer::new(script));
        runtime.spawn(server.serve_with_incoming(listener));
        self.runtime = Some(runtime);
    }

    /// As if it was killed.
    fn kill_runtime(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Waits for a state.
    async fn until(&self, what: &str, state: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
        for _ in 0..2400 {
            let now = self.board.now();
            if state(&now) {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("not within a minute: {what}; {:#?}", self.board.now());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.monitor.abort();
        self.kill_runtime();
    }
}

fn message(status: &NodeStatus, name: &str) -> String {
    let check = status.checks.iter().find(|check| check.name == name);
    check.map(|check| check.message.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_node_gets_ready_step_by_step() {
    let mut node = Node::boot();
    let status = node.until("the runtime is missed", |now| !now.checks.is_empty()).await;
    assert!(!status.ready() && !status.reached(RUNTIME_READY), "{status:#?}");

    node.start_runtime();
    let status =
        node.until("the network is missed", |now| message(now, "runtime").contains("NetworkReady")).await;
    assert!(!status.reached(RUNTIME_READY), "{status:#?}");

    node.script.sandboxes_fail.store(true, Ordering::SeqCst);
    node.script.network_ready.store(true, Ordering::SeqCst);
    let failed = |now: &NodeStatus| message(now, "pod-lifecycle").contains("no address is left");
    let status = node.until("the pod fails", failed).await;
    assert!(status.reached(RUNTIME_READY) && !status.reached(NODE_READY) && !status.ready(), "{status:#?}");
    assert!(!node.path("ready").exists());

    node.script.sandboxes_fail.store(false, Ordering::SeqCst);
    node.until("the node is ready", |now| now.ready() && now.reached(NODE_READY)).await;
    node.until("the file says so", |_| node.path("ready").exists()).await;
    assert_eq!(node.script.sandboxes_made.load(Ordering::SeqCst), 1);
    assert!(node.script.sandboxes.lock().unwrap().is_empty(), "the pod was left behind");
}

#[tokio::test]
async fn a_node_without_its_runtime_is_not_ready_until_it_is_back() {
    let mut node = Node::boot();
    node.script.network_ready.store(true, Ordering::SeqCst);
    node.start_runtime();
    let before = node.until("the node is ready", NodeStatus::ready).await;
    let pods = node.script.sandboxes_made.load(Ordering::SeqCst);

    node.kill_runtime();
    let gone = node.until("the node falls back", |now| !now.ready()).await;
    assert!(message(&gone, "runtime").contains("does not answer"), "{gone:#?}");
    while node.path("ready").exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    node.start_runtime();
    let after = node.until("the node is ready again", NodeStatus::ready).await;
    node.until("the file says so", |_| node.path("ready").exists()).await;
    assert_eq!(after.milestones, before.milestones, "a milestone is the first time");
    assert_eq!(node.script.sandboxes_made.load(Ordering::SeqCst), pods, "the runtime is proven once a boot");
}

#[tokio::test]
async fn leftovers_of_an_interrupted_check_are_removed() {
    let mut node = Node::boot();
    node.script.sandboxes.lock().unwrap().insert("leftover".into());
    node.script.network_ready.store(true, Ordering::SeqCst);
    node.start_runtime();
    node.until("the node is ready", NodeStatus::ready).await;
    assert!(node.script.sandboxes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_config_that_was_not_understood_keeps_a_node_from_being_ready() {
    let mut node = Node::configured(r#"{"source": "disk", "problems": ["line 3: no"]}"#);
    node.script.network_ready.store(true, Ordering::SeqCst);
    node.start_runtime();
    let proven =
        |now: &NodeStatus| now.checks.iter().any(|check| check.name == "pod-lifecycle" && check.good);
    let status = node.until("the pod ran", proven).await;
    assert!(!status.ready() && status.reached(RUNTIME_READY), "{status:#?}");
    assert_eq!(message(&status, "machine-config"), "line 3: no");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!node.board.now().reached(NODE_READY) && !node.path("ready").exists());
}

#[tokio::test]
async fn a_kubelet_counts_once_there_is_a_cluster() {
    let mut node = Node::boot();
    node.script.network_ready.store(true, Ordering::SeqCst);
    std::fs::write(node.path("kubelet"), "").unwrap();
    node.start_runtime();
    let alone = node.until("a kubelet without a cluster is no fault", NodeStatus::ready).await;
    assert_eq!(message(&alone, "kubelet"), "no cluster in the machine config");
    if tokio::net::TcpStream::connect("127.0.0.1:10248").await.is_ok() {
        eprintln!("skipped: a kubelet runs on this machine");
        return;
    }
    std::fs::write(node.path("bootstrap.kubeconfig"), "").unwrap();
    let joining = node.until("the kubelet is waited for", |now| !now.ready()).await;
    assert!(message(&joining, "kubelet").contains("does not answer"), "{joining:#?}");
}
