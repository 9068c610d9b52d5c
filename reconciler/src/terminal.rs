//! Wraps the output of commands at the terminal's width.

use terminal_size::{Width, terminal_size_of};

/// Minimum width of the text next to its head, in characters.
const LEAST_ROOM: usize = 20;

/// Returns the width for wrapping: `COLUMNS` or the terminal's width. Returns `None` for a file or
/// a pipe, where lines are not wrapped, so that `grep` works.
pub(crate) fn width() -> Option<usize> {
    let columns = std::env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok());
    columns.or_else(|| {
        terminal_size_of(std::io::stdout()).map(|(Width(columns), _)| usize::from(columns))
    })
}

/// Joins `head` and `text`. Continuation lines are indented to the beginning of the text.
pub(crate) fn hanging(head: &str, width: Option<usize>, text: &str) -> String {
    let indent = head.chars().count();
    let Some(room) = width.map(|width| width.saturating_sub(indent).max(LEAST_ROOM)) else {
        return format!("{head}{text}");
    };
    let mut out = head.to_owned();
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            used = 0;
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_wraps_with_a_hanging_indent_and_stays_on_one_line_in_a_pipe() {
        assert_eq!(
            hanging("  applied  ", None, "slot 5: no row came"),
            "  applied  slot 5: no row came"
        );
        let wrapped = hanging("at 03:00  ", Some(30), "one two three four five six seven");
        assert_eq!(
            wrapped,
            "at 03:00  one two three four\n          five six seven"
        );
        assert!(
            wrapped.lines().all(|line| line.chars().count() <= 30),
            "{wrapped}"
        );
        assert_eq!(
            hanging("- ", Some(20), "a-word-longer-than-the-line b"),
            "- a-word-longer-than-the-line\n  b"
        );
    }
}
