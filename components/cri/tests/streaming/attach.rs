//! Clients attached to containers.

use crate::{
    node::Node,
    support::{
        calls::{ended, remove_pod, run, run_pod},
        obstacle,
        pods::container,
        unless,
    },
};
use cairn_contract::cri;
use cairn_streaming::{Finish, TerminalSize};
use std::time::Duration;
use tokio::{io::AsyncReadExt, time::sleep};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_attach_to_containers() {
    unless!(obstacle());
    let (node, mut caller) = Node::new().await;
    let pod = run_pod(&mut caller, node.pod("attach")).await;
    let with = |name: &str, script: &str, change: fn(&mut cri::ContainerConfig)| {
        let mut config = container(name, script);
        change(&mut config);
        config
    };

    // Input stays open from client to client; output goes to all of them, and to the log.
    let echo = "while read line; do echo got $line; echo err $line >&2; done; echo end; exit 3";
    let id = run(&mut caller, &pod, with("open", echo, |config| config.stdin = true)).await;
    let mut watcher = node.attach(&id, false, false);
    let mut first = node.attach(&id, false, true);
    sleep(Duration::from_millis(300)).await;
    first.say("one\n").await;
    first.expect("got one\n").await;
    watcher.expect("got one\n").await;
    first.stdin = None;
    assert_eq!(first.finish().await, Finish::Exited(0));
    // What is logged was offered to those who were there.
    node.logged("open", "stderr F err one").await;
    let mut second = node.attach(&id, false, true);
    sleep(Duration::from_millis(300)).await;
    second.say("two\n").await;
    second.expect("got two\n").await;
    let mut stderr = [0; 8];
    second.stderr.as_mut().unwrap().read_exact(&mut stderr).await.unwrap();
    assert_eq!(&stderr, b"err two\n");
    drop(second);
    node.logged("open", "stderr F err two").await;
    assert!(node.container_log("open").contains("stdout F got one"));
    watcher.expect("got two\n").await;

    // stdin_once: the first client to go ends the input; the container's end ends the sessions.
    let id =
        run(&mut caller, &pod, with("once", echo, |config| (config.stdin, config.stdin_once) = (true, true)))
            .await;
    let watcher = node.attach(&id, false, false);
    let mut client = node.attach(&id, false, true);
    sleep(Duration::from_millis(300)).await;
    client.say("three\n").await;
    client.stdin = None;
    let (out, err, finish) = client.rest().await;
    assert_eq!((out.as_str(), err.as_str()), ("got three\nend\n", "err three\n"));
    assert_eq!(finish, Finish::Exited(0));
    assert_eq!(watcher.rest().await.0, "got three\nend\n");
    assert_eq!(ended(&mut caller, &id).await.exit_code, 3);
    assert!(node.container_log("once").contains("stdout F end"));
    let finish = node.attach(&id, false, true).finish().await;
    assert!(matches!(&finish, Finish::Failed(text) if text.contains("not running")), "{finish:?}");
    // Or its connection breaks.
    let id =
        run(&mut caller, &pod, with("lost", echo, |config| (config.stdin, config.stdin_once) = (true, true)))
            .await;
    let client = node.attach(&id, false, true);
    sleep(Duration::from_millis(300)).await;
    client.session.abort();
    assert_eq!(ended(&mut caller, &id).await.exit_code, 3);

    // A terminal, with a prompt and sizes, in the log too.
    let shell = |config: &mut cri::ContainerConfig| {
        (config.stdin, config.tty) = (true, true);
        config.command = vec!["sh".into()];
    };
    let id = run(&mut caller, &pod, with("tty", "", shell)).await;
    let mut other = node.attach(&id, true, false);
    let mut client = node.attach(&id, true, true);
    sleep(Duration::from_millis(300)).await;
    client.resize.send(TerminalSize { columns: 99, rows: 33 }).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    client.say("stty size; echo from $((40 + 2))\n").await;
    let seen = client.expect("from 42\r\n").await;
    assert!(seen.contains("33 99\r\n"), "{seen:?}");
    other.expect("from 42\r\n").await;
    node.logged("tty", "stdout F from 42\r").await;
    client.say("exit 4\n").await;
    let (_, _, finish) = client.rest().await;
    assert_eq!(finish, Finish::Exited(0));
    assert_eq!(other.rest().await.2, Finish::Exited(0));
    assert_eq!(ended(&mut caller, &id).await.exit_code, 4);

    // A client that takes nothing is cut off, and the log goes on; one that takes all gets all.
    let flood = "while read line; do dd if=/dev/zero bs=100000 count=20 2>/dev/null; echo; echo flooded; done; sleep 100";
    let id = run(&mut caller, &pod, with("flood", flood, |config| config.stdin = true)).await;
    let stuck = node.attach(&id, false, false);
    let mut eager = node.attach(&id, false, true);
    sleep(Duration::from_millis(300)).await;
    eager.say("go\n").await;
    let seen = eager.expect("flooded\n").await;
    assert_eq!(seen.len(), 2_000_000 + "\nflooded\n".len());
    node.logged("flood", "flooded").await;
    let (out, _, finish) = stuck.rest().await;
    assert!(matches!(&finish, Finish::Failed(text) if text.contains("too slow")), "{finish:?}");
    assert!(out.len() < 2_000_000, "{}", out.len());

    // What a container wrote last reaches who reads slowly.
    let parting = "read line; dd if=/dev/zero bs=1000 count=60 2>/dev/null; echo bye";
    let id = run(&mut caller, &pod, with("parting", parting, |config| config.stdin = true)).await;
    let mut client = node.attach(&id, false, true);
    sleep(Duration::from_millis(300)).await;
    client.say("go\n").await;
    assert_eq!(ended(&mut caller, &id).await.exit_code, 0);
    sleep(Duration::from_millis(1500)).await;
    let (out, _, finish) = client.rest().await;
    assert!(out.ends_with("bye\n") && out.len() == 60_004, "{}", out.len());
    assert_eq!(finish, Finish::Exited(0));

    remove_pod(&mut caller, &pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
}
