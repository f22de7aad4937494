//! Asking another plugin: `bridge` gets its addresses from the IPAM plugin that the configuration names.
//!
//! The plugin is looked up in `CNI_PATH` and started with our own environment and stdin, as the specification
//! says. If what is found is this very program, it is called without starting anything.

use crate::{
    plugin::Plugin,
    protocol::{
        error::{CniError, Code},
        request::{Command, Request},
        result::CniResult,
    },
};
use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{self, Stdio},
};

/// An IPAM plugin, found.
#[derive(Debug)]
pub struct Ipam {
    target: Target,
    /// It gives addresses back through the pod's interface.
    needs_interface: bool,
}

#[derive(Debug)]
enum Target {
    InProcess(Plugin),
    Program(PathBuf),
}

impl Ipam {
    /// Finds the plugin of type `kind` for this request.
    pub fn find(kind: &str, request: &Request) -> Result<Self, CniError> {
        if kind.is_empty() || kind.contains('/') || kind == "." || kind == ".." {
            return Err(CniError::config(format!("invalid plugin type {kind:?} in `ipam`")));
        }
        let program = request.path.iter().map(|directory| directory.join(kind)).find(|path| is_program(path));
        let Some(program) = program else {
            return Err(CniError::internal(format!(
                "failed to find plugin {kind:?} in path {:?}",
                request.path
            )));
        };
        let ours = Plugin::by_name(kind).filter(|_| is_this_program(&program));
        let target = ours.map_or(Target::Program(program), Target::InProcess);
        Ok(Self { target, needs_interface: kind == Plugin::Dhcp.name() })
    }

    /// DEL of an interface that `remove` takes away, and of the addresses that the IPAM plugin gave it. The
    /// interface goes first, for once an address is free another pod may have it; unless it is needed to give it back.
    pub fn del(
        found: Result<Option<Self>, CniError>,
        request: &Request,
        remove: impl FnOnce() -> Result<(), CniError>,
    ) -> Result<(), CniError> {
        match found {
            Ok(Some(ipam)) if ipam.needs_interface => {
                let freed = ipam.run(Command::Del, request);
                remove().and(freed)
            }
            Ok(Some(ipam)) => remove().and_then(|()| ipam.run(Command::Del, request)),
            Ok(None) => remove(),
            Err(error) => remove().and(Err(error)),
        }
    }

    /// ADD: addresses for the attachment.
    pub fn add(&self, request: &Request) -> Result<CniResult, CniError> {
        match &self.target {
            Target::InProcess(plugin) => plugin.add(request),
            Target::Program(program) => {
                let output = run(program, Command::Add, request)?;
                serde_json::from_slice(&output).map_err(|e| {
                    CniError::new(Code::Decoding, format!("{}: not a CNI result: {e}", program.display()))
                })
            }
        }
    }

    /// DEL, CHECK, GC, STATUS: whatever it says, if it fails.
    pub fn run(&self, command: Command, request: &Request) -> Result<(), CniError> {
        match (&self.target, command) {
            (Target::Program(program), _) => run(program, command, request).map(|_| ()),
            (Target::InProcess(plugin), Command::Del) => (plugin.operations().del)(request),
            (Target::InProcess(plugin), Command::Check) => (plugin.operations().check)(request),
            (Target::InProcess(plugin), Command::Gc) => (plugin.operations().gc)(request),
            (Target::InProcess(plugin), Command::Status) => (plugin.operations().status)(request),
            (Target::InProcess(_), Command::Add | Command::Version) => Ok(()),
        }
    }
}

fn run(program: &Path, command: Command, request: &Request) -> Result<Vec<u8>, CniError> {
    let failed = |doing: &str, error: std::io::Error| CniError::io(doing, program, &error);
    let mut child = process::Command::new(program)
        .env("CNI_COMMAND", command.name())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|e| failed("starting", e))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin may answer without reading; that it closed the pipe is no failure.
        let _ = stdin.write_all(&request.stdin);
    }
    let output = child.wait_with_output().map_err(|e| failed("waiting for", e))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(CniError::from_json(&output.stdout).unwrap_or_else(|| {
        CniError::internal(format!("{} failed without saying why: {}", program.display(), output.status))
            .details(String::from_utf8_lossy(&output.stdout).trim())
    }))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn is_this_program(path: &Path) -> bool {
    match (fs::metadata(path), fs::metadata("/proc/self/exe")) {
        (Ok(found), Ok(running)) => (found.dev(), found.ino()) == (running.dev(), running.ino()),
        _ => false,
    }
}
