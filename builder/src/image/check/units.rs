//! systemd.unit(5), systemd.exec(5), systemd.service(5): do the programs that units start exist?
//!
//! Units are read as systemd does: /etc hides /usr, a link to /dev/null masks, drop-ins come after the unit in the
//! order of their names, an empty assignment forgets what came before. Every unit counts, enabled or not: what
//! starts it may be decided on the node. Left alone are programs that the unit tolerates the absence of (`-`),
//! that are only known at run time (`%i`, /run), and units whose conditions /usr already decides against.

use super::FinishedImage;
use crate::{
    profile::check::Finding,
    tree::{Kind, Node},
};
use std::collections::{BTreeMap, BTreeSet};

/// Where units are, the first one wins.
const DIRECTORIES: [&str; 3] =
    ["etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system"];
/// Where systemd looks for a program without a path.
const SEARCH_PATH: [&str; 4] = ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin"];
/// What the image says nothing about.
const RUN_TIME: [&str; 6] = ["/dev/", "/proc/", "/run/", "/sys/", "/tmp/", "/var/"];
/// Kinds of unit that start programs.
const KINDS: [&str; 4] = [".service", ".socket", ".mount", ".swap"];
/// Settings that name a program.
const SETTINGS: [&str; 9] = [
    "ExecCondition",
    "ExecStartPre",
    "ExecStart",
    "ExecStartPost",
    "ExecReload",
    "ExecStop",
    "ExecStopPre",
    "ExecStopPost",
    "ExecReloadPost",
];
/// Only there in an initramfs.
const INITRD_RELEASE: &str = "/etc/initrd-release";

pub(super) fn programs(image: &FinishedImage<'_>) -> Vec<Finding> {
    let tree = image.tree;
    let mut findings = Vec::new();
    for (name, directory) in units(tree) {
        let path = format!("{directory}/{name}");
        let mut unit = Unit::default();
        let files = std::iter::once(path.clone()).chain(drop_ins(tree, &name));
        for file in files {
            let content = tree.resolve(&file).and_then(|place| tree.get(place)?.content());
            match content.map(crate::tree::Content::read) {
                Some(Ok(bytes)) => unit.add(&String::from_utf8_lossy(&bytes)),
                Some(Err(error)) => {
                    findings.push(Finding::new(
                        format!("/{file}"),
                        format!("it cannot be read: {error}"),
                        "build again",
                    ));
                }
                None => {}
            }
        }
        if unit.conditions.iter().any(|condition| condition.never_holds(tree)) {
            continue;
        }
        for (setting, command) in unit.commands() {
            if let Some(program) = missing(command, tree) {
                findings.push(Finding::new(
                    format!("/{path}"),
                    format!("{setting}= starts {program}, which is not in the image or not executable"),
                    "install the package that has it, drop the unit (packages.drop_files), or prefix the program with `-`",
                ));
            }
        }
    }
    findings
}

/// Names of units that are files, and the directory that decides.
fn units(tree: &Node) -> BTreeMap<String, &'static str> {
    let mut found = BTreeMap::new();
    let mut hidden = BTreeSet::new();
    for directory in DIRECTORIES {
        let entries = tree.get(directory).and_then(Node::entries);
        for (name, node) in entries.into_iter().flatten() {
            let name = String::from_utf8_lossy(name).into_owned();
            if !KINDS.iter().any(|kind| name.ends_with(kind)) || !hidden.insert(name.clone()) {
                continue;
            }
            // A link masks the unit or is another name of one.
            if matches!(node.kind, Kind::File(_)) {
                found.insert(name, directory);
            }
        }
    }
    found
}

/// Drop-ins of a unit, in the order they apply. Those of a template are its instances', too, but an instance is no file.
fn drop_ins(tree: &Node, unit: &str) -> Vec<String> {
    let mut found = BTreeMap::new();
    let kind = unit.rsplit_once('.').map_or("", |(_, kind)| kind);
    let mut folders = vec![format!("{unit}.d"), format!("{kind}.d")];
    // foo-bar.service is also told what foo-.service.d says.
    let stem = unit.trim_end_matches(kind).trim_end_matches('.');
    folders.extend(stem.match_indices('-').map(|(at, _)| format!("{}.{kind}.d", &stem[..=at])));
    for directory in DIRECTORIES {
        for folder in &folders {
            let path = format!("{directory}/{folder}");
            for name in tree.get(&path).and_then(Node::entries).into_iter().flat_map(BTreeMap::keys) {
                let name = String::from_utf8_lossy(name).into_owned();
                if name.ends_with(".conf") {
                    let place = format!("{path}/{name}");
                    found.entry(name).or_insert(place);
                }
            }
        }
    }
    found.into_values().collect()
}

/// What a unit and its drop-ins say, as far as it is looked at.
#[derive(Debug, Default)]
struct Unit {
    commands: BTreeMap<&'static str, Vec<String>>,
    conditions: Vec<Condition>,
}

impl Unit {
    fn add(&mut self, text: &str) {
        for line in joined(text) {
            let Some((key, value)) = line.split_once('=') else { continue };
            let (key, value) = (key.trim(), value.trim());
            if let Some(setting) = SETTINGS.into_iter().find(|setting| *setting == key) {
                let commands = self.commands.entry(setting).or_default();
                if value.is_empty() { commands.clear() } else { commands.push(value.to_owned()) }
            } else if let Some(kind) = key.strip_prefix("Condition") {
                // An empty one forgets all of its kind, as systemd does.
                if value.is_empty() {
                    self.conditions.retain(|condition| condition.kind != kind);
                } else {
                    self.conditions.push(Condition { kind: kind.to_owned(), value: value.to_owned() });
                }
            }
        }
    }

    fn commands(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.commands
            .iter()
            .flat_map(|(setting, commands)| commands.iter().map(|command| (*setting, command.as_str())))
    }
}

/// Lines, those that end in a backslash with the next ones; without comments.
fn joined(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        // Comments may stand between the parts of one line.
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        let (part, goes_on) = match line.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line, false),
        };
        let whole = match open.take() {
            Some(before) => format!("{before} {}", part.trim_start()),
            None => part.to_owned(),
        };
        if goes_on { open = Some(whole) } else { lines.push(whole) }
    }
    lines.extend(open);
    lines
}

/// `Condition<kind>=<value>`.
#[derive(Debug)]
struct Condition {
    kind: String,
    value: String,
}

impl Condition {
    /// Whether the image alone decides that it is false. Only /usr is the same on every node.
    fn never_holds(&self, tree: &Node) -> bool {
        // With `|` one of several is enough: not decided here.
        let (negated, path) = match self.value.strip_prefix('!') {
            Some(path) => (true, path.trim()),
            None => (false, self.value.as_str()),
        };
        if path == INITRD_RELEASE {
            return !negated;
        }
        if !path.starts_with("/usr/") || path.contains('%') {
            return false;
        }
        let node = tree.resolve(path).and_then(|place| tree.get(place));
        let holds = match self.kind.as_str() {
            "PathExists" => node.is_some(),
            "PathIsDirectory" => node.is_some_and(|node| node.entries().is_some()),
            "FileIsExecutable" => node.is_some_and(is_executable),
            "FileNotEmpty" => node.and_then(Node::content).is_some_and(|content| !content.is_empty()),
            _ => return false,
        };
        holds == negated
    }
}

fn is_executable(node: &Node) -> bool {
    node.content().is_some() && node.meta.mode & 0o111 != 0
}

/// The program of a command line, if it should be in the image and is not.
fn missing(command: &str, tree: &Node) -> Option<String> {
    let start = command.trim_start_matches(['@', ':', '+', '!', '|', '-']);
    let prefixes = &command[..command.len() - start.len()];
    let program = match start.strip_prefix(['"', '\'']) {
        Some(quoted) => quoted.split(['"', '\'']).next(),
        None => start.split_whitespace().next(),
    };
    let program = program.filter(|program| !program.is_empty())?;
    let unknowable = program.contains(['%', '$']) || RUN_TIME.iter().any(|place| program.starts_with(place));
    if prefixes.contains('-') || unknowable {
        return None;
    }
    let there = |path: &str| tree.resolve(path).and_then(|place| tree.get(place)).is_some_and(is_executable);
    let found = match program.contains('/') {
        true => there(program),
        false => SEARCH_PATH.iter().any(|directory| there(&format!("{directory}/{program}"))),
    };
    (!found).then(|| program.to_owned())
}
