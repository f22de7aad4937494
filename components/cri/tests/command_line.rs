//! The daemon's command line, as an operator meets it.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    process::{Command, Output},
};

fn cri(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cairn-cri")).args(arguments).output().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_printed_defaults_are_a_good_configuration() {
    let printed = cri(&["config", "default"]);
    assert!(printed.status.success());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cri.toml");
    fs::write(&path, &printed.stdout).unwrap();
    let checked = cri(&["config", "check", path.to_str().unwrap()]);
    assert!(checked.status.success(), "{checked:?}");
    assert!(text(printed.stdout).contains("\n# metrics_address ="));
}

#[test]
fn a_mistake_is_shown_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cri.toml");
    fs::write(&path, "# mine\ncni_cnf = '/etc/cni'\n").unwrap();
    let path = path.to_str().unwrap();
    for arguments in [&["config", "check", path][..], &["--config", path]] {
        let refused = cri(arguments);
        assert_eq!(refused.status.code(), Some(2));
        let error = text(refused.stderr);
        assert_eq!(error, format!("{path}:2:1: there is no key `cni_cnf`; did you mean `cni_conf`?\n"));
    }
    assert_eq!(cri(&["--config", "/nonexistent/cri.toml"]).status.code(), Some(2));
    assert_eq!(cri(&["--confg"]).status.code(), Some(2));
    assert!(text(cri(&["--help"]).stdout).contains("example:"));
}
