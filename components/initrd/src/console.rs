//! What the initrd says: milestones on the console, steps in the kernel log.

use std::fs::{File, OpenOptions};
use std::io::Write;

/// `/dev/console` and `/dev/kmsg`. A device that cannot be opened is done without: a boot does not fail for
/// want of words.
pub(crate) struct Console {
    console: Option<File>,
    kmsg: Option<File>,
    debug: bool,
}

impl Console {
    /// Opens both; `debug` shows steps on the console too.
    pub(crate) fn open(debug: bool) -> Self {
        let open = |path| OpenOptions::new().write(true).open(path).ok();
        Self { console: open("/dev/console"), kmsg: open("/dev/kmsg"), debug }
    }

    /// A line that operators look for: console and kernel log.
    pub(crate) fn announce(&mut self, line: &str) {
        self.print(line);
        self.log(6, line);
    }

    /// Something odd that the boot survives.
    pub(crate) fn warn(&mut self, text: &str) {
        let line = format!("cairn-initrd: {text}");
        self.print(&line);
        self.log(4, &line);
    }

    /// Progress, for `cairn.debug` alone.
    pub(crate) fn step(&mut self, text: &str) {
        if self.debug {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            let line = format!("cairn-initrd: {}.{:03} {text}", now.tv_sec, now.tv_nsec / 1_000_000);
            self.print(&line);
        }
    }

    fn print(&mut self, line: &str) {
        if let Some(console) = &mut self.console {
            let _ = console.write_all(format!("{line}\r\n").as_bytes());
        }
    }

    fn log(&mut self, priority: u8, line: &str) {
        if let Some(kmsg) = &mut self.kmsg {
            let _ = kmsg.write_all(format!("<{priority}>{line}\n").as_bytes());
        }
    }
}
