//! Entries with names, in lists and maps. A `-` before the name takes the entry away.

use super::owners::{Claimant, Conflict, Owners};
use crate::api::{Field, KeyValue, LinuxDevice, LinuxNamespace, Mount};
use std::collections::BTreeMap;

/// A name without its mark, and whether it was marked for removal.
pub fn removal(name: &str) -> (&str, bool) {
    match name.strip_prefix('-') {
        Some(bare) => (bare, true),
        None => (name, false),
    }
}

/// An entry of a list.
pub(super) trait Named {
    fn name(&self) -> &str;

    fn bare(&self) -> &str {
        removal(self.name()).0
    }
}

macro_rules! named {
    ($type:ty, $field:ident) => {
        impl Named for $type {
            fn name(&self) -> &str {
                &self.$field
            }
        }
    };
}

named!(Mount, destination);
named!(LinuxDevice, path);
named!(LinuxNamespace, r#type);
named!(KeyValue, key);

/// Takes a plugin's changes to a list over into those collected so far. At most one change of a name is left.
pub(super) fn collect<T: Named>(
    collected: &mut Vec<T>,
    wanted: Vec<T>,
    owners: &mut Owners,
    who: Claimant<'_>,
    field: Field,
) -> Result<(), Conflict> {
    let (removed, added): (Vec<T>, Vec<T>) = wanted.into_iter().partition(|entry| removal(entry.name()).1);
    for entry in &removed {
        owners.clear(who, field, entry.bare());
    }
    for entry in &added {
        owners.claim(who, field, entry.name())?;
    }
    for entry in removed {
        collected.retain(|held| held.bare() != entry.bare());
        collected.push(entry);
    }
    for entry in added {
        collected.retain(|held| held.bare() != entry.bare());
        collected.push(entry);
    }
    Ok(())
}

/// Makes a list look as it will when the changes are made.
pub(super) fn show<T: Named + Clone>(shown: &mut Vec<T>, changes: &[T]) {
    shown.retain(|held| !changes.iter().any(|change| change.bare() == held.name()));
    shown.extend(changes.iter().filter(|change| !removal(change.name()).1).cloned());
}

/// [`collect`] for maps.
pub(super) fn collect_map<V: Clone>(
    collected: &mut BTreeMap<String, V>,
    wanted: &BTreeMap<String, V>,
    owners: &mut Owners,
    who: Claimant<'_>,
    field: Field,
) -> Result<(), Conflict> {
    for name in wanted.keys() {
        if let (bare, true) = removal(name) {
            owners.clear(who, field, bare);
        }
    }
    for name in wanted.keys().filter(|name| !removal(name).1) {
        owners.claim(who, field, name)?;
    }
    // Marked names sort before others, so that what a plugin removes and sets is set.
    for (name, value) in wanted {
        let bare = removal(name).0.to_owned();
        collected.remove(&format!("-{bare}"));
        collected.remove(&bare);
        collected.insert(name.clone(), value.clone());
    }
    Ok(())
}

/// [`show`] for maps.
pub(super) fn show_map<V: Clone>(shown: &mut BTreeMap<String, V>, changes: &BTreeMap<String, V>) {
    for (name, value) in changes {
        match removal(name) {
            (bare, true) => drop(shown.remove(bare)),
            (name, false) => drop(shown.insert(name.to_owned(), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_later_plugin_may_remove_and_set_what_an_earlier_one_set() {
        let (mut collected, mut owners) = (BTreeMap::new(), Owners::default());
        let by = |plugin| Claimant { plugin, container: "c" };
        let field = Field::Annotations;
        collect_map(&mut collected, &map(&[("a", "1"), ("b", "1")]), &mut owners, by("x"), field).unwrap();
        assert!(collect_map(&mut collected, &map(&[("a", "2")]), &mut owners, by("y"), field).is_err());
        collect_map(&mut collected, &map(&[("-a", ""), ("a", "2"), ("-b", "")]), &mut owners, by("y"), field)
            .unwrap();
        assert_eq!(collected, map(&[("-b", ""), ("a", "2")]));
        let mut shown = map(&[("a", "0"), ("b", "0"), ("c", "0")]);
        show_map(&mut shown, &collected);
        assert_eq!(shown, map(&[("a", "2"), ("c", "0")]));
    }

    #[test]
    fn lists_keep_one_change_of_a_name() {
        let mount = |destination: &str, source: &str| Mount {
            destination: destination.into(),
            source: source.into(),
            ..Default::default()
        };
        let (mut collected, mut owners) = (Vec::new(), Owners::default());
        let by = |plugin| Claimant { plugin, container: "c" };
        let field = Field::Mounts;
        collect(&mut collected, vec![mount("/a", "1"), mount("-/gone", "")], &mut owners, by("x"), field)
            .unwrap();
        collect(&mut collected, vec![mount("/a", "2"), mount("-/a", "")], &mut owners, by("y"), field)
            .unwrap();
        assert_eq!(collected, [mount("-/gone", ""), mount("/a", "2")]);
        let mut shown = vec![mount("/a", "0"), mount("/gone", "0"), mount("/b", "0")];
        show(&mut shown, &collected);
        assert_eq!(shown, [mount("/b", "0"), mount("/a", "2")]);
    }
}
