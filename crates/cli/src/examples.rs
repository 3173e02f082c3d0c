//! Examples on the pages of help: what somebody wants, and the command line that does it.

/// One example.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// What it does, in a few words.
    pub what: &'static str,
    /// What to type.
    pub line: &'static str,
}

/// A table of examples by the command they are of, the words of its name with blanks between.
pub type Table = [(&'static str, &'static [Example])];

/// Shorthand for tables.
pub const fn example(what: &'static str, line: &'static str) -> Example {
    Example { what, line }
}

/// The examples of a command.
pub fn of(table: &'static Table, command: &str) -> &'static [Example] {
    let found = table.iter().find(|(name, _)| *name == command);
    found.map_or(&[], |(_, examples)| examples)
}

/// As help shows them; nothing if there are none.
pub fn render(examples: &[Example]) -> String {
    if examples.is_empty() {
        return String::new();
    }
    let shown = examples
        .iter()
        .map(|example| format!("  # {}\n  {}\n", example.what, example.line));
    let shown: Vec<String> = shown.collect();
    format!("\nExamples:\n{}", shown.join("\n"))
}

/// The arguments of an example as a shell would hand them to `program`, without the program's name; what
/// stands before it or behind a pipe is another's. `None` if the program is not called.
pub fn arguments(line: &str, program: &str) -> Option<Vec<Vec<u8>>> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | '<' | ';' | ')' | '(') => {
                words.extend(word.take());
                words.push(c.to_string());
            }
            (None, ' ') => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    let at = words.iter().position(|w| w == program)?;
    let own = words[at + 1..]
        .iter()
        .take_while(|w| !["|", ">", "<", ";", ")", "("].contains(&w.as_str()));
    Some(own.map(|w| w.clone().into_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_by_a_shell() {
        let read = |line| {
            let words = arguments(line, "etcdctl")?;
            let texts = words.into_iter().map(|w| String::from_utf8(w).unwrap());
            Some(texts.collect::<Vec<_>>())
        };
        assert_eq!(
            read("cat f | etcdctl put \"a b\" '' > /dev/null"),
            Some(vec!["put".to_owned(), "a b".to_owned(), String::new()])
        );
        assert_eq!(
            read("source <(etcdctl completion bash)"),
            Some(vec!["completion".to_owned(), "bash".to_owned()])
        );
        assert_eq!(read("etcdutl version"), None);
    }
}
