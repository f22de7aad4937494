//! `cairn-probe`: the program in the image `cairn.local/probe`.
//!
//! A node proves itself with it (a sandbox that really starts, a port that really answers), an operator looks
//! around with it where there is no shell, and the test harness asks with it what the kernel lets a container do.
//! So it is one static file of plain system calls, needs nothing in the image beside itself, and says what went
//! wrong by the error's name (`EROFS`), which is what one wants to compare.
//!
//! Every applet is a module of [`applet`]; the table in [`applet::TABLE`] is usage text and dispatch in one.
#![allow(clippy::print_stdout)] // Printing is what it is for.

mod applet;
mod datagram;
mod dns;
mod errno;
mod json;
mod sha256;
mod sys;

use applet::{Applet, Failure, TABLE};
use std::{ffi::OsString, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let called_as = words.next().unwrap_or_default();
    let mut arguments: Vec<OsString> = words.collect();
    let link = Path::new(&called_as).file_name().and_then(|n| n.to_str()).and_then(find);
    let applet = match link {
        Some(applet) => applet,
        // Without arguments it is what keeps a sandbox alive.
        None if arguments.is_empty() => &TABLE[0],
        None => {
            let first = arguments.remove(0);
            match first.to_str() {
                Some("--help" | "-h" | "help") => return help(),
                Some("--version") => {
                    println!("cairn-probe {}", env!("CARGO_PKG_VERSION"));
                    return ExitCode::SUCCESS;
                }
                Some(name) => match find(name) {
                    Some(applet) => applet,
                    None => {
                        return fail(
                            "cairn-probe",
                            &Failure::usage(format!("no applet `{name}`; try --help")),
                        );
                    }
                },
                None => return fail("cairn-probe", &Failure::usage("no such applet; try --help")),
            }
        }
    };
    if arguments.iter().any(|a| a == "--help") {
        println!("usage: cairn-probe {} {}\n{}", applet.name, applet.arguments, applet.purpose);
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = arguments.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match (applet.run)(&words) {
        Ok(code) => code,
        Err(failure) => fail(applet.name, &failure),
    }
}

fn find(name: &str) -> Option<&'static Applet> {
    TABLE.iter().find(|applet| applet.name == name)
}

fn help() -> ExitCode {
    println!("usage: cairn-probe APPLET [ARGUMENTS]     without arguments: pause\n");
    for applet in TABLE {
        println!("  {} {}\n        {}", applet.name, applet.arguments, applet.purpose);
    }
    println!("\nExit status: 0 done, 1 tried and failed (the error's name is on stderr), 2 wrong usage.");
    ExitCode::SUCCESS
}

fn fail(applet: &str, failure: &Failure) -> ExitCode {
    match failure {
        Failure::Usage(why) => {
            eprintln!("{applet}: {why}");
            if let Some(applet) = find(applet) {
                eprintln!("usage: cairn-probe {} {}", applet.name, applet.arguments);
            }
            ExitCode::from(2)
        }
        Failure::Tried(why) => {
            eprintln!("{applet}: {why}");
            ExitCode::FAILURE
        }
    }
}
