//! Suggestions for misspelled words.

/// A word is compared with this many known ones at most, and so many are listed. The built-in operations are 36.
const CONSIDERED: usize = 64;

/// `unknown …`, with the nearest known word, or with all of them if none is near.
pub(super) fn unknown<'a>(kind: &str, word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let mut all = known.into_iter();
    let known: Vec<&str> = all.by_ref().take(CONSIDERED).collect();
    match nearest(word, &known) {
        Some(near) => format!("unknown {kind}; did you mean \"{near}\"?"),
        None if known.is_empty() => format!("unknown {kind}: there are none"),
        None => {
            let more = if all.next().is_some() { ", …" } else { "" };
            format!("unknown {kind}; known here: {}{more}", known.join(", "))
        }
    }
}

/// The most similar known word, if any is similar.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    // long enough for every known word; strsim's distance takes time by the product of the lengths
    let word: String = word.chars().take(64).collect();
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(&word, candidate), *candidate))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `"a", "b" or "c"`.
pub(super) fn choice(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => format!("{one:?}"),
        [rest @ .., last] => {
            let rest: Vec<String> = rest.iter().map(|word| format!("{word:?}")).collect();
            format!("{} or {last:?}", rest.join(", "))
        }
    }
}
