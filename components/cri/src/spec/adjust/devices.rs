//! Device nodes, what may be done with them, and network devices.

use super::{Surroundings, part, refuse};
use crate::spec::{OwnNamespaces, SpecError};
use cairn_nri::{
    api::{self, LinuxDevice, LinuxNetDevice},
    merge::removal,
};
use oci_spec::runtime::{self as oci, Linux, LinuxDeviceCgroup};
use serde_json::json;
use std::{collections::BTreeMap, path::Path};

/// Device nodes, and the rules that let the container use them.
pub(super) fn devices(
    linux: &mut Linux,
    wanted: &[LinuxDevice],
    surroundings: &Surroundings,
) -> Result<(), SpecError> {
    for device in wanted {
        let (path, removed) = removal(&device.path);
        let what = format!("device {path}");
        linux.devices_mut().get_or_insert_default().retain(|held| held.path() != Path::new(path));
        if removed {
            continue;
        }
        if surroundings.users {
            return refuse(&what, "a pod with a user namespace can be lent devices by CRI or CDI only");
        }
        let mode = device.file_mode.map(|mode| mode.value);
        let new: oci::LinuxDevice = part(
            &what,
            json!({
                "path": path,
                "type": device.r#type,
                "major": device.major,
                "minor": device.minor,
                "fileMode": mode,
                "uid": device.uid.map(|id| id.value),
                "gid": device.gid.map(|id| id.value),
            }),
        )?;
        linux.devices_mut().get_or_insert_default().push(new);
        let access = if device.r#type == "b" { "rwm" } else { "rw" };
        let rule: LinuxDeviceCgroup = part(
            &what,
            json!({ "allow": true, "type": device.r#type, "major": device.major, "minor": device.minor, "access": access }),
        )?;
        let rules = linux.resources_mut().get_or_insert_default().devices_mut();
        rules.get_or_insert_default().push(rule);
    }
    Ok(())
}

pub(super) fn device_rule(rule: &api::LinuxDeviceCgroup) -> Result<LinuxDeviceCgroup, SpecError> {
    let kind = if rule.r#type.is_empty() { "a" } else { rule.r#type.as_str() };
    part(
        "device rules",
        json!({
            "allow": rule.allow,
            "type": kind,
            "major": rule.major.map(|number| number.value),
            "minor": rule.minor.map(|number| number.value),
            "access": rule.access,
        }),
    )
}

pub(super) fn net_devices(
    linux: &mut Linux,
    wanted: &BTreeMap<String, LinuxNetDevice>,
    own: OwnNamespaces,
) -> Result<(), SpecError> {
    for (name, device) in wanted {
        let held = linux.net_devices_mut().get_or_insert_default();
        match removal(name) {
            (name, true) => drop(held.remove(name)),
            (name, false) if own.network => {
                let mut new = oci::LinuxNetDevice::default();
                new.set_name((!device.name.is_empty()).then(|| device.name.clone()));
                held.insert(name.to_owned(), new);
            }
            (name, false) => {
                return refuse("network devices", format!("{name} is the node's, as is the pod's network"));
            }
        }
    }
    Ok(())
}
