//! What ADD and DEL of `bridge` with `host-local` cost, here and with the reference plugins, taking turns.
//!
//! `cargo run --release -p cairn-cni --example compare -- OUR_DIRECTORY THEIR_DIRECTORY [ROUNDS]` as root; the first
//! directory is what `cairn-cni install` made, the second `/usr/lib/cni`. It makes network namespaces of its own.
#![allow(unsafe_code)] // wait4 tells what a child used, and is in no safe crate we have.
#![allow(clippy::print_stdout)] // The figures.

use std::{
    error::Error,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What runs of a plugin used.
#[derive(Default)]
struct Cost {
    wall: Vec<Duration>,
    cpu: Vec<Duration>,
    memory_kib: Vec<i64>,
}

impl Cost {
    fn line(&mut self) -> String {
        fn median<T: Ord + Copy>(values: &mut [T]) -> Option<T> {
            values.sort();
            values.get(values.len() / 2).copied()
        }
        let ms = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1000.0;
        format!(
            "wall {:6.2} ms   cpu {:6.2} ms   peak memory {:6.1} MiB   (medians of {})",
            ms(median(&mut self.wall)),
            ms(median(&mut self.cpu)),
            median(&mut self.memory_kib).unwrap_or(0) as f64 / 1024.0,
            self.wall.len()
        )
    }
}

/// Runs a plugin in the host's namespace. `nsenter` becomes the plugin, so that is what is measured.
fn run(
    cost: &mut Cost,
    directory: &Path,
    command: &str,
    config: &str,
    host: &str,
) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let mut child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{host}"))
        .arg(directory.join("bridge"))
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "measured")
        .env("CNI_NETNS", format!("/run/netns/{host}-pod"))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(config.as_bytes())?;
    }
    let mut status = 0;
    // SAFETY: rusage is plain data for which all zeros is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right types; the child is ours and not yet waited for.
    let waited = unsafe { libc::wait4(child.id() as libc::pid_t, &raw mut status, 0, &raw mut usage) };
    if waited < 0 || status != 0 {
        return Err(format!("{}: {command} failed", directory.display()).into());
    }
    let time = |t: libc::timeval| Duration::from_micros(t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64);
    cost.wall.push(start.elapsed());
    cost.cpu.push(time(usage.ru_utime) + time(usage.ru_stime));
    cost.memory_kib.push(usage.ru_maxrss);
    Ok(())
}

fn ip(words: &str) -> Result<(), Box<dyn Error>> {
    let status = Command::new("ip").args(words.split(' ')).status()?;
    if status.success() { Ok(()) } else { Err(format!("ip {words} failed").into()) }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [ours, theirs, rest @ ..] = &arguments[..] else {
        return Err("usage: compare OUR_DIRECTORY THEIR_DIRECTORY [ROUNDS]".into());
    };
    let rounds: usize = rest.first().map_or(Ok(100), |text| text.parse())?;
    let sides = [("ours", ours), ("reference", theirs)];
    let hosts = [format!("cairn-a{}", std::process::id()), format!("cairn-b{}", std::process::id())];
    for host in &hosts {
        ip(&format!("netns add {host}"))?;
        ip(&format!("netns add {host}-pod"))?;
    }
    let outcome = measure(&sides, &hosts, rounds);
    for host in &hosts {
        ip(&format!("netns del {host}-pod"))?;
        ip(&format!("netns del {host}"))?;
        let _ = std::fs::remove_dir_all(format!("/run/{host}"));
    }
    outcome
}

fn measure(sides: &[(&str, &String)], hosts: &[String], rounds: usize) -> Result<(), Box<dyn Error>> {
    let mut costs: Vec<[Cost; 2]> = sides.iter().map(|_| Default::default()).collect();
    for _ in 0..rounds {
        for (((_, directory), host), [add, del]) in sides.iter().zip(hosts).zip(&mut costs) {
            let config = format!(
                r#"{{"cniVersion": "1.0.0", "name": "pods", "type": "bridge", "isDefaultGateway": true,
                    "ipam": {{"type": "host-local", "dataDir": "/run/{host}", "subnet": "10.61.0.0/16"}}}}"#
            );
            run(add, Path::new(directory), "ADD", &config, host)?;
            run(del, Path::new(directory), "DEL", &config, host)?;
        }
    }
    for ((name, _), [add, del]) in sides.iter().zip(&mut costs) {
        println!("{name:10} ADD  {}\n{name:10} DEL  {}", add.line(), del.line());
    }
    Ok(())
}
