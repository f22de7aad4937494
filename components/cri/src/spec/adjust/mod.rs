//! What NRI plugins change of a container, made in its OCI configuration and its limits.
//!
//! Every change is made or refused with a reason: none is left out in silence. NRI's parts are OCI's in all but form,
//! so most of them are turned into OCI's JSON and read from that.

mod devices;
mod limits;

pub use limits::limits_of;

use super::{OwnNamespaces, SpecError, mounts, sysctl_path};
use crate::cgroup::{Layout, Resources};
use cairn_nri::{
    api::{
        ContainerAdjustment, Hook, Hooks, KeyValue, LinuxContainerAdjustment, LinuxMemoryPolicy,
        LinuxNamespace, LinuxRdt, LinuxScheduler, LinuxSchedulerFlag, LinuxSeccomp, LinuxSyscall, Mount,
        PosixRlimit,
    },
    merge::removal,
};
use oci_spec::runtime::{self as oci, Linux, LinuxNamespaceType, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// A container that is being made.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Its configuration.
    pub spec: Spec,
    /// Its limits.
    pub resources: Resources,
    /// It shares a PID namespace.
    pub shares_pids: bool,
}

/// What a container is in, which limits what can be changed.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    /// Namespaces that the pod does not share with the node.
    pub own: OwnNamespaces,
    /// The pod has users of its own.
    pub users: bool,
    /// The node's cgroups.
    pub layout: Layout,
}

fn refuse<T>(what: &str, why: impl std::fmt::Display) -> Result<T, SpecError> {
    Err(SpecError::Refused(format!("NRI adjustment of {what}: {why}")))
}

/// An OCI part from its JSON.
fn part<T: DeserializeOwned>(what: &str, value: Value) -> Result<T, SpecError> {
    serde_json::from_value(value).or_else(|error| refuse(what, error))
}

impl Draft {
    /// Makes the changes, CDI devices excepted: those are known before a configuration is generated.
    ///
    /// # Errors
    /// The first change that cannot be made.
    pub fn adjust(
        &mut self,
        wanted: &ContainerAdjustment,
        surroundings: &Surroundings,
    ) -> Result<(), SpecError> {
        annotations(self.spec.annotations_mut().get_or_insert_default(), &wanted.annotations);
        if let Some(hooks) = &wanted.hooks {
            add_hooks(self.spec.hooks_mut().get_or_insert_default(), hooks)?;
        }
        if let Some(linux) = &wanted.linux {
            self.adjust_linux(linux, surroundings)?;
        }
        let propagation = change_mounts(self.spec.mounts_mut().get_or_insert_default(), &wanted.mounts)?;
        if let (Some(propagation), Some(linux)) = (propagation, self.spec.linux_mut()) {
            let held = linux.rootfs_propagation().as_deref();
            if held != Some(mounts::Propagation::Shared.root()) {
                linux.set_rootfs_propagation(Some(propagation.root().to_owned()));
            }
        }
        if let Some(process) = self.spec.process_mut() {
            environment(process, &wanted.env);
            if !wanted.args.is_empty() {
                process.set_args(Some(wanted.args.clone()));
            }
            rlimits(process, &wanted.rlimits)?;
        }
        Ok(())
    }

    fn adjust_linux(
        &mut self,
        wanted: &LinuxContainerAdjustment,
        surroundings: &Surroundings,
    ) -> Result<(), SpecError> {
        if let Some(score) = wanted.oom_score_adj {
            if !(-1000..=1000).contains(&score.value) {
                return refuse("oom_score_adj", format!("{} is not between -1000 and 1000", score.value));
            }
            self.resources.oom_score_adj = score.value;
        }
        if let Some(limits) = &wanted.resources {
            let update = limits_of(limits).or_else(|error| refuse("resources", error))?;
            update.check(surroundings.layout).or_else(|error| refuse("resources", error))?;
            self.resources.merge(&update);
        }
        refuse_rdt(wanted.rdt.as_ref())?;
        if let Some(process) = self.spec.process_mut() {
            if let Some(priority) = wanted.io_priority {
                process.set_io_priority(io_priority(priority)?);
            }
            if let Some(wanted) = &wanted.scheduler {
                process.set_scheduler(scheduler(wanted)?);
            }
        }
        let Some(linux) = self.spec.linux_mut() else { return Ok(()) };
        let held = linux.cgroups_path().clone().unwrap_or_default();
        if !wanted.cgroups_path.is_empty() && Path::new(&wanted.cgroups_path) != held {
            let why = format!("a container's cgroup is in its pod's, here {}", held.display());
            return refuse("cgroups_path", why);
        }
        let rules = linux.resources_mut().get_or_insert_default().devices_mut().get_or_insert_default();
        for rule in wanted.resources.iter().flat_map(|resources| &resources.devices) {
            rules.push(devices::device_rule(rule)?);
        }
        devices::devices(linux, &wanted.devices, surroundings)?;
        if let Some(policy) = &wanted.seccomp_policy {
            linux.set_seccomp(Some(seccomp(policy)?));
        }
        if namespaces(linux, &wanted.namespaces)? {
            self.shares_pids = true;
        }
        sysctls(linux, &wanted.sysctl, surroundings.own)?;
        devices::net_devices(linux, &wanted.net_devices, surroundings.own)?;
        if let Some(wanted) = &wanted.memory_policy {
            linux.set_memory_policy(Some(memory_policy(wanted)?));
        }
        Ok(())
    }
}

fn annotations(held: &mut HashMap<String, String>, wanted: &BTreeMap<String, String>) {
    for (name, value) in wanted {
        match removal(name) {
            (name, true) => drop(held.remove(name)),
            (name, false) => drop(held.insert(name.to_owned(), value.clone())),
        }
    }
}

fn environment(process: &mut Process, wanted: &[KeyValue]) {
    let mut all = process.env().clone().unwrap_or_default();
    for change in wanted {
        let (name, removed) = removal(&change.key);
        let is_it = |held: &String| held.split_once('=').map_or(held.as_str(), |(name, _)| name) == name;
        match all.iter().position(is_it) {
            Some(at) if removed => drop(all.remove(at)),
            Some(at) => all[at] = format!("{name}={}", change.value),
            None if removed => {}
            None => all.push(format!("{name}={}", change.value)),
        }
    }
    process.set_env(Some(all));
}

fn rlimits(process: &mut Process, wanted: &[PosixRlimit]) -> Result<(), SpecError> {
    let mut all = process.rlimits().clone().unwrap_or_default();
    for limit in wanted {
        let what = format!("rlimit {}", limit.r#type);
        if limit.soft > limit.hard {
            return refuse(
                &what,
                format!("the soft limit {} is above the hard one, {}", limit.soft, limit.hard),
            );
        }
        let new: oci::PosixRlimit =
            part(&what, json!({ "type": limit.r#type, "hard": limit.hard, "soft": limit.soft }))?;
        all.retain(|held| held.typ() != new.typ());
        all.push(new);
    }
    process.set_rlimits((!all.is_empty()).then_some(all));
    Ok(())
}

/// Hooks of the container's start run in the container, before it is confined: a file of the image would have rights that the
/// container has not. The others are the node's programs.
#[allow(deprecated)] // `prestart` is OCI's old name of `createRuntime`; plugins still use it.
fn add_hooks(held: &mut oci::Hooks, wanted: &Hooks) -> Result<(), SpecError> {
    if !wanted.start_container.is_empty() {
        return refuse("hooks", "startContainer hooks are not supported by this runtime");
    }
    extend(held.prestart_mut(), &wanted.prestart)?;
    extend(held.create_runtime_mut(), &wanted.create_runtime)?;
    extend(held.create_container_mut(), &wanted.create_container)?;
    extend(held.poststart_mut(), &wanted.poststart)?;
    extend(held.poststop_mut(), &wanted.poststop)
}

fn extend(held: &mut Option<Vec<oci::Hook>>, wanted: &[Hook]) -> Result<(), SpecError> {
    for hook in wanted {
        if !Path::new(&hook.path).is_absolute() {
            return refuse("hooks", format!("`{}` is not an absolute path", hook.path));
        }
        let mut new = oci::Hook::default();
        new.set_path(hook.path.clone().into())
            .set_args((!hook.args.is_empty()).then(|| hook.args.clone()))
            .set_env((!hook.env.is_empty()).then(|| hook.env.clone()))
            .set_timeout(hook.timeout.map(|timeout| timeout.value).filter(|&seconds| seconds > 0));
        held.get_or_insert_default().push(new);
    }
    Ok(())
}

/// The strongest propagation among the new mounts, if any asks for one.
fn change_mounts(
    held: &mut Vec<oci::Mount>,
    wanted: &[Mount],
) -> Result<Option<mounts::Propagation>, SpecError> {
    let mut strongest = None;
    for mount in wanted {
        let (destination, removed) = removal(&mount.destination);
        if !Path::new(destination).is_absolute() {
            return refuse("mounts", format!("destination `{destination}` is not absolute"));
        }
        held.retain(|held| held.destination() != Path::new(destination));
        if removed {
            continue;
        }
        // A label for SELinux, which containers of this runtime do without.
        let options = mount.options.iter().filter(|option| *option != "relabel").cloned().collect();
        let mut new = oci::Mount::default();
        new.set_destination(destination.into())
            .set_typ((!mount.r#type.is_empty()).then(|| mount.r#type.clone()))
            .set_source((!mount.source.is_empty()).then(|| mount.source.clone().into()))
            .set_options(Some(options));
        let propagation = mounts::asked_propagation(&new).or_else(|error| refuse("mounts", error))?;
        strongest = strongest.max(propagation);
        held.push(new);
    }
    if !wanted.is_empty() {
        // A mount below another comes after it.
        held.sort_by_key(|mount| mount.destination().components().count());
    }
    Ok(strongest)
}

fn io_priority(wanted: cairn_nri::api::LinuxIoPriority) -> Result<Option<oci::LinuxIOPriority>, SpecError> {
    match wanted.class().as_str_name() {
        "IOPRIO_CLASS_NONE" => Ok(None),
        class => part("I/O priority", json!({ "class": class, "priority": wanted.priority })).map(Some),
    }
}

fn scheduler(wanted: &LinuxScheduler) -> Result<Option<oci::Scheduler>, SpecError> {
    let policy = wanted.policy().as_str_name();
    if policy == "SCHED_NONE" {
        return Ok(None);
    }
    let flags: Vec<&str> = wanted
        .flags()
        .map(|flag| match flag {
            // oci-spec's name of it.
            LinuxSchedulerFlag::SchedFlagResetOnFork => "SCHED_RESET_ON_FORK",
            flag => flag.as_str_name(),
        })
        .collect();
    let number = |value: u64| (value != 0).then_some(value);
    part(
        "scheduler",
        json!({
            "policy": policy,
            "nice": wanted.nice,
            "priority": wanted.priority,
            "flags": flags,
            "runtime": number(wanted.runtime),
            "deadline": number(wanted.deadline),
            "period": number(wanted.period),
        }),
    )
    .map(Some)
}

fn seccomp(wanted: &LinuxSeccomp) -> Result<oci::LinuxSeccomp, SpecError> {
    let notifies = |action: &str| action == "SCMP_ACT_NOTIFY";
    if !wanted.listener_path.is_empty()
        || notifies(&wanted.default_action)
        || wanted.syscalls.iter().any(|rule| notifies(&rule.action))
    {
        return refuse("seccomp policy", "this runtime has no seccomp listeners (SCMP_ACT_NOTIFY)");
    }
    let rule = |rule: &LinuxSyscall| {
        let arguments: Vec<Value> = rule
            .args
            .iter()
            .map(|argument| {
                json!({
                    "index": argument.index,
                    "value": argument.value,
                    "valueTwo": argument.value_two,
                    "op": argument.op,
                })
            })
            .collect();
        json!({
            "names": rule.names,
            "action": rule.action,
            "errnoRet": rule.errno_ret.map(|number| number.value),
            "args": arguments,
        })
    };
    let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    part(
        "seccomp policy",
        json!({
            "defaultAction": wanted.default_action,
            "defaultErrnoRet": wanted.default_errno.map(|number| number.value),
            "architectures": list(&wanted.architectures),
            "flags": list(&wanted.flags),
            "syscalls": wanted.syscalls.iter().map(rule).collect::<Vec<_>>(),
        }),
    )
}

/// Whether the container now shares a PID namespace.
fn namespaces(linux: &mut Linux, wanted: &[LinuxNamespace]) -> Result<bool, SpecError> {
    let mut shares_pids = false;
    let mut all = linux.namespaces().clone().unwrap_or_default();
    for change in wanted {
        let (name, removed) = removal(&change.r#type);
        let kind = LinuxNamespaceType::try_from(name).or_else(|error| refuse("namespaces", error))?;
        match kind {
            LinuxNamespaceType::User => return refuse("namespaces", "a container's users are its pod's"),
            LinuxNamespaceType::Mount => return refuse("namespaces", "a container has mounts of its own"),
            LinuxNamespaceType::Time => return refuse("namespaces", "this runtime has no time namespaces"),
            LinuxNamespaceType::Pid => shares_pids = removed || !change.path.is_empty(),
            _ => {}
        }
        all.retain(|held| held.typ() != kind);
        if !removed {
            let mut new = oci::LinuxNamespace::default();
            new.set_typ(kind).set_path((!change.path.is_empty()).then(|| change.path.clone().into()));
            all.push(new);
        }
    }
    linux.set_namespaces(Some(all));
    Ok(shares_pids)
}

fn sysctls(
    linux: &mut Linux,
    wanted: &BTreeMap<String, String>,
    own: OwnNamespaces,
) -> Result<(), SpecError> {
    for (name, value) in wanted {
        let held = linux.sysctl_mut().get_or_insert_default();
        match removal(name) {
            (name, true) => drop(held.remove(name)),
            (name, false) => {
                sysctl_path(name, own).or_else(|error| refuse("sysctls", error))?;
                held.insert(name.to_owned(), value.clone());
            }
        }
    }
    Ok(())
}

fn memory_policy(wanted: &LinuxMemoryPolicy) -> Result<oci::LinuxMemoryPolicy, SpecError> {
    let flags: Vec<&str> = wanted.flags().map(|flag| flag.as_str_name()).collect();
    part(
        "memory policy",
        json!({
            "mode": wanted.mode().as_str_name(),
            "nodes": (!wanted.nodes.is_empty()).then_some(&wanted.nodes),
            "flags": (!flags.is_empty()).then_some(flags),
        }),
    )
}

fn refuse_rdt(wanted: Option<&LinuxRdt>) -> Result<(), SpecError> {
    match wanted {
        Some(rdt) if rdt.clos_id.is_some() || rdt.schemata.is_some() || rdt.enable_monitoring.is_some() => {
            refuse("Intel RDT", "this runtime has no Intel RDT")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
