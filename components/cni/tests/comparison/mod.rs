//! The same configurations through reference plugins and ours: results, links, addresses, routes, rules, queues, who
//! reaches whom, and what is left after DEL.
//!
//! Used by the test `reference` on this machine's kernel, and by the example of that name in a booted image, whose
//! kernel has more kinds of links.

mod cases;
mod effects;

use crate::lab::{Host, Namespace};
use cairn_cni::sysctl;
use serde_json::{Map, Value, json};
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// How many cases are compared at once: most of the time they wait for links to be ready, or for what is not to come.
const AT_ONCE: usize = 2;

/// What a comparison needs of the kernel and of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Links of that kind.
    Kind(&'static str),
    /// Bridges that tell VLANs apart.
    BridgeVlans,
    /// A plugin of that name.
    Plugin(&'static str),
    /// `nft` or `iptables`, which the reference's plugins start.
    Program(&'static str),
    /// nf_tables for bridges.
    BridgeRules,
    /// A file.
    File(&'static str),
}

pub(crate) use cases::cases;

type Chain = Box<dyn Fn(&Host) -> Vec<Value> + Sync>;
type Effect = fn(&Stage) -> Value;

/// One configuration, or chain of them.
pub(crate) struct Case {
    /// Which test it is of.
    pub(crate) group: &'static str,
    label: String,
    needs: Vec<Need>,
    chain: Chain,
    effect: Option<Effect>,
}

/// Host, neighbour and pod of a case, for looking at effects.
pub(crate) struct Stage {
    pub(crate) host: Host,
    pub(crate) world: Option<Namespace>,
    pub(crate) pod: Namespace,
}

impl Case {
    fn new(
        group: &'static str,
        label: impl ToString,
        chain: impl Fn(&Host) -> Vec<Value> + Sync + 'static,
    ) -> Self {
        Self { group, label: label.to_string(), needs: Vec::new(), chain: Box::new(chain), effect: None }
    }

    fn needs(mut self, needs: &[Need]) -> Self {
        self.needs.extend(needs);
        self
    }

    fn effect(mut self, effect: Effect) -> Self {
        self.effect = Some(effect);
        self
    }
}

/// How a comparison went.
pub(crate) enum Outcome {
    Equal,
    Different(String),
    Skipped(String),
}

/// The reference's directory, `CAIRN_CNI_REFERENCE` or Debian's; `Err` says why there is none.
pub(crate) fn reference() -> Result<PathBuf, String> {
    let directory =
        std::env::var_os("CAIRN_CNI_REFERENCE").map_or_else(|| "/usr/lib/cni".into(), PathBuf::from);
    if directory.join("bridge").exists() {
        return Ok(directory);
    }
    Err(format!("no reference plugins in {} (package containernetworking-plugins)", directory.display()))
}

/// Compares them all; the outcomes in their order.
pub(crate) fn compare(cases: &[Case], reference: &Path) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(at) else { return done };
            done.push((at, compare_one(case, reference)));
        }
    };
    let mut outcomes: Vec<(usize, Outcome)> = thread::scope(|scope| {
        let workers = [(); AT_ONCE].map(|()| scope.spawn(work));
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn compare_one(case: &Case, reference: &Path) -> Outcome {
    if let Some(need) = case.needs.iter().find(|need| !is_met(**need, reference)) {
        return Outcome::Skipped(format!("{need:?} is missing"));
    }
    let [ours, theirs] = thread::scope(|scope| {
        let ours = scope.spawn(|| play(case, Host::new()));
        let theirs = scope.spawn(|| play(case, Host::with_plugins(reference)));
        [ours.join(), theirs.join()]
    });
    let (ours, theirs) = match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (Err(panic), _) | (_, Err(panic)) => {
            let message = panic.downcast_ref::<String>().cloned();
            return Outcome::Different(message.unwrap_or_else(|| "a panic without words".to_owned()));
        }
    };
    let mut found = String::new();
    for (when, ours, theirs) in [("ADD", &ours.0, &theirs.0), ("DEL", &ours.1, &theirs.1)] {
        let difference = difference(ours, theirs);
        if !difference.is_empty() {
            found += &format!("after {when}:\n{difference}");
        }
    }
    if found.is_empty() { Outcome::Equal } else { Outcome::Different(found) }
}

/// Label and group, for reports.
pub(crate) fn title(case: &Case) -> String {
    format!("{}: {}", case.group, case.label)
}

fn is_met(need: Need, reference: &Path) -> bool {
    match need {
        Need::Plugin(name) => reference.join(name).exists(),
        Need::Program(name) => {
            Namespace::new("probe").command(name).arg("--version").output().is_ok_and(|o| o.status.success())
        }
        Need::File(path) => Path::new(path).exists(),
        Need::BridgeVlans => {
            Namespace::new("probe").ip_succeeds("link add name b0 type bridge vlan_filtering 1")
        }
        Need::BridgeRules => {
            let probe = Namespace::new("probe");
            let mut nft = probe.command("nft");
            nft.arg("table bridge t { chain c { type filter hook prerouting priority -300; iifname a ether saddr 02:00:00:00:00:01 drop; }; }");
            nft.output().is_ok_and(|o| o.status.success())
        }
        Need::Kind(kind) => {
            let probe = Namespace::new("probe");
            probe.ip("link add parent0 type veth peer name parent1");
            let words = match kind {
                "macvlan" | "ipvlan" => format!("link add link parent0 name probe0 type {kind}"),
                "vlan" => "link add link parent0 name probe0 type vlan id 5".to_owned(),
                "vrf" => "link add name probe0 type vrf table 5".to_owned(),
                _ => format!("link add name probe0 type {kind}"),
            };
            probe.ip_succeeds(&words)
        }
    }
}

/// ADD, a look, DEL, another look.
fn play(case: &Case, host: Host) -> (Value, Value) {
    let pod = Namespace::new("pod");
    // The reference waits for it a second or two each time, which is not what is compared.
    for namespace in [&host.netns, &pod] {
        namespace.enter(|| sysctl::ensure("net/ipv6/conf/default/accept_dad", "0")).unwrap();
    }
    let world = case.effect.map(|_| host.neighbour());
    let stage = Stage { world, pod, host };
    let Stage { host, pod, .. } = &stage;
    let look = || {
        let mut seen = json!({"pod": state(pod), "host": state(&host.netns)});
        if let Some(effect) = case.effect {
            seen["effect"] = effect(&stage);
        }
        seen
    };
    let mut previous = Value::Null;
    let mut configs = Vec::new();
    for mut config in (case.chain)(host) {
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        let side = if host.is_ours() { "ours" } else { "the reference" };
        previous = host
            .cni("ADD", &config, &pod.name, &pod.path())
            .unwrap_or_else(|error| panic!("ADD of {}, {side}: {error}", config["type"]));
        configs.push(config);
    }
    let mut made = look();
    made["result"] = without_chance(previous.clone(), pod);
    // A plugin that moves routes or addresses away leaves those before it without what they would find.
    let moves = |config: &Value| ["sbr", "vrf"].iter().any(|kind| config["type"] == *kind);
    let moved = configs.iter().rposition(moves).unwrap_or(0);
    for config in &configs[moved..] {
        // Ours only: CHECK of the reference plugins fails on some of what their own ADD makes.
        if host.is_ours() && config["cniVersion"].as_str().unwrap() >= "0.4" {
            assert_eq!(host.check(config, pod, &previous), "", "CHECK of {}", config["type"]);
        }
    }
    for config in configs.iter().rev() {
        if let Err(error) = host.cni("DEL", config, &pod.name, &pod.path()) {
            // That of 1.9.1 looks for rules of iptables also where it was told to make none, and finds fault with that.
            assert!(!host.is_ours(), "DEL of {}: {error}", config["type"]);
            println!("the reference's DEL of {} fails: {error}", config["type"]);
        }
    }
    let mut left = look();
    left["reservations"] = json!(host.reservations());
    (made, left)
}

/// Names and hardware addresses that are made up anew each time; and name resolution that is none, which later
/// versions of the reference leave out.
fn without_chance(mut result: Value, pod: &Namespace) -> Value {
    if result["dns"].is_null() {
        result["dns"] = json!({});
    }
    for interface in result["interfaces"].as_array_mut().into_iter().flatten() {
        interface["mac"] = json!("");
        for prefix in ["veth", "bwp"] {
            if interface["name"].as_str().unwrap().starts_with(prefix) {
                interface["name"] = json!(prefix);
            }
        }
        if interface["sandbox"] == json!(pod.path()) {
            interface["sandbox"] = json!("pod");
        }
    }
    result
}

fn pick(value: &Value, keys: &[&str]) -> Value {
    keys.iter().map(|key| (key.to_string(), value[*key].clone())).collect::<Map<_, _>>().into()
}

/// A queue length that somebody chose: the reference's own choice between none and the kernel's has changed over time.
fn chosen(length: &Value) -> Value {
    if [0, 32, 1000].map(Value::from).contains(length) { Value::Null } else { length.clone() }
}

/// What the kernel shows of a namespace, as far as it is not chance. Policy is the rules that lead to tables of routes, and
/// what is in those other than the main one.
fn state(namespace: &Namespace) -> Value {
    let mut links = Vec::new();
    for link in namespace.ip_json("-d addr show").as_array().unwrap() {
        let name = link["ifname"].as_str().unwrap();
        let addresses = link["addr_info"].as_array().unwrap().iter().filter(|a| a["scope"] != "link");
        let mut own: Vec<Value> =
            addresses.map(|a| pick(a, &["family", "local", "prefixlen", "broadcast", "scope"])).collect();
        own.sort_by_key(Value::to_string);
        let name = ["veth", "bwp"].into_iter().find(|prefix| name.starts_with(prefix)).unwrap_or(name);
        let (info, port) = (&link["linkinfo"]["info_data"], &link["linkinfo"]["info_slave_data"]);
        links.push(json!({
            "name": name, "addresses": own, "mtu": link["mtu"], "txqlen": chosen(&link["txqlen"]),
            "up": link["flags"].as_array().unwrap().contains(&"UP".into()),
            "kind": link["linkinfo"]["info_kind"], "master": link["master"], "promisc": link["promiscuity"],
            "own": pick(info, &["mode", "id", "protocol", "vlan_filtering", "table", "type", "multi_queue", "user", "group"]),
            "port": pick(port, &["hairpin", "isolated"]),
        }));
    }
    links.sort_by_key(Value::to_string);
    let (mut routes, mut policy) = (Vec::new(), Vec::new());
    for family in ["-4", "-6"] {
        policy.push(namespace.ip_json(&format!("{family} rule show")));
        for route in namespace.ip_json(&format!("{family} route show table all")).as_array().unwrap() {
            let mut route = route.clone();
            if route["dev"].as_str().is_some_and(|device| device.starts_with("veth")) {
                route["dev"] = json!("veth");
            }
            let of_link = route["dst"].as_str().is_some_and(|dst| dst.starts_with("fe80::"));
            match route["table"].as_str() {
                _ if of_link => {}
                None => routes.push(pick(&route, &["dst", "gateway", "dev", "scope", "metric"])),
                Some("local") => {}
                Some(_) => policy.push(route),
            }
        }
    }
    routes.sort_by_key(Value::to_string);
    policy.sort_by_key(Value::to_string);
    json!({"links": links, "routes": routes, "queues": queues(namespace), "policy": policy,
           "vlans": vlans(namespace)})
}

/// Which VLANs ports are in, as far as there is a `bridge` program to show them.
fn vlans(namespace: &Namespace) -> Vec<Value> {
    let Ok(output) = namespace.about("bridge").args(["-j", "vlan", "show"]).output() else {
        return Vec::new();
    };
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let shown = |port: &Value| {
        let name = port["ifname"].as_str().unwrap_or_default();
        json!([if name.starts_with("veth") { "veth" } else { name }, port["vlans"]])
    };
    let mut shown: Vec<Value> = all.iter().map(shown).collect();
    shown.sort_by_key(Value::to_string);
    shown
}

/// Token buckets and what feeds them, as far as there is a `tc` program to show them.
fn queues(namespace: &Namespace) -> Vec<Value> {
    let Ok(output) = namespace.about("tc").args(["-j", "qdisc", "show"]).output() else {
        return Vec::new();
    };
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let wanted = |q: &&Value| q["kind"] == "tbf" || q["kind"] == "ingress";
    let shown = |q: &Value| {
        let options = pick(&q["options"], &["rate", "burst", "lat", "limit"]);
        json!([q["kind"], q["handle"], options])
    };
    let mut queues: Vec<Value> = all.iter().filter(wanted).map(shown).collect();
    queues.sort_by_key(Value::to_string);
    queues
}

/// Lines of the documents that are not in both, or nothing if they are equal.
fn difference(ours: &Value, theirs: &Value) -> String {
    let show = |v: &Value| serde_json::to_string_pretty(v).unwrap();
    let (ours, theirs) = (show(ours), show(theirs));
    if ours == theirs {
        return String::new();
    }
    let only = |a: &str, b: &str, whose: &str| -> String {
        let other: Vec<&str> = b.lines().collect();
        let lines = a.lines().filter(|line| !other.contains(line));
        lines.map(|line| format!("{whose}: {}\n", line.trim())).collect()
    };
    let lines = only(&ours, &theirs, "ours") + &only(&theirs, &ours, "theirs");
    if lines.is_empty() { format!("ours: {ours}\ntheirs: {theirs}") } else { lines }
}
