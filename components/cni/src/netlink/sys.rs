//! The three socket calls that have no safe wrapper: options of netlink sockets, and packet sockets.
#![allow(unsafe_code)] // setsockopt(SOL_NETLINK) and sockaddr_ll are in no safe crate we use.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Switches an option of a netlink socket on; kernels without it just go on without.
pub(super) fn enable(socket: BorrowedFd<'_>, option: libc::c_int) {
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to a live c_int and the length is its size.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// A packet socket that only sends; in the calling thread's network namespace.
pub(crate) fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: plain system call; protocol 0 receives nothing.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends `payload` as a frame of type `ethertype` to the hardware address `to`.
pub(crate) fn send_frame(
    socket: BorrowedFd<'_>,
    interface: u32,
    ethertype: u16,
    to: [u8; 6],
    payload: &[u8],
) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain data for which all zeros is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = interface as libc::c_int;
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&to);
    // SAFETY: both pointers are to live data of the given lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            payload.as_ptr().cast(),
            payload.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Who may open a tap.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TapOwner {
    /// User id; `None` is anybody who may administer the network.
    pub(crate) user: Option<u32>,
    /// Group id.
    pub(crate) group: Option<u32>,
}

/// Makes a tap in the calling thread's network namespace that stays when nobody has it open.
pub(crate) fn persistent_tap(name: &str, multi_queue: bool, owner: TapOwner) -> io::Result<()> {
    // linux/if_tun.h; the numbers are those of architectures whose ioctls are like x86's, which all of ours are.
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
    const TUNSETOWNER: libc::c_ulong = 0x4004_54cc;
    const TUNSETGROUP: libc::c_ulong = 0x4004_54ce;
    const IFF_TAP: u16 = 0x2;
    const IFF_MULTI_QUEUE: u16 = 0x100;
    const IFF_NO_PI: u16 = 0x1000;
    const IFF_TUN_EXCL: u16 = 0x8000;

    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // `struct ifreq`: the name with its terminating zero, then the flags.
    let mut request = [0u8; 40];
    if name.len() >= 16 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL | if multi_queue { IFF_MULTI_QUEUE } else { 0 };
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which the buffer is the size of.
    if unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF as _, request.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    for (operation, value) in
        [(TUNSETOWNER, owner.user), (TUNSETGROUP, owner.group), (TUNSETPERSIST, Some(1))]
    {
        let Some(value) = value else { continue };
        // SAFETY: these take a number, not a pointer.
        if unsafe { libc::ioctl(device.as_raw_fd(), operation as _, value as libc::c_ulong) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
