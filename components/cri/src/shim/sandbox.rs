//! The pod's namespaces, without a container to hold them.
//!
//! A child takes itself out of the node's namespaces, prepares them (loopback, host name, kernel parameters) and
//! waits; meanwhile the parent bind-mounts the child's namespace files below the pod's run directory. From then on
//! the mounts hold the namespaces, and the child ends. A PID namespace lives only as long as its first process, so
//! a pod with a shared one gets a `cairn-shim pause`.
#![allow(unsafe_code)] // fork and one ioctl; the shim has one thread, so a forked child may do as it likes.

use crate::{
    cgroup::Cgroup,
    protocol::PodSetup,
    spec::{OwnNamespaces, sysctl_path},
};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, WaitOptions, wait, waitpid},
    thread::{UnshareFlags, unshare_unsafe},
};
use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Size of a pod's `/dev/shm`; what other runtimes give.
const SHM_SIZE: &str = "65536k";

/// The namespaces pinned below a pod's run directory, by file name.
pub const PINNED: [&str; 4] = ["net", "ipc", "uts", "pid"];

/// Where the namespace file of a pod is.
pub fn namespace_path(run: &Path, name: &str) -> PathBuf {
    run.join("ns").join(name)
}

/// Where a pod's `/dev/shm` is.
pub fn shm_path(run: &Path) -> PathBuf {
    run.join("shm")
}

/// Makes everything that `setup` asks for; the pause process, if one was wanted, is the result.
///
/// # Errors
/// What failed, in words; nothing is left behind.
pub fn create(setup: &PodSetup) -> Result<Option<i32>, String> {
    let result = try_create(setup);
    if result.is_err() {
        remove(&setup.run);
    }
    result
}

fn try_create(setup: &PodSetup) -> Result<Option<i32>, String> {
    fs::create_dir_all(setup.run.join("ns"))
        .map_err(|error| format!("cannot make the pod's directory: {error}"))?;
    let mut flags = UnshareFlags::empty();
    let mut names = Vec::new();
    for (wanted, flag, name) in [
        (setup.own_network, UnshareFlags::NEWNET, "net"),
        (setup.own_ipc, UnshareFlags::NEWIPC, "ipc"),
        (setup.hostname.is_some(), UnshareFlags::NEWUTS, "uts"),
    ] {
        if wanted {
            flags |= flag;
            names.push(name);
        }
    }
    if !names.is_empty() {
        let prepare = || prepare(setup, flags);
        hold_child(prepare, |pid| {
            names.iter().try_for_each(|name| pin(pid, name, &namespace_path(&setup.run, name)))
        })
        .map_err(|error| format!("cannot make the pod's namespaces: {error}"))?;
    }
    if setup.own_ipc {
        let place = shm_path(&setup.run);
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let options =
            CString::new(format!("mode=1777,size={SHM_SIZE}")).map_err(|error| error.to_string())?;
        fs::create_dir_all(&place)
            .and_then(|()| Ok(mount("shm", &place, "tmpfs", flags, options.as_c_str())?))
            .map_err(|error| format!("cannot mount the pod's /dev/shm: {error}"))?;
    }
    if !setup.shared_pid {
        return Ok(None);
    }
    let pid = start_pause(setup).map_err(|error| format!("cannot start the pause process: {error}"))?;
    pin(pid, "pid", &namespace_path(&setup.run, "pid"))
        .map_err(|error| format!("cannot keep the pod's PID namespace: {error}"))?;
    Ok(Some(pid))
}

/// Unmounts what [`create`] mounted below a pod's run directory; also after the shim is gone.
pub fn remove(run: &Path) {
    for place in PINNED.iter().map(|name| namespace_path(run, name)).chain([shm_path(run)]) {
        // Not a mount point, or not there: nothing to do. Twice, for a mount made over a mount by a crash.
        while unmount(&place, UnmountFlags::DETACH).is_ok() {}
    }
}

fn pin(pid: i32, name: &str, place: &Path) -> io::Result<()> {
    File::create(place)?;
    Ok(mount_bind(format!("/proc/{pid}/ns/{name}"), place)?)
}

/// In the child: leaves the node's namespaces and fills the new ones.
fn prepare(setup: &PodSetup, flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: no CLONE_FILES or CLONE_FS; namespaces alone are safe to leave.
    unsafe { unshare_unsafe(flags)? };
    if let Some(hostname) = &setup.hostname {
        rustix::system::sethostname(hostname.as_bytes())?;
    }
    if setup.own_network {
        loopback_up()?;
    }
    for (name, value) in &setup.sysctls {
        let own =
            OwnNamespaces { network: setup.own_network, ipc: setup.own_ipc, uts: setup.hostname.is_some() };
        let path = sysctl_path(name, own).map_err(io::Error::other)?;
        fs::write(&path, value)
            .map_err(|error| io::Error::new(error.kind(), format!("sysctl {name}={value}: {error}")))?;
    }
    Ok(())
}

/// Brings `lo` up in the network namespace of the caller.
fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketType, socket};
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: an all-zero `ifreq` is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which lives through the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Runs `inside` in a child and, while the child then waits, `outside` with its id.
fn hold_child(
    inside: impl FnOnce() -> io::Result<()>,
    outside: impl FnOnce(i32) -> io::Result<()>,
) -> io::Result<()> {
    let (report, told) = pipe_with(PipeFlags::CLOEXEC)?;
    let (wait, release) = pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: the process has one thread.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        drop((report, release));
        let message = inside().err().map(|error| error.to_string()).unwrap_or_default();
        let mut told = File::from(told);
        let failed = told.write_all(message.as_bytes()).is_err() || !message.is_empty();
        drop(told);
        let _ = File::from(wait).read(&mut [0]);
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(i32::from(failed)) }
    }
    drop((told, wait));
    let mut message = String::new();
    let heard = File::from(report).read_to_string(&mut message);
    let result = match heard {
        Err(error) => Err(error),
        Ok(_) if !message.is_empty() => Err(io::Error::other(message)),
        Ok(_) => outside(pid),
    };
    drop(release);
    wait_for(pid);
    result
}

fn wait_for(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(rustix::io::Errno::INTR)) {}
    }
}

/// Starts `cairn-shim pause` as the first process of a PID namespace; it becomes a child of the shim, which is a
/// subreaper, when the process between them ends.
fn start_pause(setup: &PodSetup) -> io::Result<i32> {
    let (report, told): (OwnedFd, OwnedFd) = pipe_with(PipeFlags::CLOEXEC)?;
    let program = fs::read_link("/proc/self/exe")?;
    let program = CString::new(program.into_os_string().into_encoded_bytes())?;
    // SAFETY: the process has one thread.
    let between = unsafe { libc::fork() };
    if between < 0 {
        return Err(io::Error::last_os_error());
    }
    if between == 0 {
        // SAFETY: as in `prepare`; the namespace is that of children to come.
        let pause = if unsafe { unshare_unsafe(UnshareFlags::NEWPID) }.is_err() {
            -1
        } else {
            // SAFETY: one thread still.
            unsafe { libc::fork() }
        };
        if pause == 0 {
            // The daemon reads our output to its end: the pause process must not keep it open.
            let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty());
            if let Ok(null) = null {
                let _ = rustix::stdio::dup2_stdout(&null);
                let _ = rustix::stdio::dup2_stderr(&null);
            }
            let arguments = [program.as_ptr(), c"pause".as_ptr(), std::ptr::null()];
            // SAFETY: both are null-terminated and live until exec replaces the process, or `_exit` ends it.
            unsafe {
                libc::execv(program.as_ptr(), arguments.as_ptr());
                libc::_exit(127)
            }
        }
        let _ = File::from(told).write_all(&pause.to_ne_bytes());
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(0) }
    }
    drop(told);
    let mut pid = [0; 4];
    let heard = File::from(report).read_exact(&mut pid);
    wait_for(between);
    heard?;
    let pid = i32::from_ne_bytes(pid);
    if pid <= 0 {
        return Err(io::Error::other("no PID namespace could be made"));
    }
    Cgroup::new(setup.cgroup.join("pause")).adopt(pid)?;
    Ok(pid)
}

/// `cairn-shim pause`: the first process of a shared PID namespace. It reaps what is orphaned there, for ever.
pub fn pause() -> ! {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // No children: sleep until there may be one. A signal is no way to learn of it, since the first
            // process of a namespace ignores those it has no handler for.
            Err(_) => std::thread::sleep(std::time::Duration::from_secs(1)),
        }
    }
}
