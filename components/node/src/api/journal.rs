//! The journal, through `journalctl --output=json`. The channel holds a few entries; a slow client makes
//! journalctl wait on its pipe, and one that hangs up makes it end.

use cairn_contract::management::{JournalEntry, JournalRequest};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Starts reading.
pub(super) fn open(
    journalctl: &Path,
    request: JournalRequest,
) -> Result<ReceiverStream<Result<JournalEntry, Status>>, Status> {
    let child = Command::new(journalctl)
        .args(arguments(&request)?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Status::internal(format!("cannot run journalctl: {error}")))?;
    let (sender, receiver) = channel(64);
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = forward(child, &sender) => {}
        }
    });
    Ok(ReceiverStream::new(receiver))
}

async fn forward(mut child: Child, sender: &Sender<Result<JournalEntry, Status>>) {
    let Some(output) = child.stdout.take() else { return };
    let mut lines = BufReader::new(output).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        if let Some(entry) = parse(&line)
            && sender.send(Ok(entry)).await.is_err()
        {
            return;
        }
    }
    if let Ok(status) = child.wait().await
        && !status.success()
    {
        let _ = sender
            .send(Err(Status::not_found(format!(
                "journalctl ended with {status}: no such boot, or no journal"
            ))))
            .await;
    }
}

/// Arguments from a typed request: nothing of the client's is taken as an option.
fn arguments(request: &JournalRequest) -> Result<Vec<String>, Status> {
    if request.boot > 0 {
        return Err(Status::invalid_argument("boot must be 0 for this boot, or negative for earlier ones"));
    }
    let mut arguments = vec!["--output=json".to_owned(), "--no-pager".to_owned(), "--quiet".to_owned()];
    arguments.push(format!("--boot={}", request.boot));
    let lines = if request.lines == 0 { "all".to_owned() } else { request.lines.to_string() };
    arguments.push(format!("--lines={lines}"));
    if !request.unit.is_empty() {
        // The characters of unit names, systemd.unit(5); patterns are left out.
        if !request.unit.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b)) {
            return Err(Status::invalid_argument("unit is not the name of a systemd unit"));
        }
        arguments.push(format!("--unit={}", request.unit));
    }
    if request.follow {
        arguments.push("--follow".to_owned());
    }
    Ok(arguments)
}

fn parse(line: &[u8]) -> Option<JournalEntry> {
    let entry: Value = serde_json::from_slice(line).ok()?;
    let first = |keys: &[&str]| keys.iter().find_map(|key| text(entry.get(*key)?)).unwrap_or_default();
    Some(JournalEntry {
        realtime_usec: first(&["__REALTIME_TIMESTAMP"]).parse().unwrap_or_default(),
        unit: first(&["UNIT", "_SYSTEMD_UNIT"]),
        identifier: first(&["SYSLOG_IDENTIFIER", "_COMM"]),
        priority: first(&["PRIORITY"]).parse().unwrap_or(6),
        message: first(&["MESSAGE"]),
    })
}

/// A field: a string, an array of bytes if it is not UTF-8, or an array of values if it stands several times.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => match items.first()? {
            Value::Number(_) => {
                let bytes: Vec<u8> =
                    items.iter().filter_map(|item| u8::try_from(item.as_u64()?).ok()).collect();
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            first => text(first),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_become_arguments_and_cannot_inject_any() {
        let request = JournalRequest { unit: "cairn-cri.service".into(), lines: 5, follow: true, boot: -1 };
        assert_eq!(
            arguments(&request).unwrap(),
            [
                "--output=json",
                "--no-pager",
                "--quiet",
                "--boot=-1",
                "--lines=5",
                "--unit=cairn-cri.service",
                "--follow"
            ]
        );
        assert_eq!(arguments(&JournalRequest::default()).unwrap()[4], "--lines=all");
        for unit in ["a b", "a*", "a/b", "a\n"] {
            assert!(arguments(&JournalRequest { unit: unit.into(), ..Default::default() }).is_err());
        }
        assert!(arguments(&JournalRequest { boot: 1, ..Default::default() }).is_err());
    }

    #[test]
    fn entries_are_read_in_all_their_forms() {
        let line = br#"{"__REALTIME_TIMESTAMP":"17","_SYSTEMD_UNIT":"init.scope","UNIT":"a.service","SYSLOG_IDENTIFIER":"systemd","PRIORITY":"3","MESSAGE":[104,105,255]}"#;
        let entry = parse(line).unwrap();
        assert_eq!((entry.realtime_usec, entry.priority), (17, 3));
        assert_eq!(
            (entry.unit.as_str(), entry.identifier.as_str(), entry.message.as_str()),
            ("a.service", "systemd", "hi\u{fffd}")
        );
        assert_eq!(parse(br#"{"MESSAGE":["one","two"]}"#).unwrap().message, "one");
        assert_eq!(parse(br#"{"MESSAGE":null}"#).unwrap().message, "");
        assert_eq!(parse(b"no json"), None);
    }
}
