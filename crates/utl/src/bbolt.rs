//! `bbolt …`: looks into a database file as bbolt's own tool does, in its words. Nothing is repaired here and
//! nothing is written.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrite_bolt::{
    Bucket, BucketUsage, Db, Element, MetaView, PageContent, PageView, Pages, ReadTx,
};
use ferrite_cli::{gofmt, report};
use sha2::{Digest, Sha256};

use crate::error::{ERROR, Error, Failure};
use crate::file;

/// Output is written in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;
const SEPARATOR: &str = "===============================================\n";
const FORMATS: &str = "auto, ascii-encoded, hex, bytes or redacted";

fn failure(message: impl Into<String>) -> Failure {
    Failure::new(ERROR, message)
}

/// How bytes are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Auto,
    Ascii,
    Hex,
    Bytes,
    Redacted,
}

impl Format {
    /// By its name.
    ///
    /// # Errors
    /// No such form.
    pub fn parse(name: &str) -> Result<Self, Failure> {
        Ok(match name {
            "auto" => Self::Auto,
            "ascii-encoded" => Self::Ascii,
            "hex" => Self::Hex,
            "bytes" => Self::Bytes,
            "redacted" => Self::Redacted,
            other => {
                return Err(failure(format!(
                    "formatBytes: unsupported format: {other} (there are {FORMATS})"
                )));
            }
        })
    }

    fn show(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Auto if gofmt::is_printable(bytes) => bytes.to_vec(),
            Self::Auto | Self::Hex => hex(bytes).into_bytes(),
            Self::Ascii => gofmt::quote(bytes).into_bytes(),
            Self::Bytes => bytes.to_vec(),
            Self::Redacted => format!(
                "<redacted len:{} sha256:{}>",
                bytes.len(),
                hex(&Sha256::digest(bytes))
            )
            .into_bytes(),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A key as the user wrote it.
///
/// # Errors
/// No such form, or text that is not of it.
pub fn parse_key(text: &[u8], format: &str) -> Result<Vec<u8>, Failure> {
    let key = match format {
        "ascii-encoded" => text.to_vec(),
        "hex" => unhex(text)?,
        other => {
            return Err(failure(format!(
                "parseBytes: unsupported format: {other} (there are ascii-encoded and hex)"
            )));
        }
    };
    if key.is_empty() {
        return Err(failure("key is required: key required"));
    }
    Ok(key)
}

fn unhex(text: &[u8]) -> Result<Vec<u8>, Failure> {
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
            .ok_or_else(|| {
                failure(format!(
                    "encoding/hex: invalid byte: {}",
                    char::from(*byte).escape_default()
                ))
            })
    };
    let pairs = text.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(failure("encoding/hex: odd length hex string"));
    }
    pairs
        .map(|pair| Ok(digit(&pair[0])? << 4 | digit(&pair[1])?))
        .collect()
}

/// Lines on their way to standard output.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, line: &[u8]) {
        self.0.extend_from_slice(line);
        self.0.push(b'\n');
        if self.0.len() >= PIECE_BYTES {
            report::out(&std::mem::take(&mut self.0));
        }
    }

    fn text(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            report::out(&self.0);
        }
    }
}

/// A file to look at.
#[derive(Debug)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// How long to wait for whoever writes it.
    pub timeout: Duration,
}

impl Source {
    fn exists(&self) -> Result<(), Failure> {
        match std::fs::metadata(&self.path) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(failure(format!(
                "source database file {} doesn't exist",
                quoted(&self.path)
            ))),
            Err(error) => Err(failure(format!(
                "failed to open source database file {}: {error}",
                quoted(&self.path)
            ))),
        }
    }

    fn open(&self) -> Result<Db, Failure> {
        self.exists()?;
        Ok(file::open_read_only(&self.path, self.timeout)?)
    }

    fn damage(&self) -> impl Fn(ferrite_bolt::Error) -> Error {
        Error::database(&self.path)
    }

    fn view(&self, db: &Db) -> Result<ReadTx, Failure> {
        Ok(db.begin_read().map_err(self.damage())?)
    }

    /// The bucket that these names lead to, from the top down.
    fn bucket(&self, tx: &ReadTx, names: &[Vec<u8>]) -> Result<Bucket, Failure> {
        let missing = || failure("bucket not found");
        let (top, nested) = names.split_first().ok_or_else(missing)?;
        let mut bucket = tx.bucket(top).map_err(self.damage())?.ok_or_else(missing)?;
        for name in nested {
            bucket = bucket
                .bucket(name)
                .map_err(self.damage())?
                .ok_or_else(missing)?;
        }
        Ok(bucket)
    }

    /// `check`: every page, every reference, and the accounting of free pages.
    ///
    /// # Errors
    /// Something does not hold together; what it is has been printed.
    pub fn check(&self) -> Result<(), Failure> {
        let db = self.open()?;
        let problems = db.check().map_err(self.damage())?;
        if problems.is_empty() {
            report::line("OK");
            return Ok(());
        }
        let mut lines = Lines::default();
        for problem in &problems {
            lines.push(problem.to_string().as_bytes());
        }
        lines.push(format!("{} errors found", problems.len()).as_bytes());
        Err(failure("invalid value"))
    }

    /// `buckets`.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn buckets(&self) -> Result<(), Failure> {
        let db = self.open()?;
        let mut lines = Lines::default();
        for name in self.view(&db)?.buckets().map_err(self.damage())? {
            lines.push(&name);
        }
        Ok(())
    }

    /// `keys`: the keys of a bucket, and the names of those in it.
    ///
    /// # Errors
    /// No such bucket, or a file that cannot be read.
    pub fn keys(&self, buckets: &[Vec<u8>], format: Format) -> Result<(), Failure> {
        let db = self.open()?;
        let tx = self.view(&db)?;
        let bucket = self.bucket(&tx, buckets)?;
        let nested = bucket.buckets().map_err(self.damage())?;
        let mut nested = nested.iter().peekable();
        let mut lines = Lines::default();
        bucket
            .scan(&[], None, &mut |key, _| {
                // Names of buckets stand among the keys, in order.
                while let Some(name) = nested.next_if(|name| &name[..] < key) {
                    lines.push(&format.show(name));
                }
                lines.push(&format.show(key));
                ControlFlow::Continue(())
            })
            .map_err(self.damage())?;
        for name in nested {
            lines.push(&format.show(name));
        }
        Ok(())
    }

    /// `get`: a value.
    ///
    /// # Errors
    /// No such bucket or key, or a file that cannot be read.
    pub fn get(&self, buckets: &[Vec<u8>], key: &[u8], format: Format) -> Result<(), Failure> {
        let db = self.open()?;
        let tx = self.view(&db)?;
        let bucket = self.bucket(&tx, buckets)?;
        let value = bucket.get(key).map_err(self.damage())?.ok_or_else(|| {
            failure(format!(
                "Error key not found for key: {} hex: \"{}\"",
                gofmt::quote(key),
                hex(key)
            ))
        })?;
        Lines::default().push(&format.show(&value));
        Ok(())
    }

    /// `stats`: of the buckets whose names begin with `prefix`.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn stats(&self, prefix: &[u8]) -> Result<(), Failure> {
        let db = self.open()?;
        let tx = self.view(&db)?;
        let (mut usage, mut count) = (BucketUsage::default(), 0);
        for name in tx.buckets().map_err(self.damage())? {
            if !name.starts_with(prefix) {
                continue;
            }
            if let Some(bucket) = tx.bucket(&name).map_err(self.damage())? {
                usage.add(&bucket.usage().map_err(self.damage())?);
                count += 1;
            }
        }
        report::out(stats(&usage, count, db.page_size() as u64).as_bytes());
        Ok(())
    }

    /// `page`: some pages, or all of them. One that cannot be shown does not end the list.
    ///
    /// # Errors
    /// No page asked for, or a file that has none.
    pub fn pages(&self, ids: &[Vec<u8>], all: bool, format: Format) -> Result<(), Failure> {
        if all && !ids.is_empty() {
            return Err(failure("invalid args: either use '--all' or 'pageid...'"));
        }
        if !all && ids.is_empty() {
            return Err(failure("page id required"));
        }
        let ids = ids
            .iter()
            .map(|id| gofmt::parse_uint(&String::from_utf8_lossy(id), 10).map_err(failure))
            .collect::<Result<Vec<u64>, Failure>>()?;
        self.exists()?;
        let pages = Pages::open(&self.path).map_err(self.damage())?;
        let mut lines = Lines::default();
        let mut first = true;
        let mut show = |id: u64| {
            if !std::mem::take(&mut first) {
                lines.text(SEPARATOR);
            }
            match pages.page(id) {
                Ok(page) => {
                    print(&mut lines, &page, format);
                    u64::from(page.overflow) + 1
                }
                Err(error) => {
                    let line = format!("Printing page {id} failed: {error}. Continuing...");
                    lines.push(line.as_bytes());
                    1
                }
            }
        };
        if all {
            let mut id = 0;
            while id < pages.high_water() {
                id += show(id);
            }
        } else {
            for id in ids {
                show(id);
            }
        }
        Ok(())
    }
}

fn quoted(path: &Path) -> String {
    gofmt::quote(path.to_string_lossy().as_bytes())
}

fn percent(part: u64, whole: u64) -> u64 {
    (part * 100).checked_div(whole).unwrap_or(0)
}

fn stats(s: &BucketUsage, count: usize, page_size: u64) -> String {
    let branch = (s.branch_pages + s.branch_overflow) * page_size;
    let leaf = (s.leaf_pages + s.leaf_overflow) * page_size;
    format!(
        "Aggregate statistics for {count} buckets\n\n\
         Page count statistics\n\
         \tNumber of logical branch pages: {}\n\
         \tNumber of physical branch overflow pages: {}\n\
         \tNumber of logical leaf pages: {}\n\
         \tNumber of physical leaf overflow pages: {}\n\
         Tree statistics\n\
         \tNumber of keys/value pairs: {}\n\
         \tNumber of levels in B+tree: {}\n\
         Page size utilization\n\
         \tBytes allocated for physical branch pages: {branch}\n\
         \tBytes actually used for branch data: {} ({}%)\n\
         \tBytes allocated for physical leaf pages: {leaf}\n\
         \tBytes actually used for leaf data: {} ({}%)\n\
         Bucket statistics\n\
         \tTotal number of buckets: {}\n\
         \tTotal number on inlined buckets: {} ({}%)\n\
         \tBytes used for inlined buckets: {} ({}%)\n",
        s.branch_pages,
        s.branch_overflow,
        s.leaf_pages,
        s.leaf_overflow,
        s.keys,
        s.depth,
        s.branch_in_use,
        percent(s.branch_in_use, branch),
        s.leaf_in_use,
        percent(s.leaf_in_use, leaf),
        s.buckets,
        s.inline_buckets,
        percent(s.inline_buckets, s.buckets),
        s.inline_in_use,
        percent(s.inline_in_use, s.leaf_in_use),
    )
}

fn print(lines: &mut Lines, page: &PageView, format: Format) {
    let kind = match &page.content {
        PageContent::Meta(_) => "meta".to_owned(),
        PageContent::Leaf(_) => "leaf".to_owned(),
        PageContent::Branch(_) => "branch".to_owned(),
        PageContent::FreeList(_) => "freelist".to_owned(),
        PageContent::Unknown(flags) => format!("unknown<{flags:02x}>"),
    };
    lines.text(&format!(
        "Page ID:    {}\nPage Type:  {kind}\nTotal Size: {} bytes\nOverflow pages: {}\n",
        page.id, page.bytes, page.overflow
    ));
    let key = |key: &[u8]| {
        if gofmt::is_printable(key) {
            gofmt::quote(key)
        } else {
            hex(key)
        }
    };
    match &page.content {
        PageContent::Meta(meta) => lines.text(&meta_text(meta)),
        PageContent::Leaf(elements) => {
            lines.text(&format!("Item Count: {}\n\n", elements.len()));
            for (name, element) in elements {
                let mut line = format!("{}: ", key(name)).into_bytes();
                match element {
                    Element::Value(value) => line.extend(format.show(value)),
                    Element::Bucket { root, sequence } => {
                        line.extend(format!("<pgid={root},seq={sequence}>").into_bytes());
                    }
                }
                lines.push(&line);
            }
            lines.text("\n");
        }
        PageContent::Branch(elements) => {
            lines.text(&format!("Item Count: {}\n\n", elements.len()));
            for (name, child) in elements {
                lines.push(format!("{}: <pgid={child}>", key(name)).as_bytes());
            }
            lines.text("\n");
        }
        PageContent::FreeList(ids) => {
            lines.text(&format!(
                "Item Count: {}\nOverflow: {}\n\n",
                ids.len(),
                page.overflow
            ));
            for id in ids {
                lines.push(id.to_string().as_bytes());
            }
            lines.text("\n");
        }
        PageContent::Unknown(_) => {}
    }
}

fn meta_text(meta: &MetaView) -> String {
    format!(
        "Version:    {}\nPage Size:  {} bytes\nFlags:      {:08x}\nRoot:       <pgid={}>\n\
         Freelist:   <pgid={}>\nHWM:        <pgid={}>\nTxn ID:     {}\nChecksum:   {:016x}\n\n",
        meta.version,
        meta.page_size,
        meta.flags,
        meta.root,
        meta.freelist,
        meta.high_water,
        meta.txid,
        meta.checksum
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_each_form() {
        let show = |name: &str, bytes: &[u8]| {
            String::from_utf8(Format::parse(name).unwrap().show(bytes)).unwrap()
        };
        assert_eq!(show("auto", b"foo \xc3\xa9"), "foo é");
        assert_eq!(show("auto", b"\x00\x0a"), "000a");
        assert_eq!(show("ascii-encoded", b"a\n\"\xff"), r#""a\n\"\xff""#);
        assert_eq!(show("hex", b"foo"), "666f6f");
        assert_eq!(show("bytes", b"foo"), "foo");
        assert_eq!(
            show("redacted", b""),
            "<redacted len:0 sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855>"
        );
        assert!(Format::parse("base64").is_err());
    }

    #[test]
    fn keys_are_read_in_both_forms() {
        let key = |text: &str, form: &str| parse_key(text.as_bytes(), form).map_err(|f| f.message);
        assert_eq!(key("666F6f", "hex").unwrap(), b"foo");
        assert_eq!(key("foo", "ascii-encoded").unwrap(), b"foo");
        assert!(key("6", "hex").unwrap_err().contains("odd length"));
        assert!(key("zz", "hex").unwrap_err().contains("invalid byte: z"));
        assert!(key("", "hex").is_err());
        assert!(key("foo", "base64").is_err());
    }
}
