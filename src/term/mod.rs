//! Text for a terminal: colours, paragraphs and tables.
//!
//! Owns the width. Pure.

pub(crate) mod table;

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

/// Reports are not wider than this, as long as the names in them allow it.
pub(crate) const WIDTH: usize = 100;

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

/// Breaks a text at spaces; what follows the first line is indented two columns more.
pub(crate) fn wrapped(out: &mut impl Write, indent: &str, text: &str) -> io::Result<()> {
    let mut column = 0;
    for word in text.split(' ') {
        let width = unicode_width::UnicodeWidthStr::width(word);
        if column == 0 {
            write!(out, "{indent}{word}")?;
            column = indent.len() + width;
        } else if column + 1 + width > WIDTH {
            write!(out, "\n{indent}  {word}")?;
            column = indent.len() + 2 + width;
        } else {
            write!(out, " {word}")?;
            column += 1 + width;
        }
    }
    writeln!(out)
}
