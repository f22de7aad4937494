//! Containers and commands in them, made by libcontainer.
//!
//! The daemon leaves the whole OCI configuration as `spec.json` in the bundle. libcontainer is given one without
//! seccomp filter and capabilities; [`Confined`] puts those on as the very last step before `execve`. So one
//! order holds for containers and for commands run in them later, which libcontainer would start unfiltered, and
//! a filter need allow nothing that only the runtime does.

use super::stage::stage;
use crate::{
    apparmor,
    cgroup::{self, Cgroup, Layout},
    protocol::Start,
};
use libcontainer::{
    capabilities::drop_privileges,
    container::{Container, builder::ContainerBuilder},
    hooks,
    seccomp::initialize_seccomp,
    syscall::syscall::{SyscallType, create_syscall},
    workload::{Executor, ExecutorError, ExecutorValidationError},
};
use oci_spec::runtime::{Hook, LinuxCapabilities, LinuxNamespaceType, LinuxSeccomp, Process, Spec};
use rustix::{
    fs::{Access, AtFlags, CWD, Gid, Uid, accessat, fchown},
    thread::{
        CapabilitySets, LinkNameSpaceType, capabilities, move_into_link_name_space, set_capabilities,
        set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};
use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

/// The OCI configuration in a bundle, all of it.
pub const SPEC_FILE: &str = "spec.json";

/// Its poststop hooks, once it runs.
const POSTSTOP_FILE: &str = "poststop.json";

/// The three standard streams of a new process.
#[derive(Debug)]
pub struct Stdio {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// What a new process has for standard streams.
#[derive(Debug)]
pub enum Streams<'a> {
    /// These.
    Given(Stdio),
    /// A new terminal, whose master side libcontainer hands to the listening socket at this path.
    Terminal(&'a Path),
}

/// Why a container or command did not start, in words for the kubelet.
pub type Failure = String;

/// Creates a container and starts it; its first process in the node's PID namespace.
pub fn start(root: &Path, request: &Start, streams: Streams<'_>) -> Result<i32, Failure> {
    let spec = load_spec(&request.bundle)?;
    let confined = Confined::of(&spec);
    let mut stripped = strip(spec.clone());
    // Copies of the volumes; the container has its own once it is built.
    let _staged = stage(&request.bundle, &mut stripped)?;
    save_json(&request.bundle.join("config.json"), &stripped)?;
    remember_hooks(&spec, &request.bundle)?;
    let cgroup = Cgroup::new(&request.cgroup);
    let created = (|| {
        let mut container = builder(root, &request.container, confined, streams)?
            .as_init(&request.bundle)
            .with_systemd(false)
            .with_detach(true)
            .build()
            .map_err(describe)?;
        let pid = container.pid().ok_or("libcontainer reports no process")?.as_raw();
        limit(&cgroup, &spec, request, pid)?;
        container.start().map_err(describe)?;
        Ok(pid)
    })();
    if created.is_err() {
        run_hooks(root, &request.container, poststop(&spec));
        forget(root, &request.container, &cgroup);
    }
    created
}

/// The programs that OCI has run when a container has ended.
fn poststop(spec: &Spec) -> &[Hook] {
    spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_deref()).unwrap_or_default()
}

/// Most containers have none, and no file for them.
fn remember_hooks(spec: &Spec, bundle: &Path) -> Result<(), Failure> {
    match poststop(spec) {
        [] => Ok(()),
        hooks => save_json(&bundle.join(POSTSTOP_FILE), &hooks),
    }
}

/// Runs what is to be run when a container has ended. That one of them fails changes nothing any more.
pub fn ended(root: &Path, container: &str, bundle: &Path) {
    let Ok(text) = fs::read(bundle.join(POSTSTOP_FILE)) else { return };
    match serde_json::from_slice::<Vec<Hook>>(&text) {
        Ok(hooks) => run_hooks(root, container, &hooks),
        Err(error) => tracing::error!("poststop hooks of {container}: {error}"),
    }
}

fn run_hooks(root: &Path, container: &str, hooks: &[Hook]) {
    if hooks.is_empty() {
        return;
    }
    let done = Container::load(root.join(container)).map_err(|error| error.to_string()).and_then(|held| {
        hooks::run_hooks(Some(&hooks.to_vec()), Some(&held.state), None, None, None)
            .map_err(|error| error.to_string())
    });
    if let Err(error) = done {
        tracing::error!("poststop hooks of {container}: {error}");
    }
}

/// Applies what libcontainer does not: limits, device rules of cgroup v2, and the OOM score, which libcontainer
/// would set on the shim itself.
fn limit(cgroup: &Cgroup, spec: &Spec, request: &Start, pid: i32) -> Result<(), Failure> {
    request.resources.apply(cgroup).map_err(|error| error.to_string())?;
    let rules = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref())
        .and_then(|resources| resources.devices().as_deref());
    if let Some(rules) = rules
        && cgroup::layout() == Layout::Unified
        && !rules.iter().any(|rule| {
            rule.allow() && rule.typ().is_none_or(|kind| kind == oci_spec::runtime::LinuxDeviceType::A)
        })
    {
        cgroup::devices::restrict(cgroup, rules).map_err(|error| error.to_string())?;
    }
    if request.resources.oom_score_adj != 0 {
        fs::write(format!("/proc/{pid}/oom_score_adj"), request.resources.oom_score_adj.to_string())
            .map_err(|error| format!("cannot set the OOM score: {error}"))?;
    }
    Ok(())
}

/// What containers and commands have in common.
fn builder(
    root: &Path,
    container: &str,
    confined: Confined,
    streams: Streams<'_>,
) -> Result<ContainerBuilder, Failure> {
    let builder = ContainerBuilder::new(container.to_owned(), SyscallType::default())
        .with_root_path(root)
        .map_err(describe)?
        .with_executor(confined);
    Ok(match streams {
        Streams::Terminal(socket) => builder.with_console_socket(Some(socket)),
        Streams::Given(stdio) => {
            builder.with_stdin(stdio.stdin).with_stdout(stdio.stdout).with_stderr(stdio.stderr)
        }
    })
}

/// Starts a command in a running container; its process in the node's PID namespace.
pub fn exec(
    root: &Path,
    bundle: &Path,
    container: &str,
    command: Vec<String>,
    streams: Streams<'_>,
) -> Result<i32, Failure> {
    let spec = load_spec(bundle)?;
    let mut confined = Confined::of(&spec);
    confined.users = user_namespace(&spec)
        .map(|path| Ok(Users { namespace: Arc::new(File::open(path)?), process: host_user(&spec) }))
        .transpose()
        .map_err(|error: io::Error| format!("cannot open the pod's user namespace: {error}"))?;
    let mut process = spec.process().clone().ok_or("the container has no process")?;
    let terminal = matches!(streams, Streams::Terminal(_));
    let mut environment = process.env().clone().unwrap_or_default();
    if terminal && !environment.iter().any(|variable| variable.starts_with("TERM=")) {
        environment.push("TERM=xterm".to_owned());
    }
    process
        .set_args(Some(command))
        .set_env(Some(environment))
        .set_terminal(Some(terminal))
        .set_capabilities(None)
        .set_apparmor_profile(None);
    let process_file = root.join(container).join("exec.json");
    save_json(&process_file, &process)?;
    let started = builder(root, container, confined, streams)?
        .as_tenant()
        .with_detach(true)
        .with_process(Some(process_file))
        .build();
    remove_sockets(&root.join(container));
    started.map(|pid| pid.as_raw()).map_err(describe)
}

/// Removes what is left of an ended container: cgroup and libcontainer's state.
pub fn forget(root: &Path, container: &str, cgroup: &Cgroup) {
    if let Err(error) = cgroup.destroy() {
        tracing::warn!("{error}");
    }
    let _ = fs::remove_dir_all(root.join(container));
}

/// The node's user that a container's process runs as; its standard streams are to be that user's.
pub fn user_of(bundle: &Path) -> Result<u32, Failure> {
    load_spec(bundle).map(|spec| host_user(&spec))
}

fn host_user(spec: &Spec) -> u32 {
    let user = spec.process().as_ref().map_or(0, |process| process.user().uid());
    let mapping = spec.linux().as_ref().and_then(|linux| linux.uid_mappings().as_ref()?.first().copied());
    mapping.map_or(user, |mapping| mapping.host_id().saturating_add(user))
}

fn load_spec(bundle: &Path) -> Result<Spec, Failure> {
    Spec::load(bundle.join(SPEC_FILE))
        .map_err(|error| format!("cannot read the container's configuration: {error}"))
}

/// The configuration for libcontainer: without what [`Confined`] does.
fn strip(mut spec: Spec) -> Spec {
    if let Some(process) = spec.process_mut() {
        process.set_capabilities(None).set_apparmor_profile(None);
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(None);
    }
    spec
}

fn save_json(path: &Path, value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Each command leaves libcontainer's start socket behind, and the link to its console socket.
fn remove_sockets(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().as_bytes().starts_with(b"tenant-") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// An error and its causes, each once.
fn describe(error: impl std::error::Error) -> Failure {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// The user namespace that a container joins.
pub(super) fn user_namespace(spec: &Spec) -> Option<&Path> {
    let namespaces = spec.linux().as_ref()?.namespaces().iter().flatten();
    let mut users = namespaces.filter(|namespace| namespace.typ() == LinuxNamespaceType::User);
    users.find_map(|namespace| namespace.path().as_deref())
}

/// A pod's user namespace.
#[derive(Debug, Clone)]
struct Users {
    namespace: Arc<File>,
    /// The node's id for the process's user.
    process: u32,
}

/// The last steps of a process before it becomes the container's program.
#[derive(Debug, Clone)]
struct Confined {
    /// The user namespace, for a command in a container: libcontainer, which joins the others, leaves this one out.
    users: Option<Users>,
    seccomp: Option<LinuxSeccomp>,
    capabilities: Option<LinuxCapabilities>,
    apparmor: Option<String>,
}

impl Confined {
    fn of(spec: &Spec) -> Self {
        Self {
            users: None,
            seccomp: spec.linux().as_ref().and_then(|linux| linux.seccomp().clone()),
            capabilities: spec.process().as_ref().and_then(|process| process.capabilities().clone()),
            apparmor: spec.process().as_ref().and_then(|process| process.apparmor_profile().clone()),
        }
    }
}

impl Executor for Confined {
    /// Too late for an answer to the daemon: who wonders why the container ended looks into its log, where its
    /// standard error leads already.
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        self.become_program(spec).inspect_err(|error| {
            let _ = writeln!(io::stderr(), "cairn: {error}");
        })
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let process = spec.process().as_ref();
        let process = process
            .ok_or_else(|| ExecutorValidationError::ArgValidationError("no process to run".to_owned()))?;
        find_program(process).map(drop).map_err(ExecutorValidationError::ArgValidationError)
    }
}

impl Confined {
    fn become_program(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let other = |text: String| ExecutorError::Other(text);
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let arguments = process.args().as_deref().unwrap_or_default();
        let program = find_program(process).map_err(other)?;
        if process.terminal().unwrap_or_default() {
            // So that it can be opened by its name, too. Where that cannot be, it still is the standard streams.
            let owner = self.users.as_ref().map_or(process.user().uid(), |users| users.process);
            let _ = fchown(io::stdin(), Some(Uid::from_raw(owner)), None);
        }
        if let Some(users) = &self.users {
            become_user_of(&users.namespace, process)
                .map_err(|error| other(format!("cannot enter the pod's user namespace: {error}")))?;
        }
        if let Some(profile) = &self.apparmor {
            apparmor::apply_at_exec(profile)
                .map_err(|error| other(format!("cannot apply AppArmor profile {profile}: {error}")))?;
        }
        // Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes before the capabilities go.
        if let Some(seccomp) = &self.seccomp {
            initialize_seccomp(seccomp)
                .map_err(|error| other(format!("cannot load the seccomp filter: {error}")))?;
        }
        if let Some(capabilities) = &self.capabilities {
            drop_privileges(capabilities, create_syscall().as_ref())
                .map_err(|error| other(format!("cannot drop capabilities: {error}")))?;
        }
        let error = std::process::Command::new(&program)
            .arg0(arguments.first().map_or("", String::as_str))
            .args(arguments.get(1..).unwrap_or_default())
            .exec();
        Err(other(format!("cannot run {}: {error}", program.display())))
    }
}

/// Enters a user namespace, with every capability there, and takes the ids of `process` in it.
fn become_user_of(users: &File, process: &Process) -> io::Result<()> {
    let user = process.user();
    let groups = user.additional_gids().iter().flatten().map(|&group| Gid::from_raw(group));
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    move_into_link_name_space(users.as_fd(), Some(LinkNameSpaceType::User))?;
    set_keep_capabilities(true)?;
    set_thread_groups(&groups.collect::<Vec<_>>())?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    set_keep_capabilities(false)?;
    // Those of another user than root are kept, but not in effect.
    let held = capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective: held.permitted, ..held })?;
    Ok(())
}

/// Looks the program up in the container, as `execvp` does, for the user that will run it.
fn find_program(process: &Process) -> Result<PathBuf, String> {
    let name = process.args().as_ref().and_then(|args| args.first()).map_or("", String::as_str);
    if name.is_empty() {
        return Err("no command: neither the container nor its image names one".to_owned());
    }
    let runnable = |path: &Path| -> io::Result<()> {
        if path.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        let text = CString::new(path.as_os_str().as_bytes())?;
        Ok(accessat(CWD, text.as_c_str(), Access::EXEC_OK, AtFlags::EACCESS)?)
    };
    if name.contains('/') {
        let path = PathBuf::from(name);
        return runnable(&path).map(|()| path).map_err(|error| format!("exec: \"{name}\": {error}"));
    }
    let search = process.env().iter().flatten().find_map(|variable| variable.strip_prefix("PATH="));
    let search = search.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    search
        .split(':')
        .map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name))
        .find(|path| runnable(path).is_ok())
        .ok_or_else(|| format!("exec: \"{name}\": executable file not found in $PATH"))
}
