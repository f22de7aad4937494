//! Laying one profile over another.
//!
//! One rule: a table is merged key by key; anything else replaces what was inherited; and where a list was
//! inherited, a table `{ add = [...], remove = [...] }` edits it. Removing what is not there is an error, for it
//! is a slip of the pen or a base profile that moved on. Adding what is there already changes nothing.

use super::document::{Data, Located, Member, Origin, Table};
use super::suggest;

/// A layer that does not fit on the one below.
#[derive(Debug)]
pub(crate) struct MergeError {
    /// What stands wrong.
    pub(crate) origin: Origin,
    /// Dotted key.
    pub(crate) key: String,
    /// What is wrong.
    pub(crate) message: String,
    /// What would be right.
    pub(crate) help: Option<String>,
}

/// Lays `upper` over `lower`. `prefix` is the dotted key of the table, empty at the top.
pub(crate) fn merge(lower: &mut Table, upper: Table, prefix: &str) -> Result<(), MergeError> {
    for (name, member) in upper {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match lower.get_mut(&name) {
            None => {
                lower.insert(name, member);
            }
            Some(inherited) => merge_member(inherited, member, &key)?,
        }
    }
    Ok(())
}

fn merge_member(inherited: &mut Member, member: Member, key: &str) -> Result<(), MergeError> {
    inherited.key = member.key;
    let origin = member.value.origin;
    match (&mut inherited.value.data, member.value.data) {
        (Data::Table(below), Data::Table(above)) => {
            merge(below, above, key)?;
            inherited.value.origin = origin;
        }
        (Data::Array(items), Data::Table(edit)) => {
            apply(items, edit, key)?;
            inherited.value.origin = origin;
        }
        (_, data) => inherited.value = Located { data, origin },
    }
    Ok(())
}

fn apply(items: &mut Vec<Located>, edit: Table, key: &str) -> Result<(), MergeError> {
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    for (name, member) in edit {
        let list = match name.as_str() {
            "add" => &mut add,
            "remove" => &mut remove,
            _ => {
                return Err(MergeError {
                    origin: member.key,
                    key: format!("{key}.{name}"),
                    message: format!(
                        "`{key}` is a list; a table in its place edits it and has only `add` and `remove`"
                    ),
                    help: suggest::nearest(&name, ["add", "remove"]).map(suggest::did_you_mean),
                });
            }
        };
        let kind = member.value.kind();
        let Data::Array(values) = member.value.data else {
            return Err(MergeError {
                origin: member.value.origin,
                key: format!("{key}.{name}"),
                message: format!("expected a list, found {kind}"),
                help: None,
            });
        };
        *list = values;
    }
    for value in remove {
        let before = items.len();
        items.retain(|item| !item.says_the_same(&value));
        if items.len() == before {
            return Err(MergeError {
                origin: value.origin,
                key: format!("{key}.remove"),
                message: "cannot remove what the inherited list does not hold".to_owned(),
                help: nearest_item(&value, items),
            });
        }
    }
    for value in add {
        if !items.iter().any(|item| item.says_the_same(&value)) {
            items.push(value);
        }
    }
    Ok(())
}

fn nearest_item(value: &Located, items: &[Located]) -> Option<String> {
    let Data::String(text) = &value.data else { return None };
    let known = items.iter().filter_map(|item| match &item.data {
        Data::String(text) => Some(text.as_str()),
        _ => None,
    });
    suggest::nearest(text, known).map(suggest::did_you_mean)
}
