//! Compressing one block.

use std::{cell::RefCell, io};
use zstd::bulk::Compressor;

/// Compresses blocks, from many threads at once.
///
/// The result must be a function of the block alone: an image must not depend on which thread compressed what,
/// or on what was compressed before.
pub trait BlockCompressor: Sync {
    /// The zstd level, recorded in the image.
    fn level(&self) -> i32;

    /// The zstd frame for `block`; `None` when it would not be smaller than the block itself.
    ///
    /// # Errors
    /// The compressor's own failure, which for a block of legal size means that memory ran out.
    fn compress(&self, block: &[u8]) -> io::Result<Option<Vec<u8>>>;
}

/// Plain zstd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zstd {
    /// 1 (fast) to 22 (small). 15 is what mksquashfs uses.
    pub level: i32,
}

thread_local! {
    /// Making a compression context costs more than compressing a small block.
    static CONTEXT: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
}

impl BlockCompressor for Zstd {
    fn level(&self) -> i32 {
        self.level
    }

    fn compress(&self, block: &[u8]) -> io::Result<Option<Vec<u8>>> {
        CONTEXT.with_borrow_mut(|context| {
            if context.as_ref().is_none_or(|(level, _)| *level != self.level) {
                *context = None;
            }
            let (_, compressor) = match context {
                Some(ready) => ready,
                None => context.insert((self.level, Compressor::new(self.level)?)),
            };
            let compressed = compressor.compress(block)?;
            Ok((compressed.len() < block.len()).then_some(compressed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_does_not_shrink_is_left_alone() {
        let zstd = Zstd { level: 3 };
        assert_eq!(zstd.compress(b"x").unwrap(), None);
        let zeros = zstd.compress(&[0; 4096]).unwrap().unwrap();
        assert_eq!(zstd::bulk::decompress(&zeros, 4096).unwrap(), [0; 4096]);
    }

    #[test]
    fn the_result_does_not_depend_on_what_came_before() {
        let text: Vec<u8> = (0..100_000u32).flat_map(|n| (n % 977).to_le_bytes()).collect();
        let fresh =
            std::thread::scope(|s| s.spawn(|| Zstd { level: 9 }.compress(&text).unwrap()).join().unwrap());
        Zstd { level: 9 }.compress(&[5; 70_000]).unwrap();
        Zstd { level: 1 }.compress(&text).unwrap();
        Zstd { level: 9 }.compress(&text[..50_000]).unwrap();
        assert_eq!(Zstd { level: 9 }.compress(&text).unwrap(), fresh);
    }
}
