//! `cairn run`: boots an image for a person to look at.

use crate::{
    error::{Error, Fault, UserError},
    guest::identity::{ClientIdentity, Identity},
    image::{Image, uki},
    management::CA_FILE,
    node::firmware_boot,
    qemu::{
        accelerator::{self, Choice},
        arguments::{Boot, Console, Credential, Disk, DiskFormat, Forward, MachineSpec},
        machine::Machine,
        overlay, ports, program,
    },
};
use cairn_contract::{machine::MachineConfig, paths};
use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// What to boot, and how.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Output directory of a build, or a file in it.
    pub image: PathBuf,
    /// Through UEFI firmware and the boot loader, rather than straight into the kernel.
    pub firmware: bool,
    /// A machine config of the user's; its `[api]` is filled in when it has none.
    pub machine_config: Option<PathBuf>,
    /// KVM or TCG.
    pub accelerator: Choice,
    /// Virtual CPUs.
    pub cpus: u32,
    /// RAM.
    pub memory_mib: u32,
    /// Size of the disk; what the image leaves becomes the node's state.
    pub disk_gib: u64,
    /// Where client certificates go: a directory, made when needed.
    pub credentials: PathBuf,
    /// More guest ports to reach from the host.
    pub ports: Vec<u16>,
}

impl RunOptions {
    /// The usual choices for `image`.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self {
            image: image.into(),
            firmware: false,
            machine_config: None,
            accelerator: Choice::Auto,
            cpus: 2,
            memory_mib: 2048,
            disk_gib: 8,
            credentials: PathBuf::from("cairn-run"),
            ports: Vec::new(),
        }
    }
}

/// Boots a disposable overlay of the image with its console on the terminal, and returns when the machine goes
/// off or Ctrl-A x is pressed. How to reach it is written to `hints` before the machine starts.
pub async fn run(options: RunOptions, hints: &mut (dyn Write + Send)) -> Result<(), Error> {
    let image = Image::open(&options.image)?;
    let program = program::locate()?;
    let identity = Identity::generate()?;
    let (config, own_api) = machine_config(options.machine_config.as_deref(), &identity)?;
    let work = tempfile::Builder::new()
        .prefix("cairn-run-")
        .tempdir()
        .map_err(Fault::io(format!("make a directory in {}", std::env::temp_dir().display())))?;
    let directory = work.path();
    let accelerator = accelerator::settle(options.accelerator, &program, directory).await?;
    let boot = if options.firmware {
        firmware_boot(directory)?
    } else {
        let parts = uki::extract(&image.uki, directory)?;
        Boot::Direct { kernel: parts.kernel, initrd: parts.initrd, command_line: parts.command_line }
    };
    let disk = directory.join("disk.qcow2");
    overlay::create(&disk, &image.raw, (options.disk_gib << 30).max(image.manifest.sizes.raw), &[])?;
    let credential = directory.join("machine.toml");
    write_private(&credential, &config)?;

    let guest_ports: Vec<u16> =
        std::iter::once(paths::MANAGEMENT_PORT).chain(options.ports.iter().copied()).collect();
    // Chosen here rather than at the start, so that the hints can name them.
    let forwards: Vec<_> = ports::free(guest_ports.len())?
        .into_iter()
        .zip(guest_ports)
        .map(|(host, guest)| Forward { host, guest })
        .collect();
    if !own_api {
        write_credentials(&options.credentials, &identity)?;
    }
    let text = describe((!own_api).then_some(&options.credentials), &forwards);
    hints.write_all(text.as_bytes()).map_err(Fault::io("write to the terminal"))?;

    let spec = MachineSpec {
        name: "cairn-run".into(),
        accelerator,
        cpus: options.cpus,
        memory_mib: options.memory_mib,
        boot,
        disks: vec![Disk { path: disk, format: DiskFormat::Qcow2, read_only: false }],
        forwards,
        wire: None,
        credentials: vec![Credential { name: paths::MACHINE_CREDENTIAL.to_owned(), file: credential }],
        console: Console::Terminal,
        monitor: directory.join("qmp"),
    };
    let mut machine = Machine::start(&program, spec, directory, 0).await?;
    machine.wait().await?;
    Ok(())
}

/// The document for the node, and whether its management API is the user's own, to which our certificates are
/// those of strangers.
fn machine_config(path: Option<&Path>, identity: &Identity) -> Result<(String, bool), Error> {
    let mut config = match path {
        None => identity.machine_config(None),
        Some(path) => {
            let text =
                std::fs::read_to_string(path).map_err(Fault::io(format!("read {}", path.display())))?;
            MachineConfig::parse(&text).map_err(|error| UserError::BadMachineConfig {
                path: path.to_owned(),
                reason: error.to_string(),
            })?
        }
    };
    let own_api = path.is_some() && config.api.is_some();
    config.api.get_or_insert_with(|| identity.api());
    let text = toml::to_string(&config).map_err(|error| Fault::Certificates(error.to_string()))?;
    Ok((text, own_api))
}

fn write_credentials(directory: &Path, identity: &Identity) -> Result<(), Fault> {
    std::fs::create_dir_all(directory).map_err(Fault::io(format!("make {}", directory.display())))?;
    write_private(&directory.join(CA_FILE), &identity.ca)?;
    for (name, ClientIdentity { certificate, key }) in
        [("admin", &identity.admin), ("reader", &identity.reader)]
    {
        write_private(&directory.join(format!("{name}.pem")), certificate)?;
        write_private(&directory.join(format!("{name}.key")), key)?;
    }
    Ok(())
}

/// Readable by the owner alone: there are private keys in it.
fn write_private(path: &Path, text: &str) -> Result<(), Fault> {
    let write = || -> std::io::Result<()> {
        let mut options = std::fs::File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(Fault::io(format!("write {}", path.display())))
}

/// `credentials` is none if the machine config has an API of its own, whose certificates only the user has.
fn describe(credentials: Option<&PathBuf>, forwards: &[Forward]) -> String {
    let mut text = String::new();
    for Forward { host, guest } in forwards {
        if *guest != paths::MANAGEMENT_PORT {
            text.push_str(&format!("guest port {guest:5} 127.0.0.1:{host}\n"));
            continue;
        }
        let dir = credentials.map_or_else(|| "DIR".to_owned(), |directory| shell_word(directory));
        let whose = if credentials.is_some() {
            format!("{dir}: admin may do everything, reader (--as reader) may look")
        } else {
            "those that go with the [api] of your machine config, in DIR below".to_owned()
        };
        let access = format!("--node 127.0.0.1:{host} --credentials {dir}");
        text.push_str(&format!(
            "management API   127.0.0.1:{host}\n\
             certificates     {whose}\n\
             state            cairn node status {access}\n\
             log              cairn node journal --follow {access}\n\
             containers       cairn node tunnel --socket /tmp/cri.sock {access}\n                 \
             crictl --runtime-endpoint unix:///tmp/cri.sock pods\n\
             off              cairn node poweroff {access}\n"
        ));
    }
    text.push_str("\nThe console follows. Ctrl-A x ends the machine; its disk is thrown away.\n\n");
    text
}

/// A path as a shell takes it, quoted where it must be.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+:@,".contains(&b));
    if plain && !text.is_empty() { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_keys_are_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        write_credentials(directory.path(), &Identity::generate().unwrap()).unwrap();
        for name in ["admin.key", "reader.key", "admin.pem", "ca.pem"] {
            let mode = directory.path().join(name).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{name}");
        }
    }

    #[test]
    fn the_users_machine_config_is_checked_and_gets_an_api() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("machine.toml");
        let identity = Identity::generate().unwrap();
        std::fs::write(&path, "[node]\nname = 'mine'\n").unwrap();
        let (text, own_api) = machine_config(Some(&path), &identity).unwrap();
        let config = MachineConfig::parse(&text).unwrap();
        assert_eq!(config.node.name.as_deref(), Some("mine"));
        assert_eq!((config.api, own_api), (Some(identity.api()), false));

        std::fs::write(&path, "[api]\nclient_ca = 'a'\ncertificate = 'b'\nkey = 'c'\n").unwrap();
        let (text, own_api) = machine_config(Some(&path), &identity).unwrap();
        assert!(own_api && !text.contains(&identity.api().key));
        std::fs::write(&path, "[nod]\n").unwrap();
        let error = machine_config(Some(&path), &identity).unwrap_err();
        assert!(matches!(error, Error::User(UserError::BadMachineConfig { .. })), "{error}");
    }

    #[test]
    fn the_hints_are_commands_to_copy() {
        let forwards =
            [Forward { host: 4001, guest: paths::MANAGEMENT_PORT }, Forward { host: 4002, guest: 80 }];
        let text = describe(Some(&"my keys".into()), &forwards);
        for command in ["status", "journal --follow", "tunnel --socket /tmp/cri.sock", "poweroff"] {
            let line = format!("cairn node {command} --node 127.0.0.1:4001 --credentials 'my keys'\n");
            assert!(text.contains(&line), "{line}: {text}");
        }
        assert!(text.contains("guest port    80 127.0.0.1:4002\n"), "{text}");
        let text = describe(None, &forwards);
        assert!(
            text.contains("--credentials DIR") && text.contains("[api] of your machine config"),
            "{text}"
        );
        assert_eq!(shell_word(Path::new("it's")), "'it'\\''s'");
    }
}
