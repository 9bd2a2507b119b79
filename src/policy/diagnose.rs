//! Errors in policy files: the place, the accepted values, and the text underlined.
//!
//! Owns positions, excerpts and rendering of policy errors. Pure. Does not decide what is an error.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use crate::text::escape;

/// The cause of a problem. It determines the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The content of the file.
    Content,
    /// A named file is missing.
    Missing,
    /// The user may not read the file.
    Denied,
    /// The root directory could not be opened.
    Root,
    /// A failure of the system, whatever the content of the file.
    System,
}

/// One problem of one policy file. Every text is safe to print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PolicyError {
    /// The file, as the command line or the search named it.
    pub file: String,
    /// Counts from 1. Null if the problem concerns the whole file.
    pub line: Option<usize>,
    /// Counts characters from 1.
    pub column: Option<usize>,
    pub message: String,
    /// The accepted values, or what to do.
    pub help: Option<String>,
    #[serde(skip)]
    kind: ProblemKind,
    #[serde(skip)]
    excerpt: Option<Excerpt>,
}

/// The part of a line around a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    text: String,
    /// Bytes of `text` to underline.
    marked: Range<usize>,
}

impl PolicyError {
    /// A problem of a whole file, such as a file that cannot be read.
    pub fn of_file(
        file: &str,
        kind: ProblemKind,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Self {
        Self {
            kind,
            file: escape(file.as_bytes()),
            line: None,
            column: None,
            message: message.into(),
            help,
            excerpt: None,
        }
    }

    /// `FILE:LINE:COLUMN: message; help`, on one line.
    pub fn line_for_logs(&self) -> String {
        let place = match (self.line, self.column) {
            (Some(line), Some(column)) => format!(":{line}:{column}"),
            (Some(line), None) => format!(":{line}"),
            (None, _) => String::new(),
        };
        let help = self.help.as_ref().map(|help| format!("; {help}"));
        let text = format!(
            "{}{place}: {}{}",
            self.file,
            self.message,
            help.unwrap_or_default()
        );
        text.replace('\n', "; ")
    }

    fn group(&self) -> Group<'_> {
        let title = Level::ERROR.primary_title(self.message.as_str());
        let group = match (&self.excerpt, self.line) {
            (Some(excerpt), Some(line)) => title.element(
                Snippet::source(excerpt.text.as_str())
                    .path(self.file.as_str())
                    .line_start(line)
                    .annotation(AnnotationKind::Primary.span(excerpt.marked.clone())),
            ),
            _ => title.element(Origin::path(self.file.as_str())),
        };
        match &self.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }
}

/// All problems of all policy files; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyErrors(Vec<PolicyError>);

impl PolicyErrors {
    /// `None` if the list is empty.
    pub fn new(errors: Vec<PolicyError>) -> Option<Self> {
        (!errors.is_empty()).then_some(Self(errors))
    }

    /// In the order of the files and, within a file, of the lines.
    pub fn items(&self) -> impl Iterator<Item = &PolicyError> {
        self.0.iter()
    }

    /// The common kind of all problems. `Content` if they differ.
    pub fn kind(&self) -> ProblemKind {
        let first = self.0.first().map_or(ProblemKind::Content, |e| e.kind);
        let same = self.items().all(|error| error.kind == first);
        if same { first } else { ProblemKind::Content }
    }

    /// For users: every problem with its text underlined, separated by an empty line, without a newline at the end.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let texts: Vec<_> = self
            .items()
            .map(|error| renderer.render(&[error.group()]))
            .collect();
        texts.join("\n\n")
    }
}

impl IntoIterator for PolicyErrors {
    type Item = PolicyError;
    type IntoIter = std::vec::IntoIter<PolicyError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for PolicyErrors {}

/// A problem with its place in bytes of the file, a message and a help text.
pub(super) struct Found {
    pub at: Range<usize>,
    pub message: String,
    pub help: Option<String>,
}

/// The name of a file (safe to print), its bytes, and the starts of its lines.
pub(super) struct SourceFile<'a> {
    file: String,
    bytes: &'a [u8],
    lines: Vec<usize>,
}

impl<'a> SourceFile<'a> {
    /// Cap per file, because a hostile file can have a million problems.
    const MAX_ERRORS: usize = 20;

    pub fn new(file: &str, bytes: &'a [u8]) -> Self {
        let newlines = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n');
        let lines = std::iter::once(0)
            .chain(newlines.map(|(at, _)| at + 1))
            .collect();
        Self {
            file: escape(file.as_bytes()),
            bytes,
            lines,
        }
    }

    /// Safe to print.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// A part of the file that is UTF-8.
    pub fn text(&self, at: Range<usize>) -> &str {
        let part = self.bytes.get(at).unwrap_or_default();
        std::str::from_utf8(part).unwrap_or_default()
    }

    /// The number of the line that holds a byte, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at)
    }

    /// The file and the line as an origin.
    pub fn origin(&self, at: usize) -> String {
        format!("{}:{}", self.file, self.line(at))
    }

    /// Adds line and column to problems, sorts them, and keeps the first ones.
    pub fn place(&self, mut found: Vec<Found>) -> Vec<PolicyError> {
        found.sort_by_key(|f| f.at.start);
        let rest = found.len().saturating_sub(Self::MAX_ERRORS);
        let placed = found
            .into_iter()
            .take(Self::MAX_ERRORS)
            .map(|f| self.error(f));
        let more = (rest > 0).then(|| {
            let message = format!("{rest} more problems in this file are not shown");
            PolicyError {
                file: self.file.clone(),
                line: None,
                column: None,
                message,
                help: None,
                kind: ProblemKind::Content,
                excerpt: None,
            }
        });
        placed.chain(more).collect()
    }

    fn error(&self, found: Found) -> PolicyError {
        let at = found.at.start.min(self.bytes.len());
        let line = self.line(at);
        let start = self.lines[line - 1];
        let end = self
            .lines
            .get(line)
            .map_or(self.bytes.len(), |next| next - 1);
        let text = self.bytes[start..end]
            .strip_suffix(b"\r")
            .unwrap_or(&self.bytes[start..end]);
        let marked = at - start..found.at.end.saturating_sub(start).max(at - start);
        let (column, excerpt) = excerpt(text, marked);
        PolicyError {
            file: self.file.clone(),
            line: Some(line),
            column: Some(column),
            message: found.message,
            help: found.help,
            kind: ProblemKind::Content,
            excerpt: Some(excerpt),
        }
    }
}

/// Text of a file, safe to print in a sentence. Backslashes stay single, as in the file.
pub(super) fn printable(text: &str) -> String {
    escape(text.as_bytes()).replace("\\\\", "\\")
}

/// The column of the first marked byte, and the line, safe to print. Each character that a terminal would not show
/// unchanged, and each byte that is not UTF-8, becomes one visible character, so the columns stay the same.
fn excerpt(line: &[u8], marked: Range<usize>) -> (usize, Excerpt) {
    let mut text = String::new();
    let mut column = 1;
    let mut shown = 0..0;
    let mut at = 0;
    let mut show = |c: char, bytes: usize| {
        if at < marked.start {
            column += 1;
            shown.start = text.len() + c.len_utf8();
        }
        text.push(c);
        if at < marked.end {
            shown.end = text.len();
        }
        at += bytes;
    };
    for chunk in line.utf8_chunks() {
        for c in chunk.valid().chars() {
            show(visible(c), c.len_utf8());
        }
        for _ in chunk.invalid() {
            show(char::REPLACEMENT_CHARACTER, 1);
        }
    }
    shown.end = shown.end.max(shown.start);
    let excerpt = Excerpt {
        text,
        marked: shown,
    };
    (column, excerpt)
}

/// Control characters become their Unicode pictures. Other hidden characters become the replacement character.
fn visible(c: char) -> char {
    match c {
        '\t' | '\\' => c,
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or(c),
        '\x7f' => '\u{2421}',
        c if escape(c.encode_utf8(&mut [0; 4]).as_bytes()).starts_with('\\') => {
            char::REPLACEMENT_CHARACTER
        }
        c => c,
    }
}

/// The file that is read, and the problems found in it.
pub(super) struct Parser<'s> {
    pub source: &'s SourceFile<'s>,
    pub found: Vec<Found>,
}

impl Parser<'_> {
    pub fn error(&mut self, at: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.found.push(Found {
            at,
            message: message.into(),
            help: Some(help.into()),
        });
    }
}
