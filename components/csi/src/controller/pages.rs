//! Lists in pages. A token names the last entry given, so entries that come and go between two calls shift nothing.

use crate::error::Fault;

/// Before the entry in a token: what a client made up is told apart.
const MARK: &str = "after:";

/// The page of `all`, which is sorted by `id`, that begins behind `token`; and the token of the next, empty if there
/// is none.
///
/// # Errors
/// [`Fault::Invalid`] for a negative number, [`Fault::StaleToken`] for a token that is none.
pub(super) fn page<T>(
    all: Vec<T>,
    id: impl Fn(&T) -> &str,
    max_entries: i32,
    token: &str,
) -> Result<(Vec<T>, String), Fault> {
    let limit = match usize::try_from(max_entries) {
        Err(_) => return Err(Fault::Invalid(format!("max_entries is negative: {max_entries}"))),
        Ok(0) => usize::MAX,
        Ok(limit) => limit,
    };
    let after = match token.strip_prefix(MARK) {
        Some(after) => after,
        None if token.is_empty() => "",
        None => {
            return Err(Fault::StaleToken(format!("starting_token {token:?} is not one this driver gave")));
        }
    };
    let mut rest = all.into_iter().filter(|entry| after.is_empty() || id(entry) > after).peekable();
    let page: Vec<T> = rest.by_ref().take(limit).collect();
    let next = match (rest.peek(), page.last()) {
        (Some(_), Some(last)) => format!("{MARK}{}", id(last)),
        _ => String::new(),
    };
    Ok((page, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_comes_once_whatever_the_size() {
        let all: Vec<String> = (0..10).map(|number| format!("v{number}")).collect();
        for size in [1, 3, 9, 10, 11] {
            let (mut seen, mut token) = (Vec::new(), String::new());
            loop {
                let (entries, next) = page(all.clone(), |id| id, size, &token).unwrap();
                seen.extend(entries);
                if next.is_empty() {
                    break;
                }
                token = next;
            }
            assert_eq!(seen, all, "{size}");
        }
        assert_eq!(page(all.clone(), |id| id, 0, "").unwrap(), (all, String::new()));
    }

    #[test]
    fn what_is_removed_meanwhile_shifts_nothing() {
        let all = ["a", "b", "c"].map(str::to_owned).to_vec();
        let (_, token) = page(all, |id| id, 2, "").unwrap();
        let (rest, _) = page(["a", "c"].map(str::to_owned).to_vec(), |id| id, 2, &token).unwrap();
        assert_eq!(rest, ["c"]);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(matches!(page(Vec::<String>::new(), |id| id, -1, ""), Err(Fault::Invalid(_))));
        assert!(matches!(page(Vec::<String>::new(), |id| id, 1, "7"), Err(Fault::StaleToken(_))));
    }
}
