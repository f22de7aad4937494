//! The memory of a shim that waits.
//!
//! A shim works for milliseconds and waits for months. What it worked with stays mapped: the kernel maps 64 KiB around
//! each page of the program that is touched, so starting one container maps nearly all of it, and that counts for each pod. Once there
//! is nothing to do, the mappings are given back; the few pages that waiting needs come again from the page cache.
#![allow(unsafe_code)] // madvise(2) takes addresses.

use std::{fs, ops::Range};

/// Gives back the program's mapped code and constants, and the heap's free pages.
pub(super) fn give_back() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let here = give_back as fn() as usize;
    for range in program(&maps, here) {
        let length = range.end - range.start;
        // SAFETY: the range is a whole mapping of the program's file that nobody can write to, and nobody could since
        // the program began (see `program`): each page of it is the file's, and is mapped again when it is touched.
        unsafe { libc::madvise(range.start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
    // SAFETY: it takes no pointers, and the shim has one thread.
    unsafe { libc::malloc_trim(0) };
}

/// Addresses of the mapping of the code that `here` is in, and of constants that lie before it in the same file, by the lines of
/// `/proc/self/maps` (proc_pid_maps(5)). Constants after it may be of the part that the loader wrote to before it
/// became read-only, whose pages are not the file's.
fn program(maps: &str, here: usize) -> Vec<Range<usize>> {
    struct Mapping<'a> {
        range: Range<usize>,
        rights: &'a str,
        offset: u64,
        file: (&'a str, &'a str),
    }
    let parse = |line| -> Option<Mapping<'_>> {
        let mut fields = str::split_whitespace(line);
        let (start, end) = fields.next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some(Mapping {
            range: address(start)?..address(end)?,
            rights: fields.next()?,
            offset: u64::from_str_radix(fields.next()?, 16).ok()?,
            file: (fields.next()?, fields.next()?),
        })
    };
    let all: Vec<Mapping<'_>> = maps.lines().filter_map(parse).collect();
    let Some(code) = all.iter().find(|held| held.range.contains(&here) && held.rights == "r-xp") else {
        return Vec::new();
    };
    let of_program = |held: &&Mapping<'_>| {
        let before = held.rights == "r--p" && held.offset < code.offset && held.range.end <= code.range.start;
        held.file == code.file && (held.range == code.range || before)
    };
    all.iter().filter(of_program).map(|held| held.range.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_wrote_to_is_given_back() {
        let maps = "\
10000-20000 r--p 00000000 fe:00 77 /usr/libexec/cairn/cairn-shim (deleted)
20000-50000 r-xp 00010000 fe:00 77 /usr/libexec/cairn/cairn-shim (deleted)
50000-60000 r--p 00040000 fe:00 77 /usr/libexec/cairn/cairn-shim (deleted)
60000-61000 rw-p 00050000 fe:00 77 /usr/libexec/cairn/cairn-shim (deleted)
70000-80000 r--p 00000000 fe:00 78 /usr/lib/libc.so.6
80000-90000 r-xp 00010000 fe:00 78 /usr/lib/libc.so.6
7ff000-800000 r-xp 00000000 00:00 0 [vdso]
";
        assert_eq!(program(maps, 0x30000), [0x10000..0x20000, 0x20000..0x50000]);
        assert_eq!(program(maps, 0x55000), Vec::<Range<usize>>::new());
        assert_eq!(program("", 1), Vec::<Range<usize>>::new());
    }

    #[test]
    fn the_program_goes_on_afterwards() {
        static TEXT: &str = "a constant";
        give_back();
        assert_eq!(TEXT.len(), 10);
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!program(&maps, give_back as fn() as usize).is_empty());
    }
}
