//! What several plugins want, put together, one after the other.
//!
//! Each plugin is shown the container as the ones before it have left it. What is collected is a list of changes, not
//! a container: the runtime makes them. A thing can be set by one plugin only, unless a later one first removes it.

mod named;
mod owners;
mod resources;
mod update;

pub use named::removal;
pub use owners::{Conflict, Owners};
pub use update::{Change, Changes};

use crate::api::{
    Container, ContainerAdjustment, ContainerEviction, ContainerRequest, ContainerUpdate,
    CreateContainerResponse, Field, Hooks, KeyValue, LinuxContainerAdjustment, LinuxRdt, PodSandbox,
};
use named::{Named, collect, collect_map, show, show_map};
use owners::Claimant;
use update::Updates;

/// A response that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Two plugins contradict each other.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// What is being made cannot be updated too.
    #[error(
        "plugin {plugin} asks for an update of container {container}, which is being created: it is to adjust it"
    )]
    Premature {
        /// The plugin.
        plugin: String,
        /// The container.
        container: String,
    },
}

/// What plugins want at the creation of a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Created {
    /// Changes to the container.
    pub adjust: ContainerAdjustment,
    /// Changes to others.
    pub update: Vec<ContainerUpdate>,
    /// Containers to stop.
    pub evict: Vec<ContainerEviction>,
}

/// The creation of a container, on its way from plugin to plugin.
#[derive(Debug)]
pub struct Creation {
    /// What the next plugin is shown.
    pub request: ContainerRequest,
    adjust: ContainerAdjustment,
    updates: Updates,
    evict: Vec<ContainerEviction>,
    owners: Owners,
}

impl Creation {
    /// Nothing changed yet.
    pub fn new(pod: PodSandbox, container: Container) -> Self {
        Self {
            request: ContainerRequest { pod: Some(pod), container: Some(container) },
            adjust: ContainerAdjustment::default(),
            updates: Updates::default(),
            evict: Vec::new(),
            owners: Owners::default(),
        }
    }

    /// Takes over what a plugin wants.
    ///
    /// # Errors
    /// When it contradicts an earlier one.
    pub fn apply(&mut self, plugin: &str, response: CreateContainerResponse) -> Result<(), MergeError> {
        let container = self.request.container.get_or_insert_default();
        let id = container.id.clone();
        let who = Claimant { plugin, container: &id };
        if let Some(wanted) = response.adjust {
            adjust(&mut self.adjust, container, wanted, &mut self.owners, who)?;
        }
        if response.update.iter().any(|update| update.container_id == id) {
            return Err(MergeError::Premature { plugin: plugin.to_owned(), container: id });
        }
        self.updates.apply(plugin, response.update, &mut self.owners)?;
        self.evict.extend(response.evict);
        Ok(())
    }

    /// Who has set what.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// What has come together.
    pub fn finish(self) -> Created {
        Created { adjust: self.adjust, update: self.updates.finish(), evict: self.evict }
    }
}

/// Adds what a plugin wants to `collected`, and shows it in the container.
fn adjust(
    collected: &mut ContainerAdjustment,
    shown: &mut Container,
    wanted: ContainerAdjustment,
    owners: &mut Owners,
    who: Claimant<'_>,
) -> Result<(), Conflict> {
    collect_map(&mut collected.annotations, &wanted.annotations, owners, who, Field::Annotations)?;
    show_map(&mut shown.annotations, &wanted.annotations);
    show(&mut shown.mounts, &wanted.mounts);
    collect(&mut collected.mounts, wanted.mounts, owners, who, Field::Mounts)?;
    show_environment(&mut shown.env, &wanted.env);
    collect(&mut collected.env, wanted.env, owners, who, Field::Env)?;
    if let Some((first, rest)) = wanted.args.split_first() {
        // An empty first word says: whatever was set before.
        let args = if first.is_empty() { rest } else { &wanted.args };
        if first.is_empty() {
            owners.clear(who, Field::Args, "");
        }
        owners.claim(who, Field::Args, "")?;
        args.clone_into(&mut collected.args);
        args.clone_into(&mut shown.args);
    }
    if let Some(hooks) = wanted.hooks {
        owners.join(who, Field::OciHooks);
        add_hooks(shown.hooks.get_or_insert_default(), &hooks);
        add_hooks(collected.hooks.get_or_insert_default(), &hooks);
    }
    for limit in wanted.rlimits {
        owners.claim(who, Field::Rlimits, &limit.r#type)?;
        shown.rlimits.retain(|held| held.r#type != limit.r#type);
        shown.rlimits.push(limit.clone());
        collected.rlimits.push(limit);
    }
    for device in wanted.cdi_devices {
        owners.claim(who, Field::CdiDevices, &device.name)?;
        collected.cdi_devices.push(device);
    }
    match wanted.linux {
        Some(linux) => adjust_linux(collected.linux.get_or_insert_default(), shown, linux, owners, who),
        None => Ok(()),
    }
}

fn adjust_linux(
    collected: &mut LinuxContainerAdjustment,
    shown: &mut Container,
    wanted: LinuxContainerAdjustment,
    owners: &mut Owners,
    who: Claimant<'_>,
) -> Result<(), Conflict> {
    let shown = shown.linux.get_or_insert_default();
    show(&mut shown.devices, &wanted.devices);
    collect(&mut collected.devices, wanted.devices, owners, who, Field::Devices)?;
    show(&mut shown.namespaces, &wanted.namespaces);
    collect(&mut collected.namespaces, wanted.namespaces, owners, who, Field::Namespace)?;
    collect_map(&mut collected.sysctl, &wanted.sysctl, owners, who, Field::Sysctl)?;
    show_map(&mut shown.sysctl, &wanted.sysctl);
    collect_map(&mut collected.net_devices, &wanted.net_devices, owners, who, Field::LinuxNetDevices)?;
    show_map(&mut shown.net_devices, &wanted.net_devices);
    if let Some(limits) = &wanted.resources {
        for (field, key) in resources::set(limits) {
            owners.claim(who, field, key)?;
        }
        resources::overlay(shown.resources.get_or_insert_default(), limits);
        resources::overlay(collected.resources.get_or_insert_default(), limits);
    }
    if !wanted.cgroups_path.is_empty() {
        owners.claim(who, Field::CgroupsPath, "")?;
        shown.cgroups_path.clone_from(&wanted.cgroups_path);
        collected.cgroups_path = wanted.cgroups_path;
    }
    macro_rules! whole {
        ($name:ident, $field:ident) => {
            if wanted.$name.is_some() {
                owners.claim(who, Field::$field, "")?;
                shown.$name.clone_from(&wanted.$name);
                collected.$name = wanted.$name;
            }
        };
    }
    whole!(oom_score_adj, OomScoreAdj);
    whole!(io_priority, IoPriority);
    whole!(seccomp_policy, SeccompPolicy);
    whole!(scheduler, LinuxSched);
    if let Some(rdt) = wanted.rdt {
        adjust_rdt(collected.rdt.get_or_insert_default(), &rdt, owners, who)?;
        shown.rdt.clone_from(&collected.rdt);
    }
    // A container is not shown its memory policy.
    if wanted.memory_policy.is_some() {
        owners.claim(who, Field::MemoryPolicy, "")?;
        collected.memory_policy = wanted.memory_policy;
    }
    Ok(())
}

fn adjust_rdt(
    collected: &mut LinuxRdt,
    wanted: &LinuxRdt,
    owners: &mut Owners,
    who: Claimant<'_>,
) -> Result<(), Conflict> {
    if wanted.remove {
        for field in [Field::RdtClosId, Field::RdtSchemata, Field::RdtEnableMonitoring] {
            owners.clear(who, field, "");
        }
        *collected = LinuxRdt { remove: true, ..Default::default() };
    }
    macro_rules! part {
        ($name:ident, $field:ident) => {
            if wanted.$name.is_some() {
                owners.claim(who, Field::$field, "")?;
                collected.$name.clone_from(&wanted.$name);
                collected.remove = false;
            }
        };
    }
    part!(clos_id, RdtClosId);
    part!(schemata, RdtSchemata);
    part!(enable_monitoring, RdtEnableMonitoring);
    Ok(())
}

fn add_hooks(held: &mut Hooks, more: &Hooks) {
    for (held, more) in [
        (&mut held.prestart, &more.prestart),
        (&mut held.create_runtime, &more.create_runtime),
        (&mut held.create_container, &more.create_container),
        (&mut held.start_container, &more.start_container),
        (&mut held.poststart, &more.poststart),
        (&mut held.poststop, &more.poststop),
    ] {
        held.extend_from_slice(more);
    }
}

/// Variables are `NAME=value` in a container, and pairs in changes.
fn show_environment(shown: &mut Vec<String>, changes: &[KeyValue]) {
    let name = |variable: &str| variable.split_once('=').map_or(variable, |(name, _)| name).to_owned();
    shown.retain(|held| !changes.iter().any(|change| change.bare() == name(held)));
    let set = changes.iter().filter(|change| !removal(change.name()).1);
    shown.extend(set.map(|change| format!("{}={}", change.key, change.value)));
}

#[cfg(test)]
mod tests;
