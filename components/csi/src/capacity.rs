//! Sizes: CapacityRange, checked, and the size it asks for.

use crate::error::Fault;
use cairn_contract::csi;

/// Bytes in a mebibyte.
pub const MIB: u64 = 1 << 20;

/// How large a volume is to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapacityRange {
    /// At least so many bytes; `None`: whatever.
    pub required: Option<u64>,
    /// At most so many bytes.
    pub limit: Option<u64>,
}

impl CapacityRange {
    /// Checks what a request says; absent and zero are "not said".
    ///
    /// # Errors
    /// [`Fault::Invalid`] if a number is negative, [`Fault::OutOfRange`] if no size fits.
    pub fn parse(range: Option<&csi::CapacityRange>) -> Result<Self, Fault> {
        let Some(range) = range else { return Ok(Self::default()) };
        let number = |bytes: i64, field: &str| match u64::try_from(bytes) {
            Ok(0) => Ok(None),
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => Err(Fault::Invalid(format!("capacity_range.{field} is negative: {bytes}"))),
        };
        let (required, limit) =
            (number(range.required_bytes, "required_bytes")?, number(range.limit_bytes, "limit_bytes")?);
        match (required, limit) {
            (Some(required), Some(limit)) if required > limit => {
                Err(Fault::OutOfRange(format!("required_bytes {required} is more than limit_bytes {limit}")))
            }
            _ => Ok(Self { required, limit }),
        }
    }

    /// The size to make: what is required, in whole `unit`s and at least `smallest`; `usual` if nothing is said.
    ///
    /// # Errors
    /// [`Fault::OutOfRange`] if that is more than the limit.
    pub fn choose(self, unit: u64, smallest: u64, usual: u64) -> Result<u64, Fault> {
        let too_large = |bytes: u64| {
            let limit = self.limit.unwrap_or_default();
            Fault::OutOfRange(format!(
                "the smallest volume that fits has {bytes} bytes; limit_bytes is {limit}"
            ))
        };
        let wanted = match (self.required, self.limit) {
            (Some(required), _) => required.max(smallest),
            (None, Some(limit)) => usual.min(limit).max(smallest),
            (None, None) => usual.max(smallest),
        };
        let rounded = wanted.checked_next_multiple_of(unit).filter(|&bytes| bytes <= i64::MAX as u64);
        let rounded = rounded.ok_or_else(|| Fault::OutOfRange(format!("no volume has {wanted} bytes")))?;
        match self.limit {
            Some(limit) if rounded > limit => {
                // Without a requirement less is fine.
                let below = limit / unit * unit;
                if self.required.is_none() && below >= smallest { Ok(below) } else { Err(too_large(rounded)) }
            }
            _ => Ok(rounded),
        }
    }

    /// A volume of so many bytes is what is asked for.
    pub fn fits(self, bytes: u64) -> bool {
        self.required.is_none_or(|required| bytes >= required)
            && self.limit.is_none_or(|limit| bytes <= limit)
    }
}

/// As the protocol has numbers. Sizes beyond it do not exist.
pub fn wire(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(required_bytes: i64, limit_bytes: i64) -> Result<CapacityRange, Fault> {
        CapacityRange::parse(Some(&csi::CapacityRange { required_bytes, limit_bytes }))
    }

    #[test]
    fn sizes_are_chosen_within_the_range() {
        for (required, limit, expected) in [
            (0, 0, Some(100)),
            (1, 0, Some(20)),
            (95, 0, Some(100)),
            (95, 100, Some(100)),
            (95, 99, None),
            (0, 55, Some(50)),
            (0, 15, None),
            (300, 0, Some(300)),
            (i64::MAX, 0, None),
        ] {
            let chosen = range(required, limit).unwrap().choose(10, 20, 100).ok();
            assert_eq!(chosen, expected, "{required}..{limit}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(matches!(range(-1, 0), Err(Fault::Invalid(_))));
        assert!(matches!(range(0, -5), Err(Fault::Invalid(_))));
        assert!(matches!(range(5, 4), Err(Fault::OutOfRange(_))));
        assert!(range(4, 5).unwrap().fits(5) && !range(4, 5).unwrap().fits(6));
    }
}
