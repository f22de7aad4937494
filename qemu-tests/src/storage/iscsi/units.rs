//! Which units a controller has made, by the rules of CSI's Controller service (specification 1.12, "CreateVolume" and what
//! follows), without the target: what is to be done is said here, and done elsewhere.

use cairn_contract::csi;
use std::collections::BTreeMap;
use tonic::Status;

/// Bytes in a sector: units have whole ones.
const SECTOR: u64 = 512;
/// Bytes of a unit of whose size nothing is said.
const USUAL: u64 = 64 << 20;
/// The specification's limit for names, in bytes.
const LONGEST: usize = 128;

/// A unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// The volume's identifier. Never given twice, which numbers are.
    pub(super) id: String,
    /// The name it was asked for by.
    pub(super) name: String,
    /// Its number on the target.
    pub(super) lun: u32,
    /// Its size.
    pub(super) bytes: u64,
}

/// What asking for a unit comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It is there.
    There(Unit),
    /// It has to be made, and then [`Units::put`].
    New(Unit),
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Units {
    held: BTreeMap<String, Unit>,
    /// Identifiers given so far.
    numbered: u32,
}

impl Units {
    /// The unit of that name.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, OUT_OF_RANGE, or ALREADY_EXISTS if it has another size.
    pub(super) fn wanted(&mut self, name: &str, size: Size) -> Result<Wanted, Status> {
        if name.is_empty() || name.len() > LONGEST || name.chars().any(char::is_control) {
            return Err(Status::invalid_argument(format!(
                "name {name:?} is empty, longer than {LONGEST} bytes, or has control characters"
            )));
        }
        match self.held.values().find(|unit| unit.name == name) {
            Some(unit) if size.fits(unit.bytes) => Ok(Wanted::There(unit.clone())),
            Some(unit) => Err(Status::already_exists(format!("{name} has {} bytes", unit.bytes))),
            None => {
                let bytes = size.choose()?;
                self.numbered += 1;
                // 0 is the target's own. A number that is free again is taken again, as targets do.
                let taken = |lun: &u32| self.held.values().any(|unit| unit.lun == *lun);
                let lun = (1..).find(|lun| !taken(lun)).unwrap_or_default();
                Ok(Wanted::New(Unit {
                    id: format!("unit-{}", self.numbered),
                    name: name.to_owned(),
                    lun,
                    bytes,
                }))
            }
        }
    }

    /// The unit of that identifier.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if there is no identifier, NOT_FOUND if there is no unit.
    pub(super) fn get(&self, id: &str) -> Result<&Unit, Status> {
        if id.is_empty() {
            return Err(Status::invalid_argument("volume_id is missing"));
        }
        self.held.get(id).ok_or_else(|| Status::not_found(format!("there is no volume {id}")))
    }

    /// The unit of that identifier as it is to become; as it is, if it is large enough.
    ///
    /// # Errors
    /// As [`Self::get`], and OUT_OF_RANGE if it is larger than it may be.
    pub(super) fn grown(&self, id: &str, size: Size) -> Result<Unit, Status> {
        let unit = self.get(id)?.clone();
        match size.limit {
            Some(limit) if unit.bytes > limit => {
                Err(Status::out_of_range(format!("{id} has {} bytes; limit_bytes is {limit}", unit.bytes)))
            }
            _ if size.required <= unit.bytes => Ok(unit),
            _ => Ok(Unit { bytes: size.choose()?, ..unit }),
        }
    }

    /// Notes what was made, or made larger.
    pub(super) fn put(&mut self, unit: Unit) {
        self.held.insert(unit.id.clone(), unit);
    }

    /// Notes that a unit is gone.
    pub(super) fn forget(&mut self, id: &str) {
        self.held.remove(id);
    }

    /// Identifiers of those that are there.
    pub(super) fn ids(&self) -> Vec<String> {
        self.held.keys().cloned().collect()
    }

    /// How many were ever asked for.
    pub(super) fn asked(&self) -> u32 {
        self.numbered
    }
}

/// How large a unit is to be (CapacityRange), in bytes; 0 is "not said".
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Size {
    required: u64,
    limit: Option<u64>,
}

impl Size {
    /// # Errors
    /// INVALID_ARGUMENT if a number is negative, OUT_OF_RANGE if no size fits.
    pub(super) fn parse(range: Option<&csi::CapacityRange>) -> Result<Self, Status> {
        let Some(range) = range else { return Ok(Self::default()) };
        let number = |bytes: i64| {
            u64::try_from(bytes)
                .map_err(|_| Status::invalid_argument(format!("capacity_range has {bytes} bytes")))
        };
        let (required, limit) = (number(range.required_bytes)?, number(range.limit_bytes)?);
        if limit != 0 && required > limit {
            return Err(Status::out_of_range(format!(
                "required_bytes {required} is more than limit_bytes {limit}"
            )));
        }
        Ok(Self { required, limit: Some(limit).filter(|limit| *limit != 0) })
    }

    fn choose(self) -> Result<u64, Status> {
        let bytes = match (self.required, self.limit) {
            (0, limit) => USUAL.min(limit.unwrap_or(USUAL)) / SECTOR * SECTOR,
            (required, _) => required.next_multiple_of(SECTOR),
        };
        if bytes == 0 || !self.fits(bytes) {
            return Err(Status::out_of_range(format!("no whole sectors of {SECTOR} bytes fit")));
        }
        Ok(bytes)
    }

    fn fits(self, bytes: u64) -> bool {
        bytes >= self.required && self.limit.is_none_or(|limit| bytes <= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn size(required_bytes: i64, limit_bytes: i64) -> Result<Size, Status> {
        Size::parse(Some(&csi::CapacityRange { required_bytes, limit_bytes }))
    }

    fn made(units: &mut Units, name: &str, required: i64) -> Unit {
        match units.wanted(name, size(required, 0).unwrap()).unwrap() {
            Wanted::New(unit) => {
                units.put(unit.clone());
                unit
            }
            Wanted::There(unit) => panic!("{unit:?} is there"),
        }
    }

    #[test]
    fn sizes_are_whole_sectors_within_the_range() {
        for (required, limit, expected) in [
            (0, 0, Ok(USUAL)),
            (1, 0, Ok(512)),
            (513, 0, Ok(1024)),
            (513, 1023, Err(Code::OutOfRange)),
            (0, 1023, Ok(512)),
            (0, 511, Err(Code::OutOfRange)),
            (5, 4, Err(Code::OutOfRange)),
            (-1, 0, Err(Code::InvalidArgument)),
            (0, -1, Err(Code::InvalidArgument)),
        ] {
            let chosen = size(required, limit).and_then(Size::choose).map_err(|status| status.code());
            assert_eq!(chosen, expected, "{required}..{limit}");
        }
        assert_eq!(Size::parse(None).unwrap().choose().unwrap(), USUAL);
    }

    #[test]
    fn a_name_asks_for_one_unit() {
        let mut units = Units::default();
        let first = made(&mut units, "a", 1024);
        assert_eq!(units.wanted("a", size(1024, 2048).unwrap()).unwrap(), Wanted::There(first.clone()));
        for (required, limit) in [(2048, 0), (0, 512)] {
            let other = units.wanted("a", size(required, limit).unwrap()).unwrap_err();
            assert_eq!(other.code(), Code::AlreadyExists, "{required}..{limit}");
        }
        for name in ["", "a\nb", &"x".repeat(129)] {
            assert_eq!(units.wanted(name, Size::default()).unwrap_err().code(), Code::InvalidArgument);
        }
        units.wanted(&"x".repeat(128), Size::default()).unwrap();
    }

    #[test]
    fn numbers_are_given_again_and_identifiers_are_not() {
        let mut units = Units::default();
        let [first, second] = ["a", "b"].map(|name| made(&mut units, name, 1024));
        assert_eq!((first.lun, second.lun), (1, 2));
        units.forget(&first.id);
        let third = made(&mut units, "c", 1024);
        assert_eq!(third.lun, 1);
        assert!(third.id != first.id && units.get(&first.id).is_err());
        assert_eq!((units.asked(), units.ids()), (3, vec![second.id, third.id]));
    }

    #[test]
    fn units_grow_and_never_shrink() {
        let mut units = Units::default();
        let unit = made(&mut units, "a", 1024);
        let grown = |required, limit| units.grown(&unit.id, size(required, limit).unwrap());
        assert_eq!(grown(2000, 0).unwrap().bytes, 2048);
        assert_eq!(grown(512, 0).unwrap(), unit);
        assert_eq!(grown(0, 512).unwrap_err().code(), Code::OutOfRange);
        assert_eq!(units.grown("", Size::default()).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(units.grown("unit-7", Size::default()).unwrap_err().code(), Code::NotFound);
    }
}
