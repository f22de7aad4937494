//! AppArmor: which profile confines a container, and the runtime's own default one.
//!
//! A profile is a name that the kernel knows. The node's administrator loads those of his own; [`load_default`] loads
//! [`DEFAULT`] when the daemon starts, which needs `apparmor_parser`, since the kernel takes compiled policy only.

use cairn_contract::cri::{LinuxContainerSecurityContext, security_profile::ProfileType};
use std::{
    fs, io,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// The default profile's name.
pub const DEFAULT: &str = "cairn-default";

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
const PARSERS: [&str; 3] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser", "/usr/bin/apparmor_parser"];

/// What the default profile says: everything that capabilities and mounts allow, but the kernel's own knobs in
/// `/proc` and `/sys`, which a container could reach with a capability too many.
const DEFAULT_TEXT: &str = "\
profile cairn-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (send,receive) peer=cairn-default,
  ptrace (trace,read,tracedby,readby) peer=cairn-default,
  unix,
  deny mount,
  deny @{PROC}/* w,
  deny @{PROC}/sys/[^knf]** wklx,
  deny @{PROC}/sys/fs/[^m]** wklx,
  deny @{PROC}/sys/kernel/[^ms]** wklx,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,
  deny @{PROC}/kmem rwklx,
  deny @{PROC}/mem rwklx,
  deny /sys/[^fkd]** wklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/fs/cgroup/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
";

/// A profile that cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AppArmorError {
    /// The kernel has no AppArmor.
    #[error("AppArmor profile `{0}` is asked for, but AppArmor is not enabled on this node")]
    Disabled(String),
    /// The kernel does not know the name.
    #[error("AppArmor profile `{0}` is not loaded on this node")]
    NotLoaded(String),
    /// Neither `runtime/default`, `unconfined` nor `localhost/<name>`.
    #[error("`{0}` is not an AppArmor profile: it is runtime/default, unconfined or localhost/<name>")]
    Malformed(String),
}

/// What a container asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// Nothing said: the default, where there is one.
    Unsaid,
    Default,
    Unconfined,
    Named(String),
}

impl Wanted {
    /// The field that CRI has now, else the one it had.
    fn of(security: &LinuxContainerSecurityContext) -> Result<Self, AppArmorError> {
        if let Some(profile) = &security.apparmor {
            let name = profile.localhost_ref.strip_prefix("localhost/").unwrap_or(&profile.localhost_ref);
            return match profile.profile_type() {
                ProfileType::RuntimeDefault => Ok(Self::Default),
                ProfileType::Unconfined => Ok(Self::Unconfined),
                ProfileType::Localhost if name.is_empty() => Err(AppArmorError::Malformed(String::new())),
                ProfileType::Localhost => Ok(Self::Named(name.to_owned())),
            };
        }
        match security.apparmor_profile.as_str() {
            "" => Ok(Self::Unsaid),
            "runtime/default" => Ok(Self::Default),
            "unconfined" => Ok(Self::Unconfined),
            other => match other.strip_prefix("localhost/") {
                Some(name) if !name.is_empty() => Ok(Self::Named(name.to_owned())),
                _ => Err(AppArmorError::Malformed(other.to_owned())),
            },
        }
    }
}

/// The profile for a container; `None` leaves it unconfined.
///
/// # Errors
/// When the profile asked for cannot be had.
pub fn resolve(security: &LinuxContainerSecurityContext) -> Result<Option<String>, AppArmorError> {
    let loaded = is_enabled().then(|| fs::read_to_string(LOADED).unwrap_or_default());
    choose(&Wanted::of(security)?, security.privileged, loaded.as_deref())
}

/// `loaded` is the kernel's list of profiles, `None` without AppArmor.
fn choose(wanted: &Wanted, privileged: bool, loaded: Option<&str>) -> Result<Option<String>, AppArmorError> {
    let known = |name: &str| {
        // Each line: a name and, in brackets, its mode.
        let mut lines = loaded.unwrap_or_default().lines();
        lines.any(|line| line.rsplit_once(" (").is_some_and(|(held, _)| held == name))
    };
    match wanted {
        Wanted::Unconfined => Ok(None),
        Wanted::Unsaid | Wanted::Default if privileged || loaded.is_none() => Ok(None),
        Wanted::Unsaid => Ok(known(DEFAULT).then(|| DEFAULT.to_owned())),
        Wanted::Default if known(DEFAULT) => Ok(Some(DEFAULT.to_owned())),
        Wanted::Default => Err(AppArmorError::NotLoaded(DEFAULT.to_owned())),
        Wanted::Named(name) if loaded.is_none() => Err(AppArmorError::Disabled(name.clone())),
        Wanted::Named(name) if known(name) => Ok(Some(name.clone())),
        Wanted::Named(name) => Err(AppArmorError::NotLoaded(name.clone())),
    }
}

/// Whether the kernel has AppArmor, and uses it.
pub fn is_enabled() -> bool {
    fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y'))
}

/// Loads the default profile, replacing that of an older version. Without AppArmor there is nothing to do.
///
/// # Errors
/// Why it could not be loaded, in words.
pub fn load_default() -> Result<(), String> {
    if !is_enabled() {
        return Ok(());
    }
    let parser = PARSERS.iter().find(|path| Path::new(path).exists());
    let parser = parser.ok_or("there is no apparmor_parser (Debian: apparmor)")?;
    let fault = |error: io::Error| format!("{parser}: {error}");
    let mut running = Command::new(parser)
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(fault)?;
    if let Some(mut input) = running.stdin.take() {
        input.write_all(DEFAULT_TEXT.replace("@{PROC}", "/proc").as_bytes()).map_err(fault)?;
    }
    let output = running.wait_with_output().map_err(fault)?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{parser}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Has the profile take effect at this thread's next `execve`.
///
/// # Errors
/// What the kernel says, or that `/proc` is not the kernel's.
pub fn apply_at_exec(profile: &str) -> io::Result<()> {
    let open = |path: &str| fs::File::options().write(true).open(path);
    // The second is what kernels before 5.8 have.
    let mut file =
        open("/proc/thread-self/attr/apparmor/exec").or_else(|_| open("/proc/thread-self/attr/exec"))?;
    if rustix::fs::fstatfs(&file)?.f_type != rustix::fs::PROC_SUPER_MAGIC {
        return Err(io::Error::other("/proc is not the kernel's in this container"));
    }
    file.write_all(format!("exec {profile}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_contract::cri::SecurityProfile;

    const LIST: &str = "cairn-default (enforce)\nmy profile (complain)\n";

    fn wanted(old: &str, new: Option<(ProfileType, &str)>) -> Result<Wanted, AppArmorError> {
        Wanted::of(&LinuxContainerSecurityContext {
            apparmor_profile: old.into(),
            apparmor: new.map(|(kind, name)| SecurityProfile {
                profile_type: kind.into(),
                localhost_ref: name.into(),
            }),
            ..Default::default()
        })
    }

    #[test]
    fn both_fields_are_understood_and_the_new_one_counts() {
        let named = Wanted::Named("x".into());
        assert_eq!(wanted("", None), Ok(Wanted::Unsaid));
        assert_eq!(wanted("localhost/x", None), Ok(named.clone()));
        assert_eq!(wanted("unconfined", Some((ProfileType::Localhost, "x"))), Ok(named.clone()));
        assert_eq!(wanted("", Some((ProfileType::Localhost, "localhost/x"))), Ok(named));
        assert_eq!(wanted("runtime/default", None), Ok(Wanted::Default));
        assert!(wanted("nonsense", None).is_err() && wanted("localhost/", None).is_err());
        assert!(wanted("", Some((ProfileType::Localhost, ""))).is_err());
    }

    #[test]
    fn what_is_asked_for_is_had_or_refused() {
        let named = |name: &str| Wanted::Named(name.into());
        let some = |name: &str| Ok(Some(name.to_owned()));
        assert_eq!(choose(&Wanted::Unsaid, false, Some(LIST)), some(DEFAULT));
        assert_eq!(choose(&Wanted::Unsaid, true, Some(LIST)), Ok(None));
        assert_eq!(choose(&Wanted::Unsaid, false, Some("")), Ok(None));
        assert_eq!(choose(&Wanted::Default, false, None), Ok(None));
        assert_eq!(choose(&Wanted::Default, false, Some("")), Err(AppArmorError::NotLoaded(DEFAULT.into())));
        assert_eq!(choose(&named("my profile"), true, Some(LIST)), some("my profile"));
        assert_eq!(choose(&named("my"), false, Some(LIST)), Err(AppArmorError::NotLoaded("my".into())));
        assert_eq!(choose(&named("my"), false, None), Err(AppArmorError::Disabled("my".into())));
        assert_eq!(choose(&Wanted::Unconfined, false, Some(LIST)), Ok(None));
    }
}
