//! Records and messages as the daemon and the shim write them, chosen by bytes: each byte decides something, and when
//! they have come to their end, the rest is as plain as can be. So a change of a byte is a change of what is recorded.

use super::super::state::{ContainerRecord, PodPhase, PodRecord};
use crate::{
    cgroup::Resources,
    network::Attachment,
    protocol::{
        Attach, ContainerState, Descriptor, Envelope, Event, Exec, ExecSync, Exit, Message, PodSetup, Reply,
        Request, Start,
    },
    userns::{IdRange, UserNamespace},
};
use cairn_cni::protocol::version::SpecVersion;
use cairn_contract::cri;
use serde_json::{Value, json};
use std::{collections::HashMap, net::IpAddr};

const TEXTS: [&str; 12] = [
    "",
    "ab",
    "x/y",
    "..",
    "é\u{1f980}",
    "\u{0}",
    "a=b;c",
    "k8s.v1.cni.cncf.io/networks",
    "cni.projectcalico.org/ipAddrs",
    "-1",
    "sha256:0123456789abcdef",
    "/var/lib/x",
];
const NUMBERS: [i64; 10] = [0, 1, 2, -1, 255, 65536, u32::MAX as i64, 1 << 40, i64::MAX, i64::MIN];
const ADDRESSES: [&str; 6] = ["10.0.0.1", "fd00::1", "0.0.0.0", "::", "127.0.0.1", "::ffff:10.0.0.1"];
const SYSCTLS: [&str; 5] =
    ["net.ipv4.ip_forward", "kernel.shm_rmid_forced", "kernel.hostname", "fs.mqueue.msg_max", "vm.x"];

/// Bytes that decide.
struct Script<'a>(std::slice::Iter<'a, u8>);

impl Script<'_> {
    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % limit
    }

    fn is(&mut self) -> bool {
        self.below(2) == 1
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn text(&mut self) -> String {
        self.one(&TEXTS).to_owned()
    }

    fn number(&mut self) -> i64 {
        self.one(&NUMBERS)
    }

    fn small(&mut self) -> i32 {
        self.number() as i32
    }

    /// Up to three.
    fn some<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| make(self)).collect()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.is().then(|| make(self))
    }

    fn map(&mut self) -> HashMap<String, String> {
        self.some(|script| (script.text(), script.text())).into_iter().collect()
    }

    fn address(&mut self) -> IpAddr {
        self.one(&ADDRESSES).parse().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
    }
}

/// The record or message that the bytes decide on, as JSON.
pub fn record(script: &[u8]) -> Value {
    let mut script = Script(script.iter());
    let value = match script.below(8) {
        0..3 => serde_json::to_value(pod(&mut script)),
        3 | 4 => serde_json::to_value(container(&mut script)),
        5 => serde_json::to_value(Envelope { id: script.number() as u64, request: request(&mut script) }),
        6 => serde_json::to_value(message(&mut script)),
        _ if script.is() => serde_json::to_value(exit(&mut script)),
        _ => serde_json::to_value(setup(&mut script)),
    };
    value.unwrap_or_default()
}

fn pod(script: &mut Script<'_>) -> PodRecord {
    PodRecord {
        id: script.text(),
        config: cri::PodSandboxConfig {
            metadata: script.maybe(|script| cri::PodSandboxMetadata {
                name: script.text(),
                uid: script.text(),
                namespace: script.text(),
                attempt: script.small() as u32,
            }),
            hostname: script.text(),
            labels: script.map(),
            annotations: script.map(),
            linux: script.maybe(|script| cri::LinuxPodSandboxConfig {
                cgroup_parent: script.text(),
                security_context: script.maybe(|script| cri::LinuxSandboxSecurityContext {
                    namespace_options: script.maybe(namespaces),
                    privileged: script.is(),
                    ..Default::default()
                }),
                sysctls: script
                    .some(|script| (script.one(&SYSCTLS).to_owned(), script.text()))
                    .into_iter()
                    .collect(),
                resources: script.maybe(resources),
                ..Default::default()
            }),
            port_mappings: script.some(|script| cri::PortMapping {
                protocol: script.small(),
                container_port: script.small(),
                host_port: script.small(),
                host_ip: script.text(),
            }),
            ..Default::default()
        },
        handler: script.text(),
        created_at: script.number(),
        phase: script.one(&[PodPhase::Making, PodPhase::Ready, PodPhase::NotReady]),
        boot: script.text(),
        cgroup: script.text().into(),
        attachments: script.some(attachment),
        addresses: script.some(Script::address),
    }
}

fn namespaces(script: &mut Script<'_>) -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: script.below(5) as i32,
        pid: script.below(5) as i32,
        ipc: script.below(5) as i32,
        target_id: script.text(),
        userns_options: script.maybe(|script| {
            // The same for both, so that most can be.
            let mappings = script.one(&[
                [(65536, 0, 65536)].as_slice(),
                &[(65536, 0, 65536), (1 << 20, 65536, 1)],
                &[],
                &[(u32::MAX - 1, 0, 2)],
                &[(65536, 1, 1)],
                &[(65536, 0, 0)],
            ]);
            let mapping =
                |&(host_id, container_id, length): &_| cri::IdMapping { host_id, container_id, length };
            let mappings: Vec<_> = mappings.iter().map(mapping).collect();
            cri::UserNamespace { mode: script.below(5) as i32, uids: mappings.clone(), gids: mappings }
        }),
    }
}

fn resources(script: &mut Script<'_>) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: script.number(),
        cpu_quota: script.number(),
        cpu_shares: script.number(),
        memory_limit_in_bytes: script.number(),
        memory_swap_limit_in_bytes: script.number(),
        oom_score_adj: script.number(),
        cpuset_cpus: script.one(&["", "0-3,7", "3-0", "0-4294967295"]).to_owned(),
        cpuset_mems: script.one(&["", "0"]).to_owned(),
        hugepage_limits: script
            .some(|script| cri::HugepageLimit { page_size: script.text(), limit: script.number() as u64 }),
        unified: script.map(),
    }
}

fn attachment(script: &mut Script<'_>) -> Attachment {
    let object = |value: Value| value.as_object().cloned().unwrap_or_default();
    let result = |script: &mut Script<'_>| {
        let ips = script.some(|script| {
            let length = script.one(&[24, 64, 0, 128, 33]);
            let mut ip = json!({ "address": format!("{}/{length}", script.one(&ADDRESSES)) });
            if script.is() {
                ip["interface"] = json!(script.below(4));
            }
            if script.is() {
                ip["gateway"] = json!(script.one(&ADDRESSES));
            }
            ip
        });
        let interfaces = script.some(|script| {
            json!({ "name": script.one(&["eth0", "net1", ""]), "mac": script.text(), "sandbox": script.one(&["", "/run/netns/x"]) })
        });
        let routes = script.some(|script| json!({ "dst": script.one(&["0.0.0.0/0", "::/0", "10.0.0.0/8"]) }));
        match script.below(4) {
            0 => Value::Null,
            // Before 0.3.0.
            1 => json!({ "ip4": { "ip": "10.0.0.1/24", "gateway": script.one(&ADDRESSES) }, "dns": {} }),
            _ => {
                json!({ "ips": ips, "interfaces": interfaces, "routes": routes, "dns": { "search": [script.text()] } })
            }
        }
    };
    Attachment {
        name: script.text(),
        version: script.one(&[
            SpecVersion::V1_1_0,
            SpecVersion::V0_1_0,
            SpecVersion::V0_2_0,
            SpecVersion::V0_3_1,
            SpecVersion::V0_4_0,
            SpecVersion::V1_0_0,
        ]),
        interface: script.one(&["eth0", "net1", ""]).to_owned(),
        plugins: script.some(|script| {
            let capabilities = script.one(&["ips", "portMappings", "bandwidth", "x"]);
            object(json!({ "type": script.one(&["bridge", "portmap", "../x"]), "capabilities": { capabilities: script.is() } }))
        }),
        disable_check: script.is(),
        capabilities: object(json!({ script.one(&["ips", "portMappings", "bandwidth"]): [script.text()] })),
        arguments: script.text(),
        selection: script
            .maybe(|script| {
                serde_json::from_value(json!({ "name": script.text(), "namespace": script.text(),
                    "interface": script.one(&["eth0", "net1", ""]), "ips": script.some(Script::text),
                    "default-route": script.some(Script::address) }))
                .ok()
            })
            .flatten(),
        default: script.is(),
        result: result(script),
    }
}

fn container(script: &mut Script<'_>) -> ContainerRecord {
    ContainerRecord {
        id: script.text(),
        sandbox: script.text(),
        config: cri::ContainerConfig {
            metadata: script.maybe(|script| cri::ContainerMetadata {
                name: script.text(),
                attempt: script.small() as u32,
            }),
            image: script.maybe(|script| cri::ImageSpec { image: script.text(), ..Default::default() }),
            labels: script.map(),
            annotations: script.map(),
            mounts: script.some(|script| cri::Mount {
                container_path: script.text(),
                host_path: script.text(),
                readonly: script.is(),
                propagation: script.below(5) as i32,
                recursive_read_only: script.is(),
                image: script.maybe(|script| cri::ImageSpec { image: script.text(), ..Default::default() }),
                image_sub_path: script.text(),
                ..Default::default()
            }),
            log_path: script.text(),
            stop_signal: script.small(),
            ..Default::default()
        },
        created_at: script.number(),
        started_at: script.number(),
        pid: script.small(),
        exit: script.maybe(exit),
        reason: script.text(),
        message: script.text(),
        image_id: script.text(),
        volumes: script.some(Script::text),
        image_ref: script.text(),
        image_name: script.text(),
        stop_signal: script.small(),
        log: script.maybe(|script| script.text().into()),
        cgroup: script.text().into(),
        resources: Resources::from(&resources(script)),
        user: (script.small() as u32, script.small() as u32, script.some(|script| script.small() as u32)),
        shares_pids: script.is(),
    }
}

fn exit(script: &mut Script<'_>) -> Exit {
    Exit {
        code: script.one(&[0, 1, 137, -1, i32::MIN]),
        finished_at: script.number(),
        oom_killed: script.is(),
    }
}

fn request(script: &mut Script<'_>) -> Request {
    let container = script.text();
    match script.below(10) {
        0 => Request::Inspect,
        1 => Request::Start(Box::new(Start {
            container,
            bundle: script.text().into(),
            log: script.maybe(|script| script.text().into()),
            terminal: script.is(),
            stdin: script.is(),
            stdin_once: script.is(),
            exit_file: script.text().into(),
            cgroup: script.text().into(),
            resources: Resources::from(&resources(script)),
            kill_rest: script.is(),
        })),
        2 => Request::ExecSync(ExecSync {
            container,
            command: script.some(Script::text),
            timeout_ms: script.maybe(|script| script.number() as u64),
        }),
        3 => Request::Exec(Exec {
            container,
            command: script.some(Script::text),
            terminal: script.is(),
            stdin: script.is(),
            stdout: script.is(),
            stderr: script.is(),
        }),
        4 => Request::Attach(Attach {
            container,
            stdin: script.is(),
            stdout: script.is(),
            stderr: script.is(),
        }),
        5 => Request::CloseStdin,
        6 => Request::Signal { container, signal: script.small(), all: script.is() },
        7 => Request::ReopenLog { container },
        8 => Request::Forget { container },
        _ => Request::Shutdown,
    }
}

fn message(script: &mut Script<'_>) -> Message {
    let event = match script.below(8) {
        0 => Event::Exited { container: script.text(), exit: exit(script) },
        1 => Event::Ended { code: script.small() },
        2 => Event::Detached { reason: script.text() },
        kind => {
            let reply = match kind {
                3 => Reply::State {
                    pid: script.small(),
                    pause: script.maybe(Script::small),
                    containers: script.some(|script| ContainerState {
                        id: script.text(),
                        pid: script.small(),
                        exit: script.maybe(exit),
                    }),
                },
                4 => Reply::Executed {
                    code: script.small(),
                    stdout: script.text().into_bytes(),
                    stderr: script.text().into_bytes(),
                },
                5 => {
                    let all =
                        [Descriptor::Stdin, Descriptor::Stdout, Descriptor::Stderr, Descriptor::Terminal];
                    Reply::Opened { descriptors: script.some(|script| script.one(&all)) }
                }
                6 => Reply::Failed(script.text()),
                _ => script.maybe(|script| Reply::Started { pid: script.small() }).unwrap_or(Reply::TimedOut),
            };
            return Message::Reply { id: script.number() as u64, reply };
        }
    };
    Message::Event(event)
}

fn setup(script: &mut Script<'_>) -> PodSetup {
    let range =
        |script: &mut Script<'_>| IdRange { host: script.small() as u32, length: script.small() as u32 };
    PodSetup {
        id: script.text(),
        run: script.text().into(),
        hostname: script.maybe(Script::text),
        own_network: script.is(),
        own_ipc: script.is(),
        shared_pid: script.is(),
        users: script.maybe(|script| UserNamespace { uids: range(script), gids: range(script) }),
        sysctls: script.map().into_iter().collect(),
        cgroup: script.text().into(),
    }
}
