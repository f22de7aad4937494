//! The pod's namespaces, without a container to hold them.
//!
//! A child takes itself out of the node's namespaces, prepares them (loopback, host name, kernel parameters) and
//! waits; meanwhile the parent bind-mounts the child's namespace files below the pod's run directory. From then on
//! the mounts hold the namespaces, and the child ends. A PID namespace lives only as long as its first process, so
//! a pod with a shared one gets a `cairn-shim pause`.
//!
//! A user namespace comes first: the others are made from inside it, so that it owns them and the pod's root has
//! power over them.
#![allow(unsafe_code)] // fork and one ioctl; the shim has one thread, so a forked child may do as it likes.

use crate::{
    idmap,
    protocol::PodSetup,
    spec::{OwnNamespaces, sysctl_path},
    userns::{IdRange, UserNamespace},
};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, WaitOptions, waitpid},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

/// Size of a pod's `/dev/shm`; what other runtimes give.
const SHM_SIZE: &str = "65536k";

/// File system type of namespace files (`linux/magic.h`).
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

/// The namespaces pinned below a pod's run directory, by file name.
pub const PINNED: [&str; 5] = ["net", "ipc", "uts", "pid", "user"];

/// Where the namespace file of a pod is.
pub fn namespace_path(run: &Path, name: &str) -> PathBuf {
    run.join("ns").join(name)
}

/// A namespace is mounted there. Once unmounted, or if its shim died too early, there is but an empty file, which
/// plugins refuse.
pub fn is_pinned(place: &Path) -> bool {
    rustix::fs::statfs(place).is_ok_and(|found| found.f_type == NSFS_MAGIC)
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
    let directory = setup.run.join("ns");
    // Root of a user namespace goes through it.
    fs::create_dir_all(&directory)
        .and_then(|()| fs::set_permissions(&directory, fs::Permissions::from_mode(0o711)))
        .map_err(|error| format!("cannot make the pod's directory: {error}"))?;
    if let Some(users) = &setup.users {
        make_users(users, |pid| pin(pid, "user", &namespace_path(&setup.run, "user")))
            .map_err(|error| format!("cannot make the pod's user namespace: {error}"))?;
    }
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
        let (uid, gid) = setup.users.as_ref().map_or((0, 0), UserNamespace::root);
        let options = CString::new(format!("mode=1777,size={SHM_SIZE},uid={uid},gid={gid}"))
            .map_err(|error| error.to_string())?;
        fs::create_dir_all(&place)
            .and_then(|()| Ok(mount("shm", &place, "tmpfs", flags, options.as_c_str())?))
            .map_err(|error| format!("cannot mount the pod's /dev/shm: {error}"))?;
    }
    if !setup.shared_pid {
        return Ok(None);
    }
    let pid =
        super::pause::start(setup).map_err(|error| format!("cannot start the pause process: {error}"))?;
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

/// Makes a user namespace and, while it exists, calls `outside` with the process in it.
fn make_users(users: &UserNamespace, outside: impl FnOnce(i32) -> io::Result<()>) -> io::Result<()> {
    let inside = || {
        // SAFETY: a namespace alone is safe to leave.
        unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(io::Error::from)
    };
    hold_child(inside, |pid| {
        fs::write(format!("/proc/{pid}/uid_map"), users.uids.line())?;
        fs::write(format!("/proc/{pid}/gid_map"), users.gids.line())?;
        outside(pid)
    })
}

/// In a child: becomes root of the pod's user namespace, if it has one.
pub(super) fn enter_users(setup: &PodSetup) -> io::Result<()> {
    if setup.users.is_none() {
        return Ok(());
    }
    let users = File::open(namespace_path(&setup.run, "user"))?;
    move_into_link_name_space(users.as_fd(), Some(LinkNameSpaceType::User))?;
    // SAFETY: plain system calls without pointers, but for an empty list; the process has one thread.
    let failed = unsafe {
        libc::setresgid(0, 0, 0) != 0
            || libc::setgroups(0, std::ptr::null()) != 0
            || libc::setresuid(0, 0, 0) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `cairn-shim probe DIRECTORY`: whether pods with user namespaces can be had, and have their files in `directory`.
///
/// # Errors
/// What is missing, in words.
pub fn probe(directory: &Path) -> Result<(), String> {
    let range = IdRange { host: 65536, length: 65536 };
    make_users(&UserNamespace { uids: range, gids: range }, |pid| {
        let users = File::open(format!("/proc/{pid}/ns/user"))?;
        let copy = idmap::copy(directory, false)?;
        idmap::shift(copy.as_fd(), users.as_fd(), directory)
    })
    .map_err(|error| format!("no user namespaces: {error}"))
}

/// In the child: leaves the node's namespaces and fills the new ones.
fn prepare(setup: &PodSetup, flags: UnshareFlags) -> io::Result<()> {
    enter_users(setup)?;
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

pub(super) fn wait_for(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(rustix::io::Errno::INTR)) {}
    }
}
