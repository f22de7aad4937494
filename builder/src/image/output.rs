//! The output directory: made beside its final place and exchanged for it in one step.

use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Appended to the name of a directory that nobody fills any more.
const ABANDONED: &str = "-abandoned";

/// A directory that is being filled. Dropped before [`Staging::publish`], it vanishes.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Staging {
    /// Makes the directory that will become `target`; its parents too. What an interrupted build left beside it
    /// is taken away.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(target: &Path) -> io::Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = Self::place(target);
        let parent = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        for entry in fs::read_dir(parent)? {
            let entry = entry?;
            let left = entry.file_name().to_string_lossy().into_owned();
            let pid = left.strip_prefix(&format!(".{name}.building-"));
            let pid = pid.and_then(|pid| pid.trim_end_matches(ABANDONED).parse::<u32>().ok());
            if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path)?;
        Ok(Self { path, target: target.to_owned(), published: false })
    }

    /// Where this process fills what will become `target`.
    fn place(target: &Path) -> PathBuf {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        parent.join(format!(".{name}.building-{}", std::process::id()))
    }

    /// Takes away what this process is filling for `target`, for when it is about to end while other threads
    /// still write.
    pub fn abandon(target: &Path) {
        let path = Self::place(target);
        let mut abandoned = path.clone().into_os_string();
        abandoned.push(ABANDONED);
        // Renamed first: who still writes there finds nothing, and cannot publish a half. Whatever fails here is
        // done by the next build.
        if fs::rename(&path, &abandoned).is_ok() {
            let _ = fs::remove_dir_all(&abandoned);
        }
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Puts it in the target's place; what was there is gone afterwards.
    ///
    /// # Errors
    /// The rename failed; the target is as it was.
    pub fn publish(mut self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()?;
        if self.target.exists() {
            renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::EXCHANGE)?;
            // What is left under the staging name now is the old output.
            fs::remove_dir_all(&self.path)?;
        } else {
            fs::rename(&self.path, &self.target)?;
        }
        self.published = true;
        if let Some(parent) = self.target.parent() {
            fs::File::open(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?
                .sync_all()?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: the next build removes what this cannot.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_old_or_new_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("out/worker");
        for text in ["1", "2"] {
            let staging = Staging::new(&target).unwrap();
            fs::write(staging.file("a"), text).unwrap();
            staging.publish().unwrap();
            assert_eq!(fs::read_to_string(target.join("a")).unwrap(), text);
        }
        drop(Staging::new(&target).unwrap());
        let names: Vec<_> =
            fs::read_dir(directory.path().join("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["worker"]);
    }

    #[test]
    fn what_a_killed_build_left_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let left = ["4294967295", "4294967295-abandoned"]
            .map(|end| directory.path().join(format!(".worker.building-{end}")));
        left.iter().for_each(|left| fs::create_dir(left).unwrap());
        drop(Staging::new(&directory.path().join("worker")).unwrap());
        assert!(left.iter().all(|left| !left.exists()));
    }

    #[test]
    fn what_is_abandoned_cannot_be_published() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("worker");
        let staging = Staging::new(&target).unwrap();
        fs::write(staging.file("a"), "half").unwrap();
        Staging::abandon(&target);
        assert!(fs::write(staging.file("b"), "more").is_err());
        assert!(staging.publish().is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
