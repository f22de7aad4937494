//! The profiles that ship, as a user sees them, and the pages generated from the types.
//!
//! `UPDATE=1 cargo test -p cairn --test profile` rewrites what has to follow a change.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Runs `cairn` in the checkout.
fn cairn(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cairn")).args(arguments).current_dir(checkout()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn good(arguments: &[&str]) -> String {
    let output = cairn(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

/// Compares with a file of the checkout, or rewrites it.
fn assert_is_current(file: &str, text: &str) {
    let path = checkout().join(file);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    if known != text {
        let line = known.lines().zip(text.lines()).take_while(|(a, b)| a == b).count() + 1;
        panic!(
            "{file} is out of date from line {line} on; UPDATE=1 cargo test -p cairn --test profile rewrites it"
        );
    }
}

#[test]
fn shipped_profiles_resolve_as_recorded() {
    for name in ["worker", "cloud"] {
        let shown = good(&["profile", "show", name]);
        assert_is_current(&format!("builder/tests/golden/{name}.toml"), &shown);
    }
}

#[test]
fn shipped_profiles_fit_together() {
    for entry in std::fs::read_dir(checkout().join("profiles")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = good(&["profile", "check", path.to_str().unwrap()]);
            assert!(text.contains(" 0 fatal, 0 warnings"), "{text}");
        }
    }
}

#[test]
fn the_reference_is_current() {
    assert_is_current("docs/profile.md", &good(&["profile", "reference"]));
}

#[test]
fn what_is_shown_is_a_profile_that_shows_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.toml");
    let shown = good(&["profile", "show", "worker"]);
    std::fs::write(&path, &shown).unwrap();
    assert_eq!(good(&["profile", "show", path.to_str().unwrap()]), shown);
}

#[test]
fn origins_name_file_and_line() {
    let text = good(&["profile", "show", "cloud", "--origin"]);
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(line("kernel.package = ").contains("# profiles/cloud.toml:"), "{text}");
    assert!(line("kernel.initrd_modules = ").contains("profiles/cloud.toml:"), "{text}");
    assert!(line("kernel.initrd_modules = ").contains("profiles/base.toml:"), "{text}");
    assert!(line("disk.esp_size = ").ends_with("# default"), "{text}");
    let table: toml::Table = toml::from_str(&text).unwrap();
    assert_eq!(table["name"].as_str(), Some("cloud"), "the listing is TOML too");
    let json: serde_json::Value =
        serde_json::from_str(&good(&["profile", "show", "cloud", "--origin", "--json"])).unwrap();
    assert!(
        json.as_array()
            .unwrap()
            .iter()
            .any(|key| key["key"] == "disk.esp_size" && key["origins"][0] == "default")
    );
}

#[test]
fn json_is_json() {
    let shown: serde_json::Value =
        serde_json::from_str(&good(&["profile", "show", "worker", "--json"])).unwrap();
    assert_eq!(shown["kernel"]["package"], "linux-image-amd64");
    let checked: serde_json::Value =
        serde_json::from_str(&good(&["profile", "check", "worker", "--json"])).unwrap();
    assert_eq!(checked["fatal"], 0);
    let schema: serde_json::Value = serde_json::from_str(&good(&["profile", "schema"])).unwrap();
    assert_eq!(schema["required"][0], "name");
}

#[test]
fn each_kind_of_failure_has_one_message_and_its_code() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let contradiction = write("wrong.toml", "name = 'wrong'\n[storage]\nnfs = true\n");
    let unknown = write("unknown.toml", "name = 'unknown'\n[kernel]\npakage = 'x'\n");
    let machine = write("machine.toml", "[node]\nname = 'Upper'\n");
    let folder_path = folder.path().to_str().unwrap().to_owned();
    for (arguments, code, message) in [
        (vec!["profile", "check", &contradiction], 1, "does not fit together"),
        (vec!["profile", "show", &unknown], 2, "did you mean `package`?"),
        (vec!["profile", "show", "wroker"], 2, "did you mean `worker`?"),
        (vec!["profile", "shwo", "worker"], 2, "unrecognized subcommand"),
        (vec!["machine", "check", &machine], 1, "node.name"),
        (vec!["machine", "check", "/nonexistent"], 2, "cannot read /nonexistent"),
        (vec!["profile", "show", &format!("{folder_path}/")], 3, "cannot read profile"),
    ] {
        let output = cairn(&arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(message), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_new_machine_has_an_identity_that_checks_out() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("node-1");
    let arguments = [
        "machine",
        "new",
        "--name",
        "node-1",
        "--address",
        "192.0.2.7",
        "--address",
        "node-1.example",
        "--out",
        out.to_str().unwrap(),
    ];
    let files = good(&arguments);
    assert_eq!(files.lines().count(), 4, "{files}");
    let config = good(&["machine", "check", out.join("machine.toml").to_str().unwrap()]);
    assert!(config.contains("good, for node-1"), "{config}");
    use std::os::unix::fs::PermissionsExt;
    for (file, mode) in
        [("machine.toml", 0o600), ("client.key", 0o600), ("ca.pem", 0o644), ("client.pem", 0o644)]
    {
        let actual = std::fs::metadata(out.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(actual & mode, actual, "{file} is {actual:o}");
    }

    // Nothing is overwritten.
    let before = std::fs::read(out.join("client.key")).unwrap();
    let again = cairn(&arguments);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("machine.toml is already there"), "{}", stderr(&again));
    assert_eq!(std::fs::read(out.join("client.key")).unwrap(), before);

    // OpenSSL agrees about the chain, the names and the role.
    let openssl = |arguments: &[&str]| Command::new("openssl").args(arguments).current_dir(&out).output();
    let document: toml::Table =
        toml::from_str(&std::fs::read_to_string(out.join("machine.toml")).unwrap()).unwrap();
    std::fs::write(out.join("server.pem"), document["api"]["certificate"].as_str().unwrap()).unwrap();
    let server = [
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-verify_ip",
        "192.0.2.7",
        "-CAfile",
        "ca.pem",
        "server.pem",
    ];
    let Ok(verified) = openssl(&server) else {
        println!("skipped: openssl is not installed");
        return;
    };
    assert!(verified.status.success(), "{}", stderr(&verified));
    let verified =
        openssl(&["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", "ca.pem", "client.pem"])
            .unwrap();
    assert!(verified.status.success(), "{}", stderr(&verified));
    let wrong = openssl(&["verify", "-purpose", "sslserver", "-CAfile", "ca.pem", "client.pem"]).unwrap();
    assert!(!wrong.status.success(), "a client's certificate is no server's");
    let subject = openssl(&["x509", "-noout", "-subject", "-in", "client.pem"]).unwrap();
    assert!(stdout(&subject).contains("cairn:admin"), "{}", stdout(&subject));
}

#[test]
fn a_machine_that_cannot_be_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x");
    let path = out.to_str().unwrap();
    for arguments in [
        vec!["machine", "new", "--name", "Node_1", "--out", path],
        vec!["machine", "new", "--name", "a", "--address", "https://a", "--out", path],
        vec!["machine", "new", "--name", "a", "--days", "0", "--out", path],
    ] {
        let output = cairn(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(!out.exists());
    }
}
