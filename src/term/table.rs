//! A table of short cells.
//!
//! Owns widths and padding. Plain text with two spaces between columns and no lines, so `awk` can cut it.

use std::borrow::{Borrow, Cow};
use std::io::{self, Write};

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

#[derive(Clone)]
pub struct Cell<'a> {
    text: Cow<'a, str>,
    style: Option<Style>,
    width: usize,
}

impl<'a> Cell<'a> {
    pub fn plain(text: impl Into<Cow<'a, str>>) -> Self {
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

    pub fn styled(text: impl Into<Cow<'a, str>>, style: Style) -> Self {
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

/// Rows below a header, with a fixed number of columns.
pub struct TextTable<const N: usize> {
    rows: Vec<[Cell<'static>; N]>,
}

impl<const N: usize> TextTable<N> {
    pub fn new(header: [&'static str; N]) -> Self {
        Self {
            rows: vec![header.map(Cell::plain)],
        }
    }

    pub fn row(&mut self, cells: [Cell<'static>; N]) {
        self.rows.push(cells);
    }

    /// As [`write_rows`].
    pub fn write(
        &self,
        out: &mut impl Write,
        limit: usize,
        spared: &[usize],
        color: bool,
    ) -> io::Result<()> {
        write_rows(out, self.rows.iter(), limit, spared, color)
    }
}

/// Makes every column as wide as its widest cell. If the table is then wider than `limit`, it drops the columns in
/// `spared`, in this order, until the table fits. If that is not enough, it moves the last column to a line of its own
/// below each row. It never cuts a name. Makes the rows twice, so that a long table needs no memory.
pub fn write_rows<'a, const N: usize, R: Borrow<[Cell<'a>; N]>>(
    out: &mut impl Write,
    rows: impl Iterator<Item = R> + Clone,
    limit: usize,
    spared: &[usize],
    color: bool,
) -> io::Result<()> {
    let mut widths = [0; N];
    for row in rows.clone() {
        for (width, cell) in widths.iter_mut().zip(row.borrow()) {
            *width = cell.width.max(*width);
        }
    }
    let mut shown: Vec<usize> = (0..N).collect();
    let whole =
        |shown: &[usize]| shown.iter().map(|n| widths[*n]).sum::<usize>() + 2 * (shown.len() - 1);
    for column in spared {
        if whole(&shown) > limit {
            shown.retain(|n| n != column);
        }
    }
    let below = if whole(&shown) > limit {
        shown.pop()
    } else {
        None
    };
    let spaces = vec![b' '; whole(&shown) + 2];
    for row in rows {
        let row = row.borrow();
        for (n, column) in shown.iter().enumerate() {
            let cell = &row[*column];
            cell.write(out, color)?;
            let padding = if n + 1 == shown.len() {
                0
            } else {
                widths[*column] - cell.width + 2
            };
            out.write_all(&spaces[..padding])?;
        }
        out.write_all(b"\n")?;
        if let Some(cell) = below.map(|column| &row[column]) {
            out.write_all(b"    ")?;
            cell.write(out, color)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(rows: &[[&'static str; 3]], limit: usize, spared: &[usize]) -> String {
        let mut table = TextTable::new(["A", "BB", "C"]);
        for row in rows {
            table.row(row.map(Cell::plain));
        }
        let mut out = Vec::new();
        table.write(&mut out, limit, spared, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_line_up_by_what_a_terminal_shows() {
        let text = render(&[["vx🦀", "1", "x"], ["v", "22222", "y"]], 100, &[]);
        assert_eq!(text, "A     BB     C\nvx🦀  1      x\nv     22222  y\n");
    }

    #[test]
    fn wide_columns_move_below_and_no_name_is_cut() {
        let text = render(&[["a-long-name", "b", "reason"]], 20, &[]);
        assert_eq!(text, "A            BB\n    C\na-long-name  b\n    reason\n");
    }

    #[test]
    fn columns_that_can_be_spared_go_first() {
        let rows = [["a-long-name", "b", "reason"]];
        let whole = "A            BB  C\na-long-name  b   reason\n";
        assert_eq!(render(&rows, 100, &[1]), whole);
        let text = render(&rows, 20, &[1]);
        assert_eq!(text, "A            C\na-long-name  reason\n");
    }
}
