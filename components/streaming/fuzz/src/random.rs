//! Random numbers, and random changes of bytes.

/// xorshift64*.
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, state: seed | 1 }
    }

    /// What it began with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// 48 random bits.
    pub fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// A number less than `limit`, or 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// One of them; there must be one.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Up to four changes: bits, bytes, numbers at the edges, and pieces taken out, doubled or put in from `other`.
pub fn mutate(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    const NUMBERS: [u32; 8] = [0, 1, 2, 0x7f, 0x80, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
    for _ in 0..random.below(5) {
        let at = random.below(bytes.len());
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..(at + random.below(16)).min(bytes.len()))),
            3 => {
                let new: Vec<u8> = (0..random.below(9)).map(|_| random.next() as u8).collect();
                bytes.splice(at..at, new);
            }
            4 if bytes.len() >= at + 4 => {
                bytes[at..at + 4].copy_from_slice(&random.one(&NUMBERS).to_be_bytes());
            }
            5 if !other.is_empty() => {
                let from = random.below(other.len());
                let until = (from + random.below(200)).min(other.len());
                bytes.splice(at..at, other[from..until].iter().copied());
            }
            _ => {
                let until = (at + random.below(64)).min(bytes.len());
                let twice = bytes[at.min(until)..until].to_vec();
                bytes.splice(at..at, twice);
            }
        }
    }
}
