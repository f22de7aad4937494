//! Applets about processes.

use super::{DONE, Failure, Options, Outcome, number};
use crate::{errno, sys};
use rustix::process::{Pid, Signal, kill_process};
use std::{fs, process::ExitCode};

pub(super) fn kill(words: &[&str]) -> Outcome {
    let [signal, name] = Options::parse(words, &[], &[])?.words()?;
    let signal = parse_signal(signal).ok_or_else(|| Failure::usage(format!("no signal `{signal}`")))?;
    let mut signalled = 0;
    let entries = fs::read_dir("/proc").map_err(|e| Failure::os("/proc", &e))?;
    for id in entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok()) {
        let comm = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        // The kernel cuts names to 15 bytes.
        let same = comm.trim_end() == name.get(..15).unwrap_or(name);
        let Some(pid) = Pid::from_raw(id).filter(|_| same && id.unsigned_abs() != std::process::id()) else {
            continue;
        };
        match kill_process(pid, signal) {
            Ok(()) => {
                println!("{id}");
                signalled += 1;
            }
            Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(Failure::os(format_args!("process {id}"), &error.into())),
        }
    }
    if signalled == 0 {
        return Err(Failure::tried(format!("{}: no process named {name}", errno::name(libc::ESRCH))));
    }
    DONE
}

fn parse_signal(text: &str) -> Option<Signal> {
    let name = text.to_ascii_uppercase();
    Some(match name.strip_prefix("SIG").unwrap_or(&name) {
        "HUP" | "1" => Signal::HUP,
        "INT" | "2" => Signal::INT,
        "QUIT" | "3" => Signal::QUIT,
        "KILL" | "9" => Signal::KILL,
        "USR1" | "10" => Signal::USR1,
        "SEGV" | "11" => Signal::SEGV,
        "USR2" | "12" => Signal::USR2,
        "TERM" | "15" => Signal::TERM,
        "CONT" | "18" => Signal::CONT,
        "STOP" | "19" => Signal::STOP,
        _ => return None,
    })
}

pub(super) fn forks(words: &[&str]) -> Outcome {
    let [wanted] = Options::parse(words, &[], &[])?.words()?;
    let wanted: usize = number("N", wanted)?;
    let mut children = Vec::new();
    let mut refusal = None;
    while children.len() < wanted && refusal.is_none() {
        match sys::fork_sleeper() {
            Ok(child) => children.push(child),
            Err(error) => refusal = Some(error),
        }
    }
    children.iter().for_each(|child| sys::kill_child(*child));
    match refusal {
        None => println!("{}", children.len()),
        Some(error) => println!(
            "{} {}",
            children.len(),
            match error.raw_os_error() {
                Some(code) => errno::name(code),
                None => error.to_string(),
            }
        ),
    }
    Ok(if children.len() == wanted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(parse_signal("sigterm"), Some(Signal::TERM));
        assert_eq!(parse_signal("KILL"), parse_signal("9"));
        assert_eq!(parse_signal("NONE"), None);
    }
}
