//! Archives out of arbitrary bytes: each byte is a choice, so every change of the bytes is another archive whose headers
//! are right, with the names, links and attributes that hostile archives have.

/// Names of files; several make a path.
const NAMES: [&[u8]; 18] = [
    b"a",
    b"b",
    b"c",
    b"tmp",
    b"etc",
    b"outside",
    b"file",
    b"directory",
    b"link",
    b"..",
    b".",
    b"",
    b".wh.a",
    b".wh..wh..opq",
    b".wh.",
    b".wh..",
    b"\xff\xfe",
    b"d0123456789012345678901234567890123456789012345678901234567890123456789",
];
/// Where links lead.
const TARGETS: [&[u8]; 18] = [
    b"a",
    b"b",
    b"a/b",
    b"/a",
    b"/",
    b".",
    b"..",
    b"../..",
    b"../outside/file",
    b"../../outside",
    b"/mnt/outside",
    b"/mnt/outside/file",
    b"/outside/directory",
    b"/proc/self/root/mnt/outside",
    b"/proc/self/cwd",
    b"/proc/self/fd/3",
    b"c/../../b",
    b"",
];
const ATTRIBUTES: [&[u8]; 9] = [
    b"user.a",
    b"trusted.overlay.opaque",
    b"trusted.overlay.redirect",
    b"trusted.overlay.metacopy",
    b"user.overlay.opaque",
    b"security.capability",
    b"trusted.a",
    b"system.posix_acl_access",
    b"",
];
const NUMBERS: [&[u8]; 10] = [
    b"0",
    b"1",
    b"1000",
    b"4294967294",
    b"4294967295",
    b"4294967296",
    b"-1",
    b"18446744073709551615",
    b"1.5",
    b"x",
];

/// Bytes as choices; when they are used up, the first choice is taken for ever.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.next()) % limit
    }

    fn one<'a>(&mut self, of: &[&'a [u8]]) -> &'a [u8] {
        of[self.below(of.len())]
    }

    fn path(&mut self) -> Vec<u8> {
        let shape = self.next();
        let mut path = if shape & 0xc0 == 0xc0 { b"/".to_vec() } else { Vec::new() };
        let (count, deep) = (usize::from(shape & 3) + 1, shape & 0x3c == 0x3c);
        for number in 0..if deep { usize::from(self.next()) * 4 } else { count } {
            if number > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(if deep { b"d" } else { self.one(&NAMES) });
        }
        if shape & 0x38 == 0x08 {
            path.push(b'/');
        }
        path
    }
}

/// The archive that `bytes` tell of.
pub fn archive(bytes: &[u8]) -> Vec<u8> {
    let mut choices = Choices(bytes);
    let mut archive = Vec::new();
    while !choices.0.is_empty() && archive.len() < 4 << 20 {
        entry(&mut choices, &mut archive);
    }
    if choices.below(2) == 0 {
        archive.extend_from_slice(&[0; 1024]);
    }
    archive
}

fn entry(choices: &mut Choices<'_>, archive: &mut Vec<u8>) {
    let kind = match choices.below(20) {
        0..=3 => b'0',
        4..=6 => b'5',
        7..=9 => b'2',
        10 | 11 => b'1',
        12 => b'3',
        13 => b'4',
        14 => b'6',
        15 | 16 => b'x',
        17 => b'L',
        18 => *choices.one(&[b"K", b"g", b"S", b"7", b"z", b"\0"]).first().unwrap_or(&b'0'),
        _ => return whiteout(choices, archive),
    };
    let content = match kind {
        b'x' | b'g' => records(choices),
        b'L' | b'K' if choices.next() > 250 => vec![b'd'; 5000],
        b'L' => choices.path(),
        b'K' => choices.one(&TARGETS).to_vec(),
        b'0' => match choices.below(8) {
            0 => vec![b'z'; usize::from(choices.next()) << 12],
            size => vec![choices.next(); size],
        },
        _ => Vec::new(),
    };
    let path = choices.path();
    let link = if matches!(kind, b'1' | b'2') { choices.one(&TARGETS) } else { b"" };
    header(choices, archive, &path, kind, link, content.len());
    archive.extend_from_slice(&content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn whiteout(choices: &mut Choices<'_>, archive: &mut Vec<u8>) {
    let mut path = choices.path();
    path.extend_from_slice(b"/.wh.");
    path.extend_from_slice(choices.one(&NAMES));
    header(choices, archive, &path, b'0', b"", 0);
}

fn records(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..=choices.below(5) {
        let (key, value): (Vec<u8>, Vec<u8>) = match choices.below(9) {
            0 | 1 => (b"path".to_vec(), choices.path()),
            2 => (b"linkpath".to_vec(), choices.one(&TARGETS).to_vec()),
            3 => (b"uid".to_vec(), choices.one(&NUMBERS).to_vec()),
            4 => (b"size".to_vec(), choices.one(&NUMBERS).to_vec()),
            5 => (b"mtime".to_vec(), choices.one(&NUMBERS).to_vec()),
            6 => (b"GNU.sparse.major".to_vec(), b"1".to_vec()),
            _ => {
                let value = vec![choices.next(); choices.below(40) * choices.below(200)];
                ([b"SCHILY.xattr.", choices.one(&ATTRIBUTES)].concat(), value)
            }
        };
        let body = [b" ", &key[..], b"=", &value, b"\n"].concat();
        // The length counts its own digits.
        let length = (1..6)
            .map(|digits| body.len() + digits)
            .find(|length| length.to_string().len() + body.len() == *length);
        all.extend_from_slice(length.unwrap_or(0).to_string().as_bytes());
        all.extend_from_slice(&body);
    }
    all
}

fn header(choices: &mut Choices<'_>, archive: &mut Vec<u8>, path: &[u8], kind: u8, link: &[u8], size: usize) {
    let mut block = [0_u8; 512];
    let shape = choices.next();
    let mut put = |at: usize, limit: usize, text: &[u8]| {
        let length = text.len().min(limit);
        block[at..at + length].copy_from_slice(&text[..length]);
    };
    put(0, 100, path);
    put(100, 8, if shape & 3 == 0 { b"0007777\0" } else { b"0000755\0" });
    put(108, 8, if shape & 12 == 12 { b"\x80\0\0\0\xff\xff\xff\xfe" } else { b"0001750\0" });
    put(116, 8, b"0000000\0");
    let claimed = if shape & 0x70 == 0x70 { size + usize::from(shape) } else { size };
    put(124, 12, format!("{claimed:011o}\0").as_bytes());
    put(
        136,
        12,
        if shape & 0x80 == 0 { b"07777777777\0" } else { b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff" },
    );
    put(156, 1, &[kind]);
    put(157, 100, link);
    put(257, 8, if shape & 0x30 == 0x30 { b"ustar  \0" } else { b"ustar\x0000" });
    put(329, 8, if shape & 1 == 0 { b"0000000\0" } else { b"0000001\0" });
    put(337, 8, if shape & 2 == 0 { b"0000000\0" } else { b"0000003\0" });
    if shape & 0x0f == 0x0f {
        put(345, 155, b"prefix/..");
    }
    sum(&mut block);
    archive.extend_from_slice(&block);
}

fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// `bytes` with the checksum of every block put right that looks like a header.
pub fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut all = bytes.to_vec();
    for block in all.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        sum(block);
    }
    all
}
