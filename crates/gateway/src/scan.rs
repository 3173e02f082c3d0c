//! Cuts what arrives in pieces into values of JSON, as Go's `encoding/json` does, in its words. It checks
//! the syntax and nothing else; what a value means is decided in `decode`.

/// What cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It is not what it should be.
    #[error("{0}")]
    Nonsense(String),
    /// There is more of it than is read.
    #[error("a value of more than {0} bytes")]
    TooLarge(usize),
}

/// Deeper than that Go reads no JSON either.
const NESTING_MAX: usize = 10_000;

/// Where within a value a byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    BeginValue,
    BeginValueOrEmpty,
    BeginString,
    BeginStringOrEmpty,
    EndValue,
    InString,
    Escape,
    /// Hexadecimal digits that are still to come.
    EscapeDigits(u8),
    Negative,
    Zero,
    Digits,
    Dot,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    /// Within a word: which, and how much of it has been seen.
    Word(&'static str, usize),
    Over,
}

/// What is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Key,
    Value,
    Array,
}

#[derive(Debug)]
struct Scanner {
    state: State,
    open: Vec<Open>,
}

/// What a byte means to the value.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Inside,
    /// It is the last of the value.
    Last,
    /// The value ended before it.
    After,
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

impl Scanner {
    fn new() -> Self {
        Scanner {
            state: State::BeginValue,
            open: Vec::new(),
        }
    }

    fn step(&mut self, byte: u8) -> Result<Step, Broken> {
        use State::*;
        let next = match (self.state, byte) {
            (BeginValue | BeginValueOrEmpty | BeginString | BeginStringOrEmpty, byte)
                if is_space(byte) =>
            {
                self.state
            }
            (BeginValueOrEmpty, b']') | (BeginStringOrEmpty, b'}') => return self.close(),
            (BeginValue | BeginValueOrEmpty, byte) => match byte {
                b'{' => {
                    self.nest(Open::Key)?;
                    BeginStringOrEmpty
                }
                b'[' => {
                    self.nest(Open::Array)?;
                    BeginValueOrEmpty
                }
                b'"' => InString,
                b'-' => Negative,
                b'0' => Zero,
                b'1'..=b'9' => Digits,
                b't' => Word("true", 1),
                b'f' => Word("false", 1),
                b'n' => Word("null", 1),
                _ => return Err(unexpected(byte, "looking for beginning of value")),
            },
            (BeginString | BeginStringOrEmpty, b'"') => InString,
            (BeginString | BeginStringOrEmpty, byte) => {
                return Err(unexpected(
                    byte,
                    "looking for beginning of object key string",
                ));
            }
            (InString, b'"') => return Ok(self.end_of_value()),
            (InString, b'\\') => Escape,
            (InString, ..0x20) => return Err(unexpected(byte, "in string literal")),
            (InString, _) => InString,
            (Escape, b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => InString,
            (Escape, b'u') => EscapeDigits(4),
            (Escape, byte) => return Err(unexpected(byte, "in string escape code")),
            (EscapeDigits(1), byte) if byte.is_ascii_hexdigit() => InString,
            (EscapeDigits(left), byte) if byte.is_ascii_hexdigit() => EscapeDigits(left - 1),
            (EscapeDigits(_), byte) => {
                return Err(unexpected(byte, "in \\u hexadecimal character escape"));
            }
            (Negative, b'0') => Zero,
            (Negative, b'1'..=b'9') | (Digits, b'0'..=b'9') => Digits,
            (Negative, byte) => return Err(unexpected(byte, "in numeric literal")),
            (Zero | Digits, b'.') => Dot,
            (Zero | Digits | Fraction, b'e' | b'E') => Exponent,
            (Dot | Fraction, b'0'..=b'9') => Fraction,
            (Dot, byte) => {
                return Err(unexpected(byte, "after decimal point in numeric literal"));
            }
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            (Exponent | ExponentSign, byte) => {
                return Err(unexpected(byte, "in exponent of numeric literal"));
            }
            (Word(word, seen), byte) => match word.as_bytes().get(seen) {
                Some(wanted) if *wanted == byte => {
                    if seen + 1 == word.len() {
                        return Ok(self.end_of_value());
                    }
                    Word(word, seen + 1)
                }
                Some(wanted) => {
                    let wanted = char::from(*wanted);
                    let place = format!("in literal {word} (expecting '{wanted}')");
                    return Err(unexpected(byte, &place));
                }
                None => return Ok(Step::After),
            },
            (Zero | Digits | Fraction | ExponentDigits, byte) => {
                return match self.end_of_value() {
                    Step::Last => Ok(Step::After),
                    _ => self.step(byte),
                };
            }
            (EndValue, byte) if is_space(byte) => EndValue,
            (EndValue, byte) => match (self.open.last_mut(), byte) {
                (Some(open @ Open::Key), b':') => {
                    *open = Open::Value;
                    BeginValue
                }
                (Some(Open::Key), byte) => return Err(unexpected(byte, "after object key")),
                (Some(open @ Open::Value), b',') => {
                    *open = Open::Key;
                    BeginString
                }
                (Some(Open::Value), b'}') | (Some(Open::Array), b']') => return self.close(),
                (Some(Open::Value), byte) => {
                    return Err(unexpected(byte, "after object key:value pair"));
                }
                (Some(Open::Array), b',') => BeginValue,
                (Some(Open::Array), byte) => return Err(unexpected(byte, "after array element")),
                (None, _) => return Ok(Step::After),
            },
            (Over, _) => return Ok(Step::After),
        };
        self.state = next;
        Ok(Step::Inside)
    }

    fn nest(&mut self, what: Open) -> Result<(), Broken> {
        if self.open.len() >= NESTING_MAX {
            return Err(Broken::Nonsense("exceeded max depth".to_owned()));
        }
        self.open.push(what);
        Ok(())
    }

    fn close(&mut self) -> Result<Step, Broken> {
        self.open.pop();
        Ok(self.end_of_value())
    }

    fn end_of_value(&mut self) -> Step {
        if self.open.is_empty() {
            self.state = State::Over;
            return Step::Last;
        }
        self.state = State::EndValue;
        Step::Inside
    }
}

fn unexpected(byte: u8, place: &str) -> Broken {
    let shown = match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        7 => r"'\a'".to_owned(),
        8 => r"'\b'".to_owned(),
        11 => r"'\v'".to_owned(),
        12 => r"'\f'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        ..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        0x80..=0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    };
    Broken::Nonsense(format!("invalid character {shown} {place}"))
}

/// Values out of what arrives in pieces.
#[derive(Debug)]
pub struct Values {
    scanner: Scanner,
    /// What has arrived and is in no value yet.
    arrived: Vec<u8>,
    /// As much of it has been looked at.
    seen: usize,
    limit: usize,
}

impl Values {
    /// With a limit for one value and what stands before it.
    pub fn new(limit: usize) -> Self {
        Values {
            scanner: Scanner::new(),
            arrived: Vec::new(),
            seen: 0,
            limit,
        }
    }

    /// Something arrives. Ask for values before more of it.
    pub fn push(&mut self, piece: &[u8]) {
        self.arrived.extend_from_slice(piece);
    }

    /// The next whole value, without space around it; `None` until more arrives.
    ///
    /// # Errors
    /// What cannot be read, and would not be by reading on.
    pub fn next_value(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        while let Some(byte) = self.arrived.get(self.seen) {
            match self.scanner.step(*byte)? {
                Step::Inside => self.seen += 1,
                Step::Last => {
                    self.seen += 1;
                    return Ok(Some(self.cut()));
                }
                Step::After => return Ok(Some(self.cut())),
            }
        }
        if self.scanner.state == State::BeginValue && self.scanner.open.is_empty() {
            // Nothing but space, which nobody needs.
            self.arrived.clear();
            self.seen = 0;
        }
        if self.arrived.len() > self.limit {
            return Err(Broken::TooLarge(self.arrived.len()));
        }
        Ok(None)
    }

    /// The value that only the end completes; `None` if nothing is left.
    ///
    /// # Errors
    /// A value that is not whole.
    pub fn end(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        if let Some(value) = self.next_value()? {
            return Ok(Some(value));
        }
        if self.arrived.is_empty() {
            return Ok(None);
        }
        match self.scanner.step(b' ') {
            Ok(Step::After) => Ok(Some(self.cut())),
            _ => Err(Broken::Nonsense("unexpected EOF".to_owned())),
        }
    }

    fn cut(&mut self) -> Vec<u8> {
        let rest = self.arrived.split_off(self.seen);
        let mut value = std::mem::replace(&mut self.arrived, rest);
        let space = value.iter().take_while(|byte| is_space(**byte)).count();
        value.drain(..space);
        self.seen = 0;
        self.scanner = Scanner::new();
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All values of a text, arriving in pieces of this size, and what ended it.
    fn values(text: &[u8], size: usize) -> (Vec<String>, Option<String>) {
        let mut values = Values::new(1 << 20);
        let mut found = Vec::new();
        for piece in text.chunks(size) {
            values.push(piece);
            loop {
                match values.next_value() {
                    Ok(Some(value)) => found.push(String::from_utf8_lossy(&value).into_owned()),
                    Ok(None) => break,
                    Err(error) => return (found, Some(error.to_string())),
                }
            }
        }
        loop {
            match values.end() {
                Ok(Some(value)) => found.push(String::from_utf8_lossy(&value).into_owned()),
                Ok(None) => return (found, None),
                Err(error) => return (found, Some(error.to_string())),
            }
        }
    }

    #[test]
    fn values_are_cut_out_however_they_arrive() {
        for (text, wanted) in [
            ("", &[][..]),
            (" \n\t", &[]),
            ("{}", &["{}"]),
            (
                " {\"a\": [1, -2.5e+7, \"\\u00e4\\\"\"]} \n",
                &["{\"a\": [1, -2.5e+7, \"\\u00e4\\\"\"]}"],
            ),
            ("{}{} [] \"x\" null", &["{}", "{}", "[]", "\"x\"", "null"]),
            ("1 23 0", &["1", "23", "0"]),
            ("truefalse", &["true", "false"]),
        ] {
            for size in 1..6 {
                let (found, ended) = values(text.as_bytes(), size);
                assert_eq!(
                    (found.as_slice(), ended),
                    (
                        &wanted.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>()[..],
                        None
                    ),
                    "{text} by {size}"
                );
            }
        }
    }

    #[test]
    fn nonsense_is_told_in_gos_words() {
        for (text, wanted) in [
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{", "unexpected EOF"),
            ("\"abc", "unexpected EOF"),
            ("-", "unexpected EOF"),
            ("[-]", "invalid character ']' in numeric literal"),
            (
                "{a",
                "invalid character 'a' looking for beginning of object key string",
            ),
            ("{\"a\" 1", "invalid character '1' after object key"),
            (
                "{\"a\":1 2",
                "invalid character '2' after object key:value pair",
            ),
            (
                "{\"a\":1,}",
                "invalid character '}' looking for beginning of object key string",
            ),
            ("[1 2", "invalid character '2' after array element"),
            (
                "[1,]",
                "invalid character ']' looking for beginning of value",
            ),
            ("[\"a\nb\"]", "invalid character '\\n' in string literal"),
            ("[\"\\x\"]", "invalid character 'x' in string escape code"),
            (
                "[\"\\u12g\"]",
                "invalid character 'g' in \\u hexadecimal character escape",
            ),
            ("[01]", "invalid character '1' after array element"),
            (
                "[1.x]",
                "invalid character 'x' after decimal point in numeric literal",
            ),
            (
                "[1e]",
                "invalid character ']' in exponent of numeric literal",
            ),
            (
                "[trye]",
                "invalid character 'y' in literal true (expecting 'u')",
            ),
            (
                "[nul]",
                "invalid character ']' in literal null (expecting 'l')",
            ),
            (
                "'",
                "invalid character '\\'' looking for beginning of value",
            ),
            (
                "[\"\\\"\" \"\"",
                "invalid character '\"' after array element",
            ),
        ] {
            assert_eq!(
                values(text.as_bytes(), 3).1.as_deref(),
                Some(wanted),
                "{text}"
            );
        }
        let (_, ended) = values(b"\xff", 1);
        assert_eq!(
            ended.as_deref(),
            Some("invalid character 'ÿ' looking for beginning of value")
        );
        let deep = "[".repeat(NESTING_MAX + 1);
        assert_eq!(
            values(deep.as_bytes(), 1000).1.as_deref(),
            Some("exceeded max depth")
        );
    }

    #[test]
    fn a_value_has_a_limit_and_space_has_none() {
        let mut values = Values::new(10);
        values.push(&[b' '; 100]);
        assert_eq!(values.next_value(), Ok(None));
        values.push(b"[1,2,3,4,5,6");
        assert_eq!(values.next_value(), Err(Broken::TooLarge(12)));
    }
}
