//! Applets that print, wait or exit.

use super::{DONE, Failure, Options, Outcome, number, seconds};
use std::{
    io::{self, Write},
    process::ExitCode,
    thread,
    time::Duration,
};

pub(super) fn print(words: &[&str]) -> Outcome {
    let options = Options::parse(words, &["every"], &["stderr"])?;
    let [lines] = options.words()?;
    let lines: u64 = number("LINES", lines)?;
    let pause = options.value::<u64>("every")?.map(Duration::from_millis);
    let mut out: Box<dyn Write> =
        if options.flag("stderr") { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
    for line in 1..=lines {
        writeln!(out, "line {line} of {lines}")
            .and_then(|()| out.flush())
            .map_err(|e| Failure::os("writing", &e))?;
        if let Some(pause) = pause.filter(|_| line < lines) {
            thread::sleep(pause);
        }
    }
    DONE
}

pub(super) fn echo(words: &[&str]) -> Outcome {
    println!("{}", words.join(" "));
    DONE
}

pub(super) fn env(words: &[&str]) -> Outcome {
    Options::parse(words, &[], &[])?.words::<0>()?;
    let mut variables: Vec<_> = std::env::vars_os().collect();
    variables.sort();
    for (name, value) in variables {
        println!("{}={}", name.to_string_lossy(), value.to_string_lossy());
    }
    DONE
}

pub(super) fn sleep(words: &[&str]) -> Outcome {
    let [time] = Options::parse(words, &[], &[])?.words()?;
    thread::sleep(seconds(number("SECONDS", time)?)?);
    DONE
}

pub(super) fn exit(words: &[&str]) -> Outcome {
    let [code] = Options::parse(words, &[], &[])?.words()?;
    Ok(ExitCode::from(number::<u8>("CODE", code)?))
}
