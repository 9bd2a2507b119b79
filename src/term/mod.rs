//! Text for a terminal: colours, paragraphs and tables.
//!
//! Owns the width of the output. Pure.

pub(crate) mod table;

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use anstyle::{AnsiColor, Style};

/// Unlimited for a file or a pipe, because programs read the text line by line.
static WIDTH: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Sets the width for a terminal with this many columns, within bounds: lines of two words and very long lines are hard
/// to read.
pub(crate) fn set_width(columns: usize) {
    WIDTH.store(columns.clamp(60, 120), Ordering::Relaxed);
}

/// The widest line of a report in columns. Long names can make a line wider.
pub(crate) fn width() -> usize {
    WIDTH.load(Ordering::Relaxed)
}

pub(crate) const RED: Style = AnsiColor::Red.on_default();
pub(crate) const GREEN: Style = AnsiColor::Green.on_default();
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default();

pub(crate) fn paint(text: &str, style: Style, color: bool) -> String {
    if color {
        format!("{style}{text}{style:#}")
    } else {
        text.to_owned()
    }
}

/// The columns of a word, without the codes of its colours.
fn columns(word: &str) -> usize {
    let mut parts = word.split('\x1b');
    let first = parts.next().unwrap_or_default();
    let rest = parts.map(|part| part.split_once('m').map_or(part, |(_, text)| text));
    let parts = std::iter::once(first).chain(rest);
    parts.map(unicode_width::UnicodeWidthStr::width).sum()
}

/// Breaks a text at spaces. Lines after the first are indented by two more columns.
pub(crate) fn wrapped(out: &mut impl Write, indent: &str, text: &str) -> io::Result<()> {
    let (mut column, limit) = (0, width());
    for word in text.split(' ') {
        let width = columns(word);
        if column == 0 {
            write!(out, "{indent}{word}")?;
            column = indent.len() + width;
        } else if column + 1 + width > limit {
            write!(out, "\n{indent}  {word}")?;
            column = indent.len() + 2 + width;
        } else {
            write!(out, " {word}")?;
            column += 1 + width;
        }
    }
    writeln!(out)
}

/// As [`wrapped`], but puts a part that people copy, such as a rule, unbroken on a line of its own.
pub(crate) fn wrapped_around(
    out: &mut impl Write,
    indent: &str,
    text: &str,
    quoted: Option<&str>,
) -> io::Result<()> {
    let parts = quoted.and_then(|quoted| Some((quoted, text.split_once(&format!("`{quoted}`"))?)));
    let Some((quoted, (before, after))) = parts else {
        return wrapped(out, indent, text);
    };
    wrapped(out, indent, before.trim_end())?;
    writeln!(out, "{indent}    {quoted}")?;
    if after.is_empty() {
        return Ok(());
    }
    wrapped(out, &format!("{indent}  "), after.trim_start())
}
