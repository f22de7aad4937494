//! Commands with terminals.

use crate::{
    FOREVER,
    node::Node,
    support::{
        calls::{has_user_namespaces, remove_pod, run, run_pod},
        obstacle,
        pods::{container_in, own_pids, security},
        unless,
    },
};
use cairn_contract::cri;
use cairn_streaming::{Finish, TerminalSize};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_have_terminals() {
    unless!(obstacle());
    let (node, mut caller) = Node::new().await;
    let users = cri::NamespaceOption {
        userns_options: Some(cri::UserNamespace {
            mode: cri::NamespaceMode::Pod.into(),
            uids: vec![cri::IdMapping { host_id: 400_000, container_id: 0, length: 65_536 }],
            gids: vec![cri::IdMapping { host_id: 400_000, container_id: 0, length: 65_536 }],
        }),
        ..own_pids()
    };
    let mut cases = vec![("plain", own_pids())];
    if has_user_namespaces(&mut caller).await {
        cases.push(("users", users));
    } else {
        println!("skipped: no user namespaces with ID-mapped mounts here");
    }
    for (name, options) in cases {
        let pod = run_pod(&mut caller, node.pod_in(name, &options)).await;
        let mut config = container_in(&format!("{name}-web"), &options, FOREVER);
        security(&mut config).run_as_user = Some(cri::Int64Value { value: 33 });
        let web = run(&mut caller, &pod, config).await;
        let root = run(&mut caller, &pod, container_in(&format!("{name}-root"), &options, FOREVER)).await;
        for (id, user) in [(&web, "33"), (&root, "0")] {
            let mut client = node.exec(id, true, true, &["sh"]);
            client.resize.send(TerminalSize { columns: 111, rows: 44 }).await.unwrap();
            client.say("id -u; stat -c 'owner %u %g' $(tty); echo again > $(tty)\n").await;
            let seen = client.expect("again\r\n").await;
            assert!(seen.contains(&format!("\r\n{user}\r\nowner {user} 5\r\n")), "{name}: {seen:?}");
            client.say("stty size; echo $TERM\n").await;
            let seen = client.expect("xterm\r\n").await;
            assert!(seen.contains("44 111\r\n"), "{name}: {seen:?}");
            // It is the controlling terminal: ^C interrupts what is in the foreground, and only that.
            client.resize.send(TerminalSize { columns: 80, rows: 25 }).await.unwrap();
            // Said by what is in the foreground: the shell itself would not mind a ^C that comes before that.
            client.say("sh -c 'echo begun; exec sleep 100'\n").await;
            client.expect("begun\r\n").await;
            client.say("\u{3}").await;
            client.say("stty size; echo status $?\n").await;
            let seen = client.expect("status 0\r\n").await;
            assert!(seen.contains("25 80\r\n"), "{name}: {seen:?}");
            client.say("exit 5\n").await;
            let (_, _, finish) = client.rest().await;
            assert_eq!(finish, Finish::Exited(5), "{name}");
        }
        // A terminal whose client vanished is hung up.
        let trap = "trap 'touch /tmp-hangup; exit' HUP; echo set; while :; do sleep 0.1; done";
        let mut client = node.exec(&root, true, true, &["sh", "-c", trap]);
        client.expect("set\r\n").await;
        client.session.abort();
        let script = "until test -e /tmp-hangup; do sleep 0.1; done; echo hangup";
        assert_eq!(node.output(&root, b"", &["sh", "-c", script]).await.0, "hangup\n", "{name}");
        // The last of a lot of output is not lost.
        let (out, _, finish) = node
            .exec(
                &root,
                true,
                false,
                &["sh", "-c", "dd if=/dev/zero bs=1000 count=300 2>/dev/null; echo last"],
            )
            .rest()
            .await;
        assert!(out.ends_with("last\r\n") && out.len() == 300_006, "{name}: {} bytes", out.len());
        assert_eq!(finish, Finish::Exited(0));
        remove_pod(&mut caller, &pod).await;
    }
    assert_eq!(node.leaks(), Vec::<String>::new());
}
