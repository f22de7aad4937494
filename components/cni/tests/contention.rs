//! Many runs of `host-local` on one range at once, some of them killed: no address is handed out twice, none is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // Tests, helpers included.

mod lab;

use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};

const WORKERS: u64 = 64;
const ROUNDS: u64 = 12;
/// How long a worker has its address.
const HELD: Duration = Duration::from_millis(20);

/// One run; `None` if it was killed before it was done.
fn run(command: &str, id: &str, config: &str, kill_after: Option<Duration>) -> Option<Result<Value, Value>> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cairn-cni"))
        .arg("host-local")
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", id)
        // No namespace is entered: any will do, the own one too.
        .env("CNI_NETNS", "/proc/self/ns/net")
        .env("CNI_NETNS_OVERRIDE", "1")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/nowhere")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(config.as_bytes());
    if let Some(pause) = kill_after {
        thread::sleep(pause);
        let _ = child.kill();
    }
    let output = child.wait_with_output().unwrap();
    output.status.code()?;
    let document = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Some(if output.status.success() { Ok(document) } else { Err(document) })
}

fn must(outcome: Option<Result<Value, Value>>) -> Value {
    outcome.expect("it was not killed").unwrap_or_else(|error| panic!("{error}"))
}

/// A small generator (Marsaglia's xorshift): the same kills for the same worker every time.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn reserved(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory.join("pods")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
        .collect()
}

#[test]
fn no_address_is_given_twice_and_none_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    // 10.60.0.2 to 10.60.0.126: room for all workers, and little more.
    let config = json!({"cniVersion": "1.0.0", "name": "pods", "type": "host-local",
        "ipam": {"type": "host-local", "dataDir": directory.path(), "subnet": "10.60.0.0/25"}})
    .to_string();
    let reservations = directory.path().join("pods");
    let held = Mutex::new(BTreeSet::new());
    let killed = Mutex::new(0);
    thread::scope(|scope| {
        for worker in 1..=WORKERS {
            let (config, held, killed, reservations) = (&config, &held, &killed, &reservations);
            scope.spawn(move || {
                let mut random = worker.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                for round in 0..ROUNDS {
                    let id = format!("c{worker}-{round}");
                    let mut pause = || {
                        next(&mut random)
                            .is_multiple_of(3)
                            .then(|| Duration::from_micros(next(&mut random) % 30_000))
                    };
                    let (kill_add, kill_del) = (pause(), pause());
                    match run("ADD", &id, config, kill_add) {
                        None => *killed.lock().unwrap() += 1,
                        Some(outcome) => {
                            let result = must(Some(outcome));
                            let address = lab::addresses(&result).remove(0);
                            assert!(
                                held.lock().unwrap().insert(address.clone()),
                                "{address} was given twice"
                            );
                            // Long enough for others to get it, too, if they could.
                            thread::sleep(HELD);
                            let record = std::fs::read_to_string(reservations.join(&address)).unwrap();
                            assert_eq!(record, format!("{id}\r\neth0"), "{address} is ours");
                            held.lock().unwrap().remove(&address);
                        }
                    }
                    if run("DEL", &id, config, kill_del).is_none() {
                        *killed.lock().unwrap() += 1;
                        // As a runtime does: until it has succeeded.
                        must(run("DEL", &id, config, None));
                    }
                }
            });
        }
    });
    println!("{} runs, {} of them killed", WORKERS * ROUNDS * 2, killed.lock().unwrap());
    assert!(*killed.lock().unwrap() > 0, "nothing was killed, so nothing was shown");
    assert_eq!(reserved(directory.path()), BTreeSet::new(), "every attachment is gone");
    // Every address can be had again, and then no more.
    let all: BTreeSet<String> = (0..125)
        .map(|n| lab::addresses(&must(run("ADD", &format!("full{n}"), &config, None))).remove(0))
        .collect();
    assert_eq!((all.len(), reserved(directory.path()).len()), (125, 125));
    assert!(run("ADD", "one-more", &config, None).unwrap().is_err());
}
