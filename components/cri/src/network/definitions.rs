//! Definitions of further networks: files on the node, no API server.
//!
//! A file of the directory is a CNI configuration (`.conflist`, `.conf`), then the network is there for the pods of every namespace;
//! or a NetworkAttachmentDefinition as JSON (`.json`, what `kubectl get net-attach-def -o json` prints), then it is of the namespace that its metadata
//! names. Its `spec.config` is the CNI configuration; without one, it is the file with the network's name that counts. They are read for
//! each pod that asks, so a changed file needs no signal.

use super::config::{ConfigError, NetworkConfig, files, invalid, read};
use serde::Deserialize;
use std::path::Path;

const KIND: &str = "NetworkAttachmentDefinition";

/// A network that pods can ask for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Definition {
    /// What pods call it.
    name: String,
    /// Whose it is; `None`: every namespace's.
    namespace: Option<String>,
    /// `None`: that of the definition for all namespaces with this name.
    config: Option<NetworkConfig>,
}

/// A file's document, as far as it tells which of the two kinds it is.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    config: String,
}

/// The readable definitions of a directory, by file name, and what is wrong with the others.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    all: Vec<Definition>,
    pub(super) broken: Vec<ConfigError>,
}

impl Definitions {
    /// Reads a directory; one that does not exist is empty.
    pub(super) fn load(directory: &Path) -> Result<Self, ConfigError> {
        let mut found = Self::default();
        for file in files(directory, &["conflist", "conf", "json"])? {
            match Definition::read(&file) {
                Ok(definition) => found.all.push(definition),
                Err(error) => found.broken.push(error),
            }
        }
        Ok(found)
    }

    /// The network that `name` is in `namespace`: its own before one for all.
    pub(super) fn find(&self, namespace: &str, name: &str) -> Option<&NetworkConfig> {
        let of = |wanted: Option<&str>| {
            self.all.iter().find(|one| one.name == name && one.namespace.as_deref() == wanted)
        };
        let everybodys = of(None).and_then(|one| one.config.as_ref());
        of(Some(namespace)).map_or(everybodys, |own| own.config.as_ref().or(everybodys))
    }

    /// What there is, for messages.
    pub(super) fn names(&self) -> Vec<String> {
        let name = |one: &Definition| match &one.namespace {
            Some(namespace) => format!("{namespace}/{}", one.name),
            None => one.name.clone(),
        };
        self.all.iter().map(name).collect()
    }

    /// Every network that is configured.
    pub(super) fn configs(self) -> impl Iterator<Item = NetworkConfig> {
        self.all.into_iter().filter_map(|one| one.config)
    }
}

impl Definition {
    fn read(file: &Path) -> Result<Self, ConfigError> {
        let bytes = read(file)?;
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|error| invalid(file, error.to_string()))?;
        if document.kind.is_empty() {
            let config = NetworkConfig::from_file(file, &bytes, None)?;
            return Ok(Self { name: config.name.clone(), namespace: None, config: Some(config) });
        }
        if document.kind != KIND {
            return Err(invalid(file, format!("its kind is `{}`, not {KIND}", document.kind)));
        }
        let Metadata { name, namespace } = document.metadata;
        if name.is_empty() {
            return Err(invalid(file, "metadata.name is missing".to_owned()));
        }
        let text = document.spec.config;
        let config = (!text.trim().is_empty())
            .then(|| NetworkConfig::from_file(file, text.as_bytes(), Some(&name)))
            .transpose()?;
        Ok(Self { name, namespace: Some(namespace).filter(|name| !name.is_empty()), config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_namespaces_own_definition_goes_before_one_for_all() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("a.conflist", r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"everybodys"}]}"#);
        let own = |namespace: &str, config: &str| {
            format!(
                r#"{{"apiVersion":"k8s.cni.cncf.io/v1","kind":"NetworkAttachmentDefinition",
                   "metadata":{{"name":"a","namespace":"{namespace}"}},"spec":{{"config":{config:?}}}}}"#
            )
        };
        write("b.json", &own("red", r#"{"cniVersion":"1.0.0","type":"own"}"#));
        write("c.json", &own("blue", ""));
        write("d.json", r#"{"kind":"Pod"}"#);
        write("e.json", r#"{"kind":"NetworkAttachmentDefinition"}"#);
        write(
            "f.json",
            r#"{"kind":"NetworkAttachmentDefinition","metadata":{"name":"f"},"spec":{"config":"{"}}"#,
        );
        let all = Definitions::load(directory.path()).unwrap();
        let kind = |namespace| all.find(namespace, "a").unwrap().programs().remove(0);
        assert_eq!(kind("red"), "own");
        assert_eq!(
            all.find("red", "a").unwrap().name,
            "a",
            "a configuration may leave the name to the definition"
        );
        assert_eq!(kind("green"), "everybodys");
        assert_eq!(kind("blue"), "everybodys", "a definition without a configuration names one on the node");
        assert_eq!(all.find("red", "b"), None);
        assert_eq!(all.names(), ["a", "red/a", "blue/a"]);
        let told: Vec<String> = all.broken.iter().map(ToString::to_string).collect();
        assert!(
            told[0].contains("`Pod`") && told[1].contains("metadata.name") && told[2].contains("f.json"),
            "{told:?}"
        );
        assert!(Definitions::load(&directory.path().join("none")).unwrap().all.is_empty());
    }
}
