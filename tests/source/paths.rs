//! The paths in a Rust file, tests included: the paths of its `use` trees, each written out, and every `a::b` in the
//! code.
//!
//! Not a compiler: macros count as they stand, and a name from a `use` is not followed further (its `use` is in the
//! list).

/// One path, from the crate's root: `crate::nat::rules`, `std::fs::read`, `println!`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub line: usize,
    pub path: Vec<String>,
}

impl Named {
    pub fn text(&self) -> String {
        self.path.join("::")
    }

    /// True if the path is `prefix` or lies below it.
    pub fn is_in(&self, prefix: &str) -> bool {
        let mut mine = self.path.iter();
        prefix
            .split("::")
            .all(|part| mine.next().is_some_and(|m| m == part))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    line: usize,
    text: String,
}

/// Words and punctuation, without comments, strings and character literals. `::` is one token.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |n: usize| chars.get(n).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut n, mut line, mut out) = (0, 1, Vec::new());
    while n < chars.len() {
        let start = n;
        match at(n) {
            '/' if at(n + 1) == '/' => {
                while n < chars.len() && at(n) != '\n' {
                    n += 1;
                }
            }
            '/' if at(n + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(n), at(n + 1)) {
                        ('/', '*') => (depth, n) = (depth + 1, n + 2),
                        ('*', '/') => (depth, n) = (depth - 1, n + 2),
                        _ => n += 1,
                    }
                    if depth == 0 || n >= chars.len() {
                        break;
                    }
                }
            }
            '"' => n = end_of_string(&chars, n),
            // A character literal, or the name of a lifetime.
            '\'' if at(n + 1) == '\\' => {
                n += 3;
                while n < chars.len() && at(n) != '\'' {
                    n += 1;
                }
                n += 1;
            }
            '\'' if at(n + 2) == '\'' => n += 3,
            c if is_word(c) => {
                while is_word(at(n)) {
                    n += 1;
                }
                let word: String = chars[start..n].iter().collect();
                let raw = matches!(&*word, "r" | "br" | "cr") && matches!(at(n), '"' | '#');
                if raw && let Some(end) = end_of_raw_string(&chars, n) {
                    n = end;
                } else {
                    out.push(Token { line, text: word });
                }
            }
            ':' if at(n + 1) == ':' => {
                n += 2;
                out.push(Token {
                    line,
                    text: "::".into(),
                });
            }
            c => {
                n += 1;
                if !c.is_whitespace() {
                    out.push(Token {
                        line,
                        text: c.into(),
                    });
                }
            }
        }
        line += chars[start..n.min(chars.len())]
            .iter()
            .filter(|c| **c == '\n')
            .count();
    }
    out
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut n = start + 1;
    while n < chars.len() && chars[n] != '"' {
        n += if chars[n] == '\\' { 2 } else { 1 };
    }
    n + 1
}

/// `None` if this is no string but a raw name, as in `r#type`.
fn end_of_raw_string(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start..].iter().take_while(|c| **c == '#').count();
    let open = start + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |n: usize| {
        chars[n] == '"'
            && chars[n + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes
    };
    let end = (open + 1..chars.len()).find(|n| closes(*n));
    Some(end.map_or(chars.len(), |n| n + 1 + hashes))
}

/// The lines with this keyword.
pub fn lines_with_word(text: &str, word: &str) -> Vec<usize> {
    let all = tokens(text).into_iter();
    all.filter(|token| token.text == word)
        .map(|token| token.line)
        .collect()
}

/// Every path in a file. `module` is the place of the file in the crate, such as `["nat", "nft"]`.
pub fn named(text: &str, module: &[&str]) -> Vec<Named> {
    let tokens = tokens(text);
    let word = |n: usize| {
        let text = tokens.get(n).map_or("", |token: &Token| &*token.text);
        text.starts_with(|c: char| c.is_alphabetic() || c == '_')
            .then_some(text)
    };
    let is = |n: usize, text: &str| tokens.get(n).is_some_and(|token| token.text == text);
    // Modules inside the file, with the depth of braces at their start.
    let mut inside: Vec<(String, usize)> = Vec::new();
    let (mut depth, mut n, mut out) = (0_usize, 0, Vec::new());
    while n < tokens.len() {
        let line = tokens[n].line;
        let here = || -> Vec<String> {
            let file = module.iter().map(|part| (*part).to_owned());
            file.chain(inside.iter().map(|(name, _)| name.clone()))
                .collect()
        };
        match &*tokens[n].text {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inside.retain(|(_, at)| *at <= depth);
            }
            "mod" if word(n + 1).is_some() && is(n + 2, "{") => {
                depth += 1;
                inside.push((tokens[n + 1].text.clone(), depth));
                n += 2;
            }
            "use" if !is(n + 1, "<") => {
                let mut end = n + 1;
                let mut found = Vec::new();
                tree(&tokens, &mut end, &mut Vec::new(), &mut found);
                let here = here();
                out.extend(found.into_iter().map(|named| resolve(named, &here)));
                n = end;
            }
            // Not the part after `<T as X>::`.
            _ if word(n).is_some() && !(n > 0 && is(n - 1, "::") && n > 1 && is(n - 2, ">")) => {
                let mut path = vec![tokens[n].text.clone()];
                while is(n + 1, "::") && word(n + 2).is_some() {
                    path.push(tokens[n + 2].text.clone());
                    n += 2;
                }
                let is_macro = is(n + 1, "!") && !is(n + 2, "=");
                if is_macro && let Some(last) = path.last_mut() {
                    last.push('!');
                }
                if is_macro || path.len() > 1 {
                    out.push(resolve(Named { line, path }, &here()));
                }
            }
            _ => {}
        }
        n += 1;
    }
    out
}

/// One `use` tree, written out. Afterwards `n` is at the token after it.
fn tree(tokens: &[Token], n: &mut usize, prefix: &mut Vec<String>, out: &mut Vec<Named>) {
    let own = prefix.len();
    while let Some(token) = tokens.get(*n) {
        match &*token.text {
            "::" => *n += 1,
            "{" => {
                *n += 1;
                while *n < tokens.len() && tokens[*n].text != "}" {
                    tree(tokens, n, prefix, out);
                    if tokens.get(*n).is_some_and(|token| token.text == ",") {
                        *n += 1;
                    }
                }
                *n += 1;
                prefix.truncate(own);
                return;
            }
            "," | "}" | ";" => break,
            // The new name does not matter.
            "as" => *n += 2,
            part => {
                // `std::fs::{self}` is `std::fs`.
                if part != "self" || prefix.is_empty() {
                    prefix.push(part.to_owned());
                }
                *n += 1;
            }
        }
    }
    let line = tokens.get(*n).map_or(0, |token| token.line);
    out.push(Named {
        line,
        path: prefix.clone(),
    });
    prefix.truncate(own);
}

/// `self` and `super` written out, from the crate's root.
fn resolve(named: Named, module: &[String]) -> Named {
    let mut base: Vec<String> = vec!["crate".into()];
    base.extend(module.iter().cloned());
    let mut rest = &named.path[..];
    let relative = matches!(rest.first().map(|s| &**s), Some("self" | "super"));
    while let Some((first, after)) = rest.split_first() {
        match &**first {
            "self" => {}
            "super" => {
                base.pop();
            }
            _ => break,
        }
        rest = after;
    }
    if !relative {
        return named;
    }
    base.extend(rest.iter().cloned());
    Named {
        line: named.line,
        path: base,
    }
}
