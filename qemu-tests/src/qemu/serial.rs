//! The serial console: every line to a file with the time since power-on, and to whoever waits for one.

use crate::error::Fault;
use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::Instant,
};

/// One line as the guest wrote it, without escape sequences and line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Since power-on.
    pub at: Duration,
    /// Text.
    pub text: String,
}

/// A position in the log; lines before it are not looked at again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(usize);

/// The log so far, shared with the task that fills it.
#[derive(Debug, Clone)]
pub struct SerialLog {
    shared: Arc<Mutex<Shared>>,
    changes: watch::Receiver<Progress>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Vec<Line>,
}

/// What waiters watch.
#[derive(Debug, Clone, Copy)]
struct Progress {
    /// When the last byte came.
    last: Instant,
    /// The guest's end was closed: QEMU has ended.
    closed: bool,
}

/// Why [`SerialLog::wait_for`] came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A line that was waited for; the index says which of the texts.
    Line(usize, Line),
    /// QEMU has ended.
    Closed,
    /// The deadline has passed; `silent` says how long nothing had come.
    TimedOut {
        /// Since the last byte.
        silent: Duration,
    },
}

impl SerialLog {
    /// Starts the task that reads `input` until its end and writes `file`.
    pub async fn follow(
        mut input: impl AsyncRead + Unpin + Send + 'static,
        file: &Path,
        power_on: Instant,
    ) -> Result<Self, Fault> {
        let mut file =
            tokio::fs::File::create(file).await.map_err(Fault::io(format!("write {}", file.display())))?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (sender, changes) = watch::channel(Progress { last: power_on, closed: false });
        let log = Self { shared: shared.clone(), changes };
        tokio::spawn(async move {
            let mut splitter = Splitter::default();
            let mut buffer = vec![0; 8192];
            loop {
                let count = input.read(&mut buffer).await.unwrap_or(0);
                let at = power_on.elapsed();
                let texts = if count == 0 { splitter.finish() } else { splitter.push(&buffer[..count]) };
                for text in texts {
                    // The guest goes on if the log cannot be written (a full disk): the lines stay in memory.
                    let _ = file.write_all(format!("{:10.3} {text}\n", at.as_secs_f64()).as_bytes()).await;
                    lock(&shared).lines.push(Line { at, text });
                }
                let _ = file.flush().await;
                sender.send_replace(Progress { last: Instant::now(), closed: count == 0 });
                if count == 0 {
                    return;
                }
            }
        });
        Ok(log)
    }

    /// The end of the log as it is now.
    pub fn mark(&self) -> Mark {
        Mark(lock(&self.shared).lines.len())
    }

    /// The lines after `mark`.
    pub fn since(&self, mark: Mark) -> Vec<Line> {
        lock(&self.shared).lines.get(mark.0..).unwrap_or_default().to_vec()
    }

    /// The last lines, as text, for a message.
    pub fn tail(&self, count: usize) -> String {
        let shared = lock(&self.shared);
        let start = shared.lines.len().saturating_sub(count);
        shared.lines[start..]
            .iter()
            .map(|line| format!("  {:8.3} {}\n", line.at.as_secs_f64(), line.text))
            .collect()
    }

    /// Waits for the first line after `mark` that contains one of `texts`. `expires` is asked again after every
    /// byte, with the time of the last one, so that progress can move the deadline.
    pub async fn wait_for(&self, mark: Mark, texts: &[&str], expires: impl Fn(Instant) -> Instant) -> Seen {
        let mut changes = self.changes.clone();
        let mut position = mark.0;
        loop {
            let progress = *changes.borrow_and_update();
            {
                let shared = lock(&self.shared);
                for line in shared.lines.get(position..).unwrap_or_default() {
                    if let Some(index) = texts.iter().position(|text| line.text.contains(text)) {
                        return Seen::Line(index, line.clone());
                    }
                }
                position = position.max(shared.lines.len());
            }
            if progress.closed {
                return Seen::Closed;
            }
            let changed = tokio::time::timeout_at(expires(progress.last), changes.changed()).await;
            match changed {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Seen::Closed,
                Err(_) => return Seen::TimedOut { silent: progress.last.elapsed() },
            }
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // A panic while pushing a line leaves a usable list behind.
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Bytes to lines. Firmware and systemd send ANSI escape sequences (colours, cursor moves); they are dropped.
#[derive(Debug, Default)]
struct Splitter {
    line: Vec<u8>,
    state: Escape,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// After ESC.
    Start,
    /// After `ESC [`: parameters until a byte in `@`..=`~`.
    Control,
    /// After `ESC ]`: a string until BEL.
    String,
}

impl Splitter {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (Escape::None, 0x1b) => Escape::Start,
                (Escape::None, b'\n') => {
                    lines.extend(self.take());
                    Escape::None
                }
                (Escape::None, b'\t' | 0x20..) => {
                    self.line.push(byte);
                    Escape::None
                }
                (Escape::None, _) => Escape::None,
                (Escape::Start, b'[') => Escape::Control,
                (Escape::Start, b']') => Escape::String,
                (Escape::Start, _) => Escape::None,
                (Escape::Control, 0x40..=0x7e) => Escape::None,
                (Escape::Control, _) => Escape::Control,
                (Escape::String, 0x07) => Escape::None,
                (Escape::String, _) => Escape::String,
            };
        }
        lines
    }

    fn finish(&mut self) -> Vec<String> {
        self.take().into_iter().collect()
    }

    fn take(&mut self) -> Option<String> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim_end().to_owned();
        (!line.is_empty()).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_across_reads_and_cleaned() {
        let mut splitter = Splitter::default();
        assert!(splitter.push(b"cairn: run").is_empty());
        assert_eq!(
            splitter.push(b"time ready\r\n\x1b[2J\x1b[0;1mok\x1b[0m\n\n"),
            ["cairn: runtime ready", "ok"]
        );
        assert_eq!(splitter.push(b"\x1b]3008;start=1\x07left"), Vec::<String>::new());
        assert_eq!(splitter.finish(), ["left"]);
    }
}
