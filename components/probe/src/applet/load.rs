//! Applets that use up memory and CPU.

use super::{DONE, Failure, Options, Outcome, bytes, number, seconds};
use rustix::time::{ClockId, clock_gettime};
use std::{hint::black_box, thread, time::Instant};

const PAGE: usize = 4096;

pub(super) fn hog(words: &[&str]) -> Outcome {
    let options = Options::parse(words, &["hold"], &[])?;
    let [size] = options.words()?;
    let size = bytes(size)?;
    let hold = options.value::<f64>("hold")?.map(seconds).transpose()?;
    let mut memory: Vec<u8> = Vec::new();
    memory.try_reserve_exact(size).map_err(|_| Failure::tried(format!("ENOMEM: {size} bytes")))?;
    // Zeros come from a page that all share; anything else makes the page our own.
    memory.resize(size, 1);
    for page in memory.chunks_mut(PAGE) {
        page[0] = black_box(2);
    }
    println!("touched {size}");
    if let Some(hold) = hold {
        thread::sleep(hold);
    }
    black_box(&memory);
    DONE
}

pub(super) fn spin(words: &[&str]) -> Outcome {
    let options = Options::parse(words, &["threads"], &[])?;
    let [time] = options.words()?;
    let threads = options.value::<usize>("threads")?.unwrap_or(1).max(1);
    let end = Instant::now() + seconds(number("SECONDS", time)?)?;
    let start = Instant::now();
    let workers: Vec<_> =
        (0..threads).map(|_| thread::Builder::new().stack_size(64 * 1024).spawn(move || burn(end))).collect();
    for worker in workers {
        let worker = worker.map_err(|e| Failure::os("starting a thread", &e))?;
        worker.join().map_err(|_| Failure::tried("a thread ended early"))?;
    }
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let used = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
    println!("{used:.3} CPU seconds in {:.3} seconds", start.elapsed().as_secs_f64());
    DONE
}

fn burn(end: Instant) {
    let mut number = 1u64;
    while Instant::now() < end {
        for _ in 0..10_000 {
            number = black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(
            ["10", "64M", "2g", "4K"].map(|text| bytes(text).ok()),
            [Some(10), Some(64 << 20), Some(2 << 30), Some(4096)]
        );
        assert_eq!(["", "M", "1T", "99999999999999999999G"].map(|text| bytes(text).ok()), [None; 4]);
    }
}
