//! Applets about files.

use super::{DONE, Failure, Options, Outcome, bytes};
use crate::{json::Json, sha256::Sha256};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    thread,
    time::Duration,
};

/// What `fill` writes at a time.
const PIECE: usize = 64 * 1024;

pub(super) fn cat(words: &[&str]) -> Outcome {
    let mut out = io::stdout().lock();
    let copied = match words {
        [] => io::copy(&mut io::stdin().lock(), &mut out),
        [path] => File::open(path).and_then(|mut file| io::copy(&mut file, &mut out)),
        _ => return Err(Failure::usage("more than one file")),
    };
    copied.and_then(|_| out.flush()).map_err(|e| Failure::os(words.first().unwrap_or(&"stdin"), &e))?;
    DONE
}

pub(super) fn ls(words: &[&str]) -> Outcome {
    let [directory] = Options::parse(words, &[], &[])?.words()?;
    let failed = |e: io::Error| Failure::os(directory, &e);
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let data = entry.metadata().map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let target = fs::read_link(entry.path()).map(|t| format!(" -> {}", t.display())).unwrap_or_default();
        lines.push((
            name.clone(),
            format!("{:06o} {} {} {} {name}{target}", data.mode(), data.uid(), data.gid(), data.len()),
        ));
    }
    lines.sort();
    lines.iter().for_each(|(_, line)| println!("{line}"));
    DONE
}

pub(super) fn write(words: &[&str]) -> Outcome {
    let [path, text] = words else { return Err(Failure::usage("it takes a file and a text")) };
    fs::write(path, text).map_err(|e| Failure::os(path, &e))?;
    DONE
}

pub(super) fn fill(words: &[&str]) -> Outcome {
    let options = Options::parse(words, &["every"], &[])?;
    let [path, size] = options.words()?;
    let (size, every) = (bytes(size)?, options.value::<u64>("every")?.map(Duration::from_millis));
    let mut file = File::create(path).map_err(|e| Failure::os(path, &e))?;
    let mut written = 0;
    // A write that is refused may have been done in part: what counts is what the file has become.
    let failed = |written, e: &io::Error| Failure::os(format_args!("{path}: after {written} bytes"), e);
    while written < size {
        // Each piece is another, so that nothing is saved by finding them alike.
        let piece: Vec<u8> =
            (written..size.min(written + PIECE)).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect();
        file.write_all(&piece).map_err(|e| failed(written, &e))?;
        written += piece.len();
        if let Some(every) = every {
            file.sync_data().map_err(|e| failed(written, &e))?;
            thread::sleep(every);
        }
    }
    file.sync_all().map_err(|e| failed(written, &e))?;
    println!("{written}");
    DONE
}

pub(super) fn head(words: &[&str]) -> Outcome {
    let [path, size] = Options::parse(words, &[], &[])?.words()?;
    let size = u64::try_from(bytes(size)?).unwrap_or(u64::MAX);
    let mut out = io::stdout().lock();
    let copied = File::open(path).and_then(|file| io::copy(&mut file.take(size), &mut out));
    copied.and_then(|_| out.flush()).map_err(|e| Failure::os(path, &e))?;
    DONE
}

pub(super) fn mkdir(words: &[&str]) -> Outcome {
    let [path] = Options::parse(words, &[], &[])?.words()?;
    fs::create_dir_all(path).map_err(|e| Failure::os(path, &e))?;
    DONE
}

pub(super) fn sync(words: &[&str]) -> Outcome {
    Options::parse(words, &[], &[])?.words::<0>()?;
    rustix::fs::sync();
    DONE
}

/// Beside its place and renamed, with the mode of the source: the way in which network add-ons install plugins, which
/// may be running at that moment.
pub(super) fn install(words: &[&str]) -> Outcome {
    let [source, target] = Options::parse(words, &[], &[])?.words()?;
    let beside = format!("{target}.new");
    let copied = fs::copy(source, &beside).and_then(|_| fs::rename(&beside, target));
    copied.map_err(|e| Failure::os(target, &e))?;
    DONE
}

pub(super) fn rm(words: &[&str]) -> Outcome {
    let [path] = Options::parse(words, &[], &[])?.words()?;
    fs::remove_file(path).map_err(|e| Failure::os(path, &e))?;
    DONE
}

pub(super) fn sha256(words: &[&str]) -> Outcome {
    let [path] = Options::parse(words, &[], &[])?.words()?;
    let failed = |e: io::Error| Failure::os(path, &e);
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            length => hash.update(&buffer[..length]),
        }
    }
    println!("{}  {path}", hash.finish());
    DONE
}

pub(super) fn mounts(words: &[&str]) -> Outcome {
    let options = Options::parse(words, &[], &["json"])?;
    options.words::<0>()?;
    let path = "/proc/self/mountinfo";
    let text = fs::read_to_string(path).map_err(|e| Failure::os(path, &e))?;
    if options.flag("json") {
        println!("{}", Json::List(text.lines().filter_map(mount).collect()).render());
    } else {
        print!("{text}");
    }
    DONE
}

/// One line of proc_pid_mountinfo(5). Spaces and their like in paths are octal escapes.
fn mount(line: &str) -> Option<Json> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let mut after = after.split(' ');
    let next =
        |name, words: &mut dyn Iterator<Item = &str>| Some((name, Json::text(unescape(words.next()?))));
    let root = next("root", &mut before)?;
    let target = next("target", &mut before)?;
    let options = next("options", &mut before)?;
    let propagation = ("propagation", Json::List(before.map(Json::text).collect()));
    let kind = next("type", &mut after)?;
    let source = next("source", &mut after)?;
    let super_options = next("super_options", &mut after)?;
    Some(Json::Object(vec![target, kind, source, root, options, super_options, propagation]))
}

fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        let octal = rest
            .get(..3)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match octal {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                bytes = &rest[3..];
            }
            _ => {
                out.push(*first);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_lines_with_and_without_propagation() {
        let line =
            "36 35 98:0 /mnt1 /a\\040b rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        let parsed: serde_json::Value = serde_json::from_str(&mount(line).unwrap().render()).unwrap();
        assert_eq!(parsed["target"], "/a b");
        assert_eq!(parsed["type"], "ext3");
        assert_eq!(parsed["propagation"], serde_json::json!(["master:1", "shared:2"]));
        assert!(mount("36 35 98:0 / / rw - proc proc rw").is_some());
        assert!(mount("nonsense").is_none());
    }
}
