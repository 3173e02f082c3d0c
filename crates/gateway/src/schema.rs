//! The tables of messages, and what is in them. Generated from the schema by `ferrite-codegen`.

/// A message.
#[derive(Debug)]
pub struct Message {
    /// By number, which is the order they are written in.
    pub fields: &'static [Field],
}

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// In the bytes.
    pub number: u32,
    /// As etcd's schema spells it; JSON that is written has this.
    pub name: &'static str,
    /// In camel case; JSON that is read may have either.
    pub camel: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// A list of them.
    pub repeated: bool,
    /// The full name of the group of which only one may be set.
    pub oneof: Option<&'static str>,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A truth.
    Bool,
    /// 32 bits, without a sign.
    Uint32,
    /// 64 bits, with a sign.
    Int64,
    /// 64 bits, without a sign.
    Uint64,
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// A name out of a few.
    Enum(&'static Enum),
    /// Another message.
    Message(&'static Message),
}

impl Kind {
    /// As protobuf calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Uint32 => "uint32",
            Kind::Int64 => "int64",
            Kind::Uint64 => "uint64",
            Kind::String => "string",
            Kind::Bytes => "bytes",
            Kind::Enum(_) => "enum",
            Kind::Message(_) => "message",
        }
    }
}

/// Names that stand for numbers.
#[derive(Debug)]
pub struct Enum {
    /// Each name and its number.
    pub values: &'static [(&'static str, i32)],
}

/// A call.
#[derive(Debug)]
pub struct Method {
    /// Its path in gRPC.
    pub path: &'static str,
    /// What is asked.
    pub input: &'static Message,
    /// What is answered.
    pub output: &'static Message,
    /// Many messages may be asked.
    pub asks_many: bool,
    /// Many messages may be answered.
    pub answers_many: bool,
}

impl Message {
    /// The field by either of its names.
    pub(crate) fn by_name(&self, name: &str) -> Option<&'static Field> {
        let camel = self.fields.iter().find(|field| field.camel == name);
        camel.or_else(|| self.fields.iter().find(|field| field.name == name))
    }

    /// The field with this number.
    pub(crate) fn by_number(&self, number: u64) -> Option<&'static Field> {
        self.fields
            .iter()
            .find(|field| u64::from(field.number) == number)
    }
}

include!("gen/tables.rs");
