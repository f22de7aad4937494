//! `cairn profile`

use super::{Failure, output};
use crate::profile::{self, Resolved};
use clap::Subcommand;
use serde_json::json;
use std::fmt::Write as _;

/// Show, check and document profiles.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a profile with all that it inherits.
    #[command(
        after_help = "Examples:\n  cairn profile show worker\n  cairn profile show worker --origin | grep sysctl"
    )]
    Show {
        #[command(flatten)]
        profile: Named,
        /// One key a line, with the file and line that set it.
        #[arg(long)]
        origin: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check that a profile fits together, without building anything. Exit code 1 if something fatal is found.
    #[command(after_help = "Example:\n  cairn profile check profiles/worker.toml")]
    Check {
        #[command(flatten)]
        profile: Named,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of profiles, for editors.
    #[command(after_help = "Example:\n  cairn profile schema > profile.schema.json")]
    Schema,
    /// Print the reference of all keys, docs/profile.md.
    #[command(hide = true)]
    Reference,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// A name, for profiles/<name>.toml, or the path of a profile.
    #[arg(value_name = "PROFILE")]
    profile: String,
}

impl Named {
    fn load(&self) -> Result<Resolved, Failure> {
        Ok(Resolved::load(&profile::locate(&self.profile))?)
    }
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::Show { profile, origin, json } => show(&profile.load()?, origin, json),
        Command::Check { profile, json } => check(&profile.load()?, json),
        Command::Schema => output::print_json(&profile::schema()),
        Command::Reference => output::print(&profile::reference()),
    }
}

fn show(resolved: &Resolved, origin: bool, json: bool) -> Result<(), Failure> {
    let unwritable = |error| Failure::machine(format!("cannot write the profile as TOML: {error}"));
    if !origin {
        return match json {
            true => output::print_json(&resolved.profile),
            false => output::print(&toml::to_string_pretty(&resolved.profile).map_err(unwritable)?),
        };
    }
    let keys = profile::flatten(resolved).map_err(unwritable)?;
    if json {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| json!({ "key": key.key(), "value": key.value, "origins": key.origins }))
            .collect();
        return output::print_json(&keys);
    }
    let mut text = String::new();
    for key in keys {
        let origins: Vec<String> = key.origins.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "{} = {}  # {}", key.key(), key.value, origins.join(", "));
    }
    output::print(&text)
}

fn check(resolved: &Resolved, json: bool) -> Result<(), Failure> {
    let report = profile::check_profile(resolved);
    let name = &resolved.profile.name;
    if json {
        output::print_json(&json!({
            "profile": name,
            "checks": report.checks,
            "fatal": report.fatal(),
            "warnings": report.warnings(),
            "findings": report.findings,
        }))?;
    } else {
        let mut text: String = report.findings.iter().map(|finding| format!("{finding}\n")).collect();
        let _ = writeln!(
            text,
            "{name}: {} checks, {} fatal, {} warnings",
            report.checks,
            report.fatal(),
            report.warnings()
        );
        output::print(&text)?;
    }
    match report.fatal() {
        0 => Ok(()),
        count => Err(Failure::checked(format!("profile {name} does not fit together: {count} fatal"))),
    }
}
