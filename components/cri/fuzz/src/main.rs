//! Fuzzing with any toolchain; see [`runner::main`] for what it takes. Texts are mutated as what they are: values of JSON,
//! words of the dictionary, and bytes.

use cairn_cri_fuzz::{blob, documents, layers, registries, state, vary::vary};
use cairn_streaming_fuzz::{
    random::Random,
    runner::{self, Target},
};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Longest inputs: of a layer, and of a text.
const LAYER_LIMIT: usize = 16 << 10;
const TEXT_LIMIT: usize = 8 << 10;

fn layer(random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..random.below(300)).map(|_| random.next() as u8).collect();
    let mode = random.next() as u8;
    if mode & 3 == 1 {
        // An archive as it is, for changes within its blocks.
        bytes.insert(0, 0x12);
        bytes = blob(&bytes);
        bytes.truncate(LAYER_LIMIT);
    }
    bytes.insert(0, mode);
    bytes
}

fn digest(random: &mut Random) -> String {
    match random.below(12) {
        0 => "sha512:00".to_owned(),
        1 => "sha256:zz".to_owned(),
        number => format!("sha256:{}", format!("{number:x}").repeat(64)[..64].to_owned()),
    }
}

fn platform(random: &mut Random) -> Value {
    let mut platform = json!({
        "os": random.one(&["linux", "windows", "Linux", "unknown", ""]),
        "architecture": random.one(&["amd64", "arm64", "arm", "386", "riscv64", "x86_64", "aarch64", "unknown"]),
    });
    if random.below(2) == 0 {
        platform["variant"] = json!(random.one(&["v1", "v3", "v8", "v8.2", "7", "v", "v256", "v1.1.1", ""]));
    }
    platform
}

fn descriptor(random: &mut Random) -> Value {
    const TYPES: [&str; 7] = [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/x",
        "",
    ];
    let mut descriptor =
        json!({"mediaType": random.one(&TYPES), "digest": digest(random), "size": random.below(1 << 20)});
    match random.below(6) {
        0 | 1 => descriptor["platform"] = platform(random),
        2 => descriptor["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"}),
        3 => descriptor["artifactType"] = json!("application/x"),
        _ => {}
    }
    descriptor
}

fn document(random: &mut Random) -> Vec<u8> {
    let count = random.below(4);
    let many = |random: &mut Random| (0..count).map(|_| descriptor(random)).collect::<Vec<_>>();
    let mut value = match random.below(4) {
        0 => {
            json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": descriptor(random),
            "layers": many(random), "annotations": {"a": "b"}})
        }
        1 => json!({"schemaVersion": 2, "manifests": many(random)}),
        2 => {
            let mut config = json!({"created": "2026-11-28T00:00:00Z", "author": "a", "config": {
                "User": random.one(&["", "0", "1000:1000", "root:wheel", "4294967295", "nobody", ":"]),
                "Env": [random.one(&["A=b", "PATH=/bin", "=", "A", ""])], "Entrypoint": ["/a"], "Cmd": ["b"],
                "WorkingDir": random.one(&["", "/w", "../../x", "a/../b"]), "StopSignal": random.one(&["SIGTERM", "9", "RTMIN+99", "x", "-1"]),
                "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "Labels": {"a": "b"}},
                "rootfs": {"type": "layers", "diff_ids": [digest(random), digest(random)]},
                "history": [{"created_by": "x", "empty_layer": true}]});
            for (key, part) in platform(random).as_object().into_iter().flatten() {
                config[key] = part.clone();
            }
            config
        }
        _ => {
            json!({"config": digest(random), "content": [digest(random)], "layers": [digest(random)], "size": random.next(),
            "tags": {"docker.io/library/a:1": random.next(), "r.example/x:1": u64::MAX}, "digests": [format!("r.example/a@{}", digest(random))]})
        }
    };
    vary(&mut value, random);
    value.to_string().into_bytes()
}

const HOSTS: &str = r#"server = "https://registry.example"
[host."https://mirror.example"]
  capabilities = ["pull", "resolve"]
  ca = "ca.pem"
  client = [["client.cert", "client.key"]]
  skip_verify = false
  override_path = true
  dial_timeout = "1m3.5s"
  [host."https://mirror.example".header]
    x-token = ["abc", "def"]
[host."http://[::1]:5000/prefix/v2/"]
[host.'b.example']
"#;

/// What texts about registries are made of.
const WORDS: [&str; 48] = [
    "server",
    "host",
    "capabilities",
    "pull",
    "resolve",
    "push",
    "ca",
    "client",
    "skip_verify",
    "override_path",
    "header",
    "dial_timeout",
    "https://",
    "http://",
    "ftp://",
    "[::1]",
    "[fe80::1%25eth0]",
    "127.0.0.1",
    ":5000",
    ":65536",
    ":0",
    "/v2",
    "/",
    "//",
    "..",
    "%2e%2e",
    "?",
    "#",
    "@",
    "sha256:",
    "docker.io",
    "index.docker.io",
    "localhost",
    "library/",
    "latest",
    "xn--a",
    "user:pass@",
    "Bearer realm=\"",
    "Basic",
    "scope=",
    ",",
    "\\\"",
    "= ",
    "[host.\"",
    "\"]\n",
    "é",
    "\u{0}",
    "_",
];

fn about_registry(random: &mut Random) -> Vec<u8> {
    let which = random.below(6) as u8;
    let mut text = match which {
        0 if random.below(2) == 0 => HOSTS.to_owned(),
        0 => format!("[host.\"{}{}{}\"]\n", random.one(&WORDS), random.one(&WORDS), random.one(&WORDS)),
        1 => {
            let mut value = json!({"auths": {
                "r.example": {"auth": "dXNlcjpwYXNzd29yZA=="}, "https://r.example/team/": {"username": "team", "password": "p"},
                "*.cloud.example": {"identitytoken": "t"}, "https://index.docker.io/v1/": {"registrytoken": "t"}, "[::1]:5": {"auth": "!"}}});
            vary(&mut value, random);
            value.to_string()
        }
        2 => {
            let name = random.one(&["busybox", "r.example:5000/a/b-c__d.e", "[::1]:5/a", "localhost/a", "User/a"]);
            let rest = random.one(&["", ":1.2", "@", ":t@"]);
            format!("{name}{rest}{}", if rest.ends_with('@') { digest(random) } else { String::new() })
        }
        3 => (*random.one(&[
            r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#,
            r#"Basic realm="x", Bearer realm=https://a , service = "x\"y""#,
            "Negotiate abc==, Basic",
        ]))
        .to_owned(),
        4 => (*random.one(&["120", "Sat, 28 Nov 2026 12:00:00 GMT", "18446744073709551615", "-1", "1.5"])).to_owned(),
        _ => (*random.one(&["dXNlcjpwYXNzd29yZA==", "PHRva2VuPjphYmM=", "dXNlcjpwYXNzd29yZAAA", "user"])).to_owned(),
    };
    for _ in 0..random.below(4) {
        let mut at = random.below(text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let word: &str = *random.one(&WORDS);
        text.insert_str(at, word);
    }
    [&[which], text.as_bytes()].concat()
}

/// A script of a record, understood in each of the ways; or the record itself, for changes of its text.
fn of_state(random: &mut Random) -> Vec<u8> {
    let script: Vec<u8> = (0..random.below(300)).map(|_| random.next() as u8).collect();
    match random.below(5) {
        0 => [b"\0", cairn_cri::runtime::fuzzing::record(&script).to_string().as_bytes()].concat(),
        _ => [&[1 + random.below(3) as u8], script.as_slice()].concat(),
    }
}

fn main() -> ExitCode {
    runner::main(&[
        Target { name: "layers", input: layer, check: layers, limit: LAYER_LIMIT },
        Target { name: "documents", input: document, check: documents, limit: TEXT_LIMIT },
        Target { name: "registries", input: about_registry, check: registries, limit: TEXT_LIMIT },
        Target { name: "state", input: of_state, check: state, limit: TEXT_LIMIT },
    ])
}
