//! Every applet, run as a program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // Tests, helpers included.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const PROBE: &str = env!("CARGO_BIN_EXE_cairn-probe");

fn run(words: &[&str]) -> Output {
    Command::new(PROBE).args(words).stdin(Stdio::null()).output().unwrap()
}

fn out(words: &[&str]) -> String {
    let output = run(words);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Exit status and stderr.
fn failure(words: &[&str]) -> (i32, String) {
    let output = run(words);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn json(words: &[&str]) -> serde_json::Value {
    serde_json::from_str(&out(words)).unwrap()
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that has said `ready`, and its port, free for TCP a moment ago.
fn serve(words: &[&str]) -> (Killed, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let words: Vec<&str> = words.iter().map(|w| if *w == "PORT" { port.as_str() } else { w }).collect();
    let mut child = Command::new(PROBE).arg("serve").args(words).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (Killed(child), port)
}

#[test]
fn help_and_wrong_usage() {
    let help = out(&["--help"]);
    for applet in ["pause", "serve", "dial", "ping", "http", "hog", "syscall", "ifconfig", "resolve"] {
        assert!(help.contains(&format!("\n  {applet} ")), "{applet}");
    }
    assert!(out(&["dial", "--help"]).contains("usage: cairn-probe dial tcp|udp"));
    for words in [
        &["nothing"][..],
        &["exit"],
        &["exit", "256"],
        &["print", "x"],
        &["ls", "--all"],
        &["http", "put", "x"],
    ] {
        let (code, text) = failure(words);
        assert!(code == 2 && !text.is_empty(), "{words:?}: {code} {text}");
    }
}

#[test]
fn a_link_names_the_applet() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("echo");
    std::os::unix::fs::symlink(PROBE, &link).unwrap();
    assert_eq!(Command::new(link).args(["a", "b"]).output().unwrap().stdout, b"a b\n");
}

#[test]
fn pause_ends_on_sigterm() {
    for words in [&[][..], &["pause"]] {
        let mut child = Killed(Command::new(PROBE).args(words).stdin(Stdio::null()).spawn().unwrap());
        std::thread::sleep(Duration::from_millis(200));
        assert!(child.0.try_wait().unwrap().is_none());
        assert!(Command::new("kill").arg(child.0.id().to_string()).status().unwrap().success());
        assert!(child.0.wait().unwrap().success());
    }
}

#[test]
fn echo_servers_are_dialled_over_both_families() {
    let (_server, port) = serve(&["--tcp", "PORT", "--udp", "PORT"]);
    for protocol in ["tcp", "udp"] {
        for address in ["127.0.0.1", "::1"] {
            let text = out(&["dial", protocol, address, &port, "hello"]);
            assert!(text.ends_with(" ms\n"), "{text}");
        }
    }
}

#[test]
fn dialling_nobody_says_why() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    for protocol in ["tcp", "udp"] {
        let (code, text) = failure(&["dial", protocol, "127.0.0.1", &port, "x", "--timeout", "1"]);
        assert!(code == 1 && text.contains("ECONNREFUSED"), "{text}");
    }
    // A socket that listens and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let (code, text) = failure(&["dial", "tcp", "127.0.0.1", &port, "x", "--timeout", "0.3"]);
    assert!(code == 1 && text.contains("ETIMEDOUT"), "{text}");
}

#[test]
fn the_web_server_and_client_meet() {
    let (_server, port) = serve(&["--tcp", "PORT", "--http"]);
    let text = out(&["http", "get", &format!("http://127.0.0.1:{port}/some/path")]);
    assert!(text.starts_with("200\nhost ") && text.contains("\npath /some/path\n"), "{text}");
    assert!(out(&["http", "get", &format!("http://localhost:{port}")]).starts_with("200\n"));
    let mut post = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    post.write_all(b"POST / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    post.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

#[test]
fn ping_answers_over_both_families() {
    for address in ["127.0.0.1", "::1"] {
        let output = run(&["ping", address]);
        let error = String::from_utf8_lossy(&output.stderr);
        if error.contains("EPERM") || error.contains("EACCES") {
            println!("skipped: neither ping sockets nor raw ones are allowed here");
            return;
        }
        assert!(output.status.success() && output.stdout.ends_with(b" ms\n"), "{error}");
    }
    // Refused before anything is sent.
    let (code, text) = failure(&["ping", "255.255.255.255", "--timeout", "0.3"]);
    assert!(code == 1 && text.starts_with("ping: EACCES"), "{text}");
}

#[test]
fn names_in_the_hosts_file_resolve() {
    assert!(out(&["resolve", "localhost"]).contains("127.0.0.1\n"));
    assert_eq!(out(&["resolve", "fd00::1"]), "fd00::1\n");
}

#[test]
fn ifconfig_shows_the_loopback_interface() {
    let all = json(&["ifconfig"]);
    let lo = all["interfaces"].as_array().unwrap().iter().find(|i| i["name"] == "lo").unwrap();
    assert!(lo["mtu"].as_u64().unwrap() > 1000);
    assert!(all["routes"].is_array());
    if lo["up"] == true {
        assert!(lo["addresses"].as_array().unwrap().contains(&"127.0.0.1/8".into()), "{lo}");
    }
}

#[test]
fn print_numbers_its_lines_and_takes_its_time() {
    let start = Instant::now();
    assert_eq!(out(&["print", "3", "--every", "50"]), "line 1 of 3\nline 2 of 3\nline 3 of 3\n");
    assert!(start.elapsed() >= Duration::from_millis(100));
    let output = run(&["print", "1", "--stderr"]);
    assert!(output.stdout.is_empty() && output.stderr == b"line 1 of 1\n");
}

#[test]
fn small_ones() {
    assert_eq!(out(&["echo", "a", "b c"]), "a b c\n");
    assert_eq!(run(&["exit", "37"]).status.code(), Some(37));
    assert_eq!(
        out(&["hostname"]).trim(),
        std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim()
    );
    let start = Instant::now();
    out(&["sleep", "0.1"]);
    assert!(start.elapsed() >= Duration::from_millis(100));
    let output = Command::new(PROBE).arg("env").env_clear().env("B", "2").env("A", "1").output().unwrap();
    assert_eq!(output.stdout, b"A=1\nB=2\n");
}

#[test]
fn files_are_written_listed_read_and_hashed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("f").display().to_string();
    out(&["write", &file, "first"]);
    out(&["write", &file, "abc"]);
    assert_eq!(out(&["cat", &file]), "abc");
    let hash = out(&["sha256", &file]);
    assert!(hash.starts_with("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad "), "{hash}");
    let listing = out(&["ls", &directory.path().display().to_string()]);
    assert!(listing.starts_with("100") && listing.ends_with(" 3 f\n"), "{listing}");
    for (words, name) in [
        (&["cat", "/nonexistent"][..], "ENOENT"),
        (&["ls", "/nonexistent"], "ENOENT"),
        (&["sha256", "/"], "EISDIR"),
        (&["write", "/proc/version", "x"], "E"),
        (&["write", "/nonexistent/f", "x"], "ENOENT"),
    ] {
        let (code, text) = failure(words);
        assert!(code == 1 && text.contains(&format!("{}: {name}", words[0])), "{words:?}: {text}");
    }
}

#[test]
fn directories_are_made_and_files_filled() {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("a/b");
    out(&["mkdir", &made.display().to_string()]);
    out(&["mkdir", &made.display().to_string()]);
    let file = made.join("f").display().to_string();
    assert_eq!(out(&["fill", &file, "150000", "--every", "1"]), "150000\n");
    let content = std::fs::read(&file).unwrap();
    assert_eq!(content.len(), 150_000);
    assert_ne!(content[..65_536], content[65_536..131_072]);
    assert_eq!(out(&["fill", &file, "1K"]), "1024\n");
    assert_eq!(run(&["head", &file, "16"]).stdout, content[..16]);
    assert_eq!(run(&["head", &file, "1G"]).stdout, content[..1024]);
    out(&["sync"]);
    let (code, text) = failure(&["fill", "/dev/full", "100K"]);
    assert!(code == 1 && text.contains("ENOSPC: /dev/full: after 0 bytes"), "{text}");
    assert!(failure(&["mkdir", "/proc/x"]).0 == 1 && failure(&["fill", &file, "1T"]).0 == 2);
}

#[test]
fn mounts_are_shown_as_they_are_and_as_json() {
    assert_eq!(out(&["mounts"]).lines().count(), json(&["mounts", "--json"]).as_array().unwrap().len());
    let all = json(&["mounts", "--json"]);
    assert!(all.as_array().unwrap().iter().any(|m| m["target"] == "/proc" && m["type"] == "proc"));
}

#[test]
fn devices_and_system_calls_are_tried() {
    assert_eq!(out(&["open", "/dev/null"]), "ok\n");
    assert!(failure(&["open", "/dev/nonexistent"]).1.contains("ENOENT"));
    assert_eq!(out(&["syscall", "getpid"]), "ok\n");
    let names = out(&["syscall", "--list"]);
    for name in names.lines() {
        let output = run(&["syscall", name]);
        let text = String::from_utf8(output.stdout).unwrap();
        let known = text == "ok\n" || (text.starts_with('E') && output.status.code() == Some(1));
        assert!(known, "{name}: {text}");
    }
    assert_eq!(String::from_utf8(run(&["syscall", "setns"]).stdout).unwrap(), "EBADF\n");
}

#[test]
fn id_agrees_with_the_kernel() {
    let id = json(&["id"]);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let uid = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap().split_whitespace().next().unwrap();
    assert_eq!(id["uid"].to_string(), uid);
    assert!(["disabled", "strict", "filter"].contains(&id["seccomp"].as_str().unwrap()));
    assert!(id["bounding"].is_array() && id["no_new_privs"].is_boolean());
}

#[test]
fn processes_are_signalled_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("cairn-victim");
    std::fs::copy(PROBE, &copy).unwrap();
    let mut child = Killed(Command::new(&copy).args(["sleep", "60"]).spawn().unwrap());
    let listed = out(&["kill", "TERM", "cairn-victim"]);
    assert_eq!(listed.trim(), child.0.id().to_string());
    assert!(!child.0.wait().unwrap().success());
    let (code, text) = failure(&["kill", "TERM", "cairn-victim"]);
    assert!(code == 1 && text.contains("ESRCH"), "{text}");
}

#[test]
fn memory_cpu_and_processes_are_used_up() {
    assert_eq!(out(&["hog", "8M"]), format!("touched {}\n", 8 << 20));
    let spun = out(&["spin", "0.3", "--threads", "2"]);
    let seconds: f64 = spun.split(' ').next().unwrap().parse().unwrap();
    assert!(seconds > 0.02 && seconds < 0.9, "{spun}");
    assert_eq!(out(&["forks", "5"]), "5\n");
}

#[test]
fn what_is_poured_into_a_sink_is_counted() {
    let (_server, port) = serve(&["--tcp", "PORT", "--sink"]);
    let result = json(&["pour", "127.0.0.1", &port, "0.2"]);
    assert!(result["bytes"].as_u64().unwrap() > 0 && result["seconds"].as_f64().unwrap() >= 0.2, "{result}");
    assert!(result["megabits_per_second"].as_f64().unwrap() > 0.0);
    let (_echo, port) = serve(&["--tcp", "PORT"]);
    let (status, error) = failure(&["pour", "127.0.0.1", &port, "0"]);
    assert!(status == 1 && error.contains("not a sink"), "{error}");
}

#[test]
fn files_are_installed_with_their_mode_and_removed() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(at("a"), "text").unwrap();
    std::fs::set_permissions(at("a"), std::fs::Permissions::from_mode(0o755)).unwrap();
    out(&["install", &at("a"), &at("b")]);
    assert_eq!(std::fs::read_to_string(at("b")).unwrap(), "text");
    assert_eq!(std::fs::metadata(at("b")).unwrap().permissions().mode() & 0o777, 0o755);
    out(&["rm", &at("b")]);
    assert_eq!(failure(&["rm", &at("b")]).0, 1);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}
