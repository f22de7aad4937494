//! One operation as the runtime asks for it: environment and stdin, checked as the reference's `skel` does.

use super::{
    error::{CniError, Code},
    result::CniResult,
    version::SpecVersion,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach it; may be repeated.
    Del,
    /// Compare what is with what ADD reported.
    Check,
    /// Remove what belongs to no valid attachment.
    Gc,
    /// Can ADD be served?
    Status,
    /// Which versions are spoken?
    Version,
}

impl Command {
    fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// Value of `CNI_COMMAND`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    fn since(self) -> SpecVersion {
        match self {
            Self::Check => SpecVersion::V0_4_0,
            Self::Gc | Self::Status => SpecVersion::V1_1_0,
            _ => SpecVersion::V0_1_0,
        }
    }
}

/// The `CNI_*` variables, as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Environment {
    /// `CNI_COMMAND`
    pub command: String,
    /// `CNI_CONTAINERID`
    pub container_id: String,
    /// `CNI_NETNS`
    pub netns: String,
    /// `CNI_IFNAME`
    pub ifname: String,
    /// `CNI_ARGS`
    pub args: String,
    /// `CNI_PATH`
    pub path: String,
    /// `CNI_NETNS_OVERRIDE`, `1` or `true`: the pod's network namespace may be the plugin's own.
    #[serde(default)]
    pub netns_override: bool,
}

impl Environment {
    /// Of this process.
    pub fn of_process() -> Self {
        let get = |name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned()).unwrap_or_default();
        Self {
            command: get("CNI_COMMAND"),
            container_id: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS"),
            ifname: get("CNI_IFNAME"),
            args: get("CNI_ARGS"),
            path: get("CNI_PATH"),
            netns_override: ["1", "TRUE"].contains(&get("CNI_NETNS_OVERRIDE").to_uppercase().as_str()),
        }
    }
}

/// A container's interface in a network: what ADD makes and DEL removes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Attachment {
    /// Container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Interface name in the container.
    pub ifname: String,
}

/// A checked request.
#[derive(Debug, Clone)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// Whose; empty strings for GC and STATUS.
    pub attachment: Attachment,
    /// Path of the pod's network namespace.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`, keys in order.
    pub args: Vec<(String, String)>,
    /// Where other plugins are.
    pub path: Vec<PathBuf>,
    /// `name` of the network.
    pub network: String,
    /// Version of the configuration, and so of the answer.
    pub version: SpecVersion,
    /// The configuration without its nulls: like in Go, null is the same as absent.
    pub config: Value,
    /// The configuration as it came, for delegated plugins.
    pub stdin: Vec<u8>,
}

/// The version to answer errors in, when the request itself is not valid.
pub fn answer_version(stdin: &[u8]) -> SpecVersion {
    let config: Value = serde_json::from_slice(stdin).unwrap_or_default();
    config
        .get("cniVersion")
        .and_then(Value::as_str)
        .and_then(SpecVersion::by_name)
        .unwrap_or(SpecVersion::CURRENT)
}

impl Request {
    /// Checks environment and configuration.
    pub fn parse(environment: &Environment, stdin: Vec<u8>) -> Result<Self, CniError> {
        let command = check_environment(environment)?;
        let mut config: Value = serde_json::from_slice(&stdin).map_err(|e| {
            CniError::new(Code::Decoding, "the network configuration on stdin is not JSON")
                .details(e.to_string())
        })?;
        drop_nulls(&mut config);
        if !config.is_object() {
            return Err(CniError::new(
                Code::Decoding,
                "the network configuration on stdin is not a JSON object",
            ));
        }
        let text = |key: &str| match config.get(key) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(_) => Err(CniError::new(
                Code::Decoding,
                format!("`{key}` in the network configuration is not a string"),
            )),
        };
        // No version means the first, 0.1.0, by the specification.
        let named = Some(text("cniVersion")?).filter(|v| !v.is_empty()).unwrap_or("0.1.0");
        let version = SpecVersion::by_name(named).ok_or_else(|| {
            CniError::new(Code::IncompatibleVersion, "incompatible CNI versions")
                .details(format!("config is {named:?}, plugin supports {:?}", SpecVersion::names()))
        })?;
        if version < command.since() {
            let why = format!("config version does not allow {}", command.name());
            return Err(CniError::new(Code::IncompatibleVersion, why).details(format!(
                "config is {named:?}, {} came with {:?}",
                command.name(),
                command.since().name()
            )));
        }
        let network = text("name")?.to_owned();
        if network.is_empty() {
            return Err(CniError::config("missing network name: `name` in the network configuration"));
        }
        if !is_name(&network) {
            return Err(CniError::config("invalid characters found in network name").details(network));
        }
        let args = parse_args(&environment.args)?;
        Ok(Self {
            command,
            attachment: Attachment {
                container_id: environment.container_id.clone(),
                ifname: environment.ifname.clone(),
            },
            netns: Some(&environment.netns).filter(|path| !path.is_empty()).map(PathBuf::from),
            args,
            path: environment.path.split(':').filter(|d| !d.is_empty()).map(PathBuf::from).collect(),
            network,
            version,
            config,
            stdin,
        })
    }

    /// The configuration as a plugin's own type.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, CniError> {
        T::deserialize(&self.config).map_err(|e| self.malformed(&e))
    }

    /// One value of the configuration, whatever else may be wrong with it; the type's default where there is none. ADD has
    /// looked at the whole: DEL and GC read what they need, so that what cannot be added can still be removed.
    pub fn key<T: DeserializeOwned + Default>(&self, key: &str) -> Result<T, CniError> {
        let value = self.config.get(key).map(T::deserialize).transpose();
        value.map(Option::unwrap_or_default).map_err(|e| self.malformed(&e))
    }

    fn malformed(&self, error: &serde_json::Error) -> CniError {
        CniError::config(format!("network {:?}: {error}", self.network))
    }

    /// `CNI_NETNS`; required for ADD and CHECK, where [`Request::parse`] has seen to it.
    pub fn netns(&self) -> Result<&Path, CniError> {
        self.netns.as_deref().ok_or_else(|| {
            CniError::new(Code::InvalidEnvironment, "required env variables [CNI_NETNS] missing")
        })
    }

    /// A value in `CNI_ARGS`, by case-insensitive key.
    pub fn arg(&self, key: &str) -> Option<&str> {
        self.args.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.as_str())
    }

    /// `CNI_ARGS` has no other keys than `known` ones, unless it says `IgnoreUnknown`.
    pub fn check_args(&self, known: &[&str]) -> Result<(), CniError> {
        let invalid = |message: String| Err(CniError::new(Code::InvalidEnvironment, message));
        match self.arg("IgnoreUnknown") {
            Some("1" | "true") => return Ok(()),
            None | Some("0" | "false") => {}
            Some(other) => return invalid(format!("CNI_ARGS: IgnoreUnknown is {other:?}, not 1 or 0")),
        }
        let takes = |key: &str| {
            key.eq_ignore_ascii_case("IgnoreUnknown") || known.iter().any(|k| k.eq_ignore_ascii_case(key))
        };
        let unknown = self.args.iter().map(|(key, _)| key.as_str()).filter(|key| !takes(key));
        match unknown.collect::<Vec<_>>()[..] {
            [] => Ok(()),
            ref keys => invalid(format!("CNI_ARGS: unknown args {keys:?}; IgnoreUnknown=1 passes them over")),
        }
    }

    /// `prevResult` of the configuration.
    pub fn previous_result(&self) -> Result<Option<CniResult>, CniError> {
        use serde::Deserialize;
        let Some(value) = self.config.get("prevResult") else { return Ok(None) };
        CniResult::deserialize(value)
            .map(Some)
            .map_err(|e| CniError::new(Code::Decoding, format!("could not parse prevResult: {e}")))
    }

    /// GC: the attachments to keep.
    pub fn valid_attachments(&self) -> Result<Vec<Attachment>, CniError> {
        use serde::Deserialize;
        let Some(value) = self.config.get("cni.dev/valid-attachments") else {
            return Err(CniError::config(
                "GC without `cni.dev/valid-attachments` in the network configuration",
            ));
        };
        Vec::deserialize(value).map_err(|e| {
            CniError::new(Code::Decoding, format!("could not parse cni.dev/valid-attachments: {e}"))
        })
    }
}

fn check_environment(environment: &Environment) -> Result<Command, CniError> {
    let invalid = |message: String| CniError::new(Code::InvalidEnvironment, message);
    if environment.command.is_empty() {
        return Err(invalid("required env variables [CNI_COMMAND] missing".into()));
    }
    let command = Command::by_name(&environment.command)
        .ok_or_else(|| invalid(format!("unknown CNI_COMMAND: {}", environment.command)))?;
    use Command::{Add, Check, Del, Gc, Status, Version};
    let missing: Vec<&str> = [
        ("CNI_CONTAINERID", &environment.container_id, matches!(command, Add | Check | Del)),
        ("CNI_NETNS", &environment.netns, matches!(command, Add | Check)),
        ("CNI_IFNAME", &environment.ifname, matches!(command, Add | Check | Del)),
        ("CNI_PATH", &environment.path, matches!(command, Add | Check | Del | Gc | Status)),
    ]
    .into_iter()
    .filter(|(_, value, required)| *required && value.is_empty())
    .map(|(name, ..)| name)
    .collect();
    if !missing.is_empty() {
        return Err(invalid(format!("required env variables [{}] missing", missing.join(","))));
    }
    if matches!(command, Gc | Status | Version) {
        return Ok(command);
    }
    if !is_name(&environment.container_id) {
        return Err(invalid("invalid characters in containerID".into()).details(&environment.container_id));
    }
    let ifname = &environment.ifname;
    let problem = if ifname.len() > 15 {
        Some("interface name is too long: more than 15 characters")
    } else if ifname == "." || ifname == ".." {
        Some("interface name is . or ..")
    } else if ifname.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        Some("interface name contains / or : or whitespace characters")
    } else {
        None
    };
    match problem {
        Some(problem) => Err(invalid(problem.into()).details(ifname)),
        None => Ok(command),
    }
}

/// Container ids and network names: a letter or digit, then letters, digits, `_`, `.`, `-`.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn parse_args(text: &str) -> Result<Vec<(String, String)>, CniError> {
    text.split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(CniError::new(
                Code::InvalidEnvironment,
                format!("CNI_ARGS: invalid pair {pair:?}, not KEY=VALUE"),
            )),
        })
        .collect()
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(command: &str) -> Environment {
        Environment {
            command: command.into(),
            container_id: "c1".into(),
            netns: "/run/netns/x".into(),
            ifname: "eth0".into(),
            args: String::new(),
            path: "/opt/cni/bin".into(),
            netns_override: false,
        }
    }

    fn error(environment: &Environment, stdin: &str) -> (u32, String) {
        let error = Request::parse(environment, stdin.into()).unwrap_err();
        (error.code.number(), error.message)
    }

    #[test]
    fn each_mistake_has_the_code_of_the_specification() {
        let good = r#"{"cniVersion": "1.1.0", "name": "n", "type": "bridge"}"#;
        assert!(Request::parse(&environment("ADD"), good.into()).is_ok());
        let with = |change: fn(&mut Environment)| {
            let mut e = environment("ADD");
            change(&mut e);
            e
        };
        for (environment, stdin, code, part) in [
            (environment(""), good, 4, "CNI_COMMAND"),
            (environment("PUT"), good, 4, "unknown CNI_COMMAND: PUT"),
            (with(|e| e.netns.clear()), good, 4, "[CNI_NETNS]"),
            (with(|e| e.container_id.clear()), good, 4, "[CNI_CONTAINERID]"),
            (with(|e| e.container_id = "../x".into()), good, 4, "containerID"),
            (with(|e| e.ifname = "a-name-far-too-long".into()), good, 4, "too long"),
            (with(|e| e.ifname = "a/b".into()), good, 4, "contains /"),
            (with(|e| e.args = "x".into()), good, 4, "CNI_ARGS"),
            (environment("ADD"), "{", 6, "not JSON"),
            (environment("ADD"), "[]", 6, "not a JSON object"),
            (environment("ADD"), r#"{"cniVersion": 1, "name": "n"}"#, 6, "cniVersion"),
            (environment("ADD"), r#"{"cniVersion": "1.1.0"}"#, 7, "missing network name"),
            (environment("ADD"), r#"{"cniVersion": "1.1.0", "name": "a b"}"#, 7, "network name"),
            (environment("ADD"), r#"{"cniVersion": "0.0.9", "name": "n"}"#, 1, "incompatible"),
            (environment("CHECK"), r#"{"name": "n"}"#, 1, "does not allow CHECK"),
            (environment("CHECK"), r#"{"cniVersion": "0.3.1", "name": "n"}"#, 1, "does not allow CHECK"),
            (environment("GC"), r#"{"cniVersion": "1.0.0", "name": "n"}"#, 1, "does not allow GC"),
            (environment("STATUS"), r#"{"cniVersion": "1.0.0", "name": "n"}"#, 1, "does not allow STATUS"),
        ] {
            let (got, message) = error(&environment, stdin);
            assert!(got == code && message.contains(part), "{stdin}: {got} {message}");
        }
        assert!(error(&environment("CHECK"), "").0 == 6);
    }

    #[test]
    fn nulls_are_as_good_as_absent() {
        let stdin = r#"{"cniVersion": "1.0.0", "name": "n", "prevResult": null, "ipam": {"routes": null}}"#;
        let request = Request::parse(&environment("ADD"), stdin.into()).unwrap();
        assert_eq!(request.previous_result().unwrap(), None);
        assert_eq!(request.config["ipam"], serde_json::json!({}));
    }

    proptest::proptest! {
        #[test]
        fn no_input_makes_the_parser_panic(stdin in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
                                           args in ".{0,40}", ifname in ".{0,20}") {
            let mut environment = environment("ADD");
            environment.args = args;
            environment.ifname = ifname;
            let _ = Request::parse(&environment, stdin);
        }
    }
}
