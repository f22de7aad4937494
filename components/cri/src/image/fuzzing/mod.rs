//! What must hold for whatever an image, a registry or a file of the node's may say. `components/cri/fuzz` looks for
//! bytes for which it does not.
//!
//! Each function panics when something does not hold, and returns a number of what happened: inputs that
//! lead to a new one are worth mutating further.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)] // panicking is what these are for

mod layers;

pub use layers::Arena;

use super::{
    auth::{Auth, PullSecret},
    baked::Baked,
    catalog::Catalog,
    hosts, keyring,
    manifest::{self, Document},
    platform::Machine,
    reference::Reference,
    registry, server,
    store::{Inventory, Record},
};
use crate::spec;
use cairn_contract::cri;
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    sync::Arc,
};

/// Longest message that goes back to the kubelet.
const MAX_MESSAGE: usize = 2048;

fn number(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// The text of an error, without what differs from input to input.
fn kind(error: &dyn std::fmt::Display) -> u64 {
    let text = error.to_string();
    assert!(
        text.len() <= MAX_MESSAGE,
        "a message of {} bytes: {}…",
        text.len(),
        &text[..text.floor_char_boundary(200)]
    );
    let outside: String = text.split('`').step_by(2).collect();
    number(&outside.chars().filter(|c| c.is_alphabetic() || *c == ' ').take(60).collect::<String>())
}

/// A manifest, index, configuration or record of the store.
pub fn document(bytes: &[u8]) -> u64 {
    number(&(manifests(bytes), configuration(bytes), record(bytes)))
}

fn manifests(bytes: &[u8]) -> u64 {
    match Document::parse(bytes) {
        Err(error) => kind(&error),
        Ok(Document::Image { layers, annotations, .. }) => {
            number(&(layers.len().min(3), annotations.len().min(2)))
        }
        Ok(Document::Index(index)) => {
            let chosen = Machine::samples().map(|machine| match index.choose(machine) {
                Ok(entry) => {
                    assert!(entry.platform.as_ref().is_none_or(|platform| machine.fit(platform).is_some()));
                    number(&entry.media_type)
                }
                Err(error) => kind(&error),
            });
            number(&chosen.collect::<Vec<_>>())
        }
    }
}

/// A configuration, and the container and the answers that are made of it.
fn configuration(bytes: &[u8]) -> u64 {
    let (config, diff_ids) = match manifest::parse_config(bytes) {
        Ok(parsed) => parsed,
        Err(error) => return kind(&error),
    };
    let fits = Machine::samples().map(|machine| {
        manifest::check_config(&config, &diff_ids, diff_ids.len(), machine).map_err(|error| kind(&error))
    });
    let fits = number(&fits.collect::<Vec<_>>());
    let told = server::user_of(&config);
    let signal = crate::runtime::fuzzing::stop_signal_of(&config);
    assert!((1..=64).contains(&signal), "signal {signal}");
    let result = spec::generate(&spec::Input {
        config: &cri::ContainerConfig::default(),
        sandbox: &cri::PodSandboxConfig::default(),
        image: &config,
        rootfs: Path::new("/nonexistent"),
        pod_run: Path::new("/run/pod"),
        pod_state: Path::new("/state/pod"),
        cgroup: Path::new("/cairn/x/y"),
        pid: spec::PidNamespace::Own,
        node_network: false,
        node_ipc: false,
        users: None,
        plugin_devices: &[],
    });
    match result {
        Ok((spec, user)) => {
            let process = spec.process().as_ref().unwrap();
            assert!(process.cwd().is_absolute());
            assert!(!process.args().as_deref().unwrap_or_default().is_empty());
            number(&(
                fits,
                user.uid.min(2),
                told.0.is_some(),
                process.env().as_ref().map(|env| env.len().min(4)),
            ))
        }
        Err(error) => number(&(fits, kind(&error))),
    }
}

/// A record that this or another version wrote, or nobody.
fn record(bytes: &[u8]) -> u64 {
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return 0 };
    let config =
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec();
    let layers = record.layers.iter().map(|layer| (*layer, Default::default())).collect::<BTreeMap<_, _>>();
    let inventory = Inventory { records: vec![(record.clone(), config)], layers };
    let (mut catalog, unusable) = Catalog::new(Arc::new(Baked::default()), inventory);
    let names: Vec<String> = record.tags.keys().chain(&record.digests).cloned().collect();
    let found = names.iter().filter(|name| catalog.resolve(name).is_some()).count();
    let plan = catalog.plan(record.clone(), Some("r.example/x:1"));
    let (parsed, _) = manifest::parse_config(
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#,
    )
    .unwrap();
    catalog.put(plan, &parsed);
    assert_eq!(catalog.resolve("r.example/x:1").map(|image| image.id), Some(record.config));
    let _ = catalog.layer_usage();
    assert!(catalog.take("r.example/x:1").is_ok());
    number(&(unusable.len(), found.min(3), names.len().min(3)))
}

/// What registries say and what is written about them; the first byte chooses which.
pub fn registry(bytes: &[u8]) -> u64 {
    let Some((which, bytes)) = bytes.split_first() else { return 0 };
    let text = String::from_utf8_lossy(bytes);
    let outcome = match which % 6 {
        0 => hosts_file(&text),
        1 => credentials(bytes),
        2 => reference(&text),
        3 => challenge(&text),
        4 => number(&registry::retry_after(&text, std::time::SystemTime::UNIX_EPOCH).is_some()),
        _ => secret(&text),
    };
    number(&(which % 6, outcome))
}

fn hosts_file(text: &str) -> u64 {
    let outcomes = ["r.example", "r.example:5000", "docker.io", "[::1]:5000"].map(|domain| {
        match hosts::file::parse(text, Path::new("/nonexistent/x"), domain) {
            Err(error) => {
                assert!(!error.to_string().contains('\n'));
                kind(&error)
            }
            Ok(endpoints) => {
                assert!(!endpoints.is_empty(), "there is always the registry");
                for endpoint in &endpoints {
                    let url = reqwest::Url::parse(&format!("{}/x/manifests/y", endpoint.base))
                        .expect("a usable URL");
                    assert!(matches!(url.scheme(), "http" | "https"), "{url}");
                    let host = url.host_str().unwrap();
                    assert!(endpoint.host.starts_with(host), "{} is asked at {host}", endpoint.host);
                    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
                }
                let (last, own) =
                    (endpoints.len().min(4), endpoints.iter().filter(|endpoint| endpoint.own).count());
                number(&(
                    last,
                    own.min(3),
                    endpoints[0].pull,
                    endpoints[0].resolve,
                    endpoints[0].headers.len().min(2),
                ))
            }
        }
    });
    number(&outcomes)
}

fn credentials(bytes: &[u8]) -> u64 {
    match keyring::Keyring::parse(bytes, Path::new("/nonexistent/auth.json")) {
        Err(error) => kind(&error),
        Ok(keyring) => {
            let asked = [
                ("r.example", "app"),
                ("https://r.example:443/v2", "team/app"),
                ("docker.io", "library/a"),
                ("[::1]:5", "a"),
            ];
            number(&asked.map(|(address, repository)| match keyring.find(address, repository) {
                None => 0,
                Some(Auth::Basic { .. }) => 1,
                Some(Auth::IdentityToken(_)) => 2,
                Some(Auth::RegistryToken(_)) => 3,
            }))
        }
    }
}

fn reference(text: &str) -> u64 {
    match text.parse::<Reference>() {
        Err(error) => kind(&error),
        Ok(reference) => {
            let full = reference.to_string();
            assert_eq!(full.parse::<Reference>().as_ref(), Ok(&reference), "{full} is not itself");
            assert!(
                full.is_ascii() && full.split('/').all(|part| !matches!(part, "" | "." | "..")),
                "{full}"
            );
            let url = format!(
                "https://{}/v2/{}/manifests/{}",
                reference.domain(),
                reference.path(),
                reference.version_text()
            );
            let parsed = reqwest::Url::parse(&url).expect("a reference fits into a URL");
            let path = format!("/v2/{}/manifests/{}", reference.path(), reference.version_text());
            assert_eq!(parsed.path(), path, "the path is what was asked for");
            number(&(
                reference.digest().is_some(),
                reference.domain().contains(':'),
                reference.path().contains('/'),
            ))
        }
    }
}

fn challenge(text: &str) -> u64 {
    match registry::Challenge::parse(text) {
        None => 0,
        Some(registry::Challenge::Basic) => 1,
        Some(registry::Challenge::Bearer { realm, service, scope }) => {
            let length = [Some(&realm), service.as_ref(), scope.as_ref()]
                .into_iter()
                .flatten()
                .map(String::len)
                .sum::<usize>();
            assert!(length <= text.len() + 1, "a challenge longer than its header");
            number(&(realm.is_empty(), service.is_some(), scope.is_some()))
        }
    }
}

fn secret(text: &str) -> u64 {
    let config =
        cri::AuthConfig { auth: text.to_owned(), server_address: text.to_owned(), ..Default::default() };
    match PullSecret::from_cri(&config) {
        Err(error) => kind(&error),
        Ok(secret) => {
            let printed = format!("{secret:?}");
            let hidden = match secret.as_ref().map(|secret| &secret.auth) {
                Some(Auth::Basic { username, password })
                    if password.len() > 8 && !username.contains(password.as_str()) =>
                {
                    Some(password)
                }
                _ => None,
            };
            assert!(hidden.is_none_or(|hidden| text.contains(hidden.as_str()) || !printed.contains(hidden.as_str())));
            number(&secret.is_some())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_inputs_pass() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        if rustix::process::geteuid().is_root() {
            let mut arena = Arena::new(dir.path());
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(2);
            builder.append_data(&mut header, "tmp/a", &b"ab"[..]).unwrap();
            let archive = builder.into_inner().unwrap();
            assert_eq!(arena.layer(&archive), arena.layer(&zstd::encode_all(&archive[..], 1).unwrap()));
            assert_ne!(arena.layer(&archive), arena.layer(&archive[..700]));
        } else {
            println!("skipped: unpacking needs root");
        }
        document(br#"{"schemaVersion":2,"manifests":[]}"#);
        for text in ["\0[host.'https://m']", "\x01{}", "\x02busybox", "\x03Basic", "\x045", "\x05dTpw"] {
            registry(text.as_bytes());
        }
    }
}
