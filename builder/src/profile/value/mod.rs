//! Values that a profile is made of: text with a grammar, each its own type.
//!
//! A string that passed one of these types is known to be well-formed, so nothing behind the profile checks it
//! again. All are written as TOML strings; their grammar is also in the JSON Schema (`cairn profile schema`).

mod cidr;
mod glob;
mod names;
mod scalar;
mod size;

pub use cidr::Cidr;
pub use glob::{ModulePattern, PathPattern, ScenarioPattern};
pub use names::{
    AbsolutePath, AccountName, Alternative, CniType, CpuList, FileCapability, Host, HostPath, ImageName,
    ImageVersion, KernelArgument, LabelKey, LabelValue, ModuleName, NetworkName, OverlayName, PackageName,
    ProfileName, ProgramName, Quantity, Suite, SysctlKey, Taint, Url,
};
pub use scalar::{Scalar, Sha256};
pub use size::Size;

/// Text that does not have the form its key asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct InvalidValue {
    /// What was written.
    pub text: String,
    /// What it must be, with an article and the rule: "a package name: lower-case letters, …".
    pub expected: &'static str,
}

/// Gives a type its TOML and JSON Schema form, both a string: needs `FromStr<Err = InvalidValue>` and `Display`.
macro_rules! string_form {
    ($name:ident, $pattern:expr, $example:expr) => {
        impl TryFrom<String> for $name {
            type Error = $crate::profile::value::InvalidValue;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let pattern: Option<&str> = $pattern;
                let mut schema = schemars::json_schema!({ "type": "string", "examples": [$example] });
                if let Some(pattern) = pattern {
                    schema.insert("pattern".to_owned(), pattern.into());
                }
                schema
            }
        }
    };
}
pub(crate) use string_form;
