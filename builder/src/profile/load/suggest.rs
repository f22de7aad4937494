//! "Did you mean …?"

/// The candidate that a person most likely meant by `text`, if any is near enough.
pub(crate) fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(text);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&folded, &fold(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The sentence.
pub(crate) fn did_you_mean(candidate: &str) -> String {
    format!("did you mean `{candidate}`?")
}

fn fold(text: &str) -> String {
    text.to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_ones_are_offered() {
        let keys = ["package", "packages", "modules", "cmdline"];
        assert_eq!(nearest("pakage", keys), Some("package"));
        assert_eq!(nearest("cmd-line", keys), Some("cmdline"));
        assert_eq!(nearest("zebra", keys), None);
    }
}
