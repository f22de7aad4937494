//! `cairn-cni`: the plugin named by the link it was started through, or by its first argument.

use cairn_cni::{
    dhcp::daemon::{self, arguments},
    plugin::{self, Plugin},
};
use std::{path::Path, process::ExitCode};

const USAGE: &str =
    "usage: cairn-cni PLUGIN          run a CNI plugin: parameters in CNI_*, configuration on stdin
       cairn-cni install DIR     make DIR/PLUGIN links to this program, one per plugin
       cairn-cni dhcp daemon     keep the leases of the plugin dhcp
       PLUGIN                    the same as `cairn-cni PLUGIN`, through such a link
";

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [called_as, words @ ..] = &words[..] else { return usage(2) };
    let link = Path::new(called_as).file_name().and_then(|name| name.to_str()).and_then(Plugin::by_name);
    match (link, words) {
        (Some(Plugin::Dhcp), ["daemon", flags @ ..]) | (None, ["dhcp", "daemon", flags @ ..]) => {
            dhcp_daemon(flags)
        }
        (Some(plugin), _) => plugin::main(plugin),
        (None, ["install", directory]) => match cairn_cni::install::install(Path::new(directory)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cairn-cni install: {error}");
                ExitCode::from(3)
            }
        },
        (None, ["--help" | "-h"]) => usage(0),
        (None, [name]) => match Plugin::by_name(name) {
            Some(plugin) => plugin::main(plugin),
            None => {
                eprintln!("cairn-cni: no plugin `{name}`");
                usage(2)
            }
        },
        (None, _) => usage(2),
    }
}

fn dhcp_daemon(flags: &[&str]) -> ExitCode {
    let arguments = match arguments::Arguments::parse(flags.iter().copied()) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("cairn-cni dhcp daemon: {error}\nusage: cairn-cni dhcp daemon {}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    match daemon::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cairn-cni dhcp daemon: {error}");
            ExitCode::from(3)
        }
    }
}

fn usage(status: u8) -> ExitCode {
    eprintln!("{USAGE}plugins: {}", Plugin::ALL.map(Plugin::name).join(" "));
    ExitCode::from(status)
}
