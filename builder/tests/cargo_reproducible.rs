//! Two builds of the same sources in two places, with two cargo homes, give the same programs.
//!
//! Needs cargo, a C compiler and a static C library; and for the second cargo home, the first one's downloads.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use cairn::source::{cargo, progress::Event};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A workspace with what makes builds differ: a path dependency, a generic function of it, panics with locations,
/// a build script whose output is included, and `file!()`.
fn workspace(directory: &Path) {
    let write = |path: &str, text: &str| {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "Cargo.toml",
        "[workspace]\nresolver = \"3\"\nmembers = [\"tool\", \"part\"]\n\n\
         [profile.node]\ninherits = \"release\"\nstrip = \"symbols\"\ncodegen-units = 1\n",
    );
    write(
        "tool/Cargo.toml",
        "[package]\nname = \"tool\"\nversion = \"1.2.3\"\nedition = \"2024\"\n[dependencies]\npart = { path = \"../part\" }\n",
    );
    write(
        "tool/build.rs",
        "fn main() {\n    let out = std::env::var(\"OUT_DIR\").unwrap();\n    std::fs::write(format!(\"{out}/made.rs\"), \
         \"pub fn made(x: Option<u8>) -> u8 { x.unwrap() }\").unwrap();\n}\n",
    );
    write(
        "tool/src/main.rs",
        "mod made { include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\")); }\nfn main() {\n    \
         let first = std::env::args().nth(1);\n    println!(\"{}\", file!());\n    \
         println!(\"{}\", made::made(part::pick(first).map(|text| text.len() as u8)));\n}\n",
    );
    write("part/Cargo.toml", "[package]\nname = \"part\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    write(
        "part/src/lib.rs",
        "#[track_caller]\npub fn pick<T: std::fmt::Debug>(x: Option<T>) -> Option<T> {\n    \
         assert!(x.is_some(), \"nothing in {}\", file!());\n    x\n}\n",
    );
}

fn build(directory: &Path) -> Result<Vec<cargo::Program>, String> {
    let lock = Command::new("cargo").args(["generate-lockfile", "--offline"]).current_dir(directory).output();
    if !lock.is_ok_and(|output| output.status.success()) {
        return Err("no cargo".to_owned());
    }
    let print = |event: Event<'_>| {
        if let Event::Cargo(line) = event {
            println!("{line}");
        }
    };
    Ok(cargo::build(directory, &["tool"], &print).unwrap())
}

#[test]
fn two_places_give_the_same_program() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let deeper: PathBuf = second.path().join("home/somebody/else/checkout");
    workspace(first.path());
    workspace(&deeper);
    let (one, other) = match (build(first.path()), build(&deeper)) {
        (Ok(one), Ok(other)) => (one, other),
        (Err(reason), _) | (_, Err(reason)) => return println!("skipped: {reason}"),
    };
    assert_eq!(one.len(), 1);
    assert_eq!((one[0].name.as_str(), one[0].version.as_str()), ("tool", "1.2.3"));
    assert_ne!(one[0].path, other[0].path);
    assert_eq!(one[0].digest, other[0].digest, "{} and {}", one[0].path.display(), other[0].path.display());

    let run = Command::new(&one[0].path).arg("seven").output().unwrap();
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(text.ends_with("\n5\n"), "{text}");
    let program = fs::read(&one[0].path).unwrap();
    assert!(!program.windows(9).any(|bytes| bytes == b"/ld-linux"), "it is static");
}

#[test]
fn a_package_without_a_program_is_named() {
    let directory = tempfile::tempdir().unwrap();
    workspace(directory.path());
    if let Err(reason) = build(directory.path()) {
        return println!("skipped: {reason}");
    }
    let error = cargo::build(directory.path(), &["part"], &|_| {}).unwrap_err();
    assert!(error.to_string().contains("`part`"), "{error}");
    let error = cargo::build(directory.path(), &["absent"], &|_| {}).unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
}
