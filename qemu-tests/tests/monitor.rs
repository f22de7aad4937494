//! The monitor client against a server that speaks QEMU's side of the protocol.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test that cannot go on panics.

use cairn_qemu::qemu::monitor::Monitor;
use serde_json::{Value, json};
use std::path::Path;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixListener,
    task::JoinHandle,
};

/// Answers each command with what `answer` makes of it; lines of an answer are sent as they are.
fn serve(socket: &Path, greeting: Value, answer: fn(&str, u64) -> Vec<Value>) -> JoinHandle<Vec<String>> {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (reader, mut writer) = stream.into_split();
        writer.write_all(format!("{greeting}\r\n").as_bytes()).await.unwrap();
        let mut lines = BufReader::new(reader).lines();
        let mut commands = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            let message: Value = serde_json::from_str(&line).unwrap();
            let command = message["execute"].as_str().unwrap().to_owned();
            for value in answer(&command, message["id"].as_u64().unwrap()) {
                writer.write_all(format!("{value}\r\n").as_bytes()).await.unwrap();
            }
            commands.push(command);
        }
        commands
    })
}

fn greeting() -> Value {
    json!({ "QMP": { "version": { "qemu": { "major": 7, "minor": 2, "micro": 22 } }, "capabilities": ["oob"] } })
}

#[tokio::test]
async fn commands_are_answered_by_id_past_events_and_strangers_answers() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("qmp");
    let server = serve(&socket, greeting(), |command, id| match command {
        "query-status" => vec![
            json!({ "event": "RESET", "data": {}, "timestamp": { "seconds": 1, "microseconds": 2 } }),
            json!({ "return": { "status": "wrong" }, "id": id + 100 }),
            json!({ "return": { "status": "running", "running": true }, "id": id }),
        ],
        "quit" => vec![json!({ "error": { "class": "GenericError", "desc": "not now" }, "id": id })],
        _ => vec![json!({ "return": {}, "id": id })],
    });
    let mut monitor = Monitor::connect(&socket).await.unwrap();
    monitor.reset().await.unwrap();
    monitor.power_down().await.unwrap();
    assert_eq!(monitor.status().await.unwrap(), "running");
    assert_eq!(monitor.events(), ["RESET"]);
    let error = monitor.quit().await.unwrap_err().to_string();
    assert!(error.contains("quit") && error.contains("not now"), "{error}");
    drop(monitor);
    let commands = server.await.unwrap();
    assert_eq!(commands, ["qmp_capabilities", "system_reset", "system_powerdown", "query-status", "quit"]);
}

#[tokio::test]
async fn something_else_on_the_socket_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("qmp");
    let _server = serve(&socket, json!({ "hello": 1 }), |_, _| vec![]);
    let error = Monitor::connect(&socket).await.unwrap_err().to_string();
    assert!(error.contains("greeting"), "{error}");
}
