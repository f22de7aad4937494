//! Devices by name: the Container Device Interface.
//!
//! A vendor's installer describes its devices in files of JSON or YAML; a name such as `vendor.com/gpu=0` stands for edits to a
//! container: device nodes, mounts, environment variables, groups, hooks. The specification is CNCF's CDI, versions 0.3 to
//! 1.1. A file in a later directory takes the place of devices of the same name in an earlier one; two files of one
//! directory that disagree make the name unusable.

use super::SpecError;
use cairn_contract::cri;
use oci_spec::runtime as oci;
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// Where specifications are looked for, in rising priority.
pub(super) const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Annotations with this prefix name devices too: what device plugins used before CRI had a field.
pub(super) const ANNOTATION: &str = "cdi.k8s.io/";
/// The longest specification that is read, bytes.
const SIZE_LIMIT: u64 = 4 << 20;

/// A device that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// Not `vendor/class=name`.
    #[error("`{0}` is not the name of a CDI device, such as vendor.com/class=name")]
    Malformed(String),
    /// No specification has it; the text says what was wrong with files that were passed over.
    #[error("there is no CDI device `{name}` in {}{passed_over}", DIRECTORIES.join(" and "))]
    Unknown {
        /// The device.
        name: String,
        /// `; <file>: <reason>` for each.
        passed_over: String,
    },
    /// Two files say what it is.
    #[error("CDI device `{name}` is in both {} and {}", first.display(), second.display())]
    Conflict {
        /// The device.
        name: String,
        /// A file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// It wants what this runtime does not do.
    #[error("CDI device `{name}` of {}: {what} are not supported by this runtime", file.display())]
    Unsupported {
        /// The device.
        name: String,
        /// Its file.
        file: PathBuf,
        /// What.
        what: &'static str,
    },
}

/// Edits to a container (`containerEdits`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Edits {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Devices.
    pub device_nodes: Vec<DeviceNode>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Groups for the process.
    #[serde(rename = "additionalGids", alias = "additionalGIDs")]
    pub additional_gids: Vec<u32>,
    /// Programs of the vendor's, run on the way to the container's start.
    hooks: Vec<Hook>,
    intel_rdt: Option<serde_json::Value>,
    net_devices: Vec<serde_json::Value>,
}

/// One of `deviceNodes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DeviceNode {
    /// In the container.
    pub path: String,
    /// On the node, if it is another.
    pub host_path: String,
    /// Of `r`, `w` and `m`; empty is all.
    pub permissions: String,
}

/// One of `mounts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Mount {
    /// On the node.
    pub host_path: String,
    /// In the container.
    pub container_path: String,
    /// Of mount(8).
    pub options: Vec<String>,
    /// `bind` if absent.
    #[serde(rename = "type")]
    pub kind: String,
}

/// One of `hooks`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    /// When, in OCI's words.
    hook_name: String,
    path: PathBuf,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<String>>,
    /// Seconds.
    #[serde(default)]
    timeout: Option<i64>,
}

impl From<&Hook> for oci::Hook {
    fn from(hook: &Hook) -> Self {
        let mut oci = Self::default();
        oci.set_path(hook.path.clone())
            .set_args(hook.args.clone())
            .set_env(hook.env.clone())
            .set_timeout(hook.timeout);
        oci
    }
}

/// The hooks of all edits, in their order.
pub(super) fn hooks(edits: &[Edits]) -> Option<oci::Hooks> {
    let named = |name: &str| {
        let all = edits.iter().flat_map(|edit| &edit.hooks).filter(|hook| hook.hook_name == name);
        Some(all.map(oci::Hook::from).collect::<Vec<_>>()).filter(|hooks| !hooks.is_empty())
    };
    let mut hooks = oci::Hooks::default();
    hooks
        .set_create_runtime(named("createRuntime"))
        .set_create_container(named("createContainer"))
        .set_poststart(named("poststart"));
    edits.iter().any(|edit| !edit.hooks.is_empty()).then_some(hooks)
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Specification {
    cdi_version: String,
    kind: String,
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

/// All edits for devices by their full names, in the order given; those of a file come once, before its devices'.
///
/// # Errors
/// When a device cannot be had.
pub(super) fn resolve(names: &[String]) -> Result<Vec<Edits>, CdiError> {
    resolve_in(&DIRECTORIES.map(Path::new), names)
}

fn resolve_in(directories: &[&Path], names: &[String]) -> Result<Vec<Edits>, CdiError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let (mut files, mut passed_over) = (Vec::new(), String::new());
    for (priority, directory) in directories.iter().enumerate() {
        for path in listing(directory) {
            match read(&path) {
                Ok(specification) => files.push((priority, path, specification)),
                Err(reason) => passed_over.push_str(&format!("; {}: {reason}", path.display())),
            }
        }
    }
    let mut edits = Vec::new();
    let mut used: BTreeSet<&Path> = BTreeSet::new();
    for name in names {
        let (kind, device) = split(name).ok_or_else(|| CdiError::Malformed(name.clone()))?;
        let holds =
            |specification: &Specification| specification.devices.iter().any(|held| held.name == device);
        let having = files.iter().filter(|(_, _, held)| held.kind == kind && holds(held));
        let highest = having.clone().map(|(priority, ..)| *priority).max();
        let mut having = having.filter(|(priority, ..)| Some(*priority) == highest);
        let unknown = || CdiError::Unknown { name: name.clone(), passed_over: passed_over.clone() };
        let (_, path, specification) = having.next().ok_or_else(unknown)?;
        if let Some((_, second, _)) = having.next() {
            let (first, second) = (path.clone(), second.clone());
            return Err(CdiError::Conflict { name: name.clone(), first, second });
        }
        let of_device = specification.devices.iter().filter(|held| held.name == device);
        let of_file = used.insert(path).then_some(&specification.container_edits);
        for edit in of_file.into_iter().chain(of_device.map(|held| &held.container_edits)) {
            if let Some(what) = edit.unsupported() {
                return Err(CdiError::Unsupported { name: name.clone(), file: path.clone(), what });
            }
            edits.push(edit.clone());
        }
    }
    Ok(edits)
}

impl Edits {
    /// Writes all but the groups and hooks into a container's configuration.
    ///
    /// # Errors
    /// A variable or mount that is none.
    pub(super) fn apply(&self, config: &mut cri::ContainerConfig) -> Result<(), SpecError> {
        for variable in &self.env {
            let (key, value) = variable
                .split_once('=')
                .ok_or_else(|| SpecError::Refused(format!("CDI variable `{variable}` has no value")))?;
            config.envs.push(cri::KeyValue { key: key.to_owned(), value: value.as_bytes().to_vec() });
        }
        config.devices.extend(self.device_nodes.iter().map(|node| cri::Device {
            container_path: node.path.clone(),
            host_path: if node.host_path.is_empty() { &node.path } else { &node.host_path }.clone(),
            permissions: node.permissions.clone(),
        }));
        for mount in &self.mounts {
            // A pod's path may be made where it is not; a vendor's library that is not there is a broken driver.
            if !Path::new(&mount.host_path).exists() {
                return Err(SpecError::Refused(format!("CDI mount: there is no {}", mount.host_path)));
            }
            let taken_over = ["bind", "rbind", "ro", "rw", "rprivate", "private"];
            let options = mount.options.iter().filter(|option| !taken_over.contains(&option.as_str()));
            config.mounts.push(cri::Mount {
                host_path: mount.host_path.clone(),
                container_path: mount.container_path.clone(),
                readonly: mount.options.iter().any(|option| option == "ro"),
                mount_options: options.cloned().collect(),
                ..Default::default()
            });
        }
        Ok(())
    }

    fn unsupported(&self) -> Option<&'static str> {
        let odd_mount = |mount: &Mount| !matches!(mount.kind.as_str(), "" | "bind" | "none");
        // A startContainer hook is a file of the image, and libcontainer runs it before the container is confined.
        let known = ["createRuntime", "createContainer", "poststart"];
        if self.hooks.iter().any(|hook| !known.contains(&hook.hook_name.as_str())) {
            Some("hooks other than createRuntime, createContainer and poststart")
        } else if self.hooks.iter().any(|hook| !hook.path.is_absolute()) {
            Some("hooks whose path is not absolute")
        } else if self.intel_rdt.is_some() {
            Some("Intel RDT classes")
        } else if !self.net_devices.is_empty() {
            Some("network devices")
        } else if self.mounts.iter().any(odd_mount) {
            Some("mounts other than binds")
        } else {
            None
        }
    }
}

/// `vendor.com/class` and `name`.
fn split(full: &str) -> Option<(&str, &str)> {
    let (kind, device) = full.split_once('=')?;
    let (vendor, class) = kind.split_once('/')?;
    let good = |text: &str, extra: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    (good(vendor, "-_.") && good(class, "-_") && good(device, "-_.:")).then_some((kind, device))
}

/// The specifications in a directory, by name.
fn listing(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let ending =
        |path: &Path| path.extension().is_some_and(|end| end == "json" || end == "yaml" || end == "yml");
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).filter(|path| ending(path)).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Result<Specification, String> {
    let load = || -> io::Result<String> {
        if fs::metadata(path)?.len() > SIZE_LIMIT {
            return Err(io::Error::other("it is longer than 4 MiB"));
        }
        fs::read_to_string(path)
    };
    let text = load().map_err(|error| error.to_string())?;
    let specification = parse(path, &text)?;
    let version = specification.cdi_version.trim_start_matches('v');
    let known = ["0.3.", "0.4.", "0.5.", "0.6.", "0.7.", "0.8.", "1.0.", "1.1."];
    if !known.iter().any(|prefix| version.starts_with(prefix)) {
        return Err(format!("its version {version} is not known"));
    }
    Ok(specification)
}

/// What the file's ending says it is.
fn parse(path: &Path, text: &str) -> Result<Specification, String> {
    if path.extension().is_some_and(|end| end == "json") {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    // The message has the lines around the place, too: one is enough here.
    serde_saphyr::from_str(text)
        .map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(files: &[(&str, &str)]) -> tempfile::TempDir {
        let base = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = base.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        base
    }

    fn resolved(base: &tempfile::TempDir, names: &[&str]) -> Result<Vec<Edits>, String> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let (low, high) = (base.path().join("etc"), base.path().join("run"));
        resolve_in(&[&low, &high], &names).map_err(|error| error.to_string())
    }

    const GPU: &str = r#"{"cdiVersion":"0.6.0","kind":"v.com/gpu","containerEdits":{"env":["ALL=1"]},"devices":[
        {"name":"0","containerEdits":{"deviceNodes":[{"path":"/dev/g0","hostPath":"/dev/null","permissions":"rw"}],
         "mounts":[{"hostPath":"/lib","containerPath":"/v","options":["ro"]}],"additionalGids":[44]}},
        {"name":"1","containerEdits":{"env":["ONE=1"]}},
        {"name":"hooked","containerEdits":{"hooks":[{"hookName":"poststop","path":"/x"}]}},
        {"name":"relative","containerEdits":{"hooks":[{"hookName":"createContainer","path":"x"}]}}]}"#;

    /// As a vendor's toolkit writes it.
    const YAML: &str = r#"---
cdiVersion: 0.5.0
kind: y.com/gpu
containerEdits:
  env: [Y_VISIBLE_DEVICES=void]
  hooks:
  - hookName: createContainer
    path: /usr/bin/y-hook
    args: [y-hook, create-symlinks, --link, "../lib.so.1::/usr/lib/lib.so"]
    env:
    - DEBUG=false
  - {hookName: poststart, path: /usr/bin/other, timeout: 5}
  mounts:
  - hostPath: /lib
    containerPath: /v
    options: [ro, nosuid, nodev, rbind, rprivate]
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/g0
      hostPath: /dev/null
- name: all
  containerEdits: {}
"#;

    #[test]
    fn a_name_stands_for_edits() {
        let base = scratch(&[("etc/gpu.json", GPU)]);
        let edits = resolved(&base, &["v.com/gpu=0", "v.com/gpu=1"]).unwrap();
        assert_eq!(edits.len(), 3, "those of the file once");
        assert_eq!(
            (edits[0].env.as_slice(), edits[2].env.as_slice()),
            (&["ALL=1".to_owned()][..], &["ONE=1".to_owned()][..])
        );
        assert_eq!(edits[1].device_nodes[0].host_path, "/dev/null");
        assert_eq!(edits[1].additional_gids, [44]);
        let mut config = cri::ContainerConfig::default();
        edits.iter().for_each(|edit| edit.apply(&mut config).unwrap());
        assert_eq!((config.envs.len(), config.devices[0].container_path.as_str()), (2, "/dev/g0"));
        assert!(config.mounts[0].readonly && config.mounts[0].mount_options.is_empty());
    }

    #[test]
    fn yaml_says_the_same_as_json() {
        let base = scratch(&[("etc/y.yaml", YAML)]);
        let edits = resolved(&base, &["y.com/gpu=0"]).unwrap();
        assert_eq!(edits[0].env, ["Y_VISIBLE_DEVICES=void"]);
        assert_eq!(edits[1].device_nodes[0].host_path, "/dev/null");
        let hooks = hooks(&edits).unwrap();
        let first = &hooks.create_container().as_ref().unwrap()[0];
        assert_eq!(first.path(), Path::new("/usr/bin/y-hook"));
        assert_eq!(first.args().as_ref().unwrap()[3], "../lib.so.1::/usr/lib/lib.so");
        assert_eq!(first.env().as_deref(), Some(&["DEBUG=false".to_owned()][..]));
        assert_eq!(hooks.poststart().as_ref().unwrap()[0].timeout(), Some(5));
        assert!(hooks.create_runtime().is_none());
        let mut config = cri::ContainerConfig::default();
        edits[0].apply(&mut config).unwrap();
        assert_eq!(config.mounts[0].mount_options, ["nosuid", "nodev"]);
    }

    #[test]
    fn what_cannot_be_had_is_said() {
        let base = scratch(&[
            ("etc/gpu.json", GPU),
            ("etc/same.json", &GPU.replace("v.com", "w.com")),
            ("etc/twin.json", &GPU.replace("v.com", "w.com")),
            ("etc/bad.yaml", "kind: [y.com/x"),
        ]);
        for (name, word) in [
            ("v.com/gpu=9", "no CDI device"),
            ("y.com/x=1", "bad.yaml: "),
            ("v.com/gpu=hooked", "hooks other than"),
            ("v.com/gpu=relative", "not absolute"),
            ("w.com/gpu=0", "twin.json"),
            ("v.com/gpu", "not the name"),
            ("/gpu=0", "not the name"),
        ] {
            let error = resolved(&base, &[name]).unwrap_err();
            assert!(error.contains(word), "{name}: {error}");
        }
    }

    #[test]
    fn a_later_directory_counts_more() {
        let base = scratch(&[("etc/gpu.json", GPU), ("run/gpu.json", &GPU.replace("ALL=1", "ALL=2"))]);
        assert_eq!(resolved(&base, &["v.com/gpu=1"]).unwrap()[0].env, ["ALL=2"]);
    }
}
