//! The node seen from a privileged pod: its file system, its processes, its sockets.
//!
//! This is how one inspects a node without a shell in a cluster (a debug pod), so nothing in the image exists for
//! it. The container runs the probe baked into the image; the node's `/` is at [`MOUNT`] in it.

use super::{
    Guest,
    pod::{Container, Output, Pod},
};
use crate::{image::root::Probe, scenario::Stop};

/// Where the node's root is in the container.
pub const MOUNT: &str = "/host";

/// A privileged pod on the node.
#[derive(Debug)]
pub struct Host {
    pod: Pod,
    container: Container,
    program: String,
}

/// One line of a container's log, in the CRI format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// `F` for a whole line, `P` for a part of one.
    pub tag: String,
    /// Text.
    pub text: String,
}

impl Host {
    /// Starts the pod.
    pub async fn look(guest: &Guest, probe: &Probe) -> Result<Self, Stop> {
        let pod = guest.pod("host").on_host().run().await?;
        let container =
            pod.container("host", &probe.reference).args(["pause"]).mount("/", MOUNT).privileged();
        let container = container.start().await?;
        Ok(Self { pod, container, program: probe.program() })
    }

    /// Runs the probe there.
    pub async fn run(&self, args: &[&str]) -> Result<Output, Stop> {
        let mut command = vec![self.program.as_str()];
        command.extend(args);
        self.container.exec(&command).await
    }

    /// A file of the node.
    pub async fn read(&self, path: &str) -> Result<String, Stop> {
        self.run(&["cat", &format!("{MOUNT}{path}")]).await?.success().map_err(|stop| stop.while_trying(path))
    }

    /// A file as the container itself sees it: `/proc` and `/sys` of the node's namespaces.
    pub async fn read_own(&self, path: &str) -> Result<String, Stop> {
        self.run(&["cat", path]).await?.success().map_err(|stop| stop.while_trying(path))
    }

    /// Tries to write a file of the node.
    pub async fn write(&self, path: &str, text: &str) -> Result<Output, Stop> {
        self.run(&["write", &format!("{MOUNT}{path}"), text]).await
    }

    /// Makes a directory of the node with its parents; it may be there.
    pub async fn make_directory(&self, path: &str) -> Result<(), Stop> {
        self.run(&["mkdir", &format!("{MOUNT}{path}")])
            .await?
            .success()
            .map(drop)
            .map_err(|stop| stop.while_trying(path))
    }

    /// Names of what is in a directory of the node.
    pub async fn list(&self, path: &str) -> Result<Vec<String>, Stop> {
        let lines = self.run(&["ls", &format!("{MOUNT}{path}")]).await?.success();
        let lines = lines.map_err(|stop| stop.while_trying(path))?;
        // Mode, owner, group and size come before the name, and after it what a link leads to.
        let name = |line: &str| Some(line.splitn(5, ' ').nth(4)?.split(" -> ").next()?.to_owned());
        Ok(lines.lines().filter_map(name).collect())
    }

    /// A container's log so far.
    pub async fn log(&self, container: &Container) -> Result<Vec<LogLine>, Stop> {
        let text = self.read(&container.log).await?;
        text.lines()
            .map(|line| {
                parse_log_line(line).ok_or_else(|| Stop::failed(format!("not a CRI log line: `{line}`")))
            })
            .collect()
    }

    /// Removes the pod.
    pub async fn leave(self) -> Result<(), Stop> {
        self.pod.remove().await
    }
}

/// `2026-01-02T03:04:05.000000006Z stdout F text`
fn parse_log_line(line: &str) -> Option<LogLine> {
    let mut parts = line.splitn(4, ' ');
    let (time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    let well_formed = time.contains('T')
        && matches!(stream, "stdout" | "stderr")
        && matches!(tag.split(':').next(), Some("F" | "P"));
    well_formed.then(|| LogLine {
        time: time.to_owned(),
        stream: stream.to_owned(),
        tag: tag.to_owned(),
        text: parts.next().unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_have_four_parts_and_the_last_may_be_empty_or_have_spaces() {
        let line = parse_log_line("2026-01-02T03:04:05.6Z stderr P a  b ").unwrap();
        assert_eq!((line.stream.as_str(), line.tag.as_str(), line.text.as_str()), ("stderr", "P", "a  b "));
        assert_eq!(parse_log_line("2026-01-02T03:04:05.6Z stdout F ").unwrap().text, "");
        assert!(parse_log_line("hello world").is_none());
        assert!(parse_log_line("2026-01-02T03:04:05.6Z stdin F x").is_none());
    }
}
