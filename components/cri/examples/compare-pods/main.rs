//! What pods cost, with this runtime and with another, taking turns on one machine.
//!
//! As root, with both daemons running and the images at a registry that both reach:
//!
//!     cargo run --release -p cairn-cri --example compare-pods -- life OURS THEIRS IMAGE [ROUNDS]
//!     cargo run --release -p cairn-cri --example compare-pods -- pull OURS THEIRS IMAGE [ROUNDS]
//!     cargo run --release -p cairn-cri --example compare-pods -- pods OURS THEIRS IMAGE [PODS]
//!
//! `OURS` and `THEIRS` are the runtimes' sockets. `life` takes one pod with one container from run to removed; `pull`
//! fetches and unpacks an image that neither has; `pods` starts many pods with a container each at once, and weighs daemon
//! and shims while they run. The image of `life` and `pods` must have `sleep` and `true`.
#![allow(clippy::print_stdout)] // The figures.

mod client;
mod memory;

use client::Runtime;
use futures::future::try_join_all;
use std::{
    error::Error,
    time::{Duration, Instant},
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, ours, theirs, image, rest @ ..] = &arguments[..] else {
        return Err("usage: compare-pods life|pull|pods OUR_SOCKET THEIR_SOCKET IMAGE [COUNT]".into());
    };
    let count = |default| rest.first().map_or(Ok(default), |text| text.parse::<usize>());
    let sides = [Runtime::connect("ours", ours).await?, Runtime::connect("theirs", theirs).await?];
    match what.as_str() {
        "life" => life(&sides, image, count(20)?).await,
        "pull" => pull(&sides, image, count(5)?).await,
        "pods" => pods(&sides, image, count(100)?).await,
        other => Err(format!("`{other}` is none of life, pull and pods").into()),
    }
}

/// Medians of the steps of a pod's life. The first round, which loads what is cold, does not count.
async fn life(sides: &[Runtime], image: &str, rounds: usize) -> Outcome<()> {
    let mut steps: Vec<Vec<[Duration; client::STEPS.len()]>> = vec![Vec::new(); sides.len()];
    for side in sides {
        side.pull(image).await?;
    }
    for round in 0..=rounds {
        for (side, taken) in sides.iter().zip(&mut steps) {
            let step = side.life(image, &format!("round-{round}")).await?;
            if round > 0 {
                taken.push(step);
            }
        }
    }
    println!("one pod, one container: medians of {rounds} rounds, milliseconds");
    print!("{:8}", "");
    for name in client::STEPS {
        print!("{name:>9}");
    }
    println!("{:>9}", "all");
    for (side, taken) in sides.iter().zip(&steps) {
        print!("{:8}", side.name);
        for index in 0..client::STEPS.len() {
            print!("{:9.1}", milliseconds(median(taken.iter().map(|steps| steps[index]))));
        }
        println!("{:9.1}", milliseconds(median(taken.iter().map(|steps| steps.iter().sum()))));
    }
    Ok(())
}

/// The time of a pull into an empty store, unpacking included.
async fn pull(sides: &[Runtime], image: &str, rounds: usize) -> Outcome<()> {
    let mut taken = vec![Vec::new(); sides.len()];
    for round in 0..=rounds {
        for (side, taken) in sides.iter().zip(&mut taken) {
            side.forget(image).await?;
            let start = Instant::now();
            side.pull(image).await?;
            if round > 0 {
                taken.push(start.elapsed());
            }
            side.forget(image).await?;
        }
    }
    println!("pull and unpack: median, least and most of {rounds} rounds, seconds");
    for (side, taken) in sides.iter().zip(&taken) {
        let seconds = |time: Option<&Duration>| time.copied().unwrap_or_default().as_secs_f64();
        println!(
            "{:8}{:9.2}{:9.2}{:9.2}",
            side.name,
            median(taken.iter().copied()).as_secs_f64(),
            seconds(taken.iter().min()),
            seconds(taken.iter().max())
        );
    }
    Ok(())
}

/// Many pods at once: how long until all run, what daemon and shims weigh, how long until all are gone.
async fn pods(sides: &[Runtime], image: &str, count: usize) -> Outcome<()> {
    println!("{count} pods with a container each, all asked for at once; MiB are resident (proportional)");
    for side in sides {
        side.pull(image).await?;
        let idle = memory::of_process(side.daemon)?;
        let names: Vec<String> = (0..count).map(|index| format!("many-{index}")).collect();
        let start = Instant::now();
        let running = try_join_all(names.iter().map(|name| side.start(image, name))).await?;
        let up = start.elapsed();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let daemon = memory::of_process(side.daemon)?;
        let helpers = memory::of_helpers(side.daemon)?;
        let start = Instant::now();
        try_join_all(running.iter().map(|pod| side.remove(pod))).await?;
        let down = start.elapsed();
        println!(
            "{:8} up {:6.2} s, down {:6.2} s; daemon before {:.1} ({:.1}), with the pods {:.1} ({:.1}); \
             {} helpers, each {:.1} ({:.2}); all {:.1} ({:.1})",
            side.name,
            up.as_secs_f64(),
            down.as_secs_f64(),
            idle.resident,
            idle.proportional,
            daemon.resident,
            daemon.proportional,
            helpers.count,
            helpers.sum.resident / helpers.count.max(1) as f64,
            helpers.sum.proportional / helpers.count.max(1) as f64,
            daemon.resident + helpers.sum.resident,
            daemon.proportional + helpers.sum.proportional,
        );
    }
    Ok(())
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
