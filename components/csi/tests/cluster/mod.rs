//! What the manifests of docs/deploy and the examples of the documentation make of a cluster.

// Fields are there so that others are refused; not all are looked at.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

pub mod driver;
pub mod kinds;
pub mod rbac;
mod sidecars;
pub mod workload;

use cairn_contract::storage::BackendKind;
use kinds::Object;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A document and where it is.
#[derive(Debug)]
pub struct Document {
    /// Relative to docs/.
    pub file: String,
    pub value: Value,
    pub object: Object,
}

/// All documents.
#[derive(Debug)]
pub struct Cluster(pub Vec<Document>);

/// Documentation whose examples are documents, too.
const PAGE: &str = "storage.md";

impl Cluster {
    /// Everything, each document checked for itself.
    pub fn read() -> Self {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let mut files = Vec::new();
        for kind in BackendKind::ALL {
            let folder = docs.join("deploy").join(kind.name());
            for folder in [folder.join("examples"), folder] {
                files.extend(manifests(&folder));
            }
        }
        files.push(docs.join(PAGE));
        files.sort();
        let mut all = Vec::new();
        for path in files {
            let file = path.strip_prefix(&docs).unwrap().display().to_string();
            let text = fs::read_to_string(&path).unwrap();
            let texts = if file == PAGE { examples(&text) } else { vec![text] };
            assert!(!texts.is_empty(), "{file} has no documents");
            for text in texts {
                let values: Vec<Value> = serde_saphyr::from_multiple(&text)
                    .unwrap_or_else(|error| panic!("{file}: {error}\n{text}"));
                assert!(!values.is_empty(), "{file} has an empty example");
                all.extend(values.into_iter().map(|value| {
                    let object =
                        Object::parse(&value).unwrap_or_else(|error| panic!("{file}: {error}\n{value:#}"));
                    Document { file: file.clone(), value, object }
                }));
            }
        }
        Self(all)
    }

    /// What is in one driver's folder, without the examples.
    pub fn of(&self, kind: BackendKind) -> impl Iterator<Item = &Object> {
        let folder = format!("deploy/{}/", kind.name());
        self.0
            .iter()
            .filter(move |held| held.file.strip_prefix(&folder).is_some_and(|name| !name.contains('/')))
            .map(|held| &held.object)
    }

    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.0.iter().map(|held| &held.object)
    }
}

fn manifests(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let found: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    for path in &found {
        assert_eq!(path.extension().and_then(|name| name.to_str()), Some("yaml"), "{}", path.display());
    }
    found
}

/// The blocks of a page that say they are YAML.
fn examples(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in page.lines() {
        match (&mut block, line.trim()) {
            (None, "```yaml") => block = Some(String::new()),
            (Some(_), "```") => found.extend(block.take()),
            (Some(text), _) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, _) => {}
        }
    }
    assert!(block.is_none(), "a block does not end");
    found
}
