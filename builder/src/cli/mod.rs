//! The command line: one file a subcommand. Each parses its arguments, calls the library and prints; none decides.
//!
//! Results go to standard output, everything else to standard error. The exit code tells a pipeline who has to
//! act: 1 the image or profile (checked and failed), 2 the user, 3 the machine.

mod console;
mod failure;
mod interrupt;
mod output;

pub use failure::Failure;

use clap::Parser;
use std::process::ExitCode;

/// Builds immutable Kubernetes worker-node images and proves that they work.
#[derive(Debug, Parser)]
#[command(
    name = "cairn",
    version,
    propagate_version = true,
    max_term_width = 100,
    arg_required_else_help = true
)]
struct Cairn {
    #[command(subcommand)]
    command: Command,
}

/// Declares the subcommands: for each its module, which has `Args` (with the help text) and
/// `run(Args) -> Result<(), Failure>`. A new one is one line here and one file.
macro_rules! subcommands {
    ($($variant:ident => $module:ident,)*) => {
        $(mod $module;)*

        #[derive(Debug, clap::Subcommand)]
        enum Command {
            $($variant($module::Args),)*
        }

        impl Command {
            fn run(self) -> Result<(), Failure> {
                match self {
                    $(Self::$variant(args) => $module::run(args),)*
                }
            }
        }
    };
}

subcommands! {
    Build => build,
    Test => test,
    Run => run,
    Inspect => inspect,
    Verify => verify,
    Lock => lock,
    Profile => profile,
    Machine => machine,
    Node => node,
}

/// An image that cannot be opened: who has to act.
fn image_failure(error: crate::image::artifact::OpenError) -> Failure {
    match error {
        error if error.is_damage() => Failure::checked(error),
        error if error.is_mistake() => Failure::mistake(error),
        error => Failure::machine(error),
    }
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let ended = Cairn::parse().command.run();
    interrupt::leave_the_end_to_a_signal();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cairn::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn walk(command: &clap::Command, path: &str, missing: &mut Vec<String>) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
            {
                let path = format!("{path} {}", sub.get_name());
                if sub.has_subcommands() {
                    walk(sub, &path, missing);
                } else if !sub
                    .get_after_help()
                    .is_some_and(|text| text.to_string().contains(path.trim_start()))
                {
                    missing.push(path);
                }
            }
        }
        let mut missing = Vec::new();
        walk(&Cairn::command(), "cairn", &mut missing);
        assert!(missing.is_empty(), "without an example in --help: {missing:?}");
    }
}
