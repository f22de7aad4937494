//! The parts of a unified kernel image: a PE program whose sections are kernel, initrd and command line
//! (UAPI group, "Unified Kernel Image").

use crate::error::{Error, Fault, UserError};
use object::{Object, ObjectSection, read::pe::PeFile64};
use std::path::{Path, PathBuf};

/// Kernel and initrd, written to files, and the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UkiParts {
    /// `.linux`
    pub kernel: PathBuf,
    /// `.initrd`
    pub initrd: PathBuf,
    /// `.cmdline`, without the terminating NUL and white space at its end
    pub command_line: String,
}

/// Takes `uki` apart into `directory`.
pub fn extract(uki: &Path, directory: &Path) -> Result<UkiParts, Error> {
    let bytes = std::fs::read(uki).map_err(Fault::io(format!("read {}", uki.display())))?;
    let bad = |reason: String| UserError::BadImage { path: uki.to_owned(), reason };
    let file =
        PeFile64::parse(&*bytes).map_err(|error| bad(format!("not a unified kernel image: {error}")))?;
    let section = |name: &str| section(&file, name).map_err(&bad);
    let command_line = section(".cmdline")?;
    let command_line = std::str::from_utf8(command_line)
        .map_err(|error| bad(format!("the command line is not UTF-8: {error}")))?
        .trim_end_matches(['\0', '\n', ' '])
        .to_owned();
    let write = |name: &str, content: &[u8]| -> Result<PathBuf, Fault> {
        let path = directory.join(name);
        std::fs::write(&path, content).map_err(Fault::io(format!("write {}", path.display())))?;
        Ok(path)
    };
    Ok(UkiParts {
        kernel: write("linux", section(".linux")?)?,
        initrd: write("initrd", section(".initrd")?)?,
        command_line,
    })
}

fn section<'a>(file: &PeFile64<'a>, name: &str) -> Result<&'a [u8], String> {
    let section = file.section_by_name(name).ok_or_else(|| format!("the section {name} is missing"))?;
    let data = section.data().map_err(|error| format!("the section {name} cannot be read: {error}"))?;
    // On disk a section is padded to the file alignment; its true length is the virtual size.
    let length = usize::try_from(section.size()).map_err(|_| format!("the section {name} is too long"))?;
    Ok(data.get(..length).unwrap_or(data))
}
