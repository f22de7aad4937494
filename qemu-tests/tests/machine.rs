//! Real machines, seconds long: a boot sector that says one line on the serial port is all the guest there is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // A test that cannot go on panics.

use cairn_qemu::qemu::{
    accelerator::{self, Accelerator, Choice},
    arguments::{Boot, Console, Disk, DiskFormat, Forward, MachineSpec},
    machine::Machine,
    overlay, ports,
    program::{self, Program},
    serial::{Mark, Seen},
};
use std::{path::Path, time::Duration};
use tokio::time::Instant;

/// 16-bit code at 0000:7c00: writes the text at [`TEXT_AT`] to COM1, byte by byte, and halts.
const BOOT_SECTOR: [u8; 22] = [
    0xfa, // cli
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xbe, 0x16, 0x7c, // mov si, 0x7c16
    0xac, // next: lodsb
    0x84, 0xc0, // test al, al
    0x74, 0x03, // jz halt
    0xee, // out dx, al
    0xeb, 0xf8, // jmp next
    0xf4, // halt: hlt
    0xeb, 0xfd, // jmp halt
];
const TEXT_AT: usize = BOOT_SECTOR.len();
const TEXT: &[u8] = b"letter A\r\n\0";

fn disk(path: &Path) {
    let mut sector = vec![0; 512];
    sector[..TEXT_AT].copy_from_slice(&BOOT_SECTOR);
    sector[TEXT_AT..TEXT_AT + TEXT.len()].copy_from_slice(TEXT);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector.resize(1 << 20, 0);
    std::fs::write(path, sector).unwrap();
}

fn spec(directory: &Path, disk: &Path) -> MachineSpec {
    MachineSpec {
        name: "cairn-harness-test".into(),
        accelerator: Accelerator::Tcg,
        cpus: 1,
        memory_mib: 64,
        boot: Boot::None,
        disks: vec![Disk { path: disk.to_owned(), format: DiskFormat::Qcow2, read_only: false }],
        forwards: vec![Forward { host: 0, guest: 80 }],
        wire: None,
        credentials: vec![],
        console: Console::Captured,
        monitor: directory.join("qmp"),
    }
}

fn qemu() -> Option<Program> {
    let found = program::locate();
    if let Err(error) = &found {
        println!("skipped: {error}");
    }
    found.ok()
}

fn minute(_: Instant) -> Instant {
    Instant::now() + Duration::from_secs(60)
}

async fn letter(machine: &Machine, mark: Mark) -> String {
    match machine.serial().unwrap().wait_for(mark, &["letter "], minute).await {
        Seen::Line(_, line) => line.text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_guest_sees_the_flipped_bit_and_the_base_file_does_not_have_it() {
    let Some(qemu) = qemu() else { return };
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("base.raw");
    disk(&base);
    let before = std::fs::read(&base).unwrap();
    for (flips, expected) in [(vec![], "letter A"), (vec![TEXT_AT as u64 + 7], "letter @")] {
        let path = directory.path().join("overlay.qcow2");
        overlay::create(&path, &base, 4 << 30, &flips).unwrap();
        let mut machine =
            Machine::start(&qemu, spec(directory.path(), &path), &directory.path().join("vm"), 5)
                .await
                .unwrap();
        let line = letter(&machine, Mark::default()).await;
        assert!(line.ends_with(expected), "{line}");
        machine.kill().await;
    }
    assert_eq!(std::fs::read(&base).unwrap(), before);
}

#[tokio::test]
async fn reset_starts_over_and_a_dropped_machine_is_gone() {
    let Some(qemu) = qemu() else { return };
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("base.raw");
    disk(&base);
    let path = directory.path().join("overlay.qcow2");
    overlay::create(&path, &base, 1 << 30, &[]).unwrap();
    let spec = spec(directory.path(), &path);
    let socket = spec.monitor.clone();
    let mut machine = Machine::start(&qemu, spec, directory.path(), 0).await.unwrap();
    assert_ne!(machine.port(80), Some(0), "a port was chosen");
    letter(&machine, Mark::default()).await;
    assert_eq!(machine.monitor().status().await.unwrap(), "running");
    machine.monitor().stop().await.unwrap();
    assert_eq!(machine.monitor().status().await.unwrap(), "paused");
    machine.monitor().resume().await.unwrap();

    let mark = machine.serial().unwrap().mark();
    machine.monitor().reset().await.unwrap();
    letter(&machine, mark).await;

    drop(machine);
    let gone = async {
        while tokio::net::UnixStream::connect(&socket).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("QEMU still answers");
}

#[tokio::test]
async fn a_taken_port_and_a_missing_disk_are_told_in_qemus_words() {
    let Some(qemu) = qemu() else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut spec = spec(directory.path(), &directory.path().join("absent.qcow2"));
    let error = Machine::start(&qemu, spec.clone(), directory.path(), 0).await.unwrap_err().to_string();
    assert!(error.contains("absent.qcow2"), "{error}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    spec.disks.clear();
    spec.forwards[0].host = taken.local_addr().unwrap().port();
    let error = Machine::start(&qemu, spec, directory.path(), 0).await.unwrap_err().to_string();
    assert!(error.contains("forwarding"), "{error}");
    assert_eq!(ports::free(1).unwrap().len(), 1);
}

#[tokio::test]
async fn the_accelerator_that_was_settled_on_really_works() {
    let Some(qemu) = qemu() else { return };
    let directory = tempfile::tempdir().unwrap();
    let accelerator = accelerator::settle(Choice::Auto, &qemu, directory.path()).await.unwrap();
    let base = directory.path().join("base.raw");
    disk(&base);
    let path = directory.path().join("overlay.qcow2");
    overlay::create(&path, &base, 1 << 30, &[]).unwrap();
    let spec = MachineSpec { accelerator, ..spec(directory.path(), &path) };
    let machine = Machine::start(&qemu, spec, directory.path(), 0).await.unwrap();
    letter(&machine, Mark::default()).await;
    if accelerator == Accelerator::Tcg {
        let error = accelerator::settle(Choice::Kvm, &qemu, directory.path()).await.unwrap_err().to_string();
        assert!(error.contains("--accel tcg"), "{error}");
    }
}
