//! Applets that try what a container may: device nodes and system calls.

use super::{DONE, Failure, Options, Outcome};
use crate::{errno, sys};
use std::{ffi::CStr, fs::OpenOptions, process::ExitCode};

pub(super) fn open(words: &[&str]) -> Outcome {
    let [path] = Options::parse(words, &[], &[])?.words()?;
    // Device rules judge reading and writing; a node that takes only one of them is no less open.
    let tried = OpenOptions::new().read(true).write(true).open(path);
    let tried = tried.or_else(|error| match error.raw_os_error() {
        Some(libc::EACCES | libc::EISDIR | libc::EROFS) => OpenOptions::new().read(true).open(path),
        _ => Err(error),
    });
    tried.map_err(|e| Failure::os(path, &e))?;
    println!("ok");
    DONE
}

/// A system call with arguments that are wrong, or ask for nothing that lasts. What matters is whether the answer is
/// the kernel's (ok, EINVAL, ENOENT, EBADF, EFAULT) or a filter's (EPERM, ENOSYS).
struct Attempt {
    name: &'static str,
    number: libc::c_long,
    arguments: [usize; 6],
}

const NOWHERE: &CStr = c"/nonexistent";
const NOTHING: usize = 0;
const BAD_FD: usize = usize::MAX;

fn attempts() -> Vec<Attempt> {
    let nowhere = NOWHERE.as_ptr() as usize;
    let attempt = |name, number, arguments| Attempt { name, number, arguments };
    let flags = |flag: libc::c_int| [flag as usize, 0, 0, 0, 0, 0];
    const KEYCTL_GET_KEYRING_ID: usize = 0;
    const SESSION_KEYRING: usize = -3isize as usize;
    const SYSLOG_ACTION_SIZE_BUFFER: usize = 10;
    vec![
        attempt("getpid", libc::SYS_getpid, [0; 6]),
        attempt("unshare", libc::SYS_unshare, flags(libc::CLONE_NEWNS)),
        attempt("unshare-user", libc::SYS_unshare, flags(libc::CLONE_NEWUSER)),
        attempt("unshare-net", libc::SYS_unshare, flags(libc::CLONE_NEWNET)),
        attempt("setns", libc::SYS_setns, [BAD_FD, 0, 0, 0, 0, 0]),
        attempt("mount", libc::SYS_mount, [nowhere, nowhere, NOTHING, 0, NOTHING, 0]),
        attempt("umount2", libc::SYS_umount2, [nowhere, 0, 0, 0, 0, 0]),
        attempt("pivot_root", libc::SYS_pivot_root, [nowhere, nowhere, 0, 0, 0, 0]),
        attempt("chroot", libc::SYS_chroot, [nowhere, 0, 0, 0, 0, 0]),
        attempt("fsopen", libc::SYS_fsopen, [NOTHING, 0, 0, 0, 0, 0]),
        attempt("open_tree", libc::SYS_open_tree, [BAD_FD, nowhere, 0, 0, 0, 0]),
        attempt("keyctl", libc::SYS_keyctl, [KEYCTL_GET_KEYRING_ID, SESSION_KEYRING, 0, 0, 0, 0]),
        attempt("add_key", libc::SYS_add_key, [NOTHING; 6]),
        attempt("bpf", libc::SYS_bpf, [0, NOTHING, 0, 0, 0, 0]),
        attempt("ptrace", libc::SYS_ptrace, [libc::PTRACE_ATTACH as usize, usize::MAX >> 33, 0, 0, 0, 0]),
        attempt("perf_event_open", libc::SYS_perf_event_open, [NOTHING, 0, 0, BAD_FD, 0, 0]),
        attempt("userfaultfd", libc::SYS_userfaultfd, [0; 6]),
        attempt("io_uring_setup", libc::SYS_io_uring_setup, [1, NOTHING, 0, 0, 0, 0]),
        attempt("init_module", libc::SYS_init_module, [NOTHING; 6]),
        attempt("finit_module", libc::SYS_finit_module, [BAD_FD, nowhere, 0, 0, 0, 0]),
        attempt("delete_module", libc::SYS_delete_module, [nowhere, 0, 0, 0, 0, 0]),
        attempt("kexec_load", libc::SYS_kexec_load, [0, usize::MAX, NOTHING, 0, 0, 0]),
        attempt("reboot", libc::SYS_reboot, [0; 6]),
        attempt("swapon", libc::SYS_swapon, [nowhere, 0, 0, 0, 0, 0]),
        attempt("clock_settime", libc::SYS_clock_settime, [usize::MAX >> 33, NOTHING, 0, 0, 0, 0]),
        attempt("open_by_handle_at", libc::SYS_open_by_handle_at, [BAD_FD, NOTHING, 0, 0, 0, 0]),
        attempt("syslog", libc::SYS_syslog, [SYSLOG_ACTION_SIZE_BUFFER, NOTHING, 0, 0, 0, 0]),
        attempt("quotactl", libc::SYS_quotactl, [0, NOTHING, 0, NOTHING, 0, 0]),
    ]
}

pub(super) fn syscall(words: &[&str]) -> Outcome {
    let options = Options::parse(words, &[], &["list"])?;
    let attempts = attempts();
    if options.flag("list") {
        attempts.iter().for_each(|attempt| println!("{}", attempt.name));
        return DONE;
    }
    let [name] = options.words()?;
    let attempt = attempts.iter().find(|attempt| attempt.name == name);
    let attempt = attempt.ok_or_else(|| Failure::usage(format!("`{name}` is not in --list")))?;
    match sys::raw(attempt.number, attempt.arguments) {
        Ok(_) => {
            println!("ok");
            DONE
        }
        Err(error) => {
            println!("{}", error.raw_os_error().map_or_else(|| error.to_string(), errno::name));
            Ok(ExitCode::FAILURE)
        }
    }
}
