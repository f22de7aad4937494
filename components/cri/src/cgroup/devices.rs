//! Which devices a container may open, on cgroup v2.
//!
//! cgroup v2 has no device files: a BPF program attached to the cgroup is asked at every open and mknod of a
//! device node. libcontainer leaves that to libbpf, which does not link statically here, so the program, a chain
//! of comparisons, is written and loaded with bpf(2) directly. Context and constants: `linux/bpf.h`,
//! `struct bpf_cgroup_dev_ctx`.
#![allow(unsafe_code)] // bpf(2) has no safe wrapper.

use super::Cgroup;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const TYPE_BLOCK: i32 = 1;
const TYPE_CHARACTER: i32 = 2;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, immediate }
}

/// `dst = *(u32 *)(src + offset)`.
const LOAD_WORD: u8 = 0x61;
/// `dst = immediate`, 64 bits.
const MOVE_IMMEDIATE: u8 = 0xb7;
/// `dst = src`, 32 bits.
const MOVE_WORD: u8 = 0xbc;
/// `dst &= immediate`, 32 bits.
const AND_WORD: u8 = 0x54;
/// `dst >>= immediate`, 32 bits.
const SHIFT_RIGHT_WORD: u8 = 0x74;
/// `if dst != immediate goto pc + offset`.
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// The program: allowed if any `allow` rule matches, else refused. Rules that deny are not looked at, since
/// everything is denied to begin with.
fn program(rules: &[LinuxDeviceCgroup]) -> Vec<Instruction> {
    // r2 type, r3 access, r4 major, r5 minor; r1 held the context and becomes scratch.
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_WORD, 3, 2, 0, 0),
        instruction(AND_WORD, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_WORD, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().filter(|rule| rule.allow()) {
        let mut checks = Vec::new();
        match rule.typ() {
            Some(LinuxDeviceType::B) => checks.push((2, TYPE_BLOCK)),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => checks.push((2, TYPE_CHARACTER)),
            _ => {}
        }
        for (register, number) in [(4, rule.major()), (5, rule.minor())] {
            if let Some(number) =
                number.filter(|&number| number >= 0).and_then(|number| i32::try_from(number).ok())
            {
                checks.push((register, number));
            }
        }
        let access = rule.access().as_deref().unwrap_or("rwm").chars().fold(0, |access, letter| {
            access
                | match letter {
                    'r' => ACCESS_READ,
                    'w' => ACCESS_WRITE,
                    'm' => ACCESS_MKNOD,
                    _ => 0,
                }
        });
        let refused = (ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE) & !access;
        let access_check = [
            instruction(MOVE_WORD, 1, 3, 0, 0),
            instruction(AND_WORD, 1, 0, 0, refused),
            instruction(JUMP_NOT_EQUAL, 1, 0, 2, 0),
        ];
        let access_check = if refused == 0 { &access_check[..0] } else { &access_check[..] };
        // Each failed check jumps over the remaining checks and the two instructions that allow.
        let total = checks.len() + access_check.len();
        for (at, (register, number)) in checks.into_iter().enumerate() {
            let over = i16::try_from(total - at - 1 + 2).unwrap_or(i16::MAX);
            program.push(instruction(JUMP_NOT_EQUAL, register, 0, over, number));
        }
        program.extend_from_slice(access_check);
        program.extend([instruction(MOVE_IMMEDIATE, 0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)]);
    }
    program.extend([instruction(MOVE_IMMEDIATE, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

/// Lets the processes of a cgroup v2 use the allowed devices and no others.
pub fn restrict(cgroup: &Cgroup, rules: &[LinuxDeviceCgroup]) -> io::Result<()> {
    let program = load(&program(rules))?;
    let directory = File::open(cgroup.directory(""))?;
    attach(&program, &directory)
}

/// First fields of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    let attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"cairn_devices\0\0\0",
    };
    // SAFETY: the attributes and the memory they point to live through the call, and the size is theirs.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<LoadAttributes>())
    };
    if fd < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("cannot load the device program: {error}")));
    }
    // SAFETY: a non-negative result of BPF_PROG_LOAD is a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// First fields of `union bpf_attr` for BPF_PROG_ATTACH.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn attach(program: &OwnedFd, directory: &File) -> io::Result<()> {
    const BPF_PROG_ATTACH: libc::c_long = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let attributes = AttachAttributes {
        target: directory.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the attributes live through the call, and the size is theirs.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attributes, size_of::<AttachAttributes>())
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("cannot attach the device program: {error}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: LinuxDeviceType, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true).set_typ(Some(kind)).set_major(Some(major)).set_minor(Some(minor));
        rule.set_access(Some(access.to_owned()));
        rule
    }

    /// Runs the program as the kernel would.
    fn allows(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0i32; 11];
        let mut at = 0usize;
        loop {
            let Instruction { code, registers: pair, offset, immediate } = program[at];
            let (destination, source) = (usize::from(pair & 15), usize::from(pair >> 4));
            at += 1;
            match code {
                LOAD_WORD => registers[destination] = context[offset as usize / 4],
                MOVE_IMMEDIATE => registers[destination] = immediate,
                MOVE_WORD => registers[destination] = registers[source],
                AND_WORD => registers[destination] &= immediate,
                SHIFT_RIGHT_WORD => {
                    registers[destination] = (registers[destination] as u32 >> immediate) as i32
                }
                JUMP_NOT_EQUAL if registers[destination] != immediate => at += offset as usize,
                JUMP_NOT_EQUAL => {}
                EXIT => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn only_what_a_rule_allows_is_allowed() {
        let rules = [rule(LinuxDeviceType::C, 1, 3, "rwm"), rule(LinuxDeviceType::B, 8, -1, "r")];
        let program = program(&rules);
        let (read, write) = (ACCESS_READ, ACCESS_WRITE);
        assert!(allows(&program, TYPE_CHARACTER, read | write, 1, 3));
        assert!(allows(&program, TYPE_CHARACTER, ACCESS_MKNOD, 1, 3));
        assert!(!allows(&program, TYPE_CHARACTER, read, 1, 4));
        assert!(!allows(&program, TYPE_BLOCK, read, 1, 3));
        assert!(allows(&program, TYPE_BLOCK, read, 8, 17));
        assert!(!allows(&program, TYPE_BLOCK, read | write, 8, 17));
        assert!(!allows(&program, TYPE_BLOCK, read, 7, 0));
    }

    #[test]
    fn the_kernel_accepts_the_program() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: loading a BPF program needs root");
            return;
        }
        load(&program(&[rule(LinuxDeviceType::C, 1, 3, "rw"), rule(LinuxDeviceType::A, -1, -1, "m")]))
            .unwrap();
    }
}
