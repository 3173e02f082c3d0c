//! Reads a YAML (or JSON) text into a tree, with the words for plain scalars of Go's YAML reader, which
//! are those of YAML 1.1: `yes` is true, `010` is eight.
//!
//! It knows nothing of what the keys mean. Depth and size of the tree are limited, aliases included.

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};

/// Lists and mappings that may be nested.
const DEPTH_MAX: usize = 64;
/// Values of a tree, those that aliases repeat included: a configuration has a few hundred.
const VALUES_MAX: usize = 100_000;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Yaml {
    /// Nothing.
    Null,
    /// `true`, `no` and so on.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A number with a fraction or exponent, as JSON would write it.
    Float(String),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Yaml>),
    /// A mapping, in the order of the text; of a key that stands twice the last counts.
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    /// What it is, in the words of Go's JSON reader.
    pub fn kind(&self) -> String {
        match self {
            Yaml::Null => "null".into(),
            Yaml::Bool(_) => "bool".into(),
            Yaml::Int(number) => format!("number {number}"),
            Yaml::Float(number) => format!("number {number}"),
            Yaml::Text(_) => "string".into(),
            Yaml::List(_) => "array".into(),
            Yaml::Map(_) => "object".into(),
        }
    }
}

/// Reads the first document of a text.
///
/// # Errors
/// What is wrong and in which line.
pub fn parse(text: &str) -> Result<Yaml, String> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: Vec::new(),
        left: VALUES_MAX,
        line: 1,
    };
    loop {
        match reader.next()? {
            None | Some(Event::StreamEnd) => return Ok(Yaml::Null),
            Some(Event::StreamStart | Event::DocumentStart(_)) => {}
            Some(event) => return reader.value(event, 0),
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// What was named, by the parser's number of the name.
    anchors: Vec<(usize, Yaml)>,
    left: usize,
    line: usize,
}

impl<'a> Reader<'a> {
    /// Adds what `<<` brings; of several mappings the first one that has a key gives its value.
    fn merge(&self, into: &mut Vec<(String, Yaml)>, value: Yaml) -> Result<(), String> {
        let maps = match value {
            Yaml::Map(map) => vec![Yaml::Map(map)],
            Yaml::List(list) => list,
            _ => Vec::new(),
        };
        let none = maps.is_empty();
        for one in maps {
            let Yaml::Map(map) = one else {
                return Err(self.no_merge());
            };
            for (key, value) in map {
                if !into.iter().any(|(known, _)| *known == key) {
                    into.push((key, value));
                }
            }
        }
        match none {
            true => Err(self.no_merge()),
            false => Ok(()),
        }
    }

    fn no_merge(&self) -> String {
        let line = self.line;
        format!("line {line}: map merge requires map or sequence of maps as the value")
    }

    fn next(&mut self) -> Result<Option<Event<'a>>, String> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(Some(event))
            }
            Some(Err(error)) => {
                let line = error.marker().line();
                Err(format!("line {line}: {}", error.info()))
            }
        }
    }

    fn take(&mut self, values: usize) -> Result<(), String> {
        self.left = self
            .left
            .checked_sub(values)
            .ok_or_else(|| format!("line {}: document contains excessive aliasing", self.line))?;
        Ok(())
    }

    fn value(&mut self, event: Event<'a>, depth: usize) -> Result<Yaml, String> {
        if depth > DEPTH_MAX {
            return Err(format!("line {}: exceeded max depth", self.line));
        }
        self.take(1)?;
        let (name, value) = match event {
            Event::Alias(name) => {
                let known = self.anchors.iter().find(|(known, _)| *known == name);
                let value = match known {
                    Some((_, value)) => value.clone(),
                    // It names what it is a part of.
                    None => return Err(format!("line {}: anchor contains itself", self.line)),
                };
                self.take(size(&value))?;
                return Ok(value);
            }
            Event::Scalar(text, style, name, tag) => {
                let plain = style == ScalarStyle::Plain;
                (name, scalar(&text, plain, tag.as_deref()))
            }
            Event::SequenceStart(name, _) => {
                let mut list = Vec::new();
                loop {
                    match self.next()? {
                        Some(Event::SequenceEnd) => break,
                        Some(event) => list.push(self.value(event, depth + 1)?),
                        None => return Err("unexpected end of stream".into()),
                    }
                }
                (name, Yaml::List(list))
            }
            Event::MappingStart(name, _) => (name, self.mapping(depth)?),
            _ => return Err(format!("line {}: unexpected event", self.line)),
        };
        if name != 0 {
            self.take(size(&value))?;
            self.anchors.push((name, value.clone()));
        }
        Ok(value)
    }

    fn mapping(&mut self, depth: usize) -> Result<Yaml, String> {
        let mut map: Vec<(String, Yaml)> = Vec::new();
        let mut merged: Vec<(String, Yaml)> = Vec::new();
        loop {
            let merges;
            let key = match self.next()? {
                Some(Event::MappingEnd) => {
                    // What the mapping says itself counts, wherever it stands.
                    merged.retain(|(key, _)| !map.iter().any(|(own, _)| own == key));
                    merged.append(&mut map);
                    return Ok(Yaml::Map(merged));
                }
                Some(event) => {
                    merges = is_merge(&event);
                    self.value(event, depth + 1)?
                }
                None => return Err("unexpected end of stream".into()),
            };
            if merges {
                let value = match self.next()? {
                    Some(event) => self.value(event, depth + 1)?,
                    None => return Err("unexpected end of stream".into()),
                };
                self.merge(&mut merged, value)?;
                continue;
            }
            let key = match key {
                Yaml::Text(text) | Yaml::Float(text) => text,
                Yaml::Bool(value) => value.to_string(),
                Yaml::Int(value) => value.to_string(),
                Yaml::Null => "null".to_owned(),
                Yaml::List(_) | Yaml::Map(_) => {
                    return Err(format!("line {}: invalid map key", self.line));
                }
            };
            let value = match self.next()? {
                Some(event) => self.value(event, depth + 1)?,
                None => return Err("unexpected end of stream".into()),
            };
            map.retain(|(known, _)| *known != key);
            map.push((key, value));
        }
    }
}

fn is_merge(event: &Event<'_>) -> bool {
    match event {
        Event::Scalar(text, ScalarStyle::Plain, _, None) => text == "<<",
        Event::Scalar(_, _, _, Some(tag)) => tag.is_yaml_core_schema() && tag.suffix == "merge",
        _ => false,
    }
}

fn size(value: &Yaml) -> usize {
    match value {
        Yaml::List(list) => 1 + list.iter().map(size).sum::<usize>(),
        Yaml::Map(map) => 1 + map.iter().map(|(_, value)| size(value)).sum::<usize>(),
        _ => 1,
    }
}

fn scalar(text: &str, plain: bool, tag: Option<&Tag>) -> Yaml {
    let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
    if !plain || is_text {
        return Yaml::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Yaml::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            return Yaml::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Yaml::Bool(false);
        }
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Yaml::Text(text.to_owned());
    }
    let digits = text.replace('_', "");
    if let Some(number) = whole(&digits) {
        return Yaml::Int(number);
    }
    let float = digits
        .chars()
        .all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'))
        .then(|| digits.parse::<f64>().ok())
        .flatten();
    match float {
        Some(number) if number.is_finite() => json_number(number),
        _ => Yaml::Text(text.to_owned()),
    }
}

/// A number as Go's JSON writer has it: a whole one is like any other whole one, until it is so large
/// that it gets an exponent.
fn json_number(number: f64) -> Yaml {
    let large = number.abs() >= 1e21;
    if number.fract() == 0.0 && !large {
        return Yaml::Int(number as i128);
    }
    let small = number != 0.0 && number.abs() < 1e-6;
    let text = match large || small {
        true => format!("{number:e}"),
        false => format!("{number}"),
    };
    Yaml::Float(match large {
        true => text.replace('e', "e+"),
        false => text,
    })
}

/// A whole number with Go's prefixes.
fn whole(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.chars().all(|c| c.is_digit(base)) {
        return None;
    }
    let number = u64::from_str_radix(digits, base).ok().map(i128::from)?;
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Yaml {
        parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    #[test]
    fn plain_words_are_read_as_go_reads_them() {
        for (text, value) in [
            ("", Yaml::Null),
            ("~", Yaml::Null),
            ("yes", Yaml::Bool(true)),
            ("Off", Yaml::Bool(false)),
            ("'yes'", Yaml::Text("yes".into())),
            ("!!str yes", Yaml::Text("yes".into())),
            ("010", Yaml::Int(8)),
            ("0x10", Yaml::Int(16)),
            ("1_000", Yaml::Int(1000)),
            ("-5", Yaml::Int(-5)),
            ("18446744073709551615", Yaml::Int(u64::MAX.into())),
            ("1.5", Yaml::Float("1.5".into())),
            ("1e2", Yaml::Int(100)),
            ("100.0", Yaml::Int(100)),
            ("1e21", Yaml::Float("1e+21".into())),
            ("1.5e-9", Yaml::Float("1.5e-9".into())),
            ("10m", Yaml::Text("10m".into())),
            (
                "http://a:1,http://b:2",
                Yaml::Text("http://a:1,http://b:2".into()),
            ),
        ] {
            assert_eq!(read(text), value, "{text:?}");
        }
    }

    #[test]
    fn lists_mappings_and_aliases_make_a_tree() {
        let text = "a: &x [1, {b: c}]\nd: *x\na: 2\n---\nsecond: document\n";
        let list = Yaml::List(vec![
            Yaml::Int(1),
            Yaml::Map(vec![("b".into(), Yaml::Text("c".into()))]),
        ]);
        assert_eq!(
            read(text),
            Yaml::Map(vec![("d".into(), list), ("a".into(), Yaml::Int(2))])
        );
        assert_eq!(
            read("{\"a\": \"b\"}"),
            Yaml::Map(vec![("a".into(), Yaml::Text("b".into()))])
        );
    }

    #[test]
    fn what_is_merged_gives_way_to_what_is_said() {
        let one = |key: &str, value| (key.to_owned(), Yaml::Int(value));
        let base = Yaml::Map(vec![one("x", 1), one("w", 2)]);
        let text = "a: &a {x: 1, w: 2}\nb: {<<: *a, x: 3}\nc: {x: 3, <<: [{z: 4, w: 5}, *a]}\nd: {'<<': 1}";
        assert_eq!(
            read(text),
            Yaml::Map(vec![
                ("a".into(), base),
                ("b".into(), Yaml::Map(vec![one("w", 2), one("x", 3)])),
                (
                    "c".into(),
                    Yaml::Map(vec![one("z", 4), one("w", 5), one("x", 3)])
                ),
                ("d".into(), Yaml::Map(vec![one("<<", 1)])),
            ])
        );
        for text in ["<<: 1", "<<: [1]"] {
            let error = parse(text).expect_err(text);
            assert!(error.contains("map merge requires map"), "{error}");
        }
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_line_and_what_is_too_large_too() {
        for text in [
            "a: [1\n",
            "a: 'b\n",
            "a: *unknown\n",
            "a: b: c\n",
            "? [a]\n: b\n",
        ] {
            let error = parse(text).expect_err(text);
            assert!(!error.is_empty(), "{text:?}");
        }
        assert!(
            parse("a: 1\nb: [\n")
                .expect_err("open")
                .starts_with("line ")
        );
        let deep = "[".repeat(5_000);
        assert!(parse(&deep).is_err());
        let mut laughs = "a0: &a0 [x]\n".to_owned();
        for level in 1..12 {
            let below = vec![format!("*a{}", level - 1); 10].join(",");
            laughs.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(
            parse(&laughs)
                .expect_err("too large")
                .contains("excessive aliasing")
        );
    }
}
