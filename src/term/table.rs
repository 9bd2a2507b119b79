//! A table of short cells.
//!
//! Owns widths and padding. Plain text, two spaces between columns, no lines: it can be cut with `awk`.

use std::borrow::Cow;
use std::io::{self, Write};

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

/// One cell.
pub struct Cell {
    text: Cow<'static, str>,
    style: Option<Style>,
    width: usize,
}

impl Cell {
    pub fn plain(text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        let width = if text.is_ascii() {
            text.len()
        } else {
            text.width()
        };
        Self {
            text,
            style: None,
            width,
        }
    }

    pub fn styled(text: impl Into<Cow<'static, str>>, style: Style) -> Self {
        Self {
            style: Some(style),
            ..Self::plain(text)
        }
    }

    fn write(&self, out: &mut impl Write, color: bool) -> io::Result<()> {
        match self.style {
            Some(style) if color => write!(out, "{style}{}{style:#}", self.text),
            _ => out.write_all(self.text.as_bytes()),
        }
    }
}

/// Rows under a header, with a fixed number of columns.
pub struct Table<const N: usize> {
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    pub fn new(header: [&'static str; N]) -> Self {
        Self {
            rows: vec![header.map(Cell::plain)],
        }
    }

    pub fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(cells);
    }

    /// Every column as wide as its widest cell. Where that makes the table wider than `limit`, the last column goes to a
    /// line of its own below each row: names are never cut.
    pub fn write(&self, out: &mut impl Write, limit: usize, color: bool) -> io::Result<()> {
        let widths: [usize; N] =
            std::array::from_fn(|n| self.rows.iter().map(|row| row[n].width).max().unwrap_or(0));
        let whole = widths.iter().sum::<usize>() + 2 * (N - 1);
        let in_line = if whole > limit { N - 1 } else { N };
        let spaces = vec![b' '; limit.max(whole)];
        for row in &self.rows {
            for (n, cell) in row[..in_line].iter().enumerate() {
                cell.write(out, color)?;
                let padding = if n + 1 == in_line {
                    0
                } else {
                    widths[n] - cell.width + 2
                };
                out.write_all(&spaces[..padding])?;
            }
            out.write_all(b"\n")?;
            for cell in &row[in_line..] {
                out.write_all(b"    ")?;
                cell.write(out, color)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(rows: &[[&'static str; 3]], limit: usize) -> String {
        let mut table = Table::new(["A", "BB", "C"]);
        for row in rows {
            table.row(row.map(Cell::plain));
        }
        let mut out = Vec::new();
        table.write(&mut out, limit, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_line_up_by_what_a_terminal_shows() {
        let text = render(&[["vx🦀", "1", "x"], ["v", "22222", "y"]], 100);
        assert_eq!(text, "A     BB     C\nvx🦀  1      x\nv     22222  y\n");
    }

    #[test]
    fn what_is_too_wide_goes_below_and_nothing_is_cut() {
        let text = render(&[["a-long-name", "b", "reason"]], 20);
        assert_eq!(text, "A            BB\n    C\na-long-name  b\n    reason\n");
    }
}
