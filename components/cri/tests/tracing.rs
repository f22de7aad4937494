//! OpenTelemetry traces: what a collector is told of a pod's life, and that nothing waits for one.

#![allow(clippy::unwrap_used)]

mod support;

use cairn_contract::cri;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};
use support::{
    calls::{remove_pod, run, run_pod},
    collector::{Collector, text},
    node::Node,
    obstacle,
    pods::container,
    registry::{Registry, layer},
    unless,
};
use tonic::{Code, Request};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A request of a caller whose span has this number and is recorded, or not.
fn below<T>(caller: u64, recorded: bool, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let traceparent = format!("00-{TRACE}-{caller:016x}-0{}", u8::from(recorded));
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    request
}

/// The span of the call that this caller made, and its steps.
fn call(spans: &[Span], caller: u64) -> (&Span, Vec<&Span>) {
    let children =
        |id: &[u8]| -> Vec<&Span> { spans.iter().filter(|span| span.parent_span_id == id).collect() };
    let [call] = children(&caller.to_be_bytes())[..] else { panic!("of {caller}: {spans:#?}") };
    (call, children(&call.span_id))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_life_is_told_below_its_callers_spans() {
    unless!(obstacle());
    let (collector, address) = Collector::start().await;
    let registry = Registry::new();
    let mut node = Node::new();
    node.config.tracing_endpoint = Some(address);
    // Nothing is asked at random: what is recorded here is what a caller wants so.
    let mut client = node.start().await;
    let config = node.pod("a");
    let run = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let run = client.run_pod_sandbox(below(1, true, run)).await.unwrap();
    let pod = run.into_inner().pod_sandbox_id;
    let create = cri::CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(container("c", "sleep 1000")),
        ..Default::default()
    };
    let create = client.create_container(below(2, true, create)).await.unwrap();
    let id = create.into_inner().container_id;
    let start = cri::StartContainerRequest { container_id: id.clone() };
    client.start_container(below(3, true, start.clone())).await.unwrap();
    let exec = cri::ExecSyncRequest { container_id: id.clone(), cmd: vec!["true".into()], timeout: 30 };
    client.exec_sync(below(4, true, exec)).await.unwrap();
    let stop = cri::StopContainerRequest { container_id: id.clone(), timeout: 0 };
    client.stop_container(below(5, true, stop)).await.unwrap();
    let remove = cri::RemoveContainerRequest { container_id: id.clone() };
    client.remove_container(below(6, true, remove)).await.unwrap();
    let stop = cri::StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
    client.stop_pod_sandbox(below(7, true, stop)).await.unwrap();
    let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: pod.clone() };
    client.remove_pod_sandbox(below(8, true, remove)).await.unwrap();
    // A client's mistake, and a fault of the node's.
    let missing = client.start_container(below(9, true, start)).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    node.program("bin/claim", "#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\necho '{\"code\":999,\"msg\":\"no more addresses\"}'\nexit 1\n");
    let run = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let fault = client.run_pod_sandbox(below(10, true, run)).await.unwrap_err();
    assert_eq!(fault.code(), Code::Internal);
    let image = registry.image("app", &[layer("one", 5000), layer("two", 5000)]);
    let spec = cri::ImageSpec { image: image.clone(), ..Default::default() };
    let pull = cri::PullImageRequest { image: Some(spec), ..Default::default() };
    node.images().await.pull_image(below(11, true, pull)).await.unwrap();
    client.version(below(12, false, cri::VersionRequest::default())).await.unwrap();
    // What still waits is sent at the end.
    let ended = tokio::task::block_in_place(|| node.terminate());
    assert!(ended.success(), "{ended}: {}", node.log());

    let spans = collector.spans();
    let mut told = BTreeSet::new();
    let (pod, id, image) = (pod.as_str(), id.as_str(), image.as_str());
    for (caller, method, subject, steps) in [
        (1, "RunPodSandbox", ("sandbox.id", pod), vec!["start shim", "CNI ADD"]),
        (2, "CreateContainer", ("container.id", id), vec!["mount snapshot"]),
        (3, "StartContainer", ("container.id", id), vec!["shim start"]),
        (4, "ExecSync", ("container.id", id), vec!["shim exec sync"]),
        (5, "StopContainer", ("container.id", id), vec!["shim signal", "wait for container"]),
        (6, "RemoveContainer", ("container.id", id), vec!["shim forget", "remove container's files"]),
        (7, "StopPodSandbox", ("sandbox.id", pod), vec!["CNI DEL", "shim shutdown", "release pod"]),
        (8, "RemovePodSandbox", ("sandbox.id", pod), vec!["release pod"]),
        (9, "StartContainer", ("container.id", id), vec![]),
        (10, "RunPodSandbox", ("k8s.pod.name", "a"), vec!["start shim", "CNI ADD"]),
        (11, "PullImage", ("container.image.name", image), vec!["resolve image", "fetch layer"]),
    ] {
        let (call, inside) = call(&spans, caller);
        let service = if caller == 11 { "runtime.v1.ImageService" } else { "runtime.v1.RuntimeService" };
        assert_eq!((call.name.as_str(), call.kind()), (&*format!("{service}/{method}"), SpanKind::Server));
        for (key, expected) in
            [subject, ("rpc.system", "grpc"), ("rpc.service", service), ("rpc.method", method)]
        {
            assert_eq!(text(&call.attributes, key).as_deref(), Some(expected), "{method}: {key}");
        }
        let names: Vec<&str> = inside.iter().map(|step| step.name.as_str()).collect();
        assert!(names.starts_with(&steps), "{method}: {names:?}");
        for span in inside.into_iter().chain([call]) {
            assert_eq!(span.trace_id, hex::decode(TRACE).unwrap());
            assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
            told.insert(span.span_id.clone());
        }
    }
    let status = |span: &Span| span.status.clone().map(|status| (status.code(), status.message)).unwrap();
    let code = |span: &Span| text(&span.attributes, "rpc.grpc.status_code").unwrap();
    let (pulled, steps) = call(&spans, 11);
    assert_eq!((code(pulled).as_str(), status(pulled).0), ("0", StatusCode::Unset));
    let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["resolve image", "fetch layer", "fetch layer", "record image"]);
    assert_eq!(text(&steps[1].attributes, "server.address"), Some(registry.address.to_string()));
    let (mistaken, _) = call(&spans, 9);
    assert_eq!((code(mistaken).as_str(), status(mistaken).0), ("5", StatusCode::Unset));
    let (failed, steps) = call(&spans, 10);
    assert_eq!((code(failed).as_str(), status(failed).0), ("13", StatusCode::Error));
    assert_eq!(text(&steps[1].attributes, "cni.plugin").as_deref(), Some("claim"));
    for (span, expected) in [(steps[1], "no more addresses"), (failed, "no more addresses")] {
        assert!(status(span).1.contains(expected), "{span:#?}");
    }
    // Nothing else was recorded, and each once.
    assert_eq!(told.len(), spans.len(), "{spans:#?}");
    assert!(collector.services().iter().all(|service| service == "cairn-cri"));
    assert!(!node.log().contains("runtime.v1."), "spans are not in the log: {}", node.log());
    assert_eq!(node.leaks(), Vec::<String>::new());
}

/// A number of the metrics page.
fn metric(address: SocketAddr, name: &str) -> u64 {
    let mut page = String::new();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    stream.read_to_string(&mut page).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_costs_spans_and_nothing_else() {
    unless!(obstacle());
    // As many as can wait and leave at once (`src/traces/export.rs`), and some more.
    const HELD: u64 = 2048 + 512;
    const MORE: u64 = 200;
    // The kernel takes its connections; nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut node = Node::new();
    node.config.tracing_endpoint = Some(silent.local_addr().unwrap());
    node.config.tracing_sampling_rate_per_million = 1_000_000.try_into().unwrap();
    node.config.metrics_address = Some(metrics);
    let mut client = node.start().await;
    for _ in 0..HELD + MORE {
        client.version(cri::VersionRequest::default()).await.unwrap();
    }
    let dropped = metric(metrics, "cairn_cri_spans_dropped_total");
    assert!(dropped >= MORE, "{dropped}");
    assert_eq!(metric(metrics, "cairn_cri_spans_exported_total"), 0);
    // Pods live as ever.
    let pod = run_pod(&mut client, node.pod("a")).await;
    run(&mut client, &pod, container("c", "sleep 1000")).await;
    remove_pod(&mut client, &pod).await;
    let ended = tokio::task::block_in_place(|| node.terminate());
    assert!(ended.success(), "{ended}: {}", node.log());
    assert_eq!(node.leaks(), Vec::<String>::new());
}
