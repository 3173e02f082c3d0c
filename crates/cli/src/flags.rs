//! Flags as users of etcd's programs write them: `--flag=value`, `--flag value`, `-w json`, `-wjson`; boolean
//! ones take a value only after `=`. Error texts are the original parser's.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::gofmt;

/// What kind of value a flag holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// true or false.
    Bool,
    /// A whole number.
    Int,
    /// A whole number from 0 on.
    Uint,
    /// Text like `5s`.
    Duration,
    /// Any text.
    Text,
    /// Texts with commas between; repeating the flag adds.
    List,
}

/// One flag.
#[derive(Debug)]
pub struct Flag {
    /// The long name.
    pub name: &'static str,
    /// The one-letter name.
    pub short: Option<char>,
    /// What it holds.
    pub kind: Kind,
    /// What it holds unless set, as text.
    pub default: &'static str,
    /// One line of help.
    pub help: &'static str,
}

/// A value that a flag took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Int`].
    Int(i64),
    /// Of [`Kind::Uint`].
    Uint(u64),
    /// Of [`Kind::Duration`].
    Duration(Duration),
    /// Of [`Kind::Text`].
    Text(String),
    /// Of [`Kind::List`].
    List(Vec<String>),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Uint(value) => value.fmt(f),
            Self::Duration(value) => gofmt::duration(*value).fmt(f),
            Self::Text(value) => value.fmt(f),
            Self::List(value) => write!(f, "[{}]", value.join(",")),
        }
    }
}

/// The flags a command knows, and what they are set to.
#[derive(Clone, Debug, Default)]
pub struct Values {
    known: Vec<&'static Flag>,
    set: BTreeMap<&'static str, Value>,
}

/// Why a command line cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub enum ParseError {
    /// `--help` or `-h` is there.
    Help,
    /// Something is wrong; the text is the original's, the name is that of an unknown long flag.
    Wrong {
        /// What is wrong.
        message: String,
        /// The unknown flag, to look for a similar one.
        unknown: Option<String>,
    },
}

fn wrong(message: String) -> ParseError {
    ParseError::Wrong {
        message,
        unknown: None,
    }
}

impl Values {
    /// No flag set, these known.
    pub fn new(known: Vec<&'static Flag>) -> Self {
        Self {
            known,
            set: BTreeMap::new(),
        }
    }

    fn long(&self, name: &str) -> Option<&'static Flag> {
        self.known.iter().copied().find(|f| f.name == name)
    }

    fn short(&self, name: char) -> Option<&'static Flag> {
        self.known.iter().copied().find(|f| f.short == Some(name))
    }

    /// Whether the argument after this one is its value, as far as flags before a command go.
    pub fn takes_next(&self, argument: &str) -> bool {
        if argument.contains('=') {
            return false;
        }
        if let Some(name) = argument.strip_prefix("--") {
            return name != "help" && self.long(name).is_none_or(|f| f.kind != Kind::Bool);
        }
        let mut chars = argument.chars();
        match (chars.next(), chars.next(), chars.next()) {
            (Some('-'), Some(name), None) => {
                name != 'h' && self.short(name).is_none_or(|f| f.kind != Kind::Bool)
            }
            _ => false,
        }
    }

    /// Sets a flag from text.
    ///
    /// # Errors
    /// What the original's parser says about a value that it cannot read.
    pub fn set(&mut self, flag: &'static Flag, text: &str) -> Result<(), String> {
        let value = match flag.kind {
            Kind::Bool => Value::Bool(gofmt::parse_bool(text)?),
            Kind::Int => Value::Int(gofmt::parse_int(text, 0)?),
            Kind::Uint => Value::Uint(gofmt::parse_uint(text, 0)?),
            Kind::Duration => Value::Duration(gofmt::parse_duration(text)?),
            Kind::Text => Value::Text(text.to_owned()),
            Kind::List => {
                let mut list = match self.set.remove(flag.name) {
                    Some(Value::List(list)) => list,
                    _ => Vec::new(),
                };
                if !text.is_empty() {
                    list.extend(text.split(',').map(str::to_owned));
                }
                Value::List(list)
            }
        };
        self.set.insert(flag.name, value);
        Ok(())
    }

    fn set_named(&mut self, flag: &'static Flag, text: &str) -> Result<(), ParseError> {
        self.set(flag, text).map_err(|error| {
            let name = match flag.short {
                Some(short) => format!("-{short}, --{}", flag.name),
                None => format!("--{}", flag.name),
            };
            wrong(format!(
                "invalid argument {} for {} flag: {error}",
                gofmt::quote(text.as_bytes()),
                gofmt::quote(name.as_bytes())
            ))
        })
    }

    /// Reads the arguments of a command; what is not a flag is returned.
    ///
    /// # Errors
    /// [`ParseError`].
    pub fn parse(&mut self, arguments: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, ParseError> {
        let mut rest = Vec::new();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            if argument.len() < 2 || argument[0] != b'-' {
                rest.push(argument.clone());
                continue;
            }
            if argument == b"--" {
                rest.extend(arguments.cloned());
                break;
            }
            let text = String::from_utf8_lossy(argument).into_owned();
            if let Some(name) = text.strip_prefix("--") {
                self.parse_long(&text, name, &mut arguments)?;
            } else {
                self.parse_short(&text[1..], &mut arguments)?;
            }
        }
        Ok(rest)
    }

    fn parse_long<'a>(
        &mut self,
        text: &str,
        name: &str,
        arguments: &mut impl Iterator<Item = &'a Vec<u8>>,
    ) -> Result<(), ParseError> {
        if name.starts_with('-') || name.starts_with('=') {
            return Err(wrong(format!("bad flag syntax: {text}")));
        }
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let Some(flag) = self.long(name) else {
            if name == "help" {
                return Err(ParseError::Help);
            }
            return Err(ParseError::Wrong {
                message: format!("unknown flag: --{name}"),
                unknown: Some(name.to_owned()),
            });
        };
        let value = match value {
            Some(value) => value,
            None if flag.kind == Kind::Bool => "true".to_owned(),
            None => match arguments.next() {
                Some(value) => String::from_utf8_lossy(value).into_owned(),
                None => return Err(wrong(format!("flag needs an argument: {text}"))),
            },
        };
        self.set_named(flag, &value)
    }

    fn parse_short<'a>(
        &mut self,
        text: &str,
        arguments: &mut impl Iterator<Item = &'a Vec<u8>>,
    ) -> Result<(), ParseError> {
        let mut text = text;
        while let Some(name) = text.chars().next() {
            let rest = &text[name.len_utf8()..];
            let Some(flag) = self.short(name) else {
                if name == 'h' {
                    return Err(ParseError::Help);
                }
                return Err(wrong(format!(
                    "unknown shorthand flag: '{name}' in -{text}"
                )));
            };
            let value = if let Some(value) = rest.strip_prefix('=').filter(|v| !v.is_empty()) {
                value.to_owned()
            } else if flag.kind == Kind::Bool {
                self.set_named(flag, "true")?;
                text = rest;
                continue;
            } else if !rest.is_empty() {
                rest.to_owned()
            } else if let Some(value) = arguments.next() {
                String::from_utf8_lossy(value).into_owned()
            } else {
                return Err(wrong(format!(
                    "flag needs an argument: '{name}' in -{text}"
                )));
            };
            return self.set_named(flag, &value);
        }
        Ok(())
    }

    /// The flags known.
    pub fn known(&self) -> &[&'static Flag] {
        &self.known
    }

    /// The first argument that is neither a flag nor a flag's value: where a command's name stands.
    pub fn first_word(&self, arguments: &[Vec<u8>]) -> Option<usize> {
        let mut index = 0;
        while let Some(argument) = arguments.get(index) {
            if argument == b"--" {
                return None;
            }
            if !argument.starts_with(b"-") && !argument.is_empty() {
                return Some(index);
            }
            index += 1 + usize::from(self.takes_next(&String::from_utf8_lossy(argument)));
        }
        None
    }

    /// Whether the flag was set, by whatever means.
    pub fn changed(&self, name: &str) -> bool {
        self.set.contains_key(name)
    }

    /// The value of a flag, or its default; `None` if this command does not know it.
    pub fn get(&self, name: &str) -> Option<Value> {
        if let Some(value) = self.set.get(name) {
            return Some(value.clone());
        }
        let flag = self.long(name)?;
        let mut defaults = Self::default();
        // A default that cannot be read is caught by a test over all flags.
        defaults.set(flag, flag.default).ok()?;
        defaults.set.remove(flag.name)
    }

    /// A boolean flag.
    pub fn bool(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Bool(true)))
    }

    /// A number.
    pub fn int(&self, name: &str) -> i64 {
        match self.get(name) {
            Some(Value::Int(value)) => value,
            _ => 0,
        }
    }

    /// A number from 0 on.
    pub fn uint(&self, name: &str) -> u64 {
        match self.get(name) {
            Some(Value::Uint(value)) => value,
            _ => 0,
        }
    }

    /// A text.
    pub fn text(&self, name: &str) -> String {
        match self.get(name) {
            Some(Value::Text(value)) => value,
            _ => String::new(),
        }
    }

    /// A duration.
    pub fn duration(&self, name: &str) -> Duration {
        match self.get(name) {
            Some(Value::Duration(value)) => value,
            _ => Duration::ZERO,
        }
    }

    /// A list.
    pub fn list(&self, name: &str) -> Vec<String> {
        match self.get(name) {
            Some(Value::List(value)) => value,
            _ => Vec::new(),
        }
    }
}

/// Flags as help lists them, a line each.
pub fn help(flags: &[&Flag]) -> String {
    let rows: Vec<(String, String)> = flags
        .iter()
        .map(|flag| {
            let short = flag.short.map_or("    ".to_owned(), |s| format!("-{s}, "));
            let kind = match flag.kind {
                Kind::Bool => "",
                Kind::Int => " int",
                Kind::Uint => " uint",
                Kind::Duration => " duration",
                Kind::Text => " string",
                Kind::List => " strings",
            };
            let default = match (flag.kind, flag.default) {
                (Kind::Bool, "false") | (Kind::Text, "") | (Kind::Int | Kind::Uint, "0") => {
                    String::new()
                }
                (Kind::Text, default) => format!(" (default \"{default}\")"),
                (Kind::List, default) => format!(" (default [{default}])"),
                (_, default) => format!(" (default {default})"),
            };
            (
                format!("  {short}--{}{kind}", flag.name),
                format!("{}{default}", flag.help),
            )
        })
        .collect();
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    rows.iter()
        .map(|(left, right)| format!("{left:width$}   {right}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    static FLAGS: [Flag; 4] = [
        Flag {
            name: "write-out",
            short: Some('w'),
            kind: Kind::Text,
            default: "simple",
            help: "",
        },
        Flag {
            name: "hex",
            short: None,
            kind: Kind::Bool,
            default: "false",
            help: "",
        },
        Flag {
            name: "interactive",
            short: Some('i'),
            kind: Kind::Bool,
            default: "false",
            help: "",
        },
        Flag {
            name: "endpoints",
            short: None,
            kind: Kind::List,
            default: "127.0.0.1:2379",
            help: "",
        },
    ];

    fn parse(words: &[&str]) -> Result<(Values, Vec<String>), ParseError> {
        let mut values = Values::new(FLAGS.iter().collect());
        let words: Vec<Vec<u8>> = words.iter().map(|w| w.as_bytes().to_vec()).collect();
        let rest = values.parse(&words)?;
        let rest = rest
            .iter()
            .map(|r| String::from_utf8_lossy(r).into_owned())
            .collect();
        Ok((values, rest))
    }

    fn error(words: &[&str]) -> String {
        match parse(words) {
            Err(ParseError::Wrong { message, .. }) => message,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn every_form() {
        let (values, rest) =
            parse(&["a", "-w", "json", "--hex", "false", "--", "--hex=x"]).unwrap();
        assert_eq!(values.text("write-out"), "json");
        assert!(values.bool("hex"));
        assert_eq!(rest, ["a", "false", "--hex=x"]);
        assert_eq!(parse(&["-wjson"]).unwrap().0.text("write-out"), "json");
        assert_eq!(parse(&["-w=json"]).unwrap().0.text("write-out"), "json");
        assert_eq!(parse(&["-iw", "json"]).unwrap().0.text("write-out"), "json");
        assert_eq!(parse(&["-"]).unwrap().1, ["-"]);
        let (values, _) = parse(&["--endpoints=a,b", "--endpoints", "c"]).unwrap();
        assert_eq!(values.list("endpoints"), ["a", "b", "c"]);
        assert_eq!(parse(&[]).unwrap().0.list("endpoints"), ["127.0.0.1:2379"]);
        assert!(matches!(parse(&["-h"]), Err(ParseError::Help)));
        assert!(matches!(parse(&["--help"]), Err(ParseError::Help)));
    }

    #[test]
    fn errors_are_worded_like_the_originals() {
        assert_eq!(error(&["--foo"]), "unknown flag: --foo");
        assert_eq!(error(&["-x"]), "unknown shorthand flag: 'x' in -x");
        assert_eq!(error(&["-ix"]), "unknown shorthand flag: 'x' in -x");
        assert_eq!(
            error(&["--endpoints"]),
            "flag needs an argument: --endpoints"
        );
        assert_eq!(error(&["-w"]), "flag needs an argument: 'w' in -w");
        assert_eq!(error(&["---x"]), "bad flag syntax: ---x");
        assert_eq!(
            error(&["--hex=maybe"]),
            r#"invalid argument "maybe" for "--hex" flag: strconv.ParseBool: parsing "maybe": invalid syntax"#
        );
    }
}
