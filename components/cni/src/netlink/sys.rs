//! The calls that have no safe wrapper: options of netlink sockets, packet sockets, taps, fork.
#![allow(unsafe_code)] // setsockopt(SOL_NETLINK), sockaddr_ll, TUNSETIFF and fork are in no safe crate we use.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Sets an option of a netlink socket.
pub(super) fn set_option(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer is to a live c_int and the length is its size.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has a child process send `bytes` and end. Nobody waits for it: when this process has ended it is for whoever takes
/// care of orphans.
pub(super) fn send_from_child(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let socket = socket.as_raw_fd();
    // SAFETY: between fork and _exit the child makes system calls only, which is allowed also where the parent has
    // several threads; `bytes` and the socket are its own copies.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => unsafe {
            // Who reads what this process prints waits for the end of it, and is not to wait for the child's.
            for stream in 0..=2 {
                libc::close(stream);
            }
            libc::send(socket, bytes.as_ptr().cast(), bytes.len(), 0);
            libc::_exit(0)
        },
        _ => Ok(()),
    }
}

/// A packet socket in the calling thread's network namespace. It only sends, until [`listen_on`] makes it listen.
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
    let mut address = packet_address(interface, ethertype);
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

fn packet_address(interface: u32, ethertype: u16) -> libc::sockaddr_ll {
    // SAFETY: sockaddr_ll is plain data for which all zeros is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = interface as libc::c_int;
    address
}

/// Has a packet socket receive what comes in by an interface in frames of type `ethertype`.
pub(crate) fn listen_on(socket: BorrowedFd<'_>, interface: u32, ethertype: u16) -> io::Result<()> {
    let address = packet_address(interface, ethertype);
    // SAFETY: the pointer is to a live address of the given length.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the kernel drop what a packet socket for IPv4 would receive but UDP to this port.
pub(crate) fn only_udp_to(socket: BorrowedFd<'_>, port: u16) -> io::Result<()> {
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const LOAD_HALF: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
    const LOAD_HALF_BEYOND_X: u16 = 0x48; // BPF_LD | BPF_H | BPF_IND
    const X_IS_HEADER_LENGTH: u16 = 0xb1; // BPF_LDX | BPF_B | BPF_MSH
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const JUMP_IF_ANY: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const FRAGMENT_OFFSET: u32 = 0x1fff;
    let filter = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        filter(LOAD_BYTE, 0, 0, 9),
        filter(JUMP_IF_EQUAL, 0, 6, libc::IPPROTO_UDP as u32),
        filter(LOAD_HALF, 0, 0, 6),
        filter(JUMP_IF_ANY, 4, 0, FRAGMENT_OFFSET),
        filter(X_IS_HEADER_LENGTH, 0, 0, 0),
        filter(LOAD_HALF_BEYOND_X, 0, 0, 2),
        filter(JUMP_IF_EQUAL, 0, 1, port.into()),
        filter(RETURN, 0, 0, u32::MAX),
        filter(RETURN, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which is alive during the call, and its length is right.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The next frame's payload that is there, or `WouldBlock`: its length and the hardware address it came from.
pub(crate) fn receive_frame(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, [u8; 6])> {
    let mut address = packet_address(0, 0);
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointers are to live values; the lengths are theirs.
    let received = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
            (&raw mut address).cast(),
            &raw mut length,
        )
    };
    let [a, b, c, d, e, f, ..] = address.sll_addr;
    if received < 0 { Err(io::Error::last_os_error()) } else { Ok((received as usize, [a, b, c, d, e, f])) }
}

/// Takes over a file descriptor that this process was started with; once, for then it is closed with what is returned.
pub(crate) fn inherited(descriptor: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: plain system call.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and whoever started us left it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
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
