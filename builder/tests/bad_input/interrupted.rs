//! Ctrl-C, at each place where work can take long.

use crate::{
    fixture::{Checkout, Outcome, PACKAGE, package, whole},
    mirror::{Answer, Mirror},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

fn interrupt(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// An interrupted program ends at once.
fn end(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("still running");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_interrupted_download_leaves_nothing_but_what_the_next_one_takes_up() {
    let package = package(200_000);
    for (command, signal) in [("build", Signal::INT), ("lock", Signal::INT), ("build", Signal::TERM)] {
        let checkout = Checkout::locked(&package);
        let stalled = Answer::Stall(Arc::new(package.clone()), 100_000);
        let mirror = Mirror::start([(PACKAGE.to_owned(), stalled)]);
        let mut child = checkout
            .cairn(&[command, "small", "--mirror", &mirror.uri])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        mirror.answered();
        interrupt(&child, signal);
        end(&mut child);
        let outcome = Outcome::of(&child.wait_with_output().unwrap());
        outcome.assert_refused(3, &["interrupted", "what was downloaded stays in the cache"]);
        checkout.assert_nothing_new_but_parts();

        let mirror = Mirror::start(whole(&package));
        let outcome = checkout.run(&["lock", "small", "--mirror", &mirror.uri]);
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
        // How much of the first half had been written when the signal came is the system's affair.
        let part = checkout.new_files();
        assert!(part.iter().all(|file| !file.ends_with(".part")), "{part:?}");
    }
}

#[test]
fn an_interrupted_build_leaves_no_output_and_an_older_one_as_it_was() {
    let package = package(24 << 20);
    let mirror = Mirror::start(whole(&package));
    for older in [false, true] {
        let checkout = Checkout::locked(&package);
        if older {
            std::fs::create_dir_all(checkout.path("out/small")).unwrap();
            std::fs::write(checkout.path("out/small/manifest.json"), "older").unwrap();
        }
        let mut child = checkout
            .cairn(&["build", "small", "--mirror", &mirror.uri])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("root file system") {
            assert!(stderr.read_line(&mut said).unwrap() > 0, "ended by itself: {said}");
        }
        interrupt(&child, Signal::INT);
        let status = end(&mut child);
        stderr.read_to_string(&mut said).unwrap();
        Outcome { code: status.code(), stdout: String::new(), stderr: said }
            .assert_refused(3, &["interrupted", "nothing was built"]);
        let left: Vec<_> =
            std::fs::read_dir(checkout.path("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
        if older {
            assert_eq!(left, ["small"]);
            assert_eq!(std::fs::read(checkout.path("out/small/manifest.json")).unwrap(), b"older");
        } else {
            assert!(left.is_empty(), "{left:?}");
        }
    }
}
