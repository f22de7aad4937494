//! The same configurations through reference plugins and ours: results, links, addresses, routes, rules, queues, who
//! reaches whom, and what is left after DEL.
//!
//! Used by the test `reference` on this machine's kernel, and by the example of that name in a booted image, whose
//! kernel has more kinds of links.

mod cases;
mod effects;
mod leases;
mod state;

use crate::lab::{Host, Namespace};
use serde_json::{Value, json};
use state::Look;
use std::{
    path::{Path, PathBuf},
    process::Child,
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

/// A reference of 1.2 or later: what came after Debian's 1.1.1.
pub(crate) const RECENT: Need = Need::Plugin("dummy");

pub(crate) use cases::cases;

type Chain = Box<dyn Fn(&Host) -> Vec<Value> + Sync>;
type Effect = fn(&Stage) -> Value;
type Preparation = fn(&Stage) -> Vec<Running>;

/// A program that runs beside a case, and ends with it.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One configuration, or chain of them.
pub(crate) struct Case {
    /// Which test it is of.
    pub(crate) group: &'static str,
    label: String,
    needs: Vec<Need>,
    chain: Chain,
    preparation: Option<Preparation>,
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
        let (label, chain) = (label.to_string(), Box::new(chain));
        Self { group, label, needs: Vec::new(), chain, preparation: None, effect: None }
    }

    fn needs(mut self, needs: &[Need]) -> Self {
        self.needs.extend(needs);
        self
    }

    /// What there has to be before, in the pod or on the host.
    fn prepared(mut self, preparation: Preparation) -> Self {
        self.preparation = Some(preparation);
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
        let recent = is_recent(reference);
        let ours = scope.spawn(move || play(case, Host::new(), recent));
        let theirs = scope.spawn(move || play(case, Host::with_plugins(reference), recent));
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

/// Whether the reference is one of those that have `dummy` (1.2 and later).
fn is_recent(reference: &Path) -> bool {
    is_met(RECENT, reference)
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
fn play(case: &Case, host: Host, recent: bool) -> (Value, Value) {
    let pod = Namespace::new("pod");
    // The reference waits for it a second or two each time, which is not what is compared; that it is on, is.
    for namespace in [&host.netns, &pod] {
        namespace.detect_nothing();
    }
    let world = case.effect.map(|_| host.neighbour());
    let stage = Stage { world, pod, host };
    let _running = case.preparation.map(|prepare| prepare(&stage));
    let Stage { host, pod, .. } = &stage;
    let chain = (case.chain)(host);
    let look = Look { asked: asked(&chain), recent };
    let seen = || {
        let mut seen = json!({"pod": look.at(pod), "host": look.at(&host.netns)});
        if let Some(effect) = case.effect {
            seen["effect"] = effect(&stage);
        }
        seen
    };
    let mut previous = Value::Null;
    let mut configs = Vec::new();
    for mut config in chain {
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        let side = if host.is_ours() { "ours" } else { "the reference" };
        previous = host
            .cni("ADD", &config, &pod.name, &pod.path())
            .unwrap_or_else(|error| panic!("ADD of {}, {side}: {error}", config["type"]));
        configs.push(config);
    }
    let mut made = seen();
    made["result"] = without_chance(previous.clone(), pod, &look.asked);
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
    let mut left = seen();
    left["reservations"] = json!(host.reservations());
    (made, left)
}

/// Hardware addresses that configurations ask for.
fn asked(chain: &[Value]) -> Vec<String> {
    let places = ["/mac", "/args/cni/mac", "/runtimeConfig/mac"];
    let all = chain.iter().flat_map(|config| places.map(|place| config.pointer(place)));
    all.flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Names and hardware addresses that are made up anew each time; and name resolution that is none, which later
/// versions of the reference leave out.
fn without_chance(mut result: Value, pod: &Namespace, asked: &[String]) -> Value {
    if result["dns"].is_null() {
        result["dns"] = json!({});
    }
    for interface in result["interfaces"].as_array_mut().into_iter().flatten() {
        if !asked.iter().any(|mac| interface["mac"] == **mac) {
            interface["mac"] = json!("");
        }
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
