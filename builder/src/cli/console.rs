//! How long work looks to the person who waits for it: bars on a terminal, lines elsewhere.

use super::output;
use crate::{
    image::build::{Stage, Watcher},
    source::progress::Event,
};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// Progress on standard error: bars on a terminal, one line a stage elsewhere.
#[derive(Debug)]
pub(super) struct Console {
    state: Mutex<State>,
    terminal: bool,
    started: Instant,
}

#[derive(Debug)]
struct State {
    bar: ProgressBar,
    downloads: Option<ProgressBar>,
}

impl Console {
    pub(super) fn new() -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let state = Mutex::new(State { bar: ProgressBar::hidden(), downloads: None });
        Self { state, terminal, started: Instant::now() }
    }

    fn with(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn line(&self, text: &str) {
        if self.terminal {
            self.with(|state| state.bar.suspend(|| output::note(text)));
        } else {
            output::note(text);
        }
    }

    /// Takes the bars off the screen.
    pub(super) fn finish(&self) {
        self.with(|state| {
            state.bar.finish_and_clear();
            if let Some(downloads) = state.downloads.take() {
                downloads.finish_and_clear();
            }
        });
    }
}

fn bar(total: u64, text: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:24} [{bar:40}] {bytes}/{total_bytes} {eta}");
    let bar = ProgressBar::new(total).with_message(text.to_owned());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar
}

fn spinner(text: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(text.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

impl Watcher for Console {
    fn stage(&self, stage: Stage) {
        let text = match stage {
            Stage::Inputs => "inputs",
            Stage::Tree => "tree",
            Stage::Root(_) => "root file system",
            Stage::Verity => "hash tree",
            Stage::Uki => "initramfs and UKI",
            Stage::Disk => "disk",
        };
        if !self.terminal {
            output::note(&format!("[{:>4}] {text}", HumanDuration(self.started.elapsed())));
            return;
        }
        self.with(|state| {
            state.bar.finish_and_clear();
            state.bar = match stage {
                Stage::Root(total) => bar(total, text),
                _ => spinner(text),
            };
        });
    }

    fn advance(&self, bytes: u64) {
        self.with(|state| state.bar.inc(bytes));
    }

    fn source(&self, event: Event<'_>) {
        match event {
            Event::Downloading { files, bytes } if files > 0 => {
                if self.terminal {
                    self.with(|state| state.downloads = Some(bar(bytes, &format!("{files} downloads"))));
                } else {
                    self.line(&format!("downloading {files} files, {}", HumanBytes(bytes)));
                }
            }
            Event::Received(bytes) => self.with(|state| {
                if let Some(downloads) = &state.downloads {
                    downloads.inc(bytes);
                }
            }),
            Event::Discarded(bytes) => self.with(|state| {
                if let Some(downloads) = &state.downloads {
                    downloads.dec(bytes);
                }
            }),
            Event::Retrying { what, why, delay } => {
                self.line(&format!("{what}: {why}; again in {} s", delay.as_secs()));
            }
            Event::Notice(text) => self.line(text),
            // What cargo says while it works is its progress; on a terminal the spinner shows the newest line.
            Event::Cargo(text) if self.terminal => {
                self.with(|state| state.bar.set_message(format!("cargo: {}", text.trim())));
            }
            Event::Cargo(text)
                if text.contains("Compiling") || text.contains("warning") || text.contains("error") =>
            {
                output::note(text);
            }
            Event::Cargo(_) | Event::Downloading { .. } | Event::Downloaded(_) => {}
        }
    }
}
