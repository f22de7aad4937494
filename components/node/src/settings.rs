//! Switches of the image: what a profile's `[security]` says, as the unit's environment carries it.

use std::fmt;

/// `CAIRN_API`: whether a machine config may switch the management API on.
const API: &str = "CAIRN_API";
/// `CAIRN_CONSOLE`: what the machine's consoles show.
const CONSOLE: &str = "CAIRN_CONSOLE";

/// Whether the management API is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Api {
    /// If the machine config has certificates for it. `mutual-tls` or nothing.
    #[default]
    MutualTls,
    /// Never. `off`.
    Off,
}

/// What the consoles show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Console {
    /// Milestones and the panel. `status` or nothing.
    #[default]
    Status,
    /// Nothing. `none`.
    None,
}

/// Both switches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// Management API.
    pub api: Api,
    /// Consoles.
    pub console: Console,
}

/// A switch in a position that it has not. Guessing could open what a profile wants closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownSetting {
    name: &'static str,
    value: String,
    known: &'static str,
}

impl fmt::Display for UnknownSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={} in the unit's environment is none of {}", self.name, self.value, self.known)
    }
}

impl std::error::Error for UnknownSetting {}

impl Settings {
    /// From the process's environment.
    pub fn from_environment() -> Result<Self, UnknownSetting> {
        Self::read(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, UnknownSetting> {
        let unknown = |name, value: &str, known| UnknownSetting { name, value: value.to_owned(), known };
        let api = match get(API).as_deref().unwrap_or_default() {
            "" | "mutual-tls" => Api::MutualTls,
            "off" => Api::Off,
            value => return Err(unknown(API, value, "mutual-tls, off")),
        };
        let console = match get(CONSOLE).as_deref().unwrap_or_default() {
            "" | "status" => Console::Status,
            "none" => Console::None,
            value => return Err(unknown(CONSOLE, value, "status, none")),
        };
        Ok(Self { api, console })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, UnknownSetting> {
        let found = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Settings::read(|name| found(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn everything_is_on_unless_the_image_says_otherwise() {
        assert_eq!(read(&[]).unwrap(), Settings::default());
        let off = Settings { api: Api::Off, console: Console::None };
        assert_eq!(read(&[("CAIRN_API", "off"), ("CAIRN_CONSOLE", "none")]).unwrap(), off);
        let known = [("CAIRN_API", "mutual-tls"), ("CAIRN_CONSOLE", "status")];
        assert_eq!(read(&known).unwrap(), Settings::default());
    }

    #[test]
    fn other_words_are_refused() {
        for variables in [[("CAIRN_API", "no")], [("CAIRN_CONSOLE", "off")]] {
            let error = read(&variables).unwrap_err().to_string();
            assert!(error.contains(variables[0].0) && error.contains(variables[0].1), "{error}");
        }
    }
}
