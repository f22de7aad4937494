//! What ADD and DEL of `bridge` with `host-local` cost, here and with reference plugins, taking turns.
//!
//! `cargo run --release -p cairn-cni --example compare -- ROUNDS OUR_DIRECTORY THEIR_DIRECTORY…` as root; the first
//! directory is what `cairn-cni install` made, the others hold reference plugins. It makes network namespaces of its
//! own.
//!
//! Wall and CPU time are those of the plugin and the processes it starts, and of nothing else: the namespace is
//! entered before the plugin is started. Memory is looked at in runs of its own, when each of these processes exits
//! (`VmHWM` in proc_pid_status(5)): what `wait4` tells of memory includes that of the starting program.
#![allow(unsafe_code)] // wait4 and ptrace are in no safe crate we have.
#![allow(clippy::print_stdout)] // The figures.

use cairn_cni::netns::NetNs;
use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Memory does not vary from run to run.
const MEMORY_ROUNDS: usize = 5;

const COMMANDS: [&str; 2] = ["ADD", "DEL"];

/// What runs of a plugin used.
#[derive(Default)]
struct Cost {
    wall: Vec<Duration>,
    cpu: Vec<Duration>,
    /// Of all processes of a run together, in KiB.
    memory: Vec<u64>,
}

/// A directory of plugins, and a host with one pod for them.
struct Side {
    plugins: PathBuf,
    host: String,
    costs: [Cost; 2],
}

fn median<T: Ord + Copy + Default>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

impl Side {
    fn new(number: usize, plugins: &str) -> Outcome<Self> {
        let host = format!("cairn-{}-{number}", std::process::id());
        ip(&format!("netns add {host}"))?;
        ip(&format!("netns add {host}-pod"))?;
        Ok(Self { plugins: fs::canonicalize(plugins)?, host, costs: Default::default() })
    }

    fn command(&self, command: &str) -> Command {
        let mut plugin = Command::new(self.plugins.join("bridge"));
        plugin
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "measured")
            .env("CNI_NETNS", format!("/run/netns/{}-pod", self.host))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.plugins)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        plugin
    }

    /// Starts it on its host and gives it its configuration.
    fn start(&self, mut plugin: Command) -> Outcome<Child> {
        let config = format!(
            r#"{{"cniVersion": "1.0.0", "name": "pods", "type": "bridge", "isDefaultGateway": true,
                "ipam": {{"type": "host-local", "dataDir": "/run/{}", "subnet": "10.61.0.0/16"}}}}"#,
            self.host
        );
        let host = NetNs::open(&Path::new("/run/netns").join(&self.host))?;
        let mut child = host.enter(|| Ok(plugin.spawn()))??;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(config.as_bytes())?;
        }
        Ok(child)
    }

    fn measure_time(&mut self) -> Outcome<()> {
        for (at, name) in COMMANDS.iter().enumerate() {
            let plugin = self.command(name);
            let start = Instant::now();
            let child = self.start(plugin)?;
            let mut cpu = Duration::ZERO;
            let status = wait(child.id() as libc::pid_t, &mut cpu)?;
            self.costs[at].wall.push(start.elapsed());
            // A process that it leaves behind is ours now, and what that one used counts, too.
            while wait(-1, &mut cpu).is_ok() {}
            self.costs[at].cpu.push(cpu);
            self.must_have_worked(name, status)?;
        }
        Ok(())
    }

    fn measure_memory(&mut self) -> Outcome<()> {
        for (at, name) in COMMANDS.iter().enumerate() {
            let mut plugin = self.command(name);
            // SAFETY: ptrace(TRACEME) is a plain system call, as is allowed between fork and exec.
            unsafe {
                plugin.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                });
            }
            let child = self.start(plugin)?;
            let (status, peaks) = trace(child.id() as libc::pid_t)?;
            self.costs[at].memory.push(peaks.values().sum());
            self.must_have_worked(name, status)?;
        }
        Ok(())
    }

    fn must_have_worked(&self, command: &str, status: libc::c_int) -> Outcome<()> {
        if status == 0 {
            return Ok(());
        }
        Err(format!("{}: {command} failed with status {status:#x}", self.plugins.display()).into())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        for namespace in [format!("{}-pod", self.host), self.host.clone()] {
            let _ = ip(&format!("netns del {namespace}"));
        }
        let _ = fs::remove_dir_all(format!("/run/{}", self.host));
    }
}

/// Waits for a child; its status.
fn wait(pid: libc::pid_t, cpu: &mut Duration) -> io::Result<libc::c_int> {
    let mut status = 0;
    // SAFETY: rusage is plain data for which all zeros is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right types; the child is ours and not yet waited for.
    if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let time = |t: libc::timeval| Duration::from_micros(t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64);
    *cpu += time(usage.ru_utime) + time(usage.ru_stime);
    Ok(status)
}

/// Follows a child that asked to be traced, and all that it starts, to their ends. Its status, and each process's
/// largest memory in KiB.
fn trace(root: libc::pid_t) -> io::Result<(libc::c_int, BTreeMap<String, u64>)> {
    const OPTIONS: libc::c_int = libc::PTRACE_O_TRACEEXIT
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEEXEC;
    let mut peaks = BTreeMap::new();
    let mut root_status = None;
    let mut options_set = false;
    loop {
        let mut status = 0;
        // SAFETY: the pointer is to a live value of the right type.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
        if pid < 0 {
            let error = io::Error::last_os_error();
            return match root_status {
                Some(status) if error.raw_os_error() == Some(libc::ECHILD) => Ok((status, peaks)),
                _ => Err(error),
            };
        }
        if !libc::WIFSTOPPED(status) {
            if pid == root {
                root_status = Some(status);
            }
            continue;
        }
        if !options_set {
            options_set = true;
            // SAFETY: plain system call on a stopped child of ours.
            unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, OPTIONS) };
        }
        let event = status >> 16;
        if event == libc::PTRACE_EVENT_EXIT
            && let Some((process, peak)) = peak(pid)
        {
            let largest = peaks.entry(process).or_insert(0);
            *largest = peak.max(*largest);
        }
        let signal = match libc::WSTOPSIG(status) {
            // The stops that tracing itself makes.
            libc::SIGTRAP | libc::SIGSTOP => 0,
            other => other,
        };
        // SAFETY: plain system call on a stopped child of ours.
        unsafe { libc::ptrace(libc::PTRACE_CONT, pid, 0, signal) };
    }
}

/// The process that a thread is of, and its largest memory in KiB.
fn peak(thread: libc::pid_t) -> Option<(String, u64)> {
    let text = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let kib = field("VmHWM:")?.strip_suffix("kB")?.trim().parse().ok()?;
    Some((field("Tgid:")?.to_owned(), kib))
}

fn ip(words: &str) -> Outcome<()> {
    let status = Command::new("ip").args(words.split(' ')).status()?;
    if status.success() { Ok(()) } else { Err(format!("ip {words} failed").into()) }
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rounds, directories @ ..] = &arguments[..] else {
        return Err("usage: compare ROUNDS OUR_DIRECTORY THEIR_DIRECTORY…".into());
    };
    let rounds: usize = rounds.parse()?;
    // SAFETY: plain system call about this process.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } < 0 {
        return Err(io::Error::last_os_error().into());
    }
    let mut sides =
        directories.iter().enumerate().map(|(n, path)| Side::new(n, path)).collect::<Outcome<Vec<_>>>()?;
    for _ in 0..rounds {
        sides.iter_mut().try_for_each(Side::measure_time)?;
    }
    for _ in 0..MEMORY_ROUNDS {
        sides.iter_mut().try_for_each(Side::measure_memory)?;
    }
    println!("medians of {rounds}; in brackets: ours as a part of theirs");
    let ours = sides[0].costs.each_ref().map(figures);
    for side in &sides {
        for ((name, cost), ours) in COMMANDS.iter().zip(&side.costs).zip(ours) {
            let part = figures(cost)
                .iter()
                .zip(ours)
                .map(|(theirs, ours)| ours / theirs * 100.0)
                .collect::<Vec<_>>();
            let [wall, cpu, memory] = figures(cost);
            println!(
                "{:45} {name}  wall {wall:6.2} ms ({:3.0} %)   cpu {cpu:6.2} ms ({:3.0} %)   memory {memory:5.2} MiB ({:3.0} %)",
                side.plugins.display(),
                part[0],
                part[1],
                part[2]
            );
        }
    }
    Ok(())
}

/// Milliseconds of wall and CPU time, MiB of memory.
fn figures(cost: &Cost) -> [f64; 3] {
    let ms = |times: &[Duration]| median(times).as_secs_f64() * 1000.0;
    [ms(&cost.wall), ms(&cost.cpu), median(&cost.memory) as f64 / 1024.0]
}
