//! The system calls a container may make.
//!
//! `RuntimeDefault` is an allow list: what programs need, without what administers the node (mounts, modules, clocks,
//! namespaces, tracing of the kernel). A container given a capability also gets the calls that need it. What is not
//! allowed fails with EPERM, except `clone3`, which fails with ENOSYS: its flags are in memory, where a filter cannot
//! look, and C libraries then fall back to `clone`, whose flags it can see.

use super::SpecError;
use cairn_contract::cri;
use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

/// Namespace flags of `clone`: NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWNS.
const NAMESPACE_FLAGS: u64 = 0x7E02_0000;

/// Allowed to every container.
const ALWAYS: &str = "
accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chown32
clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown
fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64
fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv
futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups
getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid
getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday
getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl
io_destroy io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr
listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier
memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect
mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink
mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat
_newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll
ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 ptrace pwrite64
pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg
remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction
rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min
sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64
sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid
setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit
set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl
shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64
statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink
unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
process_vm_readv process_vm_writev
";

/// Allowed to a container that has the capability.
const BY_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr mount \
         mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
         umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module init_module finit_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "iopl ioperm"),
    (Capability::SysTime, "settimeofday stime clock_settime clock_settime64"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// `personality` values: the default, Linux 32 bit, and the two with UNAME26; and "tell me".
const PERSONALITIES: [u64; 5] = [0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The `RuntimeDefault` profile for a container with these capabilities.
pub(super) fn runtime_default(capabilities: &Capabilities) -> LinuxSeccomp {
    let mut rules = vec![allow(ALWAYS)];
    for (capability, names) in BY_CAPABILITY {
        if capabilities.contains(capability) {
            rules.push(allow(names));
        }
    }
    for value in PERSONALITIES {
        rules.push(allow_if("personality", argument(0, value, None, LinuxSeccompOperator::ScmpCmpEq)));
    }
    // Not AF_VSOCK (40): it reaches the hypervisor, past every network policy.
    rules.push(allow_if("socket", argument(0, 40, None, LinuxSeccompOperator::ScmpCmpNe)));
    if !capabilities.contains(&Capability::SysAdmin) {
        let no_namespaces = argument(0, NAMESPACE_FLAGS, Some(0), LinuxSeccompOperator::ScmpCmpMaskedEq);
        rules.push(allow_if("clone", no_namespaces));
        let mut clone3 = rule(&["clone3"], LinuxSeccompAction::ScmpActErrno);
        clone3.set_errno_ret(Some(libc::ENOSYS as u32));
        rules.push(clone3);
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM as u32))
        .set_architectures(Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]))
        .set_syscalls(Some(rules));
    profile
}

fn rule(names: &[&str], action: LinuxSeccompAction) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|&name| name.to_owned()).collect()).set_action(action);
    rule
}

fn allow(names: &str) -> LinuxSyscall {
    rule(&names.split_whitespace().collect::<Vec<_>>(), LinuxSeccompAction::ScmpActAllow)
}

fn allow_if(name: &str, condition: Option<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = rule(&[name], LinuxSeccompAction::ScmpActAllow);
    rule.set_args(condition.map(|condition| vec![condition]));
    rule
}

/// `None` cannot happen: every field is set.
fn argument(
    index: usize,
    value: u64,
    second: Option<u64>,
    operator: LinuxSeccompOperator,
) -> Option<LinuxSeccompArg> {
    let builder = LinuxSeccompArgBuilder::default().index(index).value(value).op(operator);
    match second {
        Some(second) => builder.value_two(second),
        None => builder,
    }
    .build()
    .ok()
}

/// The filter that a container asks for, by the field that CRI has now or else by the one it had; `None` is no filter.
pub(super) fn profile(
    security: &cri::LinuxContainerSecurityContext,
    capabilities: &Capabilities,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    use cri::security_profile::ProfileType;
    if security.privileged {
        return Ok(None);
    }
    let legacy = security.seccomp_profile_path.as_str();
    let (kind, file) = match &security.seccomp {
        Some(profile) => (profile.profile_type(), profile.localhost_ref.as_str()),
        None if matches!(legacy, "runtime/default" | "docker/default") => (ProfileType::RuntimeDefault, ""),
        None if matches!(legacy, "" | "unconfined") => (ProfileType::Unconfined, ""),
        None => match legacy.strip_prefix("localhost/") {
            Some(file) => (ProfileType::Localhost, file),
            None => {
                return Err(SpecError::Refused(format!(
                    "`{legacy}` is not a seccomp profile: it is runtime/default, unconfined or localhost/<file>"
                )));
            }
        },
    };
    match kind {
        ProfileType::Unconfined => Ok(None),
        ProfileType::RuntimeDefault => Ok(Some(runtime_default(capabilities))),
        ProfileType::Localhost => {
            let refused = |error: &dyn std::fmt::Display| {
                SpecError::Refused(format!("seccomp profile {file}: {error}"))
            };
            let text = std::fs::read(file).map_err(|error| refused(&error))?;
            serde_json::from_slice(&text).map(Some).map_err(|error| refused(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(profile: &LinuxSeccomp, name: &str) -> bool {
        profile.syscalls().iter().flatten().any(|rule| {
            rule.action() == LinuxSeccompAction::ScmpActAllow && rule.names().iter().any(|held| held == name)
        })
    }

    #[test]
    fn administration_needs_its_capability() {
        let plain = runtime_default(&Capabilities::new());
        for name in ["mount", "unshare", "bpf", "init_module", "reboot", "settimeofday", "clone3", "keyctl"] {
            assert!(!allowed(&plain, name), "{name}");
        }
        assert!(allowed(&plain, "read") && allowed(&plain, "clone"));
        let admin = runtime_default(&Capabilities::from([Capability::SysAdmin]));
        assert!(allowed(&admin, "mount") && allowed(&admin, "clone3") && !allowed(&admin, "init_module"));
    }

    #[test]
    fn conditions_are_present() {
        let plain = runtime_default(&Capabilities::new());
        for name in ["clone", "socket", "personality"] {
            let rules =
                plain.syscalls().iter().flatten().filter(|rule| rule.names().contains(&name.to_owned()));
            assert!(rules.clone().count() > 0);
            assert!(
                rules.into_iter().all(|rule| rule.args().as_ref().is_some_and(|args| !args.is_empty())),
                "{name}"
            );
        }
    }
}
