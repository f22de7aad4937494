//! Unified kernel images: an EFI stub with kernel, initrd and command line as further sections.
//!
//! systemd's stub is a PE program that finds what to boot in sections of its own file, by name
//! (`.linux`, `.initrd`, `.cmdline`, `.osrel`, `.uname`; UAPI Group's "Unified Kernel Image" specification). Making
//! one is adding sections to a PE file: headers in the space the stub left for them, contents behind the last
//! section, addresses above the highest one, and the sizes and the checksum of the optional header set right.
//! Signing comes after and is not done here: the stub must carry no signature.

mod pe;

pub use pe::{InvalidPe, Section, sections};

use pe::{Headers, Layout};

/// What goes into an image, besides the stub.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// systemd-boot's stub, `linuxx64.efi.stub`.
    pub stub: &'a [u8],
    /// The os-release file, whose names and versions the boot menu shows.
    pub os_release: &'a [u8],
    /// Kernel command line, without a final newline.
    pub command_line: &'a str,
    /// Kernel release, as `uname -r` says.
    pub kernel_release: &'a str,
    /// The kernel, a bzImage with its EFI stub.
    pub kernel: &'a [u8],
    /// The initramfs, compressed or not.
    pub initrd: &'a [u8],
    /// A BMP picture shown while booting.
    pub splash: Option<&'a [u8]>,
}

/// The image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stub is no PE file that sections can be added to.
    #[error("the EFI stub cannot be used: {0}")]
    Stub(#[from] InvalidPe),
    /// The stub has a section already that is to be added.
    #[error("the EFI stub has a section {0} already; is it a finished kernel image?")]
    Occupied(&'static str),
    /// No space for the headers of the new sections.
    #[error("the EFI stub has room for {room} more section headers, and {needed} are needed")]
    NoRoom {
        /// Headers that fit.
        room: usize,
        /// Headers wanted.
        needed: usize,
    },
    /// The command line has a zero byte or is too long for a kernel.
    #[error("the kernel command line has {0} bytes or a zero among them; 2047 without a zero is the most")]
    CommandLine(usize),
    /// The kernel is no EFI program, so that the stub could not start it.
    #[error("the kernel is no EFI program: {0}")]
    Kernel(InvalidPe),
    /// All together is more than PE can address.
    #[error("the image would be 4 GiB or more")]
    TooLarge,
}

/// The longest command line x86 kernels take, without the final zero.
const LONGEST_COMMAND_LINE: usize = 2047;

/// Puts the parts together.
///
/// # Errors
/// [`Error`].
pub fn build(parts: &Parts<'_>) -> Result<Vec<u8>, Error> {
    let command_line = parts.command_line;
    if command_line.len() > LONGEST_COMMAND_LINE || command_line.contains('\0') {
        return Err(Error::CommandLine(command_line.len()));
    }
    Headers::parse(parts.kernel).map_err(Error::Kernel)?;
    let headers = Headers::parse(parts.stub)?;
    headers.check_extensible(parts.stub)?;
    // The kernel comes last: what is behind it may grow by in-place decompression.
    let added: Vec<(&'static str, &[u8])> = [
        Some((".osrel", parts.os_release)),
        Some((".cmdline", command_line.as_bytes())),
        Some((".uname", parts.kernel_release.as_bytes())),
        parts.splash.map(|splash| (".splash", splash)),
        Some((".initrd", parts.initrd)),
        Some((".linux", parts.kernel)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let present = sections(parts.stub)?;
    if let Some((name, _)) =
        added.iter().find(|(name, _)| present.iter().any(|section| section.name == *name))
    {
        return Err(Error::Occupied(name));
    }
    let stub = headers.strip_symbols(parts.stub);
    let room = headers.room_for_sections(&stub);
    if added.len() > room {
        return Err(Error::NoRoom { room, needed: added.len() });
    }
    let layout = Layout::behind(&headers, &stub, &added).ok_or(Error::TooLarge)?;
    Ok(layout.assemble(&headers, &stub, &added))
}

/// The kernel command line in an image; `None` when it has none.
///
/// # Errors
/// [`InvalidPe`].
pub fn command_line(image: &[u8]) -> Result<Option<String>, InvalidPe> {
    let section = sections(image)?.into_iter().find(|section| section.name == ".cmdline");
    Ok(section.map(|section| {
        let text = String::from_utf8_lossy(section.content);
        text.trim_end_matches(['\0', '\n', ' ']).to_owned()
    }))
}

#[cfg(test)]
pub(crate) mod tests;
