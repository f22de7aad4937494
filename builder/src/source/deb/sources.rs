//! apt's lists of sources (sources.list(5)): deb822 `.sources` and one-line `.list`.

use super::control::{self, SyntaxError};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// One binary source: an archive and the suites used of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The archive's URI as written.
    pub uri: String,
    /// Its suites.
    pub suites: Vec<String>,
    /// Their components.
    pub components: Vec<String>,
    /// File of the keyring, when one is named by path.
    pub signed_by: Option<PathBuf>,
}

/// Why sources cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    /// A file that is there cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A malformed line.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
}

/// The enabled binary sources below `root` (`/` for the machine's own), in apt's order.
///
/// # Errors
/// A file cannot be read or is malformed.
pub fn load(root: &Path) -> Result<Vec<Source>, SourcesError> {
    let list = root.join("etc/apt/sources.list");
    let directory = root.join("etc/apt/sources.list.d");
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| SourcesError::Io { path, source }
    };
    let mut paths = if list.exists() { vec![list] } else { Vec::new() };
    paths.extend(parts(&directory, &["list", "sources"]).map_err(io(&directory))?);
    let mut sources = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(io(&path))?;
        let name = path.display().to_string();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => sources.extend(deb822(&name, &text)?),
            _ => sources.extend(one_line(&name, &text)?),
        }
    }
    Ok(sources)
}

/// The files of a configuration directory, by name; those with one of these extensions (`""` means none).
pub(super) fn parts(directory: &Path, extensions: &[&str]) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths: Vec<_> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    paths.retain(|path| {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        extensions.contains(&extension) && path.is_file()
    });
    paths.sort();
    Ok(paths)
}

fn deb822(file: &str, text: &str) -> Result<Vec<Source>, SyntaxError> {
    let mut sources = Vec::new();
    for paragraph in control::paragraphs(file, text) {
        let paragraph = paragraph?;
        let words = |name: &str| {
            paragraph.field(name).map(|field| field.words().map(str::to_owned).collect::<Vec<_>>())
        };
        let is_off = |word: &str| matches!(word, "no" | "false" | "off" | "without" | "disable" | "0");
        let enabled = !paragraph.get("Enabled").is_some_and(|value| is_off(&value.to_lowercase()));
        let binary = words("Types").is_some_and(|types| types.iter().any(|kind| kind == "deb"));
        if !enabled || !binary {
            continue;
        }
        let require = |name: &str| {
            words(name).ok_or_else(|| paragraph.error(file, format!("this source has no field `{name}`")))
        };
        let (uris, suites) = (require("URIs")?, require("Suites")?);
        let components = words("Components").unwrap_or_default();
        let signed_by = words("Signed-By")
            .and_then(|keys| keys.into_iter().find(|key| key.starts_with('/')).map(PathBuf::from));
        sources.extend(uris.into_iter().map(|uri| Source {
            uri,
            suites: suites.clone(),
            components: components.clone(),
            signed_by: signed_by.clone(),
        }));
    }
    Ok(sources)
}

fn one_line(file: &str, text: &str) -> Result<Vec<Source>, SyntaxError> {
    let mut sources = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let (kind, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if kind != "deb" {
            continue;
        }
        let error = |why: &str| SyntaxError { file: file.to_owned(), line: index + 1, why: why.to_owned() };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(|| error("the options have no closing bracket"))?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
            return Err(error("a source must be `deb URI suite components…`"));
        };
        let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        sources.push(Source {
            uri,
            suites: vec![suite],
            components: words.collect(),
            signed_by: signed_by.filter(|key| key.starts_with('/')).map(PathBuf::from),
        });
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let one = one_line(
            "sources.list",
            "# no\ndeb-src http://m/debian trixie main\n\
             deb [arch=amd64 signed-by=/k.gpg] http://m/debian trixie main contrib # why\n",
        )
        .unwrap();
        let other = deb822(
            "debian.sources",
            "Types: deb deb-src\nURIs: http://m/debian\nSuites: trixie\nComponents: main contrib\n\
             Signed-By: /k.gpg\n\nEnabled: no\nTypes: deb\nURIs: http://off\nSuites: x\n",
        )
        .unwrap();
        assert_eq!(one, other);
        assert_eq!(one[0].components, ["main", "contrib"]);
        assert_eq!(one[0].signed_by.as_deref(), Some(Path::new("/k.gpg")));
    }

    #[test]
    fn errors_name_file_and_line() {
        let error = one_line("a.list", "\ndeb http://m\n").unwrap_err();
        assert_eq!((error.file.as_str(), error.line), ("a.list", 2));
        let error = deb822("a.sources", "Types: deb\nURIs: http://m\n").unwrap_err();
        assert!(error.to_string().contains("Suites"), "{error}");
    }
}
