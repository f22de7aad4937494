//! Running one CNI plugin.

use serde_json::{Map, Value};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// Longest a plugin may take.
const TIMEOUT: Duration = Duration::from_secs(90);

/// A plugin call that failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The program is in none of the directories.
    #[error("CNI plugin `{plugin}` is not in {}", .searched.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    Missing {
        /// The program.
        plugin: String,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// It could not be run.
    #[error("cannot run CNI plugin `{plugin}`: {source}")]
    Run {
        /// The program.
        plugin: String,
        /// Why.
        source: std::io::Error,
    },
    /// It took too long and was killed.
    #[error("CNI plugin `{plugin}` {command} did not finish within {} s", TIMEOUT.as_secs())]
    TimedOut {
        /// The program.
        plugin: String,
        /// The command.
        command: &'static str,
    },
    /// It reported an error.
    #[error("CNI plugin `{plugin}` {command} failed: {message}")]
    Failed {
        /// The program.
        plugin: String,
        /// The command.
        command: &'static str,
        /// CNI error code; 0 when it gave none.
        code: u64,
        /// What it said.
        message: String,
    },
}

/// Who a call is for: CNI's environment.
#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    /// Sandbox id.
    pub(super) container: &'a str,
    /// Network namespace file; empty when it is gone.
    pub(super) namespace: &'a str,
    /// Interface name in the namespace.
    pub(super) interface: &'a str,
    /// `KEY=value;KEY=value`.
    pub(super) arguments: &'a str,
}

/// Runs `plugin` with `config` on its standard input. Its result, or null if it printed none.
pub(super) async fn invoke(
    directories: &[PathBuf],
    command: &'static str,
    call: &Call<'_>,
    plugin: &str,
    config: &Map<String, Value>,
) -> Result<Value, PluginError> {
    let program = find(directories, plugin)
        .ok_or_else(|| PluginError::Missing { plugin: plugin.to_owned(), searched: directories.to_vec() })?;
    let run = |source| PluginError::Run { plugin: plugin.to_owned(), source };
    let search = std::env::join_paths(directories).map_err(|error| run(std::io::Error::other(error)))?;
    let mut child = Command::new(&program)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", call.container)
        .env("CNI_NETNS", call.namespace)
        .env("CNI_IFNAME", call.interface)
        .env("CNI_ARGS", call.arguments)
        .env("CNI_PATH", search)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(run)?;
    let input = serde_json::to_vec(config).map_err(|error| run(error.into()))?;
    let stdin = child.stdin.take();
    let finished = timeout(TIMEOUT, async {
        if let Some(mut stdin) = stdin {
            // A plugin that fails early does not read its input; what it says is worth more than EPIPE.
            let _ = stdin.write_all(&input).await;
        }
        child.wait_with_output().await
    });
    let output = finished
        .await
        .map_err(|_| PluginError::TimedOut { plugin: plugin.to_owned(), command })?
        .map_err(run)?;
    let result = serde_json::from_slice::<Value>(&output.stdout).unwrap_or(Value::Null);
    if output.status.success() {
        return Ok(result);
    }
    let text = |key: &str| result.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut message = [text("msg"), text("details")]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(": ");
    if message.is_empty() {
        message = format!("{}; {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    let code = result.get("code").and_then(Value::as_u64).unwrap_or(0);
    Err(PluginError::Failed { plugin: plugin.to_owned(), command, code, message })
}

/// The program of a plugin, in the first directory that has it.
pub(super) fn find(directories: &[PathBuf], plugin: &str) -> Option<PathBuf> {
    directories.iter().map(|directory| directory.join(plugin)).find(|path: &PathBuf| Path::is_file(path))
}
