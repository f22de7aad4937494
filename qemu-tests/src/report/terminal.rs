//! For people: what is going on, and a table at the end. All of it goes to standard error but the table, which
//! the caller prints where results go.

use super::{Outcome, Report, ScenarioReport, event::Event, requirements::Verdict};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{IsTerminal, Write as _},
    time::Duration,
};
use tokio::sync::mpsc::UnboundedReceiver;

/// How to show progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Display {
    /// Lines that move on a terminal, plain ones elsewhere.
    #[default]
    Auto,
    /// A line when a scenario ends.
    Plain,
    /// Nothing.
    Silent,
}

/// Shows events until the last sender is gone.
pub(crate) async fn follow(mut events: UnboundedReceiver<Event>, display: Display) {
    let moving = match display {
        Display::Silent => {
            while events.recv().await.is_some() {}
            return;
        }
        Display::Plain => false,
        Display::Auto => std::io::stderr().is_terminal(),
    };
    let mut screen = Screen::new(moving);
    while let Some(event) = events.recv().await {
        screen.show(event);
    }
}

struct Screen {
    bars: Option<MultiProgress>,
    running: BTreeMap<&'static str, ProgressBar>,
    total: usize,
    done: usize,
}

impl Screen {
    fn new(moving: bool) -> Self {
        let bars = moving.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { bars, running: BTreeMap::new(), total: 0, done: 0 }
    }

    fn show(&mut self, event: Event) {
        match event {
            Event::Planned { scenarios, headline } => {
                self.total = scenarios;
                self.line(&headline);
            }
            Event::Started { id, title } => {
                if let Some(bars) = &self.bars {
                    let bar = bars.add(ProgressBar::new_spinner());
                    if let Ok(style) =
                        ProgressStyle::with_template("  {spinner} {prefix} {elapsed} {wide_msg}")
                    {
                        bar.set_style(style);
                    }
                    bar.set_prefix(id);
                    bar.set_message(title);
                    bar.enable_steady_tick(Duration::from_millis(120));
                    self.running.insert(id, bar);
                }
            }
            Event::Step { id, title } => {
                if let Some(bar) = self.running.get(id) {
                    bar.set_message(title);
                }
            }
            Event::Finished { report } => {
                if let Some(bar) = self.running.remove(report.id) {
                    bar.finish_and_clear();
                }
                self.done += 1;
                let line = format!("[{:2}/{}] {}", self.done, self.total, row(&report));
                self.line(&line);
            }
        }
    }

    fn line(&self, text: &str) {
        match &self.bars {
            // Fails when the terminal has gone; the report does not depend on it.
            Some(bars) => drop(bars.println(text)),
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }
}

const fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Failed { .. } => "FAILED",
        Outcome::Broken { .. } => "BROKEN",
        Outcome::Skipped { .. } => "skipped",
    }
}

fn row(report: &ScenarioReport) -> String {
    let mut row =
        format!("{:7} {:7.1} s  {:22} {}", word(&report.outcome), report.seconds, report.id, report.title);
    if let Outcome::Skipped { reason } = &report.outcome {
        let _ = write!(row, " ({reason})");
    }
    if report.lost_to_emulator > 0 {
        let _ = write!(row, " (begun anew {} times: QEMU broke the machine)", report.lost_to_emulator);
    }
    row
}

/// The final table: results, figures, failures in full, requirements, verdict.
pub fn summary(report: &Report) -> String {
    let mut text = String::new();
    let image = &report.image;
    // Writing into a String cannot fail.
    let _ = writeln!(text, "image    {} {}  {}", image.profile, image.version, image.digest);
    let machine = &report.machine;
    let _ = writeln!(
        text,
        "machine  QEMU {} {:?}, {} CPUs, {} MiB, {:.1} times the reference's time to switch_root\n",
        machine.qemu, machine.accelerator, machine.cpus, machine.memory_mib, machine.pace
    );
    for scenario in &report.scenarios {
        let _ = writeln!(text, "{}", row(scenario));
    }
    figures(&mut text, &report.scenarios);
    for scenario in &report.scenarios {
        if let Outcome::Failed { message, artefacts } | Outcome::Broken { message, artefacts } =
            &scenario.outcome
        {
            let _ = writeln!(text, "\n{} {}: {message}", word(&scenario.outcome), scenario.id);
            for path in artefacts {
                let _ = writeln!(text, "  see {}", path.display());
            }
        }
    }
    let _ = writeln!(text);
    for (verdict, name) in [
        (Verdict::Proven, "proven"),
        (Verdict::PartlyProven, "partly proven"),
        (Verdict::NotTried, "not tried"),
        (Verdict::NotProven, "NOT PROVEN"),
    ] {
        let ids: Vec<_> = report
            .requirements
            .iter()
            .filter(|p| p.verdict == verdict)
            .map(|p| p.requirement.as_str())
            .collect();
        if !ids.is_empty() {
            let _ = writeln!(text, "{name:13} {}", ids.join(" "));
        }
    }
    if !image.unchanged {
        let _ = writeln!(
            text,
            "\nFAILED: the base image was written to; its digest is no longer {}",
            image.digest
        );
    }
    let count = |wanted: &str| report.scenarios.iter().filter(|s| word(&s.outcome) == wanted).count();
    let _ = writeln!(
        text,
        "\n{}: {} passed, {} failed, {} broken, {} skipped in {:.0} s",
        if report.passed() { "passed" } else { "FAILED" },
        count("passed"),
        count("FAILED"),
        count("BROKEN"),
        count("skipped"),
        report.seconds
    );
    text
}

fn figures(text: &mut String, scenarios: &[ScenarioReport]) {
    let all: Vec<_> =
        scenarios.iter().flat_map(|s| s.figures.iter().map(move |figure| (s.id, figure))).collect();
    if all.is_empty() {
        return;
    }
    text.push('\n');
    for (id, figure) in all {
        let _ = writeln!(text, "{:12.2}  {} ({id})", figure.value, figure.name.replace('_', " "));
    }
}
