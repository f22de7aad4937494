//! Commands without terminals, and what CRI's calls refuse.

use crate::{
    FOREVER,
    node::Node,
    support::{
        calls::{ended, remove_pod, run, run_pod, stop_pod},
        obstacle,
        pods::container,
        unless,
    },
};
use cairn_contract::cri;
use cairn_streaming::Finish;
use std::time::{Duration, Instant};
use tokio::{io::AsyncWriteExt, time::sleep};
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_have_their_streams() {
    unless!(obstacle());
    let (node, mut caller) = Node::new().await;
    let pod = run_pod(&mut caller, node.pod("exec")).await;
    let id = run(&mut caller, &pod, container("host", FOREVER)).await;

    // Each stream by itself, the exit code, the end of the input.
    let (out, err, finish) =
        node.output(&id, b"some input\n", &["sh", "-c", "cat; echo oops >&2; exit 7"]).await;
    assert_eq!((out.as_str(), err.as_str(), finish), ("some input\n", "oops\n", Finish::Exited(7)));
    let (_, _, finish) = node.output(&id, b"", &["sh", "-c", "kill -9 $$"]).await;
    assert_eq!(finish, Finish::Exited(137));
    let (out, _, finish) = node.exec(&id, false, false, &["cat"]).rest().await;
    assert_eq!((out.as_str(), finish), ("", Finish::Exited(0)), "input that is not wanted is empty");

    // All of a lot, through small buffers, both ways at once.
    let many: Vec<u8> = (0..3_000_000_u32).map(|at| b'a' + (at % 23) as u8).collect();
    let mut client = node.exec(&id, false, true, &["cat"]);
    let mut stdin = client.stdin.take().unwrap();
    let sent = many.clone();
    let sending = tokio::spawn(async move { stdin.write_all(&sent).await.unwrap() });
    let (out, _, finish) = client.rest().await;
    sending.await.unwrap();
    assert!(out.as_bytes() == many && finish == Finish::Exited(0));

    // What a command leaves behind in the background holds nobody up.
    let started = Instant::now();
    let (out, _, finish) =
        node.output(&id, b"", &["sh", "-c", "yes > /dev/null & sleep 50 & echo done"]).await;
    assert_eq!((out.as_str(), finish), ("done\n", Finish::Exited(0)));
    let script = "(while echo noise; do :; done) & sleep 0.2";
    let (_, _, finish) = node.output(&id, b"", &["sh", "-c", script]).await;
    assert_eq!(finish, Finish::Exited(0));
    assert!(started.elapsed() < Duration::from_secs(40));

    // What cannot be.
    let (_, _, finish) = node.output(&id, b"", &["nonsense"]).await;
    assert!(matches!(&finish, Finish::Failed(text) if text.contains("not found in $PATH")), "{finish:?}");
    let (_, _, finish) = node.output("none", b"", &["sh"]).await;
    assert!(matches!(&finish, Finish::Failed(text) if text.contains("not found")), "{finish:?}");

    // A client that vanishes takes its streams with it: input ends, output breaks.
    let client = node.exec(&id, false, true, &["sh", "-c", "cat; touch /ended"]);
    sleep(Duration::from_millis(500)).await;
    client.session.abort();
    let client = node.exec(&id, false, true, &["sh", "-c", "yes; touch /broken"]);
    sleep(Duration::from_millis(500)).await;
    client.session.abort();
    let script = "until test -e /ended -a -e /broken; do sleep 0.1; done; echo both";
    assert_eq!(node.output(&id, b"", &["sh", "-c", script]).await.0, "both\n");

    remove_pod(&mut caller, &pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_streamed_is_refused_by_the_call() {
    unless!(obstacle());
    let (node, mut caller) = Node::new().await;
    let pod = run_pod(&mut caller, node.pod("refused")).await;
    let id = run(&mut caller, &pod, container("refused", "sleep 0.1")).await;
    ended(&mut caller, &id).await;
    let good = cri::ExecRequest {
        container_id: id.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    let exec = async |change: fn(&mut cri::ExecRequest)| {
        let mut request = good.clone();
        change(&mut request);
        caller.clone().exec(request).await.unwrap_err().code()
    };
    assert_eq!(exec(|_| ()).await, Code::FailedPrecondition);
    assert_eq!(exec(|request| request.container_id = "none".into()).await, Code::NotFound);
    assert_eq!(exec(|request| request.container_id.clear()).await, Code::InvalidArgument);
    assert_eq!(exec(|request| request.cmd.clear()).await, Code::InvalidArgument);
    assert_eq!(exec(|request| request.stdout = false).await, Code::InvalidArgument);
    assert_eq!(exec(|request| (request.tty, request.stderr) = (true, true)).await, Code::InvalidArgument);
    let attach = cri::AttachRequest { container_id: id, stdout: true, ..Default::default() };
    let refused = caller.attach(attach).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let forward = async |sandbox: &str, port: i32| {
        let request = cri::PortForwardRequest { pod_sandbox_id: sandbox.into(), port: vec![port] };
        caller.clone().port_forward(request).await
    };
    assert_eq!(forward(&pod, 65536).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(forward("none", 80).await.unwrap_err().code(), Code::NotFound);
    let url = forward(&pod, 80).await.unwrap().into_inner().url;
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    stop_pod(&mut caller.clone(), &pod).await;
    assert_eq!(forward(&pod, 80).await.unwrap_err().code(), Code::FailedPrecondition);
    remove_pod(&mut caller, &pod).await;
}
