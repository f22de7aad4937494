//! Requests to `/dev/mapper/control`, as bytes (`linux/dm-ioctl.h`, interface 4).
//!
//! A request is a `struct dm_ioctl` of 312 bytes; loading a table adds a `struct dm_target_spec` of 40 bytes
//! and the target's parameters. The kernel answers into the same buffer.

/// Bytes of `struct dm_ioctl`.
pub const HEADER_BYTES: usize = 312;
const TARGET_BYTES: usize = 40;

/// The oldest minor version that has all that is used here; a newer kernel accepts it.
const VERSION: [u32; 3] = [4, 0, 0];
const READ_ONLY: u32 = 1;

/// Offsets in `struct dm_ioctl`.
mod at {
    pub(super) const DATA_SIZE: usize = 12;
    pub(super) const DATA_START: usize = 16;
    pub(super) const TARGET_COUNT: usize = 20;
    pub(super) const FLAGS: usize = 28;
    pub(super) const DEV: usize = 40;
    pub(super) const NAME: usize = 48;
    pub(super) const UUID: usize = 176;
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Makes a device without a table.
    Create,
    /// Takes a device away again.
    Remove,
    /// Resumes a device, which puts the loaded table to use.
    Resume,
    /// Gives a device a table.
    LoadTable,
}

/// A request, ready to be handed to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    command: Command,
    buffer: Vec<u8>,
}

/// A name or UUID that does not fit the kernel's fields (127 and 128 bytes, no NUL).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` cannot name a device-mapper device")]
pub struct BadName(String);

impl Command {
    /// The ioctl number, `_IOWR(0xfd, n, struct dm_ioctl)`.
    pub const fn opcode(self) -> u32 {
        let number = match self {
            Self::Create => 3,
            Self::Remove => 4,
            Self::Resume => 6,
            Self::LoadTable => 9,
        };
        (3 << 30) | ((HEADER_BYTES as u32) << 16) | (0xfd << 8) | number
    }
}

impl Request {
    /// Asks for a new device.
    pub fn create(name: &str, uuid: &str) -> Result<Self, BadName> {
        let mut request = Self::new(Command::Create, name)?;
        request.put_text(at::UUID, 129, uuid)?;
        Ok(request)
    }

    /// Takes the device away.
    pub fn remove(name: &str) -> Result<Self, BadName> {
        Self::new(Command::Remove, name)
    }

    /// Puts the loaded table to use.
    pub fn resume(name: &str) -> Result<Self, BadName> {
        Self::new(Command::Resume, name)
    }

    /// Loads a read-only table of one target that covers `sectors` sectors of 512 bytes.
    pub fn load_table(name: &str, sectors: u64, target: &str, parameters: &str) -> Result<Self, BadName> {
        let mut request = Self::new(Command::LoadTable, name)?;
        request.put_u32(at::FLAGS, READ_ONLY);
        request.put_u32(at::TARGET_COUNT, 1);
        // The spec and its parameters, with the final NUL, are padded to a multiple of 8.
        let length = (TARGET_BYTES + parameters.len() + 1).next_multiple_of(8);
        request.buffer.resize(HEADER_BYTES + length, 0);
        request.buffer[HEADER_BYTES + 8..][..8].copy_from_slice(&sectors.to_ne_bytes());
        request.put_u32(HEADER_BYTES + 20, length as u32);
        request.put_text(HEADER_BYTES + 24, 16, target)?;
        request.buffer[HEADER_BYTES + TARGET_BYTES..][..parameters.len()]
            .copy_from_slice(parameters.as_bytes());
        request.put_u32(at::DATA_SIZE, (HEADER_BYTES + length) as u32);
        Ok(request)
    }

    fn new(command: Command, name: &str) -> Result<Self, BadName> {
        let mut request = Self { command, buffer: vec![0; HEADER_BYTES] };
        for (index, part) in VERSION.into_iter().enumerate() {
            request.put_u32(index * 4, part);
        }
        request.put_u32(at::DATA_SIZE, HEADER_BYTES as u32);
        request.put_u32(at::DATA_START, HEADER_BYTES as u32);
        request.put_text(at::NAME, 128, name)?;
        Ok(request)
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.buffer[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn put_text(&mut self, at: usize, field: usize, text: &str) -> Result<(), BadName> {
        if text.len() >= field || text.contains('\0') {
            return Err(BadName(text.to_owned()));
        }
        self.buffer[at..at + text.len()].copy_from_slice(text.as_bytes());
        Ok(())
    }

    /// What is asked.
    pub fn command(&self) -> Command {
        self.command
    }

    /// The buffer; its length is the `data_size` that it carries.
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Major and minor number of the device, once the kernel has answered.
    pub fn device(&self) -> (u32, u32) {
        let dev = u64::from_ne_bytes(std::array::from_fn(|i| self.buffer[at::DEV + i]));
        // `huge_encode_dev` of the kernel: 12 bits of major between the two parts of the minor.
        (((dev >> 8) & 0xfff) as u32, ((dev & 0xff) | ((dev >> 12) & 0xf_ff00)) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_are_those_of_the_kernel_header() {
        // From `strace dmsetup`: DM_DEV_CREATE, DM_DEV_REMOVE, DM_DEV_SUSPEND, DM_TABLE_LOAD.
        let codes =
            [Command::Create, Command::Remove, Command::Resume, Command::LoadTable].map(Command::opcode);
        assert_eq!(codes, [0xc138_fd03, 0xc138_fd04, 0xc138_fd06, 0xc138_fd09]);
    }

    #[test]
    fn a_table_is_laid_out_as_the_kernel_reads_it() {
        let mut request = Request::load_table("root", 8000, "verity", "1 a b").unwrap();
        let bytes = request.buffer_mut();
        assert_eq!(bytes.len(), 312 + 48);
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!([word(0), word(12), word(16), word(20), word(28)], [4, 360, 312, 1, 1]);
        assert_eq!(&bytes[48..53], b"root\0");
        assert_eq!(u64::from_ne_bytes(bytes[312..320].try_into().unwrap()), 0);
        assert_eq!(u64::from_ne_bytes(bytes[320..328].try_into().unwrap()), 8000);
        assert_eq!([word(328), word(332)], [0, 48]);
        assert_eq!(&bytes[336..352], b"verity\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&bytes[352..360], b"1 a b\0\0\0");
    }

    #[test]
    fn a_create_request_carries_name_and_uuid() {
        let mut request = Request::create("root", "CRYPT-VERITY-00-root").unwrap();
        assert_eq!(&request.buffer_mut()[176..197], b"CRYPT-VERITY-00-root\0");
        request.buffer_mut()[40..48].copy_from_slice(&0x0010_fe05_u64.to_ne_bytes());
        assert_eq!(request.device(), (254, 0x105));
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        assert!(Request::resume(&"x".repeat(127)).is_ok());
        assert!(Request::resume(&"x".repeat(128)).is_err());
        assert!(Request::remove("a\0b").is_err());
        assert!(Request::load_table("root", 1, "a-name-of-16-byt", "").is_err());
    }
}
