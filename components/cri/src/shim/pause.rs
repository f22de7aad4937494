//! The first process of a shared PID namespace, which lives only as long as that process does.
//!
//! Containers see it as process 1, and one that may trace processes could reach whatever it can. So it can reach
//! nothing: its root is an empty directory, and it has no capabilities.
#![allow(unsafe_code)] // fork and exec; the shim has one thread, so a forked child may do as it likes.

use super::sandbox::{enter_users, wait_for};
use crate::{cgroup::Cgroup, protocol::PodSetup};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    pipe::{PipeFlags, pipe_with},
    process::{DumpableBehavior, WaitOptions, set_dumpable_behavior, wait},
    thread::{CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities, unshare_unsafe},
};
use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::OwnedFd,
};

/// What the pause process says when nothing can be reached through it any more.
const CONFINED: &[u8] = b"confined";

/// Starts `cairn-shim pause` as the first process of a PID namespace; it becomes a child of the shim, which is a
/// subreaper, when the process between them ends.
pub(super) fn start(setup: &PodSetup) -> io::Result<i32> {
    let (report, told): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC)?;
    let (confined, tells) = pipe_with(PipeFlags::CLOEXEC)?;
    let name = fs::read_link("/proc/self/exe")?;
    let name = CString::new(name.into_os_string().into_encoded_bytes())?;
    // SAFETY: the process has one thread.
    let between = unsafe { libc::fork() };
    if between < 0 {
        return Err(io::Error::last_os_error());
    }
    if between == 0 {
        // SAFETY: no CLONE_FILES or CLONE_FS; the namespace is that of children to come.
        let apart = enter_users(setup)
            .and_then(|()| unsafe { unshare_unsafe(UnshareFlags::NEWPID) }.map_err(io::Error::from));
        // SAFETY: one thread still.
        let pause = if apart.is_err() { -1 } else { unsafe { libc::fork() } };
        if pause == 0 {
            // The daemon reads our output to its end: the pause process must not keep it open.
            let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty());
            if let Ok(null) = null {
                let _ = rustix::stdio::dup2_stdout(&tells);
                let _ = rustix::stdio::dup2_stderr(&null);
            }
            let arguments = [name.as_ptr(), c"pause".as_ptr(), std::ptr::null()];
            // By a link that needs no way to the file: this may be a user who has none.
            // SAFETY: both are null-terminated and live until exec replaces the process, or `_exit` ends it.
            unsafe {
                libc::execv(c"/proc/self/exe".as_ptr(), arguments.as_ptr());
                libc::_exit(127)
            }
        }
        let _ = File::from(told).write_all(&pause.to_ne_bytes());
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(0) }
    }
    drop((told, tells));
    let mut pid = [0; 4];
    let heard = File::from(report).read_exact(&mut pid);
    wait_for(between);
    heard?;
    let pid = i32::from_ne_bytes(pid);
    if pid <= 0 {
        return Err(io::Error::other("no PID namespace could be made"));
    }
    Cgroup::new(setup.cgroup.join("pause")).adopt(pid)?;
    let mut said = Vec::new();
    File::from(confined).read_to_end(&mut said)?;
    if said != CONFINED {
        return Err(io::Error::other(format!("it cannot be confined: {}", String::from_utf8_lossy(&said))));
    }
    Ok(pid)
}

/// `cairn-shim pause`: reaps what is orphaned in its namespace, for ever.
pub(super) fn run() -> ! {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty());
    let done = confine();
    let told = match &done {
        Ok(()) => io::stdout().write_all(CONFINED).and_then(|()| io::stdout().flush()),
        Err(error) => write!(io::stdout(), "{error}"),
    };
    let (Ok(null), Ok(()), Ok(())) = (null, told, done) else { std::process::exit(1) };
    let _ = rustix::stdio::dup2_stdout(&null);
    drop(null);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // No children: sleep until there may be one. A signal is no way to learn of it, since the first
            // process of a namespace ignores those it has no handler for.
            Err(_) => std::thread::sleep(std::time::Duration::from_secs(1)),
        }
    }
}

/// Gives up every file and every power.
fn confine() -> io::Result<()> {
    // SAFETY: no CLONE_FILES; the process has one thread, so nobody shares its directories.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    // Any directory does: what is there is seen by nobody here any more.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    mount("empty", "/proc", "tmpfs", flags, c"size=4k,mode=555")?;
    rustix::process::chdir("/proc")?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}
