//! Free TCP ports on the loopback.

use crate::error::Fault;
use std::net::{Ipv4Addr, TcpListener};

/// Asks the kernel for `count` different free ports.
///
/// They are free, not reserved: another program may take one before QEMU does. QEMU then refuses to start,
/// and [`super::machine`] tries again with others.
pub fn free(count: usize) -> Result<Vec<u16>, Fault> {
    // All are held until the last is known, else the kernel may give one out twice.
    let listeners = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(Fault::io("find a free TCP port on 127.0.0.1"))?;
    listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()
        .map_err(Fault::io("read the port of a socket"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn ports_differ() {
        let mut ports = super::free(8).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
        assert!(!ports.contains(&0));
    }
}
