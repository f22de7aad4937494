//! `cairn machine`

mod identity;

use super::{Failure, output};
use cairn_contract::machine::{Api, MachineConfig};
use clap::Subcommand;
use identity::Identity;
use serde_json::json;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Check and make machine configs.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a machine config with the code that the node runs. Exit code 1 if the node would refuse it.
    #[command(after_help = "Example:\n  cairn machine check machines/node-1/machine.toml")]
    Check {
        /// The machine config.
        file: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a machine config for a new node, with fresh keys for its management API.
    ///
    /// Writes machine.toml, which goes to the node, and ca.pem, client.pem and client.key, with which an
    /// administrator talks to it. The CA's own key is not kept: nobody can make further certificates for this node.
    #[command(
        after_help = "Example:\n  cairn machine new --name node-1 --address 192.0.2.7 --out machines/node-1"
    )]
    New {
        /// Host name and Kubernetes node name.
        #[arg(long)]
        name: String,
        /// Folder for the files; made if it is not there. Nothing in it is overwritten.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Address or DNS name at which clients reach the node, besides its name, localhost and loopback; may be
        /// given several times.
        #[arg(long, value_name = "ADDRESS")]
        address: Vec<String>,
        /// Days that the certificates are good for.
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u16).range(1..))]
        days: u16,
    },
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Check { file, json } => check(&file, json),
        Command::New { name, out, address, days } => new(&name, &out, &address, days),
    }
}

fn check(file: &Path, json: bool) -> Result<(), Failure> {
    let text = fs::read_to_string(file).map_err(|error| Failure::file(file, "read", &error))?;
    let result = MachineConfig::parse(&text);
    if json {
        let problem = result.as_ref().err().map(|error| error.to_string().trim_end().to_owned());
        output::print_json(&json!({ "file": file, "valid": problem.is_none(), "problem": problem }))?;
    }
    match result {
        Ok(config) if !json => {
            let name = config.node.name.as_deref().unwrap_or("a node named by DHCP");
            output::print(&format!("{}: good, for {name}", file.display()))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::checked(format!("{}: {}", file.display(), error.to_string().trim_end()))),
    }
}

fn new(name: &str, out: &Path, addresses: &[String], days: u16) -> Result<(), Failure> {
    let mut config = MachineConfig::default();
    config.node.name = Some(name.to_owned());
    let identity = Identity::new(name, addresses, days)?;
    config.api = Some(Api {
        client_ca: identity.ca.clone(),
        certificate: identity.server_certificate.clone(),
        key: identity.server_key.clone(),
    });
    let document = toml::to_string_pretty(&config)
        .map_err(|error| Failure::machine(format!("cannot write the machine config: {error}")))?;
    // The node's own code has the last word, on the name above all.
    MachineConfig::parse(&document).map_err(Failure::mistake)?;

    fs::create_dir_all(out).map_err(|error| Failure::file(out, "make", &error))?;
    let files = [
        ("machine.toml", 0o600, document.as_str()),
        ("ca.pem", 0o644, identity.ca.as_str()),
        ("client.pem", 0o644, identity.client_certificate.as_str()),
        ("client.key", 0o600, identity.client_key.as_str()),
    ];
    write_all(out, &files)?;
    let lines: Vec<String> = files.iter().map(|(file, _, _)| out.join(file).display().to_string()).collect();
    output::print(&lines.join("\n"))
}

/// Writes all files or none, and over none that is there.
fn write_all(folder: &Path, files: &[(&str, u32, &str)]) -> Result<(), Failure> {
    for (name, _, _) in files {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(Failure::mistake(format!(
                "{} is already there; give another folder with --out, or remove it",
                path.display()
            )));
        }
    }
    for (done, (name, mode, text)) in files.iter().enumerate() {
        let path = folder.join(name);
        let mut options = fs::OpenOptions::new();
        let written = options
            .write(true)
            .create_new(true)
            .mode(*mode)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        if let Err(error) = written {
            for (name, _, _) in &files[..=done] {
                let _ = fs::remove_file(folder.join(name));
            }
            return Err(Failure::file(&path, "write", &error));
        }
    }
    Ok(())
}
