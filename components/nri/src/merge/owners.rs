//! Who has set what: two plugins that set the same thing contradict each other.

use crate::api::{CompoundFieldOwners, Field, FieldOwners, OwningPlugins};
use std::collections::BTreeMap;

/// Two plugins set the same thing, or one of them does so twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugins {first} and {second} both set {what} of container {container}")]
pub struct Conflict {
    /// The plugin that came first.
    pub first: String,
    /// The one that came after it.
    pub second: String,
    /// What they set: the field, and what of it.
    pub what: String,
    /// Whose.
    pub container: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    Set(String),
    /// This plugin has taken away what another had set, and may set it anew.
    Cleared(String),
}

/// The owners of what was set while one request went from plugin to plugin.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    /// By container, field, and key for fields that have several entries.
    owners: BTreeMap<(String, i32, String), Owner>,
}

/// A plugin that changes a container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claimant<'a> {
    pub(super) plugin: &'a str,
    pub(super) container: &'a str,
}

impl Claimant<'_> {
    fn place(self, field: Field, key: &str) -> (String, i32, String) {
        (self.container.to_owned(), field.into(), key.to_owned())
    }
}

impl Owners {
    /// Notes that a plugin sets a field, or one entry of it.
    pub(super) fn claim(&mut self, who: Claimant<'_>, field: Field, key: &str) -> Result<(), Conflict> {
        let place = who.place(field, key);
        match self.owners.get(&place) {
            Some(Owner::Set(first) | Owner::Cleared(first)) if self.is_others(&place, who.plugin) => {
                Err(Conflict {
                    first: first.clone(),
                    second: who.plugin.to_owned(),
                    what: format!("{} {key}", field.as_str_name()).trim_end().to_owned(),
                    container: who.container.to_owned(),
                })
            }
            _ => {
                self.owners.insert(place, Owner::Set(who.plugin.to_owned()));
                Ok(())
            }
        }
    }

    fn is_others(&self, place: &(String, i32, String), plugin: &str) -> bool {
        !matches!(self.owners.get(place), Some(Owner::Cleared(by)) if by == plugin)
    }

    /// Notes that a plugin takes away what another has set, if one has.
    pub(super) fn clear(&mut self, who: Claimant<'_>, field: Field, key: &str) {
        if let Some(owner) = self.owners.get_mut(&who.place(field, key)) {
            *owner = Owner::Cleared(who.plugin.to_owned());
        }
    }

    /// Notes one more of several plugins that add to the same field.
    pub(super) fn join(&mut self, who: Claimant<'_>, field: Field) {
        let owner = self.owners.entry(who.place(field, "")).or_insert_with(|| Owner::Set(String::new()));
        if let Owner::Set(names) = owner {
            if !names.is_empty() {
                names.push(',');
            }
            names.push_str(who.plugin);
        }
    }

    /// As validating plugins are told it.
    pub fn message(&self) -> OwningPlugins {
        let mut message = OwningPlugins::default();
        for ((container, field, key), owner) in &self.owners {
            let fields: &mut FieldOwners = message.owners.entry(container.clone()).or_default();
            let name = match owner {
                Owner::Set(plugin) => plugin.clone(),
                Owner::Cleared(plugin) => format!("-{plugin}"),
            };
            if key.is_empty() {
                fields.simple.insert(*field, name);
            } else {
                let entries: &mut CompoundFieldOwners = fields.compound.entry(*field).or_default();
                entries.owners.insert(key.clone(), name);
            }
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_to_set_a_thing_is_refused_unless_it_cleared_it() {
        let mut owners = Owners::default();
        let by = |plugin| Claimant { plugin, container: "c" };
        owners.claim(by("00-a"), Field::Env, "X").unwrap();
        owners.claim(by("10-b"), Field::Env, "Y").unwrap();
        owners.claim(Claimant { plugin: "10-b", container: "d" }, Field::Env, "X").unwrap();
        let conflict = owners.claim(by("10-b"), Field::Env, "X").unwrap_err();
        assert_eq!(conflict.to_string(), "plugins 00-a and 10-b both set Env X of container c");
        owners.clear(by("10-b"), Field::Env, "X");
        assert_eq!(owners.claim(by("20-c"), Field::Env, "X").unwrap_err().first, "10-b");
        owners.claim(by("10-b"), Field::Env, "X").unwrap();
        assert!(owners.claim(by("10-b"), Field::Env, "X").is_err(), "twice");
    }

    #[test]
    fn validators_are_told_who_set_what() {
        let mut owners = Owners::default();
        let by = |plugin| Claimant { plugin, container: "c" };
        owners.join(by("a"), Field::OciHooks);
        owners.join(by("b"), Field::OciHooks);
        owners.claim(by("a"), Field::Mounts, "/x").unwrap();
        let fields = owners.message().owners.remove("c").unwrap();
        assert_eq!(fields.simple[&(Field::OciHooks as i32)], "a,b");
        assert_eq!(fields.compound[&(Field::Mounts as i32)].owners["/x"], "a");
    }
}
