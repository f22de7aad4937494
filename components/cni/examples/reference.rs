//! Compares with the reference plugins, as the test of that name does, where there is no Cargo: in a booted image.
//!
//! `CAIRN_CNI_PROGRAM=… CAIRN_CNI_REFERENCE=… reference [WORD…]` as root; with words, only cases whose title has one of
//! them. One line a case; status 1 if any differs. `--wait` does nothing, for ever: for a container that others run it in. It wants `ip`; `tc`, `bridge` and `nft` show more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // It shares the helpers of tests.

#[path = "../tests/comparison/mod.rs"]
mod comparison;
#[path = "../tests/lab/mod.rs"]
mod lab;

use comparison::Outcome;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["--wait"] {
        loop {
            std::thread::park();
        }
    }
    let ready = lab::missing().map_or(Ok(()), |reason| Err(reason.to_owned()));
    let reference = match ready.and_then(|()| comparison::reference()) {
        Ok(reference) => reference,
        Err(why) => {
            eprintln!("cannot compare: {why}");
            return ExitCode::from(3);
        }
    };
    let mut cases = comparison::cases();
    let wanted = |title: &str| words.is_empty() || words.iter().any(|word| title.contains(word.as_str()));
    cases.retain(|case| wanted(&comparison::title(case)));
    let mut status = ExitCode::SUCCESS;
    for (case, outcome) in cases.iter().zip(comparison::compare(&cases, &reference)) {
        let title = comparison::title(case);
        match outcome {
            Outcome::Equal => println!("equal: {title}"),
            Outcome::Skipped(reason) => println!("skipped: {title}: {reason}"),
            Outcome::Different(difference) => {
                println!("different: {title}, {difference}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
