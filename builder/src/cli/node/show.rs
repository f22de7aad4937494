//! What a node says, for people and for programs. A node may be broken or hostile: nothing of it reaches a
//! terminal as a control sequence.

use cairn_contract::management::{JournalEntry, StatusResponse};
use indicatif::BinaryBytes;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Text without control characters.
pub(super) fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// `status` for people.
pub(super) fn status(status: &StatusResponse) -> String {
    let mut text = String::new();
    let mut row = |label: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{label:11} {}", plain(value));
        }
    };
    row("node", &status.name);
    row("state", if status.ready { "ready" } else { "not ready" });
    row("image", &status.image_version);
    row("root hash", &status.root_hash);
    row("kernel", &status.kernel);
    row("machine", &status.machine_id);
    row("boot", &status.boot_id);
    if let Some(memory) = &status.memory {
        let used = memory.total_bytes.saturating_sub(memory.available_bytes);
        row("memory", &format!("{} used of {}", BinaryBytes(used), BinaryBytes(memory.total_bytes)));
    }
    for interface in &status.interfaces {
        let addresses = match interface.addresses.as_slice() {
            [] => "no address".to_owned(),
            addresses => addresses.join(" "),
        };
        row("interface", &format!("{}  {}  {addresses}", interface.name, interface.mac));
    }
    for milestone in &status.milestones {
        row("reached", &format!("{} after {}", milestone.name, seconds(milestone.boot_usec)));
    }
    if !status.checks.is_empty() {
        text.push_str(&checks(status));
    }
    text
}

/// Checks as a table, the bad ones for the eye to find.
fn checks(status: &StatusResponse) -> String {
    let names = status.checks.iter().map(|check| check.name.chars().count());
    let width = names.max().unwrap_or_default().max("CHECK".len());
    let mut text = format!("\n{:width$}  STATE  NEEDED  WHAT WAS SEEN\n", "CHECK");
    for check in &status.checks {
        let state = if check.good { "good" } else { "BAD" };
        let needed = if check.required { "yes" } else { "no" };
        let _ = writeln!(
            text,
            "{:width$}  {state:5}  {needed:6}  {}",
            plain(&check.name),
            plain(&check.message).trim_end()
        );
    }
    text
}

fn seconds(usec: u64) -> String {
    format!("{}.{:03} s", usec / 1_000_000, usec % 1_000_000 / 1000)
}

/// `status` for programs: the fields of the API, under their names in `management.proto`.
pub(super) fn status_json(status: &StatusResponse) -> Value {
    let interfaces: Vec<Value> = status
        .interfaces
        .iter()
        .map(|found| json!({"name": found.name, "mac": found.mac, "addresses": found.addresses}))
        .collect();
    let checks: Vec<Value> = status
        .checks
        .iter()
        .map(|check| {
            json!({"name": check.name, "good": check.good, "required": check.required, "message": check.message})
        })
        .collect();
    let milestones: Vec<Value> = status
        .milestones
        .iter()
        .map(|reached| json!({"name": reached.name, "boot_usec": reached.boot_usec}))
        .collect();
    let memory = status.memory.as_ref();
    json!({
        "name": status.name,
        "ready": status.ready,
        "image_version": status.image_version,
        "root_hash": status.root_hash,
        "kernel": status.kernel,
        "boot_id": status.boot_id,
        "machine_id": status.machine_id,
        "interfaces": interfaces,
        "checks": checks,
        "milestones": milestones,
        "memory": memory.map(|memory| {
            json!({"total_bytes": memory.total_bytes, "available_bytes": memory.available_bytes})
        }),
    })
}

/// One journal entry for people: time in UTC, who, what. Further lines of a message are indented.
pub(super) fn entry(entry: &JournalEntry) -> String {
    let who = [&entry.identifier, &entry.unit].into_iter().find(|name| !name.is_empty());
    let who = who.map_or("-", String::as_str);
    let mut lines = entry.message.lines();
    let mut text = format!("{} {}: {}", time(entry), plain(who), plain(lines.next().unwrap_or_default()));
    for line in lines {
        let _ = write!(text, "\n    {}", plain(line));
    }
    text
}

/// One journal entry for programs.
pub(super) fn entry_json(entry: &JournalEntry) -> Value {
    json!({
        "time": time(entry),
        "realtime_usec": entry.realtime_usec,
        "unit": entry.unit,
        "identifier": entry.identifier,
        "priority": entry.priority,
        "message": entry.message,
    })
}

/// RFC 3339 with microseconds; `-` if the node's clock is beyond any year that has a name.
fn time(entry: &JournalEntry) -> String {
    let usec = i64::try_from(entry.realtime_usec).ok();
    let time = usec.and_then(|usec| jiff::Timestamp::from_microsecond(usec).ok());
    time.map_or_else(|| "-".to_owned(), |time| format!("{time:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_contract::management::{Check, Interface, Memory, Milestone};

    fn response() -> StatusResponse {
        let check = |name: &str, good, required, message: &str| Check {
            name: name.into(),
            good,
            required,
            message: message.into(),
        };
        StatusResponse {
            name: "node-1".into(),
            image_version: "cairn_0.1.0".into(),
            root_hash: "ab12".into(),
            kernel: "6.12.0".into(),
            interfaces: vec![
                Interface {
                    name: "ens3".into(),
                    mac: "52:54:00:12:34:56".into(),
                    addresses: vec!["192.0.2.7/24".into(), "2001:db8::7/64".into()],
                },
                Interface { name: "ens4".into(), mac: "52:54:00:12:34:57".into(), addresses: vec![] },
            ],
            checks: vec![
                check("runtime", true, true, "runtime and network are ready"),
                check("kubelet", false, true, "says\x1b[2J no\n"),
            ],
            milestones: vec![Milestone { name: "runtime-ready".into(), boot_usec: 8_250_900 }],
            memory: Some(Memory { total_bytes: 2 << 30, available_bytes: 3 << 29 }),
            ..StatusResponse::default()
        }
    }

    #[test]
    fn people_get_a_table_without_control_characters() {
        let expected = "\
node        node-1
state       not ready
image       cairn_0.1.0
root hash   ab12
kernel      6.12.0
memory      512.00 MiB used of 2.00 GiB
interface   ens3  52:54:00:12:34:56  192.0.2.7/24 2001:db8::7/64
interface   ens4  52:54:00:12:34:57  no address
reached     runtime-ready after 8.250 s

CHECK    STATE  NEEDED  WHAT WAS SEEN
runtime  good   yes     runtime and network are ready
kubelet  BAD    yes     says [2J no
";
        assert_eq!(status(&response()), expected);
    }

    #[test]
    fn programs_get_every_field() {
        let value = status_json(&response());
        assert_eq!(value["ready"], json!(false));
        assert_eq!(value["interfaces"][0]["addresses"][1], json!("2001:db8::7/64"));
        assert_eq!(value["checks"][1]["message"], json!("says\x1b[2J no\n"));
        assert_eq!(value["milestones"][0]["boot_usec"], json!(8_250_900));
        assert_eq!(value["memory"]["available_bytes"], json!(1_610_612_736));
        assert_eq!(status_json(&StatusResponse::default())["memory"], Value::Null);
    }

    #[test]
    fn journal_entries_keep_to_their_lines() {
        let mut said = JournalEntry {
            realtime_usec: 1_795_000_000_000_017,
            unit: "a.service".into(),
            identifier: "cairn-cri".into(),
            priority: 6,
            message: "one\n\ttwo\x1b]0;x\x07".into(),
        };
        assert_eq!(entry(&said), "2026-11-18T11:06:40.000017Z cairn-cri: one\n     two ]0;x ");
        assert_eq!(entry_json(&said)["time"], json!("2026-11-18T11:06:40.000017Z"));
        assert_eq!(entry_json(&said)["message"], json!("one\n\ttwo\x1b]0;x\x07"));
        (said.realtime_usec, said.identifier, said.message) = (u64::MAX, String::new(), String::new());
        assert_eq!(entry(&said), "- a.service: ");
    }
}
