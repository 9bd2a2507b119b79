//! A table of short cells.
//!
//! Owns widths and padding. Plain text, two spaces between columns, no lines: it can be cut with `awk`.

use std::io::{self, Write};

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

/// One cell.
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub fn plain(text: impl Into<String>) -> Self {
        Self::styled(text, Style::new())
    }

    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self {
            text: text.into(),
            style,
        }
    }

    fn width(&self) -> usize {
        self.text.width()
    }
}

/// Rows under a header.
pub struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        Self {
            rows: vec![header.iter().map(|text| Cell::plain(*text)).collect()],
        }
    }

    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Every column as wide as its widest cell. Where that makes the table wider than `limit`, the last column goes to a
    /// line of its own below each row: names are never cut.
    pub fn write(&self, out: &mut impl Write, limit: usize, color: bool) -> io::Result<()> {
        let columns = self.rows[0].len();
        let width = |n: usize| {
            self.rows
                .iter()
                .map(|row| row[n].width())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let whole = widths.iter().sum::<usize>() + 2 * (columns - 1);
        let in_line = if whole > limit { columns - 1 } else { columns };
        for row in &self.rows {
            for (n, cell) in row[..in_line].iter().enumerate() {
                let last = n + 1 == in_line;
                let padding = if last {
                    0
                } else {
                    widths[n] - cell.width() + 2
                };
                write!(
                    out,
                    "{}{:padding$}",
                    super::paint(&cell.text, cell.style, color && !is_plain(cell)),
                    ""
                )?;
            }
            writeln!(out)?;
            for cell in &row[in_line..] {
                writeln!(out, "    {}", cell.text)?;
            }
        }
        Ok(())
    }
}

fn is_plain(cell: &Cell) -> bool {
    cell.style == Style::new()
}
