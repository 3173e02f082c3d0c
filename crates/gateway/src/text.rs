//! Texts in JSON, as Go's two writers of JSON write them.

/// Writes a text with its quotes. Streams pass through a second writer in the original, which escapes what
/// could mean something in a page of HTML.
pub fn write(out: &mut Vec<u8>, text: &str, for_html: bool) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            ..' ' => escape(out, c),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if for_html => escape(out, c),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
}
