//! Setting up dm-verity through `/dev/mapper/control`.

use crate::console::Console;
use crate::disks::Found;
use crate::failure::Failure;
use cairn_initrd::cmdline::RootHash;
use cairn_initrd::devmapper::Request;
use cairn_initrd::verity::{OnCorruption, SUPERBLOCK_BYTES, Superblock};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const CONTROL: &str = "/dev/mapper/control";
const NAME: &str = "root";

/// Makes the device `root` and gives its node, `/dev/dm-N`.
pub(crate) fn activate(found: &Found, root: RootHash, console: &mut Console) -> Result<PathBuf, Failure> {
    let superblock = read_superblock(found, root)?;
    let control =
        OpenOptions::new().read(true).write(true).open(CONTROL).map_err(Failure::io("open", CONTROL))?;

    // The UUID has the form that veritysetup and systemd know a verity device by.
    let uuid = format!("CRYPT-VERITY-{}-{NAME}", superblock.uuid.to_string().replace('-', ""));
    let mut create = Request::create(NAME, &uuid)?;
    submit(&control, &mut create, "create the device-mapper device")?;
    let (_, minor) = create.device();

    load_table(&control, found, &superblock, root, console)?;
    submit(&control, &mut Request::resume(NAME)?, "activate dm-verity for")?;
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

/// Reads the superblock and checks what can be checked before the kernel does.
fn read_superblock(found: &Found, root: RootHash) -> Result<Superblock, Failure> {
    let node = found.hash.node();
    let wrong = |source| Failure::Verity { partition: found.hash.name.clone(), source };
    let file = File::open(&node).map_err(Failure::io("open", &node))?;
    let mut bytes = [0; SUPERBLOCK_BYTES];
    file.read_exact_at(&mut bytes, 0).map_err(Failure::io("read the verity superblock of", &node))?;
    let superblock = Superblock::parse(&bytes).map_err(wrong)?;
    superblock.check_size(found.data.size).map_err(wrong)?;
    if superblock.data_blocks > 1 {
        let mut top = vec![0; superblock.hash_block_size as usize];
        file.read_exact_at(&mut top, superblock.top_block_offset())
            .map_err(Failure::io("read the hash tree of", &node))?;
        superblock.check_top_block(&top, root).map_err(wrong)?;
    }
    Ok(superblock)
}

/// Loads the table with the best options the kernel knows: an old one refuses what it does not know.
fn load_table(
    control: &File,
    found: &Found,
    superblock: &Superblock,
    root: RootHash,
    console: &mut Console,
) -> Result<(), Failure> {
    let mut last = None;
    for (then, tasklet) in
        [(OnCorruption::Panic, true), (OnCorruption::Panic, false), (OnCorruption::Restart, false)]
    {
        let table = superblock.table(&found.data.device, &found.hash.device, root, then, tasklet);
        let mut request = Request::load_table(NAME, superblock.data_sectors(), "verity", &table)?;
        match submit(control, &mut request, "load the dm-verity table for") {
            Ok(()) => return Ok(()),
            Err(failure) => {
                console.step(&format!("the kernel refuses the table `{table}`"));
                last.get_or_insert(failure);
            }
        }
    }
    let _ = submit(control, &mut Request::remove(NAME)?, "remove");
    Err(last.unwrap_or_else(|| Failure::Missing("no dm-verity table to load".to_owned())))
}

fn submit(control: &File, request: &mut Request, action: &'static str) -> Result<(), Failure> {
    ioctl::submit(control, request).map_err(Failure::io(action, NAME))
}

/// The one system call that has no safe wrapper.
#[allow(unsafe_code)] // rustix describes an ioctl by an unsafe trait
mod ioctl {
    use cairn_initrd::devmapper::Request;
    use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
    use std::{ffi::c_void, fs::File};

    struct Control<'a>(&'a mut Request);

    // SAFETY: the kernel reads and writes as many bytes as the buffer's `data_size` says, and `Request` keeps
    // that equal to the buffer's length; the buffer lives, borrowed mutably, for the whole call.
    unsafe impl Ioctl for Control<'_> {
        type Output = ();
        const IS_MUTATING: bool = true;

        fn opcode(&self) -> Opcode {
            self.0.command().opcode() as Opcode
        }

        fn as_ptr(&mut self) -> *mut c_void {
            self.0.buffer_mut().as_mut_ptr().cast()
        }

        unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
            Ok(())
        }
    }

    pub(super) fn submit(control: &File, request: &mut Request) -> rustix::io::Result<()> {
        // SAFETY: `Control` describes device-mapper requests, and they go to the device-mapper control node.
        unsafe { ioctl(control, Control(request)) }
    }
}
