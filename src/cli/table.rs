//! What the commands that print the state of a gateway have in common: reading its JSON, and aligned columns.

use serde_json::Value;

/// The members of a member that is an object.
pub(super) fn members<'a>(body: &'a Value, name: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    body[name].as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

/// A string, or `-`.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// Aligned columns, two spaces apart.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let widths: [usize; N] = std::array::from_fn(|at| {
        rows.iter().map(|row| row[at].chars().count()).chain([head[at].len()]).max().unwrap_or_default()
    });
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let rows = rows.iter().map(|row| line(row.each_ref().map(String::as_str)));
    std::iter::once(line(head)).chain(rows).collect()
}

/// An age in its two largest units.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}
