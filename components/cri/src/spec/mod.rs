//! From a CRI container to an OCI runtime configuration.
//!
//! Everything that CRI, the image and the pod say about a container is decided here and written down in one
//! document. The rest of the runtime does what the document says.

mod adjust;
mod capabilities;
mod cdi;
mod devices;
mod mounts;
mod process;
mod seccomp;
mod sysctl;
mod user;

pub use adjust::{Draft, Surroundings, limits_of};
pub use sysctl::{OwnNamespaces, SysctlError, sysctl_path};
pub use user::{Accounts, User, UserError};

use crate::{
    apparmor,
    cgroup::{Layout, layout},
    shim::sandbox::namespace_path,
    userns::{IdRange, UserNamespace},
};
use cairn_contract::cri;
use oci_spec::{
    image::ImageConfiguration,
    runtime::{
        Linux, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, LinuxResources,
        Process, Root, Spec, User as OciUser,
    },
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// Which PID namespace a container is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PidNamespace {
    /// One of its own.
    Own,
    /// The node's.
    Node,
    /// That of this namespace file: the pod's, or another container's.
    Joined(PathBuf),
}

/// What a configuration is made of.
#[derive(Debug)]
pub struct Input<'a> {
    /// The container.
    pub config: &'a cri::ContainerConfig,
    /// Its pod.
    pub sandbox: &'a cri::PodSandboxConfig,
    /// The image's configuration.
    pub image: &'a ImageConfiguration,
    /// The mounted root file system, to look users up in.
    pub rootfs: &'a Path,
    /// The pod's run directory, with the namespaces.
    pub pod_run: &'a Path,
    /// The pod's state directory, with `resolv.conf`, `hostname` and `hosts`.
    pub pod_state: &'a Path,
    /// The container's cgroup.
    pub cgroup: &'a Path,
    /// PID namespace.
    pub pid: PidNamespace,
    /// The pod uses the node's network.
    pub node_network: bool,
    /// The pod uses the node's IPC.
    pub node_ipc: bool,
    /// The pod's user namespace.
    pub users: Option<UserNamespace>,
    /// CDI devices besides those that the pod asks for.
    pub plugin_devices: &'a [String],
}

/// A container that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The user cannot be resolved.
    #[error(transparent)]
    User(#[from] UserError),
    /// A capability that cannot be given.
    #[error(transparent)]
    Capability(#[from] capabilities::CapabilityError),
    /// An AppArmor profile that cannot be had.
    #[error(transparent)]
    AppArmor(#[from] apparmor::AppArmorError),
    /// A CDI device that cannot be had.
    #[error(transparent)]
    Cdi(#[from] cdi::CdiError),
    /// Something asked for cannot be given; the text says what and why.
    #[error("{0}")]
    Refused(String),
}

/// The configuration and who the process is.
pub fn generate(input: &Input<'_>) -> Result<(Spec, User), SpecError> {
    let edits = cdi::resolve(&[&cdi_devices(input.config), input.plugin_devices].concat())?;
    if edits.is_empty() {
        return assemble(input, &[]);
    }
    // What a vendor's edits add is judged as if the pod had asked for it.
    let mut config = input.config.clone();
    let mut groups = Vec::new();
    for edit in &edits {
        edit.apply(&mut config)?;
        groups.extend_from_slice(&edit.additional_gids);
    }
    let (mut spec, user) = assemble(&Input { config: &config, pid: input.pid.clone(), ..*input }, &groups)?;
    spec.set_hooks(cdi::hooks(&edits));
    Ok((spec, user))
}

/// Devices by name: CRI's field, else the annotations that were used before there was one.
fn cdi_devices(config: &cri::ContainerConfig) -> Vec<String> {
    if !config.cdi_devices.is_empty() {
        return config.cdi_devices.iter().map(|device| device.name.clone()).collect();
    }
    let mut annotations: Vec<_> =
        config.annotations.iter().filter(|(key, _)| key.starts_with(cdi::ANNOTATION)).collect();
    annotations.sort();
    annotations.iter().flat_map(|(_, names)| names.split(',')).map(str::to_owned).collect()
}

fn assemble(input: &Input<'_>, groups: &[u32]) -> Result<(Spec, User), SpecError> {
    let none = cri::LinuxContainerSecurityContext::default();
    let linux = input.config.linux.as_ref();
    let security = linux.and_then(|linux| linux.security_context.as_ref()).unwrap_or(&none);
    let image = input.image.config().as_ref();
    refuse_unsupported(input.config, security)?;
    let arguments = process::arguments(input.config, image);
    if arguments.is_empty() {
        return Err(SpecError::Refused(
            "there is no command: neither the container nor its image has one".to_owned(),
        ));
    }

    let mut user =
        Accounts::read(input.rootfs).resolve(security, image.and_then(|image| image.user().as_deref()))?;
    user.groups.extend_from_slice(groups);
    user.groups.sort_unstable();
    user.groups.dedup();
    let (set, ambient) = capabilities::resolve(security.capabilities.as_ref(), security.privileged)?;
    let devices =
        devices::Devices::resolve(&input.config.devices, security.privileged).map_err(SpecError::Refused)?;
    let (mut mounts, propagation) = mounts::resolve(input, security.privileged, security.readonly_rootfs)?;
    let mut nodes = devices.nodes;
    if let Some(users) = &input.users {
        check_user(&user, users)?;
        // Root of a user namespace can make no device, but be lent the node's.
        mounts.extend(nodes.drain(..).map(|node| mounts::device(&node)));
    }

    let mut process = Process::default();
    let mut oci_user = OciUser::default();
    oci_user.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.groups.clone()));
    process
        .set_terminal(Some(input.config.tty))
        .set_user(oci_user)
        .set_args(Some(arguments))
        .set_env(Some(process::environment(input, image)))
        .set_cwd(process::working_directory(input.config, image))
        .set_no_new_privileges(security.no_new_privs.then_some(true))
        .set_rlimits(None)
        .set_apparmor_profile(apparmor::resolve(security)?)
        .set_capabilities(Some(capabilities::sets(set.clone(), ambient)));

    let mut resources = LinuxResources::default();
    resources.set_devices(Some(devices.rules));
    let mut oci = Linux::default();
    oci.set_resources(Some(resources))
        .set_cgroups_path(Some(input.cgroup.to_path_buf()))
        .set_namespaces(Some(namespaces(input, security.privileged)))
        .set_devices(Some(nodes.into_iter().map(|node| node.oci).collect()))
        .set_uid_mappings(input.users.map(|users| mapping(users.uids)))
        .set_gid_mappings(input.users.map(|users| mapping(users.gids)))
        .set_seccomp(seccomp::profile(security, &set)?)
        .set_rootfs_propagation(Some(propagation.root().to_owned()));
    let paths = |paths: &[String]| Some(if security.privileged { Vec::new() } else { paths.to_vec() });
    oci.set_masked_paths(paths(&security.masked_paths)).set_readonly_paths(paths(&security.readonly_paths));

    let mut root = Root::default();
    root.set_path(input.rootfs.to_path_buf()).set_readonly(Some(security.readonly_rootfs));
    let mut spec = Spec::default();
    spec.set_root(Some(root))
        .set_hostname(None)
        .set_mounts(Some(mounts))
        .set_process(Some(process))
        .set_linux(Some(oci))
        .set_annotations(Some(annotations(input)));
    Ok((spec, user))
}

/// The process's ids must be of the pod's.
fn check_user(user: &User, users: &UserNamespace) -> Result<(), SpecError> {
    let unmapped = |kind: &str, id: u32| {
        Err(SpecError::Refused(format!("{kind} {id} is not in the range of the pod's user namespace")))
    };
    if users.uids.to_host(user.uid).is_none() {
        return unmapped("user", user.uid);
    }
    match user.groups.iter().chain([&user.gid]).find(|&&group| users.gids.to_host(group).is_none()) {
        Some(&group) => unmapped("group", group),
        None => Ok(()),
    }
}

/// A range as OCI has it.
fn mapping(range: IdRange) -> Vec<LinuxIdMapping> {
    let mapping = LinuxIdMappingBuilder::default().host_id(range.host).container_id(0u32).size(range.length);
    // It fails only if a field is not set.
    mapping.build().into_iter().collect()
}

/// What this runtime does not do, said when it is asked for rather than left out in silence.
fn refuse_unsupported(
    config: &cri::ContainerConfig,
    security: &cri::LinuxContainerSecurityContext,
) -> Result<(), SpecError> {
    let refuse = |text: &str| Err(SpecError::Refused(text.to_owned()));
    if config.windows.is_some() {
        return refuse("this is a Linux node: it cannot run a Windows container");
    }
    // The kubelet gives a level to every pod of a node with SELinux; the kernel of this one may not have it.
    let labelled = security.selinux_options.as_ref().is_some_and(|labels| *labels != Default::default());
    if labelled && Path::new("/sys/fs/selinux/enforce").exists() {
        return refuse(
            "SELinux labels are not supported by this runtime, and SELinux is enabled on this node",
        );
    }
    Ok(())
}

fn namespaces(input: &Input<'_>, privileged: bool) -> Vec<LinuxNamespace> {
    let namespace = |kind, path: Option<PathBuf>| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind).set_path(path);
        namespace
    };
    let pinned = |name| Some(namespace_path(input.pod_run, name));
    let mut all = vec![namespace(LinuxNamespaceType::Mount, None)];
    if input.users.is_some() {
        all.push(namespace(LinuxNamespaceType::User, pinned("user")));
    }
    if !input.node_network {
        all.push(namespace(LinuxNamespaceType::Network, pinned("net")));
        all.push(namespace(LinuxNamespaceType::Uts, pinned("uts")));
    }
    if !input.node_ipc {
        all.push(namespace(LinuxNamespaceType::Ipc, pinned("ipc")));
    }
    match &input.pid {
        PidNamespace::Own => all.push(namespace(LinuxNamespaceType::Pid, None)),
        PidNamespace::Joined(path) => all.push(namespace(LinuxNamespaceType::Pid, Some(path.clone()))),
        PidNamespace::Node => {}
    }
    if layout() == Layout::Unified && !privileged {
        all.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    all
}

/// The container's annotations, and what other tools (device plugins, log collectors, monitors) look for.
fn annotations(input: &Input<'_>) -> HashMap<String, String> {
    let pod = input.sandbox.metadata.clone().unwrap_or_default();
    let mut all: HashMap<String, String> = input.config.annotations.clone().into_iter().collect();
    let name = input.config.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
    for (key, value) in [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.container-name", name),
        ("io.kubernetes.cri.sandbox-name", &pod.name),
        ("io.kubernetes.cri.sandbox-namespace", &pod.namespace),
        ("io.kubernetes.cri.sandbox-uid", &pod.uid),
    ] {
        all.insert(key.to_owned(), value.to_owned());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageConfiguration {
        serde_json::from_value(serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "config": { "Env": ["PATH=/bin", "A=image"], "Entrypoint": ["/entry"], "Cmd": ["cmd"], "WorkingDir": "work" },
            "rootfs": { "type": "layers", "diff_ids": [] }
        }))
        .unwrap()
    }

    fn with_input<T>(
        config: &cri::ContainerConfig,
        users: Option<UserNamespace>,
        test: impl FnOnce(Input<'_>) -> T,
    ) -> T {
        let root = tempfile::tempdir().unwrap();
        let sandbox = cri::PodSandboxConfig { hostname: "pod".into(), ..cri::PodSandboxConfig::default() };
        test(Input {
            config,
            sandbox: &sandbox,
            image: &image(),
            rootfs: root.path(),
            pod_run: Path::new("/run/pod"),
            pod_state: Path::new("/state/pod"),
            cgroup: Path::new("/cairn/x/y"),
            pid: PidNamespace::Own,
            node_network: false,
            node_ipc: false,
            users,
            plugin_devices: &[],
        })
    }

    fn generated(config: &cri::ContainerConfig) -> Spec {
        with_input(config, None, |input| generate(&input).unwrap().0)
    }

    fn security(context: cri::LinuxContainerSecurityContext) -> cri::ContainerConfig {
        cri::ContainerConfig {
            linux: Some(cri::LinuxContainerConfig { resources: None, security_context: Some(context) }),
            ..cri::ContainerConfig::default()
        }
    }

    #[test]
    fn command_and_args_follow_kubernetes() {
        let args = |command: &[&str], args: &[&str]| {
            let own = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
            let config = cri::ContainerConfig {
                command: own(command),
                args: own(args),
                ..cri::ContainerConfig::default()
            };
            generated(&config).process().as_ref().unwrap().args().clone().unwrap()
        };
        assert_eq!(args(&[], &[]), ["/entry", "cmd"]);
        assert_eq!(args(&[], &["x"]), ["/entry", "x"]);
        assert_eq!(args(&["c"], &[]), ["c"]);
        assert_eq!(args(&["c"], &["x"]), ["c", "x"]);
    }

    #[test]
    fn the_environment_is_layered() {
        let config = cri::ContainerConfig {
            envs: vec![cri::KeyValue { key: "A".into(), value: b"pod".to_vec() }],
            ..cri::ContainerConfig::default()
        };
        let spec = generated(&config);
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.env().as_deref().unwrap(), ["PATH=/bin", "HOSTNAME=pod", "A=pod"]);
        assert_eq!(process.cwd(), Path::new("/work"));
    }

    #[test]
    fn a_plain_container_is_confined_and_a_privileged_one_is_not() {
        let plain = generated(&security(cri::LinuxContainerSecurityContext {
            seccomp: Some(cri::SecurityProfile::default()),
            masked_paths: vec!["/proc/kcore".into()],
            no_new_privs: true,
            readonly_rootfs: true,
            ..Default::default()
        }));
        let linux = plain.linux().as_ref().unwrap();
        assert!(linux.seccomp().is_some());
        assert_eq!(linux.masked_paths().as_deref().unwrap(), ["/proc/kcore"]);
        assert_eq!(plain.process().as_ref().unwrap().no_new_privileges(), Some(true));
        assert_eq!(plain.root().as_ref().unwrap().readonly(), Some(true));
        let privileged = generated(&security(cri::LinuxContainerSecurityContext {
            privileged: true,
            seccomp: Some(cri::SecurityProfile::default()),
            masked_paths: vec!["/proc/kcore".into()],
            ..Default::default()
        }));
        let linux = privileged.linux().as_ref().unwrap();
        assert!(linux.seccomp().is_none());
        assert_eq!(linux.masked_paths().as_deref(), Some(&[][..]));
        assert_eq!(privileged.process().as_ref().unwrap().no_new_privileges(), None);
    }

    #[test]
    fn namespaces_are_the_pods() {
        let spec = generated(&cri::ContainerConfig::default());
        let network = spec
            .linux()
            .as_ref()
            .unwrap()
            .namespaces()
            .iter()
            .flatten()
            .find(|namespace| namespace.typ() == LinuxNamespaceType::Network)
            .cloned();
        assert_eq!(network.unwrap().path().as_deref(), Some(Path::new("/run/pod/ns/net")));
    }

    #[test]
    fn a_user_namespace_is_joined_and_its_files_are_mapped() {
        let range = IdRange { host: 65536, length: 65536 };
        let users = Some(UserNamespace { uids: range, gids: range });
        let devices = vec![cri::Device {
            host_path: "/dev/null".into(),
            container_path: "/dev/x".into(),
            ..Default::default()
        }];
        let config = cri::ContainerConfig { devices, ..Default::default() };
        let spec = with_input(&config, users, |input| generate(&input).unwrap().0);
        let linux = spec.linux().as_ref().unwrap();
        let joined = |namespace: &&LinuxNamespace| namespace.typ() == LinuxNamespaceType::User;
        let namespace = linux.namespaces().iter().flatten().find(joined).unwrap();
        assert_eq!(namespace.path().as_deref(), Some(Path::new("/run/pod/ns/user")));
        assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 65536);
        assert!(linux.devices().as_ref().unwrap().is_empty());
        let mounts = spec.mounts().as_ref().unwrap();
        let device = mounts.iter().find(|mount| mount.destination() == "/dev/x").unwrap();
        assert_eq!(device.source().as_deref(), Some(Path::new("/dev/null")));
    }

    #[test]
    fn users_outside_the_user_namespace_are_refused() {
        let range = IdRange { host: 65536, length: 65536 };
        let users = Some(UserNamespace { uids: range, gids: range });
        for context in [
            cri::LinuxContainerSecurityContext {
                run_as_user: Some(cri::Int64Value { value: 65536 }),
                ..Default::default()
            },
            cri::LinuxContainerSecurityContext { supplemental_groups: vec![70000], ..Default::default() },
        ] {
            let refused = with_input(&security(context), users, |input| generate(&input)).unwrap_err();
            assert!(refused.to_string().contains("user namespace"), "{refused}");
        }
    }
}
