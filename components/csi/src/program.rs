//! A program of the system, run to its end within a deadline.
//!
//! Programs that talk to a server (mount.nfs, iscsiadm) may wait for it in the kernel. So none is waited for without
//! end: late ones are killed, and reaped whenever the kernel lets go of them.

use crate::error::{During, Fault};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    io::{Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A program that ended by itself.
#[derive(Debug)]
pub struct Ended {
    /// Its name.
    pub name: String,
    /// How.
    pub status: ExitStatus,
    /// Standard output.
    pub output: String,
    /// What it said about a failure, on one line.
    pub complaint: String,
}

impl Ended {
    /// Its output, if it was successful.
    ///
    /// # Errors
    /// [`Fault::Io`] with what it said.
    pub fn success(self) -> Result<String, Fault> {
        if self.status.success() { Ok(self.output) } else { Err(self.fault()) }
    }

    /// It failed, and there is no better word for it.
    pub fn fault(&self) -> Fault {
        let Self { name, status, complaint, .. } = self;
        Fault::Io { what: format!("{name}: {status}"), source: std::io::Error::other(complaint.clone()) }
    }
}

/// Runs `command` with `input` on its standard input, which fits into a pipe (64 KiB).
///
/// # Errors
/// [`Fault::Io`] if it cannot be started, [`Fault::Unavailable`] if it does not end in time.
pub fn run(command: &mut Command, input: &[u8], patience: Duration) -> Result<Ended, Fault> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.spawn().during(|| format!("{name} cannot be started (is its package installed?)"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read ends for reasons of its own, which it tells.
        let _ = stdin.write_all(input);
    }
    let (output, complaints) = (collect(child.stdout.take()), collect(child.stderr.take()));
    if !ends_within(&child, patience).during(|| format!("wait for {name}"))? {
        abandon(child);
        return Err(Fault::Unavailable(format!("{name} did not end within {} s", patience.as_secs())));
    }
    let status = child.wait().during(|| format!("wait for {name}"))?;
    let text = |reader: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
    };
    let (output, complaint) = (text(output), text(complaints));
    let complaint = if complaint.trim().is_empty() { &output } else { &complaint };
    let complaint = complaint.trim().replace('\n', "; ");
    Ok(Ended { name, status, output, complaint })
}

/// Reads to the end beside us, so that a program with much to say is not held up.
fn collect(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut from) = from {
            let _ = from.read_to_end(&mut all);
        }
        all
    })
}

fn ends_within(child: &Child, patience: Duration) -> rustix::io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Kills it, and waits for it elsewhere: it may be held in the kernel.
fn abandon(mut child: Child) {
    let _ = child.kill();
    thread::spawn(move || child.wait());
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn input_goes_in_and_output_and_complaints_come_out() {
        let ended = run(&mut shell("cat; echo no >&2; echo way >&2; exit 3"), b"in\n", LONG).unwrap();
        assert_eq!((ended.output.as_str(), ended.status.code()), ("in\n", Some(3)));
        assert_eq!(ended.fault().to_string(), "sh: exit status: 3: no; way");
        assert_eq!(run(&mut shell("true"), b"unread", LONG).unwrap().success().unwrap(), "");
        // More than a pipe holds.
        let much =
            run(&mut shell("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2"), b"", LONG).unwrap();
        assert_eq!((much.output.len(), much.complaint.len()), (300_000, 300_000));
    }

    #[test]
    fn a_program_that_hangs_is_not_waited_for() {
        let error = run(&mut shell("exec sleep 1000"), b"", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(&error, Fault::Unavailable(text) if text.starts_with("sh did not end")), "{error}");
        let error = run(&mut Command::new("/no/such"), b"", LONG).unwrap_err().to_string();
        assert!(error.contains("/no/such cannot be started"), "{error}");
    }
}
