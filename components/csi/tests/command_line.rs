//! The daemon's command line, as an operator meets it.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    process::{Command, Output},
};

fn csi(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cairn-csi")).args(arguments).output().unwrap()
}

#[test]
fn the_printed_defaults_are_a_good_configuration() {
    let printed = csi(&["config", "default"]);
    assert!(printed.status.success());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("csi.toml");
    fs::write(&path, &printed.stdout).unwrap();
    let checked = csi(&["config", "check", path.to_str().unwrap()]);
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn a_mistake_is_shown_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("csi.toml");
    let path = path.to_str().unwrap();
    for (text, reason) in [
        ("# mine\nbakcends = ['nfs']\n", ":2:1: there is no key `bakcends`; did you mean `backends`?"),
        ("backends = ['nfs', 'nfs']\n", ": backends: one is named twice"),
    ] {
        fs::write(path, text).unwrap();
        for arguments in [&["config", "check", path][..], &["--config", path]] {
            let refused = csi(arguments);
            assert_eq!(refused.status.code(), Some(2));
            assert_eq!(String::from_utf8(refused.stderr).unwrap(), format!("{path}{reason}\n"));
        }
    }
    assert_eq!(csi(&["--config", "/nonexistent/csi.toml"]).status.code(), Some(2));
    assert_eq!(csi(&["--confg"]).status.code(), Some(2));
}
