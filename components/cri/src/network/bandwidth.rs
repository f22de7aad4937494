//! A pod's bandwidth: the annotations that the kubelet passes on, and what they mean to a plugin.

use super::selection::Bandwidth;
use std::collections::HashMap;

/// Into the pod, and out of it: quantities of bits a second.
pub(super) const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
pub(super) const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// What Kubernetes holds to be reasonable, bits a second: 1k to 1P.
const REASONABLE: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
/// The least burst, bits: two of the largest packets that the kernel hands on whole (64 KiB).
const LEAST_BURST: u64 = 2 * 65_536 * 8;
/// A burst lasts this part of a second at the full rate: long enough for the kernel's timer, short enough that
/// also a short transfer keeps to the limit.
const BURST_FRACTION: u64 = 20;

/// The limits that a pod's annotations ask for; `None` when there are none.
///
/// # Errors
/// Which annotation is wrong, and why.
pub(super) fn of(annotations: &HashMap<String, String>) -> Result<Option<Bandwidth>, (&'static str, String)> {
    let rate = |name: &'static str| match annotations.get(name) {
        None => Ok(0),
        Some(text) => bits_per_second(text).map_err(|reason| (name, reason)),
    };
    let (ingress_rate, egress_rate) = (rate(INGRESS)?, rate(EGRESS)?);
    let burst = |rate: u64| if rate == 0 { 0 } else { (rate / BURST_FRACTION).max(LEAST_BURST) };
    let limits = Bandwidth {
        ingress_rate,
        ingress_burst: burst(ingress_rate),
        egress_rate,
        egress_burst: burst(egress_rate),
    };
    Ok((ingress_rate > 0 || egress_rate > 0).then_some(limits))
}

fn bits_per_second(text: &str) -> Result<u64, String> {
    let rate =
        quantity(text).ok_or_else(|| format!("`{text}` is no quantity such as 10M (bits a second)"))?;
    if REASONABLE.contains(&rate) {
        Ok(rate)
    } else {
        Err(format!("`{text}` is not between 1k and 1P bits a second"))
    }
}

/// A Kubernetes quantity (`k8s.io/apimachinery`, `resource.Quantity`) as a whole number, rounded up.
fn quantity(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let exponent = |unit: &str| unit.strip_prefix(['e', 'E']).and_then(|digits| digits.parse::<i32>().ok());
    // Times `factor`, and ten to the power of `shift`.
    let (factor, shift) = match unit {
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "" => (1, 0),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1_u128 << 60, 0),
        other => (1, exponent(other).filter(|shift| shift.abs() <= 18)?),
    };
    let digits = format!("{whole}{fraction}").parse::<u128>().ok()?;
    let shift = shift - i32::try_from(fraction.len()).ok()?;
    let power = 10_u128.checked_pow(shift.unsigned_abs())?;
    let scaled = digits.checked_mul(factor)?;
    let value = if shift < 0 { scaled.div_ceil(power) } else { scaled.checked_mul(power)? };
    u64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, value) in [
            ("1000", 1000),
            ("100M", 100_000_000),
            ("1.5M", 1_500_000),
            ("+10k", 10_000),
            ("1Mi", 1 << 20),
            ("1.5Ki", 1536),
            ("2e3", 2000),
            ("25E2", 2500),
            ("1E", 1_000_000_000_000_000_000),
            ("1500m", 2),
            (".5k", 500),
            ("5.", 5),
        ] {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        for bad in
            ["", "M", ".", "1.2.3", "1 M", "-1", "1MB", "1e99", "99999999999999999999999999999999999999999"]
        {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }

    #[test]
    fn annotations_are_limits() {
        let of = |name: &str, text: &str| super::of(&HashMap::from([(name.to_owned(), text.to_owned())]));
        let limits = of(INGRESS, "100M").unwrap().unwrap();
        assert_eq!((limits.ingress_rate, limits.ingress_burst), (100_000_000, 5_000_000));
        assert_eq!((limits.egress_rate, limits.egress_burst), (0, 0));
        assert_eq!(of(EGRESS, "1M").unwrap().unwrap().egress_burst, LEAST_BURST);
        assert_eq!(of("other", "1M").unwrap(), None);
        assert_eq!(of(EGRESS, "1").unwrap_err().0, EGRESS);
        assert!(of(INGRESS, "fast").unwrap_err().1.contains("`fast`"));
    }
}
