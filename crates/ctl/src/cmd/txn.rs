//! `txn`: a transaction read from standard input, line by line.

use std::io::{BufRead, Read};

use ferrite_client::pb::{
    self, Compare,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
};

use super::{Words, kv};
use crate::commands::{Action, COMMANDS, Command};
use crate::exit::{self, Failure};
use crate::gofmt::{parse_int, quote, unquote};
use crate::report;
use crate::session::Session;
use ferrite_cli::flags::Values;

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(exit::INVALID_INPUT, message)
}

/// Refuses arguments.
pub fn check(words: &Words) -> Result<(), Failure> {
    if words.is_empty() {
        return Ok(());
    }
    Err(Failure::args("txn command does not accept argument"))
}

/// `txn`.
pub async fn run(session: &Session) -> Result<(), Failure> {
    let client = session.client().await?;
    let request = read(
        &mut std::io::stdin().lock(),
        session.values.bool("interactive"),
    )?;
    let response = client.kv().txn(request).await?;
    session.printer.txn(response.get_ref())
}

/// Reads the three parts.
fn read(input: &mut dyn BufRead, prompts: bool) -> Result<pb::TxnRequest, Failure> {
    let prompt = |text: &str| {
        if prompts {
            report::line(text);
        }
    };
    let mut request = pb::TxnRequest::default();
    prompt("compares:");
    while let Some(line) = next_line(input)? {
        request.compare.push(parse_compare(&line)?);
    }
    prompt("success requests (get, put, del):");
    while let Some(line) = next_line(input)? {
        request.success.push(parse_request(&line)?);
    }
    prompt("failure requests (get, put, del):");
    while let Some(line) = next_line(input)? {
        request.failure.push(parse_request(&line)?);
    }
    Ok(request)
}

/// The next line, trimmed; `None` for an empty one, which ends a part. A part that the end of the
/// input cuts off is an error: half a transaction must not run.
fn next_line(input: &mut dyn BufRead) -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    input
        .read_until(b'\n', &mut line)
        .map_err(|e| invalid(e.to_string()))?;
    if line.pop() != Some(b'\n') {
        return Err(invalid("EOF"));
    }
    let trimmed = line.trim_ascii();
    Ok((!trimmed.is_empty()).then(|| trimmed.to_vec()))
}

/// Reads a comparison, such as `mod("key") > "0"`.
fn parse_compare(line: &[u8]) -> Result<Compare, Failure> {
    let line = String::from_utf8_lossy(line);
    let malformed = || invalid(format!("malformed comparison: {line}"));
    let (target, rest) = line.split_once('(').ok_or_else(malformed)?;
    let mut scan = Scanner::new(rest);
    let key = scan.quoted();
    let closed = key.is_some() && scan.literal(')') && scan.space();
    let operator = if closed { scan.word() } else { None };
    let value = match operator {
        Some(_) if scan.space() => scan.quoted(),
        _ => None,
    };
    let (Some(key), Some(operator), Some(value)) = (&key, &operator, &value) else {
        return Err(invalid(format!(
            "malformed comparison: {line}; got {target}({}) {} {}",
            quote(key.as_deref().unwrap_or_default()),
            operator.as_deref().unwrap_or_default(),
            quote(value.as_deref().unwrap_or_default())
        )));
    };
    let number = |base| {
        parse_int(&String::from_utf8_lossy(value), base)
            .map_err(|_| invalid(format!("invalid txn compare request: {line}")))
    };
    let (target, union) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (
            CompareTarget::Create,
            TargetUnion::CreateRevision(number(10)?),
        ),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (
            CompareTarget::Value,
            TargetUnion::Value(value.clone().into()),
        ),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => {
            return Err(invalid(format!(
                "malformed comparison: {line} (unknown target {target})"
            )));
        }
    };
    let result = match operator.as_str() {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => {
            return Err(invalid(format!(
                "malformed comparison: {line} (unknown operator {operator}; use =, !=, > or <)"
            )));
        }
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.clone().into(),
        range_end: bytes::Bytes::new(),
        target_union: Some(union),
    })
}

/// Reads pieces of a line the way Go's `Sscanf` does.
struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// At least one space, or the end.
    fn space(&mut self) -> bool {
        let before = self.rest.len();
        self.skip_space();
        self.rest.len() < before || self.rest.is_empty()
    }

    fn literal(&mut self, c: char) -> bool {
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> Option<String> {
        self.skip_space();
        let end = self
            .rest
            .find(char::is_whitespace)
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then(|| word.to_owned())
    }

    /// A string in double quotes with escapes, or in back quotes without.
    fn quoted(&mut self) -> Option<Vec<u8>> {
        self.skip_space();
        if let Some(rest) = self.rest.strip_prefix('`') {
            let (text, rest) = rest.split_once('`')?;
            self.rest = rest;
            return Some(text.as_bytes().to_vec());
        }
        let inner = self.rest.strip_prefix('"')?;
        let mut escaped = false;
        let end = inner.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        let (literal, rest) = self.rest.split_at(end + 2);
        self.rest = rest;
        unquote(literal)
    }
}

/// Reads a `put`, `get` or `del` command.
fn parse_request(line: &[u8]) -> Result<pb::RequestOp, Failure> {
    let text = String::from_utf8_lossy(line).into_owned();
    let words = split(line)?;
    if words.len() < 2 {
        return Err(invalid(format!("invalid txn compare request: {text}")));
    }
    let unreadable = || invalid(format!("invalid txn request: {text}"));
    let (command, arguments) = find(&words).ok_or_else(unreadable)?;
    let mut values = Values::new(command.flags.iter().collect());
    let words = values.parse(&arguments).map_err(|_| unreadable())?;
    let request = match command.action {
        // Standard input is the transaction's own; a value must stand in the line.
        Action::Put => Request::RequestPut(kv::put_request(
            &values,
            &words,
            &mut std::io::empty().take(0),
        )?),
        Action::Get => Request::RequestRange(kv::get_request(&values, &words)?),
        Action::Del => Request::RequestDeleteRange(kv::del_request(&values, &words)?),
        _ => return Err(unreadable()),
    };
    Ok(pb::RequestOp {
        request: Some(request),
    })
}

/// The command among the words, and the words without it.
fn find(words: &[Vec<u8>]) -> Option<(&'static Command, Vec<Vec<u8>>)> {
    // Flags before the name are unknown there, and an unknown flag takes the next word along.
    let index = Values::new(Vec::new()).first_word(words)?;
    let name = std::str::from_utf8(&words[index]).ok()?;
    let allowed = [Action::Put, Action::Get, Action::Del];
    let command = COMMANDS
        .iter()
        .find(|c| allowed.contains(&c.action) && !name.is_empty() && c.name.starts_with(name))?;
    let mut arguments = words.to_vec();
    arguments.remove(index);
    Some((command, arguments))
}

/// Splits a line into words; `"…"` has Go's escapes, `'…'` has none.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    let space = |b: &u8| b.is_ascii_whitespace();
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(&first) = rest.first() {
        let (length, word) = match first {
            b'"' => {
                let mut escaped = false;
                let end = rest.iter().skip(1).position(|&b| {
                    let ends = b == b'"' && !escaped;
                    escaped = b == b'\\' && !escaped;
                    ends
                });
                match end {
                    Some(end) => {
                        let literal = &rest[..end + 2];
                        let word =
                            unquote_bytes(literal).ok_or_else(|| invalid("invalid syntax"))?;
                        (literal.len(), Some(word))
                    }
                    None => (1, None),
                }
            }
            b'\'' => match rest.iter().skip(1).position(|&b| b == b'\'') {
                Some(end) => (end + 2, Some(rest[1..=end].to_vec())),
                None => (1, None),
            },
            b if space(&b) => (1, None),
            _ => {
                let length = rest.iter().position(space).unwrap_or(rest.len());
                (length, Some(rest[..length].to_vec()))
            }
        };
        words.extend(word);
        rest = &rest[length..];
    }
    Ok(words)
}

fn unquote_bytes(literal: &[u8]) -> Option<Vec<u8>> {
    unquote(&String::from_utf8_lossy(literal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(line: &str) -> Result<Compare, String> {
        parse_compare(line.as_bytes()).map_err(|f| f.message.unwrap_or_default())
    }

    #[test]
    fn comparisons() {
        let c = compare(r#"mod("k") > "0""#).unwrap();
        assert_eq!((c.result, c.target), (1, 2));
        assert_eq!(c.target_union, Some(TargetUnion::ModRevision(0)));
        let c = compare(r#"value("a\"b\x00") !=   "v w""#).unwrap();
        assert_eq!(&c.key[..], b"a\"b\0");
        assert_eq!(c.target_union, Some(TargetUnion::Value("v w".into())));
        let c = compare("ver(`k`) = `7` and more").unwrap();
        assert_eq!(c.target_union, Some(TargetUnion::Version(7)));
        let c = compare(r#"lease("k") = "1f""#).unwrap();
        assert_eq!(c.target_union, Some(TargetUnion::Lease(31)));
    }

    #[test]
    fn malformed_comparisons() {
        for (line, message) in [
            ("x", "malformed comparison: x"),
            (
                r#"mod("k")>"0""#,
                r#"malformed comparison: mod("k")>"0"; got mod("k")  """#,
            ),
            (
                r#"mod(k) > "0""#,
                r#"malformed comparison: mod(k) > "0"; got mod("")  """#,
            ),
            (
                r#"mod("k") > 0"#,
                r#"malformed comparison: mod("k") > 0; got mod("k") > """#,
            ),
            (
                r#"foo("k") = "0""#,
                r#"malformed comparison: foo("k") = "0" (unknown target foo)"#,
            ),
            (
                r#"mod("k") = "x""#,
                r#"invalid txn compare request: mod("k") = "x""#,
            ),
        ] {
            assert_eq!(compare(line), Err(message.to_owned()));
        }
        assert!(compare(r#"mod("k") ? "0""#).is_err());
    }

    #[test]
    fn words_of_a_line() {
        let words = |line: &str| {
            split(line.as_bytes()).map(|w| {
                w.into_iter()
                    .map(|w| super::super::text(&w))
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(words("put  a b").unwrap(), ["put", "a", "b"]);
        assert_eq!(
            words(r#"put 'a b' "c\td""#).unwrap(),
            ["put", "a b", "c\td"]
        );
        assert_eq!(words(r#"put a"b c"#).unwrap(), ["put", "a\"b", "c"]);
        assert_eq!(words(r#"put "open end"#).unwrap(), ["put", "open", "end"]);
        assert_eq!(words(r#"put "" ''"#).unwrap(), ["put", "", ""]);
        assert!(words(r#"put "\q" x"#).is_err());
    }

    #[test]
    fn requests() {
        let parse = |line: &str| {
            parse_request(line.as_bytes()).map_err(|f| (f.code, f.message.unwrap_or_default()))
        };
        let op = parse("put --prev-kv k v").unwrap().request;
        assert!(matches!(op, Some(Request::RequestPut(p)) if p.prev_kv && &p.value[..] == b"v"));
        let op = parse("g k --prefix").unwrap().request;
        assert!(matches!(op, Some(Request::RequestRange(r)) if &r.range_end[..] == b"l"));
        let op = parse("del k").unwrap().request;
        assert!(matches!(op, Some(Request::RequestDeleteRange(_))));
        assert_eq!(
            parse("put").unwrap_err(),
            (3, "invalid txn compare request: put".into())
        );
        assert_eq!(
            parse("foo a").unwrap_err(),
            (3, "invalid txn request: foo a".into())
        );
        assert_eq!(
            parse("get a --foo").unwrap_err(),
            (3, "invalid txn request: get a --foo".into())
        );
        assert_eq!(parse("--prefix get f").unwrap_err().0, 3);
        assert_eq!(parse("put a").unwrap_err().0, 128);
    }

    #[test]
    fn an_input_cut_short_is_refused() {
        let parse = |text: &str| read(&mut text.as_bytes(), false).map_err(|f| (f.code, f.message));
        assert_eq!(parse("").unwrap_err(), (3, Some("EOF".into())));
        assert_eq!(parse("\n\nput a b").unwrap_err(), (3, Some("EOF".into())));
        let whole = parse("ver(\"a\") = \"0\"\n\nput a b\n\nget a\nget b\n\n").unwrap();
        assert_eq!(
            (
                whole.compare.len(),
                whole.success.len(),
                whole.failure.len()
            ),
            (1, 1, 2)
        );
    }
}
