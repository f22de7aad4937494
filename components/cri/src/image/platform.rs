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
    /// The highest micro-architecture level: x86-64-v1 to v4, Armv8.
    level: u8,
}

impl Machine {
    /// The machine this runs on.
    pub(super) fn this() -> Self {
        Self { architecture: go_architecture(std::env::consts::ARCH), level: level() }
    }

    /// How well an entry fits: higher is better, `None` does not run here.
    pub(super) fn fit(self, platform: &Platform) -> Option<u8> {
        if platform.os != "linux" || platform.architecture != self.architecture {
            return None;
        }
        let wanted = match platform.variant.as_deref() {
            None | Some("") => default_level(self.architecture),
            Some(variant) => variant.strip_prefix('v')?.parse().ok()?,
        };
        (wanted <= self.level).then_some(wanted)
    }
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

fn default_level(architecture: &str) -> u8 {
    if architecture == "arm64" { 8 } else { 1 }
}

#[cfg(target_arch = "x86_64")]
fn level() -> u8 {
    macro_rules! has { ($($feature:tt),*) => { $(std::arch::is_x86_feature_detected!($feature))&&* } }
    let v2 = has!("cmpxchg16b", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3");
    let v3 = v2 && has!("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe");
    let v4 = v3 && has!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl");
    1 + u8::from(v2) + u8::from(v3) + u8::from(v4)
}

#[cfg(not(target_arch = "x86_64"))]
fn level() -> u8 {
    default_level(go_architecture(std::env::consts::ARCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_variant_that_runs_is_the_best() {
        let v2 = Machine { architecture: "amd64", level: 2 };
        let platform = |os: &str, architecture: &str, variant: Option<&str>| Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.map(str::to_owned),
        };
        assert_eq!(v2.fit(&platform("linux", "amd64", None)), Some(1));
        assert_eq!(v2.fit(&platform("linux", "amd64", Some("v2"))), Some(2));
        assert_eq!(v2.fit(&platform("linux", "amd64", Some("v3"))), None);
        assert_eq!(v2.fit(&platform("linux", "amd64", Some("x"))), None);
        assert_eq!(v2.fit(&platform("linux", "arm64", None)), None);
        assert_eq!(v2.fit(&platform("windows", "amd64", None)), None);
        assert_eq!(v2.fit(&platform("unknown", "unknown", None)), None);
        let arm = Machine { architecture: "arm64", level: 8 };
        assert_eq!(arm.fit(&platform("linux", "arm64", Some("v8"))), Some(8));
        assert_eq!(arm.fit(&platform("linux", "arm64", None)), Some(8));
    }
}
