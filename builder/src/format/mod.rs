//! On-disk formats: GPT, FAT32, squashfs, dm-verity, cpio and unified kernel images.
//!
//! Each module writes one format from plain values and, where an image is later inspected or verified, reads it
//! back. Nothing here knows of profiles, slots or Debian. Three rules hold for all of them:
//!
//! * **Deterministic**: the bytes written depend on the arguments alone. Timestamps, identifiers and salts are
//!   arguments; the number of threads never shows in the output.
//! * **Streaming**: file contents are read when they are needed, in pieces ([`contents::OpenFiles`]), so memory
//!   does not grow with the image.
//! * **Distrustful readers**: what is read may be truncated or hostile. Every length is checked before it is
//!   believed, and the answer to nonsense is an error, never a panic.
//!
//! Reading goes through [`extent::ReadAt`], so that a partition inside a raw image, a file of its own and bytes
//! in a test are all the same to a reader.

pub mod contents;
pub mod cpio;
pub mod extent;
pub mod fat;
pub mod gpt;
pub mod pipeline;
pub mod squashfs;
pub mod uki;
pub mod verity;
