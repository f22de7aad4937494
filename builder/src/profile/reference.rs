//! `docs/profile.md`, made from the types and their doc comments, so that it cannot fall behind them.

use super::schema;
use serde_json::Value;
use std::fmt::Write as _;

const INTRODUCTION: &str = "\
# Profile reference

<!-- Generated from builder/src/profile/model by `cairn profile reference`; a test compares the two. -->

A profile says what a node is. It is one TOML file in `profiles/`, named like the profile. Everything has a
default, so a profile says only what is particular about it and `extends` another for the rest:

```toml
name = \"edge\"
extends = \"worker\"

[kernel]
modules = { add = [\"nbd\"] }
```

**How files are merged.** Tables are merged key by key. Anything else replaces what was inherited. Where a list was
inherited, `{ add = [...], remove = [...] }` edits it: removing what is not there is an error, adding what is there
already changes nothing. `name` is never inherited. Chains may be long; circles are refused.

**Mistakes.** An unknown key, a wrong type or a malformed value is refused with file, line, column and, where one is
near, the key that was probably meant. `cairn profile check` then looks at the whole: the rules are listed at the end
of this page.

**Looking at a profile.** `cairn profile show worker` prints it fully resolved, `--origin` with the file and line that
set each key. `cairn profile schema` prints a JSON Schema for editors.

Sizes are strings with a unit (`\"512 MiB\"`, `\"75 MB\"`). Patterns know `*` (within one folder), `**` (across folders)
and `?`; a path pattern that names a folder means all in it. Paths on the machine that builds are relative to the
folder of the profile.
";

/// The page.
pub fn reference() -> String {
    let schema = schema::inlined();
    let mut page = String::from(INTRODUCTION);
    let (sections, plain): (Vec<_>, Vec<_>) =
        properties(&schema).into_iter().partition(|(_, schema)| is_table(schema));
    page.push_str("\n## Top level\n\n");
    table(&mut page, &plain, &schema);
    for (name, schema) in sections {
        section(&mut page, name, schema, 2);
    }
    page.push_str(
        "\n## Checks\n\n`cairn profile check` and every build run these. A fatal one stops the build.\n\n",
    );
    page.push_str("| check | severity | what must hold |\n| --- | --- | --- |\n");
    for check in super::check::PROFILE_CHECKS.iter().copied().flatten() {
        let severity = match check.severity {
            super::check::Severity::Warning => "warning",
            super::check::Severity::Fatal => "fatal",
        };
        let _ = writeln!(page, "| `{}` | {severity} | {} |", check.id, cell(check.rule));
    }
    page
}

fn section(page: &mut String, name: &str, schema: &Value, depth: usize) {
    let (title, body) = match entries(schema) {
        Some(entry) => (format!("{name}.<name>"), entry),
        None => (name.to_owned(), list_items(schema).unwrap_or(schema)),
    };
    let header = if list_items(schema).is_some() { format!("[[{title}]]") } else { format!("[{title}]") };
    page.truncate(page.trim_end().len());
    let _ = write!(page, "\n\n{} `{header}`\n\n", "#".repeat(depth));
    let description = description(schema);
    if !description.is_empty() {
        let _ = write!(page, "{description}\n\n");
    }
    let fields = properties(body);
    if fields.is_empty() {
        let _ = writeln!(page, "Keys and values are free: {}.", kind(body));
        return;
    }
    let (tables, plain): (Vec<_>, Vec<_>) = fields.into_iter().partition(|(_, schema)| is_table(schema));
    if !plain.is_empty() {
        table(page, &plain, body);
    }
    for (field, schema) in tables {
        section(page, &format!("{title}.{field}"), schema, depth + 1);
    }
}

fn table(page: &mut String, fields: &[(&str, &Value)], parent: &Value) {
    page.push_str("| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
    for (name, schema) in fields {
        let required =
            parent["required"].as_array().is_some_and(|names| names.iter().any(|required| required == name));
        let default =
            schema.get("default").or_else(|| parent["default"].get(*name)).filter(|value| !value.is_null());
        let default = match default {
            Some(value) => format!("`{}`", cell(&value.to_string())),
            None if required => "required".to_owned(),
            None => "none".to_owned(),
        };
        let mut meaning = description(schema);
        for (value, text) in choices(schema) {
            let text = if text.is_empty() { String::new() } else { format!(": {text}") };
            let _ = write!(meaning, "<br>`\"{value}\"`{text}");
        }
        let _ = writeln!(page, "| `{name}` | {} | {default} | {} |", cell(&kind(schema)), cell(&meaning));
    }
}

/// A table's fields.
fn properties(schema: &Value) -> Vec<(&str, &Value)> {
    solid(schema)["properties"]
        .as_object()
        .map(|fields| fields.iter().map(|(name, schema)| (name.as_str(), schema)).collect())
        .unwrap_or_default()
}

/// The alternative of an optional schema that is not null.
fn solid(schema: &Value) -> &Value {
    let alternatives = schema["anyOf"].as_array();
    alternatives.and_then(|all| all.iter().find(|one| one["type"] != "null")).unwrap_or(schema)
}

/// What every entry of a table with free keys looks like.
fn entries(schema: &Value) -> Option<&Value> {
    let by_pattern = schema["patternProperties"].as_object().and_then(|patterns| patterns.values().next());
    by_pattern.or_else(|| schema.get("additionalProperties").filter(|value| value.is_object()))
}

/// What every item of a list of tables looks like.
fn list_items(schema: &Value) -> Option<&Value> {
    Some(&schema["items"]).filter(|items| !properties(items).is_empty())
}

/// Whether it has a section of its own.
fn is_table(schema: &Value) -> bool {
    let fields = !properties(schema).is_empty() || list_items(schema).is_some();
    fields || entries(schema).is_some_and(|entry| !properties(entry).is_empty())
}

/// A type's or field's doc comment as one paragraph.
fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The variants of an enum and what each means.
fn choices(schema: &Value) -> Vec<(String, String)> {
    let schema = solid(schema);
    let schema = if schema["type"] == "array" { &schema["items"] } else { schema };
    let one_of = schema["oneOf"].as_array().into_iter().flatten();
    let described = one_of.filter_map(|one| Some((one["const"].as_str()?.to_owned(), description(one))));
    let plain = schema["enum"].as_array().into_iter().flatten();
    described.chain(plain.filter_map(|one| Some((one.as_str()?.to_owned(), String::new())))).collect()
}

/// A type in words.
fn kind(schema: &Value) -> String {
    let schema = solid(schema);
    if !choices(schema).is_empty() && schema["type"] != "array" {
        return "choice".to_owned();
    }
    let names: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect()
        }
        _ => return "any value".to_owned(),
    };
    let words: Vec<String> = names
        .into_iter()
        .map(|name| match name {
            "array" => format!("list of {}", plural(&kind(&schema["items"]))),
            "object" => match entries(schema) {
                Some(entry) => format!("table of {}", plural(&kind(entry))),
                None => "table".to_owned(),
            },
            "string" => match schema["examples"][0].as_str() {
                Some(example) => format!("string such as `\"{example}\"`"),
                None => "string".to_owned(),
            },
            other => other.to_owned(),
        })
        .collect();
    words.join(" or ")
}

fn plural(kind: &str) -> String {
    match kind.split_once(' ') {
        Some((first, rest)) => format!("{first}s {rest}"),
        None => format!("{kind}s"),
    }
}

/// Text that may stand in a table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
