//! Suggestions for unknown keys and values.

/// Longest word compared, in characters: the comparison takes time proportional to the product of the lengths.
const MAX_WORD: usize = 64;

/// Replaces the list of all known names in serde's message about an unknown key or value by the nearest one. Other
/// messages stay as they are.
pub(crate) fn reword(text: &str) -> String {
    let mut words = text.split('`').skip(1).step_by(2);
    let Some(unknown) = words.next().filter(|_| text.starts_with("unknown ")) else { return text.to_owned() };
    let known: Vec<&str> = words.collect();
    let kind = text.split(" `").next().unwrap_or("unknown word").replace("field", "key").replace("variant", "value");
    match nearest(unknown, &known) {
        Some(near) => format!("{kind} `{unknown}`; did you mean `{near}`?"),
        None => format!("{kind} `{unknown}`; known: {}", known.join(", ")),
    }
}

fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word: String = word.chars().take(MAX_WORD).collect();
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(&word, candidate), *candidate))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_told_or_all_of_them() {
        assert_eq!(
            reword("unknown field `sede`, expected one of `seed`, `keys`"),
            "unknown key `sede`; did you mean `seed`?"
        );
        assert_eq!(
            reword("unknown variant `x`, expected `real` or `stepped`"),
            "unknown value `x`; known: real, stepped"
        );
        assert_eq!(reword("missing field `label`"), "missing field `label`");
        assert_eq!(reword("unknown field `x`, there are no fields"), "unknown key `x`; known: ");
    }
}
