//! Applets that say who the process is.

use super::{DONE, Failure, Options, Outcome};
use crate::json::Json;
use std::fs;

/// Names of capabilities by number (linux/capability.h), without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

pub(super) fn hostname(words: &[&str]) -> Outcome {
    Options::parse(words, &[], &[])?.words::<0>()?;
    println!("{}", host_name());
    DONE
}

pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

pub(super) fn id(words: &[&str]) -> Outcome {
    Options::parse(words, &[], &[])?.words::<0>()?;
    let path = "/proc/self/status";
    let status = fs::read_to_string(path).map_err(|e| Failure::os(path, &e))?;
    println!("{}", describe(&status).render());
    DONE
}

fn describe(status: &str) -> Json {
    let field = |name: &str| {
        let found = status.lines().filter_map(|line| line.split_once(':')).find(|(n, _)| *n == name);
        found.map_or("", |(_, value)| value.trim())
    };
    let numbers =
        |name: &str| field(name).split_whitespace().filter_map(|n| n.parse().ok()).map(Json::Number);
    let nth = |name: &str, n: usize| numbers(name).nth(n).unwrap_or(Json::Null);
    let capabilities = |name: &str| {
        let set = u64::from_str_radix(field(name), 16).unwrap_or(0);
        let named = (0..64).filter(|bit| set >> bit & 1 == 1);
        Json::List(
            named
                .map(|bit| Json::text(CAPABILITIES.get(bit).map_or(format!("{bit}"), |n| (*n).to_owned())))
                .collect(),
        )
    };
    let seccomp = match field("Seccomp") {
        "0" => "disabled",
        "1" => "strict",
        "2" => "filter",
        _ => "unknown",
    };
    Json::Object(vec![
        ("uid", nth("Uid", 0)),
        ("effective_uid", nth("Uid", 1)),
        ("gid", nth("Gid", 0)),
        ("effective_gid", nth("Gid", 1)),
        ("groups", Json::List(numbers("Groups").collect())),
        ("effective", capabilities("CapEff")),
        ("permitted", capabilities("CapPrm")),
        ("inheritable", capabilities("CapInh")),
        ("bounding", capabilities("CapBnd")),
        ("ambient", capabilities("CapAmb")),
        ("no_new_privs", Json::Bool(field("NoNewPrivs") == "1")),
        ("seccomp", Json::text(seccomp)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_file_in_json() {
        let status = "Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t5\t6\t6\t6\nGroups:\t5 44 \nCapEff:\t0000000000000401\nCapBnd:\t8000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        let parsed: serde_json::Value = serde_json::from_str(&describe(status).render()).unwrap();
        assert_eq!((&parsed["uid"], &parsed["effective_uid"]), (&1000.into(), &0.into()));
        assert_eq!(parsed["groups"], serde_json::json!([5, 44]));
        assert_eq!(parsed["effective"], serde_json::json!(["CHOWN", "NET_BIND_SERVICE"]));
        assert_eq!(parsed["bounding"], serde_json::json!(["63"]));
        assert_eq!((&parsed["no_new_privs"], &parsed["seccomp"]), (&true.into(), &"filter".into()));
    }
}
