//! Which of a multi-platform image's manifests this machine runs.

/// What an index entry or an image configuration says it is for, in Go's terms.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub(super) struct Platform {
    pub(super) os: String,
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) variant: Option<String>,
}

/// This machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Machine {
    architecture: &'static str,
    /// The highest micro-architecture level: x86-64-v1 to v4, Armv8.0.
    level: Level,
}

/// Major and minor number of a variant: `v8.2` is (8, 2).
type Level = (u8, u8);

/// How well a platform fits; the greatest is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// Says nothing about itself, so it may be for everyone.
    Unknown,
    /// The 32-bit architecture that processors of ours run, too.
    Compatible(Level),
    Native(Level),
}

impl Machine {
    /// The machine this runs on.
    pub(super) fn this() -> Self {
        Self { architecture: go_architecture(std::env::consts::ARCH), level: level() }
    }

    /// Other machines than this, too.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn samples() -> impl Iterator<Item = Self> {
        [("amd64", (1, 0)), ("amd64", (3, 0)), ("arm64", (8, 0)), ("arm", (7, 0)), ("riscv64", (1, 0))]
            .into_iter()
            .map(|(architecture, level)| Self { architecture, level })
    }

    /// In Go's terms.
    pub(super) fn architecture(self) -> &'static str {
        self.architecture
    }

    /// How well an entry fits; `None` does not run here.
    pub(super) fn fit(self, platform: &Platform) -> Option<Fit> {
        if !platform.os.eq_ignore_ascii_case("linux") {
            return None;
        }
        let (architecture, variant) =
            normal(&platform.architecture, platform.variant.as_deref().unwrap_or(""));
        let wanted = wanted_level(&architecture, &variant)?;
        if architecture == self.architecture {
            return (wanted <= self.level).then_some(Fit::Native(wanted));
        }
        // Armv8 is the last that has the 32-bit instructions in every implementation we may meet; x86-64 has all of i386.
        let compatible = match (self.architecture, architecture.as_str()) {
            ("amd64", "386") => true,
            ("arm64", "arm") => wanted <= (8, 0),
            _ => false,
        };
        compatible.then_some(Fit::Compatible(wanted))
    }
}

/// Names that tools have used for the same thing.
fn normal(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant) {
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("i386" | "x86", variant) => ("386", variant),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        (other, variant) => (other, variant),
    };
    (architecture.to_owned(), variant.to_ascii_lowercase())
}

/// The level that a variant asks for. A variant that we cannot judge may need what we lack: `None`.
fn wanted_level(architecture: &str, variant: &str) -> Option<Level> {
    if variant.is_empty() {
        return Some(default_level(architecture));
    }
    if !matches!(architecture, "amd64" | "arm64" | "arm") {
        return None;
    }
    let number = variant.strip_prefix('v').unwrap_or(variant);
    let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn go_architecture(rust: &'static str) -> &'static str {
    match rust {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn default_level(architecture: &str) -> Level {
    match architecture {
        "arm64" => (8, 0),
        "arm" => (7, 0),
        _ => (1, 0),
    }
}

#[cfg(target_arch = "x86_64")]
fn level() -> Level {
    macro_rules! has { ($($feature:tt),*) => { $(std::arch::is_x86_feature_detected!($feature))&&* } }
    let v2 = has!("cmpxchg16b", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3");
    let v3 = v2 && has!("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe");
    let v4 = v3 && has!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl");
    (1 + u8::from(v2) + u8::from(v3) + u8::from(v4), 0)
}

#[cfg(not(target_arch = "x86_64"))]
fn level() -> Level {
    default_level(go_architecture(std::env::consts::ARCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(machine: Machine, architecture: &str, variant: &str) -> Option<Fit> {
        let variant = Some(variant.to_owned()).filter(|variant| !variant.is_empty());
        machine.fit(&Platform { os: "linux".into(), architecture: architecture.into(), variant })
    }

    #[test]
    fn the_highest_variant_that_runs_is_the_best() {
        let v2 = Machine { architecture: "amd64", level: (2, 0) };
        assert_eq!(fit(v2, "amd64", ""), Some(Fit::Native((1, 0))));
        assert_eq!(fit(v2, "amd64", "v2"), Some(Fit::Native((2, 0))));
        assert_eq!(fit(v2, "x86_64", "v1"), Some(Fit::Native((1, 0))));
        assert_eq!(fit(v2, "386", ""), Some(Fit::Compatible((1, 0))));
        for (architecture, variant) in
            [("amd64", "v3"), ("amd64", "x"), ("arm64", ""), ("arm", "v7"), ("unknown", ""), ("s390x", "z")]
        {
            assert_eq!(fit(v2, architecture, variant), None, "{architecture}/{variant}");
        }
        for os in ["windows", "unknown", ""] {
            let platform = Platform { os: os.into(), architecture: "amd64".into(), variant: None };
            assert_eq!(v2.fit(&platform), None, "{os}");
        }
        assert!(fit(v2, "amd64", "v2") > fit(v2, "amd64", "") && fit(v2, "amd64", "") > fit(v2, "386", ""));
    }

    #[test]
    fn arm_in_all_its_spellings() {
        let arm64 = Machine { architecture: "arm64", level: (8, 0) };
        let v8 = Some(Fit::Native((8, 0)));
        for (architecture, variant) in [("arm64", ""), ("arm64", "v8"), ("aarch64", "8"), ("ARM64", "V8")] {
            assert_eq!(fit(arm64, architecture, variant), v8, "{architecture}/{variant}");
        }
        assert_eq!(fit(arm64, "arm64", "v9"), None);
        assert_eq!(fit(arm64, "arm64", "v8.2"), None);
        assert_eq!(fit(arm64, "arm", "v6"), Some(Fit::Compatible((6, 0))));
        assert!(fit(arm64, "armhf", "") > fit(arm64, "arm", "v6"));
        assert!(v8 > fit(arm64, "arm", "v8"));
        let arm = Machine { architecture: "arm", level: (7, 0) };
        assert_eq!(fit(arm, "arm", ""), Some(Fit::Native((7, 0))));
        assert_eq!(fit(arm, "arm", "v6"), Some(Fit::Native((6, 0))));
        assert_eq!(fit(arm, "arm", "v8"), None);
        assert_eq!(fit(arm, "arm64", ""), None);
    }
}
