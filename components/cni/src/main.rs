//! `cairn-cni`: the plugin named by the link it was started through, or by its first argument.

use cairn_cni::plugin::{self, Plugin};
use std::{ffi::OsString, path::Path, process::ExitCode};

const USAGE: &str =
    "usage: cairn-cni PLUGIN          run a CNI plugin: parameters in CNI_*, configuration on stdin
       cairn-cni install DIR     make DIR/PLUGIN links to this program, one per plugin
       PLUGIN                    the same as `cairn-cni PLUGIN`, through such a link
";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called_as = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(plugin) = Path::new(&called_as).file_name().and_then(|n| n.to_str()).and_then(Plugin::by_name)
    {
        return plugin::main(plugin);
    }
    let words: Vec<&str> = arguments.iter().filter_map(|a| a.to_str()).collect();
    match words[..] {
        ["install", directory] => match cairn_cni::install::install(Path::new(directory)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cairn-cni install: {error}");
                ExitCode::from(3)
            }
        },
        ["--help" | "-h"] => {
            usage();
            ExitCode::SUCCESS
        }
        [name] => match Plugin::by_name(name) {
            Some(plugin) => plugin::main(plugin),
            None => {
                eprintln!("cairn-cni: no plugin `{name}`");
                usage();
                ExitCode::from(2)
            }
        },
        _ => {
            usage();
            ExitCode::from(2)
        }
    }
}

fn usage() {
    eprintln!("{USAGE}plugins: {}", Plugin::ALL.map(Plugin::name).join(" "));
}
