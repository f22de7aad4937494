//! The daemon: one thread that waits for plugins, for servers and for the next lease to be renewed.
//!
//! Its leases are on disk before a plugin hears of them, so it may end at any moment, and the next one goes on: a
//! daemon that ends gives nothing back, for the pods live on. What has ended meanwhile, a pod with its namespace, is
//! dropped when it would have been renewed.

pub mod arguments;
mod attachment;
mod callers;
mod listener;
mod records;

use super::{
    call::{Call, Reply},
    client::Moment,
    config::DhcpConfig,
};
use crate::protocol::{
    error::{CniError, Code},
    request::{Command, Request},
    result::CniResult,
};
use arguments::Arguments;
use attachment::{Attachment, Lost, Name};
use callers::{Caller, Heard};
use records::Records;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    time::{ClockId, clock_gettime},
};
use std::{collections::BTreeMap, fs, os::unix::net::UnixListener, path::PathBuf, time::Duration};

/// While a listener cannot accept (no file descriptors left), it is left alone for this long.
const BREATH: Duration = Duration::from_millis(100);

/// Serves until the process ends.
pub fn run(arguments: &Arguments) -> Result<(), CniError> {
    if let Some(path) = &arguments.pid_file {
        let written = fs::write(path, std::process::id().to_string());
        written.map_err(|e| CniError::io("writing", path, &e))?;
    }
    let socket = arguments.on_host(&arguments.socket);
    let listener = listener::open(&socket)?;
    let mut daemon = Daemon {
        arguments,
        records: Records::open(&socket.with_extension("leases"))?,
        attachments: BTreeMap::new(),
        callers: Vec::new(),
    };
    daemon.restore()?;
    loop {
        let next = daemon.work();
        daemon.wait(&listener, next)?;
    }
}

fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

struct Daemon<'a> {
    arguments: &'a Arguments,
    records: Records,
    attachments: BTreeMap<Name, Attachment>,
    callers: Vec<Caller>,
}

impl Daemon<'_> {
    fn restore(&mut self) -> Result<(), CniError> {
        let now = now();
        for record in self.records.load()? {
            let attachment = Attachment::resume(record, self.arguments.patience, now);
            match attachment.check() {
                Ok(()) => {
                    eprintln!("{}: taken up", attachment.name.client());
                    self.attachments.insert(attachment.name.clone(), attachment);
                }
                Err(error) => {
                    eprintln!("{}: dropped: {error}", attachment.name.client());
                    self.records.forget(&attachment.name);
                }
            }
        }
        Ok(())
    }

    /// Has every attachment do what it has to do now. When there is something to do again.
    fn work(&mut self) -> Moment {
        let mut next = Moment::MAX;
        for name in self.attachments.keys().cloned().collect::<Vec<_>>() {
            while let Some(attachment) = self.attachments.get_mut(&name) {
                match attachment.work(now()) {
                    Ok(moment) => {
                        next = next.min(moment);
                        break;
                    }
                    Err(lost) => self.lose(&name, lost),
                }
            }
        }
        next
    }

    fn lose(&mut self, name: &Name, Lost { at, why }: Lost) {
        eprintln!("{}: {why}", name.client());
        if let Some(caller) = self.caller_of(name) {
            let error = CniError::internal(format!("no lease for {}: {why}", name.client()));
            caller.answer(&Reply::Error(error));
            return self.release(name);
        }
        let Some(attachment) = self.attachments.get_mut(name) else { return };
        match attachment.withdraw(at) {
            Ok(true) => self.keep(name),
            outcome => {
                if let Err(error) = outcome {
                    eprintln!("{}: {error}", name.client());
                }
                self.attachments.remove(name);
                self.records.forget(name);
            }
        }
    }

    /// The plugin that waits for these leases.
    fn caller_of(&mut self, name: &Name) -> Option<Caller> {
        let at = self.callers.iter().position(|caller| caller.waits_for.as_ref() == Some(name))?;
        Some(self.callers.swap_remove(at))
    }

    fn keep(&self, name: &Name) {
        if let Some(Err(error)) = self.attachments.get(name).map(|a| self.records.keep(a.record())) {
            eprintln!("{}: the lease holds, but the next daemon will not know it: {error}", name.client());
        }
    }

    /// Gives an attachment's leases back and forgets it.
    fn release(&mut self, name: &Name) {
        if let Some(mut attachment) = self.attachments.remove(name) {
            attachment.release(now());
            eprintln!("{}: given back", name.client());
        }
        self.records.forget(name);
    }

    /// Waits for something to happen, but not beyond `next`, and takes it.
    fn wait(&mut self, listener: &UnixListener, next: Moment) -> Result<(), CniError> {
        let next = self.callers.iter().filter_map(Caller::deadline).fold(next, Moment::min);
        // Rounded up: to wake a little too early would be to wake many times. What is too long is for ever.
        let pause = next.saturating_sub(now()).saturating_add(Duration::from_millis(1));
        let mut waits: Vec<PollFd<'_>> = vec![PollFd::new(listener, PollFlags::IN)];
        for caller in &self.callers {
            // Of those that have said what they want only the end is of interest.
            let events = if caller.waits_for.is_none() { PollFlags::IN } else { PollFlags::empty() };
            waits.push(PollFd::new(caller, events));
        }
        let wires = self.attachments.values().flat_map(Attachment::wires);
        waits.extend(wires.map(|wire| PollFd::new(wire, PollFlags::IN)));
        let timeout = Timespec::try_from(pause).ok();
        match poll(&mut waits, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(CniError::internal(format!("waiting for something to do: {error}"))),
        }
        let accepts = !waits[0].revents().is_empty();
        let callers = self.callers.len();
        let happened: Vec<PollFlags> = waits[1..=callers].iter().map(PollFd::revents).collect();
        drop(waits);
        self.take_calls(&happened);
        self.take_answers();
        if accepts {
            match listener.accept().and_then(|(stream, _)| Caller::new(stream, now())) {
                Ok(caller) => self.callers.push(caller),
                Err(error) => {
                    eprintln!("accepting a plugin: {error}");
                    std::thread::sleep(BREATH);
                }
            }
        }
        Ok(())
    }

    fn take_answers(&mut self) {
        let mut granted = Vec::new();
        for (name, attachment) in &mut self.attachments {
            if attachment.receive(now()) {
                granted.push(name.clone());
            }
        }
        for name in granted {
            let Some(attachment) = self.attachments.get(&name).filter(|a| a.is_complete()) else { continue };
            let result = attachment.result();
            self.keep(&name);
            let Some(caller) = self.caller_of(&name) else { continue };
            eprintln!("{}: {}", name.client(), addresses(&result));
            if !caller.answer(&Reply::Result(result)) {
                self.release(&name);
            }
        }
    }

    /// `happened` is what was seen of each caller.
    fn take_calls(&mut self, happened: &[PollFlags]) {
        let callers = std::mem::take(&mut self.callers);
        let start = now();
        for (at, mut caller) in callers.into_iter().enumerate() {
            let flags = happened.get(at).copied().unwrap_or(PollFlags::empty());
            match &caller.waits_for {
                // It was killed: nobody will ever ask for the lease to be given back.
                Some(name) if flags.intersects(PollFlags::HUP | PollFlags::ERR) => {
                    let name = name.clone();
                    self.release(&name);
                }
                Some(_) => self.callers.push(caller),
                None if flags.is_empty() && caller.deadline().is_some_and(|deadline| deadline > start) => {
                    self.callers.push(caller);
                }
                None => match caller.read() {
                    Heard::Call(call) => self.serve(caller, &call),
                    Heard::Nonsense(error) => {
                        caller.answer(&Reply::Error(error));
                    }
                    Heard::Nothing if caller.deadline().is_some_and(|deadline| deadline > start) => {
                        self.callers.push(caller);
                    }
                    Heard::Nothing => {}
                },
            }
        }
    }

    fn serve(&mut self, mut caller: Caller, call: &Call) {
        let outcome = call.request().and_then(|request| self.begin(&request));
        match outcome {
            Ok(Begun::Done(result)) => {
                caller.answer(&Reply::Result(result));
            }
            Ok(Begun::Waiting(name)) => {
                caller.waits_for = Some(name);
                self.callers.push(caller);
            }
            Err(error) => {
                caller.answer(&Reply::Error(error));
            }
        }
    }

    fn begin(&mut self, request: &Request) -> Result<Begun, CniError> {
        let name = Name::of(request);
        let nothing = Begun::Done(CniResult::default());
        match request.command {
            Command::Add => {
                if let Some(attachment) = self.attachments.get(&name) {
                    // As the reference does: the lease that there is.
                    return if attachment.is_complete() {
                        Ok(Begun::Done(attachment.result()))
                    } else {
                        let message = format!("{} is being given a lease already", name.client());
                        Err(CniError::new(Code::TryAgainLater, message))
                    };
                }
                let config = DhcpConfig::load(request)?;
                let netns: PathBuf = self.arguments.on_host(request.netns()?);
                let Arguments { broadcast, patience, .. } = *self.arguments;
                let attachment = Attachment::acquire(request, &config, netns, broadcast, patience, now())?;
                eprintln!("{}: looking for a lease", name.client());
                self.attachments.insert(name.clone(), attachment);
                Ok(Begun::Waiting(name))
            }
            Command::Del => {
                self.release(&name);
                Ok(nothing)
            }
            Command::Check => match self.attachments.get(&name).filter(|a| a.is_complete()) {
                Some(attachment) => attachment.check().map(|()| nothing),
                None => Err(CniError::internal(format!("there is no lease for {}", name.client()))),
            },
            Command::Gc => {
                let valid = request.valid_attachments()?;
                let names = self.attachments.keys();
                let gone = names.filter(|n| n.network == name.network && !valid.contains(&n.attachment));
                for name in gone.cloned().collect::<Vec<_>>() {
                    self.release(&name);
                }
                Ok(nothing)
            }
            Command::Status | Command::Version => Ok(nothing),
        }
    }
}

/// What has become of a request.
enum Begun {
    Done(CniResult),
    Waiting(Name),
}

fn addresses(result: &CniResult) -> String {
    result.ips.iter().map(|ip| ip.address.to_string()).collect::<Vec<_>>().join(" ")
}
