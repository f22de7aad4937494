//! The console: milestones once, and a small panel that is printed again when something changed.
//!
//! Lines go to every console of the kernel (`/sys/class/tty/console/active`), so the screen and the serial
//! port show the same. A serial line with flow control may block for ever, so a thread of its own writes, and
//! what it cannot take is dropped. An image whose consoles show nothing has the milestones in its log alone.

use crate::machine_facts::Interface;
use crate::settings::Console;
use crate::status::NodeStatus;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::mpsc::{SyncSender, sync_channel};

/// A handle to the writing thread.
#[derive(Debug, Clone)]
pub struct Screen(SyncSender<Message>);

#[derive(Debug)]
enum Message {
    /// Consoles and kernel log.
    Milestone(String),
    /// Consoles.
    Panel(String),
}

impl Screen {
    /// Starts the thread that writes to the machine's consoles, if they are to show anything, and to its log.
    pub fn start(console: Console) -> std::io::Result<Self> {
        let show = move |text: &str| {
            if console == Console::Status {
                write_all_consoles(text);
            }
        };
        let (sender, receiver) = sync_channel::<Message>(32);
        std::thread::Builder::new().name("console".into()).stack_size(64 << 10).spawn(move || {
            for message in receiver {
                match message {
                    Message::Milestone(line) => {
                        show(&format!("{line}\r\n"));
                        if let Ok(mut kmsg) = OpenOptions::new().write(true).open("/dev/kmsg") {
                            // Priority 6: in the log, but not a second time on a quiet console.
                            let _ = kmsg.write_all(format!("<6>{line}\n").as_bytes());
                        }
                    }
                    Message::Panel(text) => show(&text.replace('\n', "\r\n")),
                }
            }
        })?;
        Ok(Self(sender))
    }

    /// A screen that shows nothing, for tests.
    pub fn none() -> Self {
        Self(sync_channel(0).0)
    }

    /// A line that operators look for.
    pub fn announce(&self, line: &str) {
        let _ = self.0.try_send(Message::Milestone(line.to_owned()));
    }

    /// Shows the panel.
    pub fn show(&self, text: &str) {
        let _ = self.0.try_send(Message::Panel(text.to_owned()));
    }
}

fn write_all_consoles(text: &str) {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    for name in active.split_whitespace() {
        if let Ok(mut console) = OpenOptions::new().write(true).open(format!("/dev/{name}")) {
            let _ = console.write_all(text.as_bytes());
        }
    }
}

/// The panel: who the node is, where it is, and what is wrong with it if anything is.
pub fn panel(name: &str, version: &str, interfaces: &[Interface], status: &NodeStatus) -> String {
    let state = if status.ready() { "ready" } else { "not ready" };
    let mut text = format!("\n  {name}  {version}  {state}\n");
    for interface in interfaces {
        let addresses = if interface.addresses.is_empty() {
            "no address".to_owned()
        } else {
            interface.addresses.join("  ")
        };
        let _ = writeln!(text, "  {}  {addresses}", interface.name);
    }
    for check in status.checks.iter().filter(|check| !check.good) {
        let mark = if check.required { "!" } else { "-" };
        let _ = writeln!(text, "  {mark} {}: {}", check.name, check.message.replace(char::is_control, " "));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Check;

    #[test]
    fn the_panel_shows_what_is_wrong_and_nothing_else() {
        let interface =
            Interface { name: "ens3".into(), mac: String::new(), addresses: vec!["192.0.2.7/24".into()] };
        let check = |name, good| Check { name, good, required: true, message: "why\x1b[2J".into() };
        let status =
            NodeStatus { checks: vec![check("runtime", true), check("kubelet", false)], milestones: vec![] };
        assert_eq!(
            panel("node-1", "cairn_1", &[interface], &status),
            "\n  node-1  cairn_1  not ready\n  ens3  192.0.2.7/24\n  ! kubelet: why [2J\n\n"
        );
    }
}
