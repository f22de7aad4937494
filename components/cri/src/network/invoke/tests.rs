//! A plugin that does what it should, and plugins that do not.

use super::*;
use std::{fs, os::unix::fs::PermissionsExt, time::Instant};

struct Bench {
    directory: tempfile::TempDir,
    programs: Programs,
}

impl Bench {
    /// A plugin `fake` that is this shell script.
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fake");
        fs::write(&path, format!("#!/bin/sh\nD={}\n{script}\n", directory.path().display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let directories = vec!["/nowhere".into(), directory.path().to_path_buf()];
        Self { directory, programs: Programs { directories, limit: Duration::from_secs(60) } }
    }

    async fn add(&self) -> Result<serde_json::Map<String, Value>, PluginError> {
        let config = serde_json::from_str(r#"{"type":"fake","name":"n"}"#).unwrap();
        let call = Call { container: "c1", namespace: "/ns", interface: "eth0", arguments: "A=b" };
        self.programs.add(call, &config).await
    }

    async fn refused(&self) -> String {
        self.add().await.unwrap_err().to_string()
    }
}

#[tokio::test]
async fn a_plugin_gets_its_environment_and_configuration() {
    let bench = Bench::new(
        r#"read -r config
echo "{\"got\": $config, \"env\": \"$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS $CNI_PATH\"}""#,
    );
    let result = bench.add().await.unwrap();
    assert_eq!(result["got"]["name"], "n");
    let path = format!("/nowhere:{}", bench.directory.path().display());
    assert_eq!(result["env"], format!("ADD c1 /ns eth0 A=b {path}"));
}

#[tokio::test]
async fn errors_of_plugins_are_told() {
    let error = Bench::new(r#"echo '{"code":7,"msg":"no luck","details":"at all"}'; exit 1"#).refused().await;
    assert_eq!(error, "CNI plugin `fake` ADD failed: no luck: at all (CNI error 7)");
    let error = Bench::new("echo broken >&2; exit 3").refused().await;
    assert!(error.contains("exit status: 3") && error.contains("broken"), "{error}");
    let error = Bench::new("kill -SEGV $$").refused().await;
    assert!(error.contains("SIGSEGV"), "{error}");
    let error = Bench::new("echo hello").refused().await;
    assert!(error.contains("no CNI result") && error.contains("`hello`"), "{error}");
    let error = Bench::new("exit 0").refused().await;
    assert!(error.contains("no CNI result"), "{error}");
    let mut absent = Bench::new("");
    absent.programs.directories.truncate(1);
    let error = absent.refused().await;
    assert!(error.contains("`fake` is not in /nowhere"), "{error}");
}

#[tokio::test]
async fn a_plugin_that_hangs_is_killed_with_its_children() {
    let mut bench = Bench::new("echo thinking >&2; sleep 1000 & echo $! > $D/child; wait");
    bench.programs.limit = Duration::from_secs(1);
    let error = bench.refused().await;
    assert!(error.contains("within 1 s") && error.contains("thinking"), "{error}");
    let child = fs::read_to_string(bench.directory.path().join("child")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while running(child.trim()) {
        assert!(Instant::now() < deadline, "the plugin's child {child} lives on");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a process is there and no zombie.
fn running(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn output_without_end_is_cut_off() {
    let error = Bench::new("while :; do echo 0123456789012345678901234567890123456789; done").refused().await;
    assert!(error.contains("more than"), "{error}");
    let many = "i=0; while [ $i -lt 2000 ]; do echo 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done; exit 1";
    let error = Bench::new(many).refused().await;
    assert!(error.len() < MESSAGE_LIMIT + 200, "{}", error.len());
}

#[tokio::test]
async fn a_child_that_holds_the_output_open_is_not_waited_for() {
    let bench = Bench::new("sleep 1000 & echo $! > $D/child; echo '{}'");
    assert!(bench.add().await.unwrap().is_empty());
    let child = fs::read_to_string(bench.directory.path().join("child")).unwrap();
    assert!(running(child.trim()), "what a plugin starts for good is left alone");
    let child = child.trim().parse().ok().and_then(Pid::from_raw).unwrap();
    rustix::process::kill_process(child, Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_program_that_is_being_written_is_waited_for() {
    let bench = Bench::new("echo '{}'");
    let open = fs::OpenOptions::new().append(true).open(bench.directory.path().join("fake")).unwrap();
    let written = async {
        sleep(Duration::from_millis(300)).await;
        drop(open);
    };
    let (result, ()) = tokio::join!(bench.add(), written);
    result.unwrap();
}
