//! What the kernel shows of a namespace, as far as it is not chance.

use crate::lab::Namespace;
use cairn_cni::sysctl;
use serde_json::{Map, Value, json};

/// How to look.
pub(super) struct Look {
    /// Hardware addresses that were asked for: those are no chance.
    pub(super) asked: Vec<String>,
    /// The reference is one of 1.2 or later.
    pub(super) recent: bool,
}

impl Look {
    /// Policy is the rules that lead to tables of routes, and
    /// what is in those other than the main one.
    pub(super) fn at(&self, namespace: &Namespace) -> Value {
        let mut links = Vec::new();
        for link in namespace.ip_json("-d addr show").as_array().unwrap() {
            let name = link["ifname"].as_str().unwrap();
            let addresses = link["addr_info"].as_array().unwrap().iter().filter(|a| a["scope"] != "link");
            let mut own: Vec<Value> =
                addresses.map(|a| pick(a, &["family", "local", "prefixlen", "broadcast", "scope"])).collect();
            own.sort_by_key(Value::to_string);
            let name = ["veth", "bwp"].into_iter().find(|prefix| name.starts_with(prefix)).unwrap_or(name);
            let (info, port) = (&link["linkinfo"]["info_data"], &link["linkinfo"]["info_slave_data"]);
            // That of our `ifb` links says whose they are, for GC, which the reference's `bandwidth` does not do.
            // And `host-device` of 1.1.1 leaves its note on a link that is back.
            let alias =
                link["ifalias"].as_str().filter(|alias| self.recent && !alias.starts_with("cairn-cni "));
            links.push(json!({
            "name": name, "mac": self.asked.iter().find(|mac| link["address"] == ***mac), "alias": alias, "parameters": self.parameters(namespace, link["ifname"].as_str().unwrap()),
            "addresses": own, "mtu": link["mtu"], "txqlen": chosen(&link["txqlen"]),
            "up": link["flags"].as_array().unwrap().contains(&"UP".into()),
            "kind": link["linkinfo"]["info_kind"], "master": link["master"], "promisc": link["promiscuity"],
            "own": pick(info, &["mode", "id", "protocol", "vlan_filtering", "table", "type", "multi_queue", "user", "group", "bcqueuelen"]),
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
           "vlans": vlans(namespace), "forwards": forwards(namespace)})
    }

    /// Kernel parameters of a link that plugins set. Not among them are those that have the kernel announce addresses
    /// (`arp_notify`, `ndisc_notify`): here every plugin sets them, in the reference some do.
    fn parameters(&self, namespace: &Namespace, link: &str) -> Value {
        let mut names = vec![
            "ipv4/conf/*/proxy_arp",
            "ipv4/conf/*/route_localnet",
            "ipv6/conf/*/disable_ipv6",
            "ipv6/conf/*/accept_dad",
            "ipv6/conf/*/accept_ra",
        ];
        // Of pods' interfaces, since some version after 1.1.1.
        if self.recent && link == "eth0" {
            names.push("ipv6/conf/*/keep_addr_on_down");
        }
        names
            .into_iter()
            .map(|name| (name.to_owned(), parameter(namespace, &name.replace('*', link))))
            .collect::<Map<_, _>>()
            .into()
    }
}

fn parameter(namespace: &Namespace, name: &str) -> Value {
    namespace.enter(|| sysctl::read(&format!("net/{name}"))).map_or(Value::Null, Value::from)
}

/// Which families are forwarded.
fn forwards(namespace: &Namespace) -> Value {
    json!(["ipv4/ip_forward", "ipv6/conf/all/forwarding"].map(|name| parameter(namespace, name)))
}

fn pick(value: &Value, keys: &[&str]) -> Value {
    keys.iter().map(|key| (key.to_string(), value[*key].clone())).collect::<Map<_, _>>().into()
}

/// A queue length that somebody chose: the reference's own choice between none and the kernel's has changed over time.
fn chosen(length: &Value) -> Value {
    if [0, 32, 1000].map(Value::from).contains(length) { Value::Null } else { length.clone() }
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
