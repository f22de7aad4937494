//! Fuzzing with any toolchain: inputs are made, mutated and tried for so many seconds, without coverage. What they led to
//! guides it instead: an input that led to something new is kept and mutated further.

use crate::random::{Random, mutate};
use std::{
    collections::HashSet,
    io::Write,
    panic::catch_unwind,
    process::ExitCode,
    time::{Duration, Instant, UNIX_EPOCH},
};

/// Inputs kept of each target.
const CORPUS_LIMIT: usize = 512;
/// Runs of a target before it is the next one's turn.
const TURN: usize = 200;
/// Processor time after which a run counts as endless.
const PATIENCE: Duration = Duration::from_secs(20);

/// Something to be fuzzed.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Makes an input, well-formed or nearly so.
    pub input: fn(&mut Random) -> Vec<u8>,
    /// Panics when something does not hold; otherwise a number of what happened.
    pub check: fn(&[u8]) -> u64,
    /// The longest input.
    pub limit: usize,
}

/// What is kept of a target's runs.
#[derive(Default)]
struct Kept {
    corpus: Vec<Vec<u8>>,
    seen: HashSet<u64>,
    runs: u64,
    slowest: Duration,
}

/// Does what the command line says: `[TARGET] SECONDS [SEED]`, or `seeds` to write inputs to `seeds-<target>`, for fuzzers
/// that are guided by coverage to start from, or `TARGET FILE` to try one input. An input that breaks something is written to `crash-<target>`.
pub fn main(targets: &[Target]) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut words = words.iter().map(String::as_str).peekable();
    let chosen = words.peek().and_then(|word| targets.iter().find(|target| target.name == *word));
    let targets = chosen.map_or(targets, std::slice::from_ref);
    if chosen.is_some() {
        words.next();
    }
    let seconds = words.next().unwrap_or("60");
    let seed = words.next().and_then(|word| word.parse().ok());
    let mut random =
        Random::new(seed.unwrap_or_else(|| UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64)));
    match (seconds, seconds.parse()) {
        ("seeds", _) => write_seeds(targets, &mut random),
        (_, Ok(seconds)) => run(targets, seconds, &mut random),
        (path, Err(_)) if chosen.is_some() => match std::fs::read(path) {
            Ok(bytes) => try_one(&targets[0], &bytes),
            Err(error) => usage(&format!("{path}: {error}")),
        },
        (word, Err(_)) => usage(&format!("there is no target `{word}`")),
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("{problem}\nusage: [TARGET] SECONDS [SEED] | seeds | TARGET FILE");
    ExitCode::from(2)
}

fn try_one(target: &Target, bytes: &[u8]) -> ExitCode {
    println!("{}: outcome {:016x}", target.name, (target.check)(bytes));
    ExitCode::SUCCESS
}

fn write_seeds(targets: &[Target], random: &mut Random) -> ExitCode {
    for target in targets {
        let folder = format!("seeds-{}", target.name);
        let written = std::fs::create_dir_all(&folder).and_then(|()| {
            (0..200)
                .try_for_each(|number| std::fs::write(format!("{folder}/{number}"), (target.input)(random)))
        });
        if let Err(error) = written {
            eprintln!("{folder}: {error}");
            return ExitCode::from(3);
        }
    }
    ExitCode::SUCCESS
}

fn run(targets: &[Target], seconds: u64, random: &mut Random) -> ExitCode {
    println!("{seconds} s, seed {}", random.seed());
    let mut kept: Vec<Kept> = targets.iter().map(|_| Kept::default()).collect();
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut said = Instant::now();
    while Instant::now() < until {
        for (target, kept) in targets.iter().zip(&mut kept) {
            for _ in 0..TURN {
                if !kept.one(target, random) {
                    return ExitCode::FAILURE;
                }
                if Instant::now() >= until {
                    break;
                }
            }
        }
        if said.elapsed() > Duration::from_secs(60) {
            said = Instant::now();
            report("so far", targets, &kept);
        }
    }
    report("clean", targets, &kept);
    ExitCode::SUCCESS
}

fn report(word: &str, targets: &[Target], kept: &[Kept]) {
    for (target, kept) in targets.iter().zip(kept) {
        println!(
            "{word}: {}: {} runs, {} outcomes, slowest {} ms",
            target.name,
            kept.runs,
            kept.seen.len(),
            kept.slowest.as_millis()
        );
    }
    let _ = std::io::stdout().flush();
}

impl Kept {
    /// One input; false when it broke something.
    fn one(&mut self, target: &Target, random: &mut Random) -> bool {
        let mut bytes = match self.corpus.is_empty() || random.below(4) == 0 {
            true => (target.input)(random),
            false => random.one(&self.corpus).clone(),
        };
        let other = (target.input)(random);
        mutate(random, &mut bytes, &other);
        bytes.truncate(target.limit);
        let begin = processor_time();
        let outcome = catch_unwind(|| (target.check)(&bytes)).ok();
        let took = processor_time().saturating_sub(begin);
        self.runs += 1;
        self.slowest = self.slowest.max(took);
        let Some(outcome) = outcome.filter(|_| took < PATIENCE) else {
            let path = format!("crash-{}", target.name);
            let written = std::fs::write(&path, &bytes);
            let (name, runs) = (target.name, self.runs);
            eprintln!(
                "{name} broke after {runs} runs and {} ms; the input: {path} ({written:?})",
                took.as_millis()
            );
            return false;
        };
        if self.seen.insert(outcome) {
            // Mutation may have made it longer by far than it is now.
            bytes.shrink_to_fit();
            match self.corpus.len() >= CORPUS_LIMIT {
                true => {
                    let at = random.below(self.corpus.len());
                    self.corpus[at] = bytes;
                }
                false => self.corpus.push(bytes),
            }
        }
        true
    }
}

/// What this thread has used of a processor: a busy machine makes nothing slow.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
