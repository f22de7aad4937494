//! What is run: arguments, environment and working directory, of the container or else of its image.

use super::Input;
use cairn_contract::cri;
use oci_spec::image::Config;
use std::path::{Path, PathBuf};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Entry point and command, by the rules that Kubernetes documents for `command` and `args`.
pub(super) fn arguments(config: &cri::ContainerConfig, image: Option<&Config>) -> Vec<String> {
    let of_image = |list: Option<&Option<Vec<String>>>| list.cloned().flatten().unwrap_or_default();
    if !config.command.is_empty() {
        return [config.command.as_slice(), config.args.as_slice()].concat();
    }
    let mut all = of_image(image.map(|image| image.entrypoint()));
    if config.args.is_empty() {
        all.extend(of_image(image.map(|image| image.cmd())));
    } else {
        all.extend_from_slice(&config.args);
    }
    all
}

/// The image's variables, overridden by the container's; `PATH` always, `TERM` with a terminal.
pub(super) fn environment(input: &Input<'_>, image: Option<&Config>) -> Vec<String> {
    let mut all = vec![DEFAULT_PATH.to_owned()];
    if !input.sandbox.hostname.is_empty() && !input.node_network {
        all.push(format!("HOSTNAME={}", input.sandbox.hostname));
    }
    if input.config.tty {
        all.push("TERM=xterm".to_owned());
    }
    let mut set = |variable: String| {
        let name = variable.split('=').next().unwrap_or_default();
        match all.iter_mut().find(|held| held.split('=').next() == Some(name)) {
            Some(held) => *held = variable,
            None => all.push(variable),
        }
    };
    image.and_then(|image| image.env().as_ref()).into_iter().flatten().cloned().for_each(&mut set);
    for variable in &input.config.envs {
        // What is not UTF-8 was refused.
        set(format!("{}={}", variable.key, String::from_utf8_lossy(&variable.value)));
    }
    all
}

/// Where it starts: the container says it, else the image, else it is the root.
pub(super) fn working_directory(config: &cri::ContainerConfig, image: Option<&Config>) -> PathBuf {
    let of_image = image.and_then(|image| image.working_dir().as_deref()).unwrap_or_default();
    let wanted = if config.working_dir.is_empty() { of_image } else { &config.working_dir };
    Path::new("/").join(wanted)
}
