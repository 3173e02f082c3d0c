//! `bbolt …` on files of ours and of the original's, in the words of bbolt's own tool.

use std::path::Path;

use crate::common::{Server, free_port, make_database, oracle, pairs, s, utl};

/// What is under a heading of `bbolt stats`.
fn figure(stats: &str, heading: &str) -> u64 {
    let line = stats.lines().find_map(|l| l.strip_prefix(heading));
    let text = line.unwrap_or_else(|| panic!("{heading}: {stats}"));
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

#[test]
fn a_file_is_looked_into() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("db");
    make_database(&file, 500, 100);
    let file = s(&file);
    let before = std::fs::read(file).expect("the file");
    assert_eq!(utl(&["bbolt", "check", file]).ok(), "OK\n");
    assert_eq!(
        utl(&["bbolt", "buckets", file]).ok(),
        "alarm\nauth\ncluster\nkey\nlease\nmembers\nmembers_removed\nmeta\n"
    );
    assert_eq!(
        utl(&["bbolt", "keys", file, "meta"]).ok(),
        "consistent_index\nstorageVersion\nterm\n"
    );
    assert_eq!(
        utl(&["bbolt", "get", file, "meta", "storageVersion"]).ok(),
        "3.7.0\n"
    );
    assert_eq!(
        utl(&["bbolt", "get", file, "meta", "consistent_index"]).ok(),
        "000000000000004d\n"
    );
    assert_eq!(
        utl(&[
            "bbolt",
            "get",
            "--format=ascii-encoded",
            file,
            "meta",
            "term"
        ])
        .ok(),
        "\"\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x05\"\n"
    );
    // Revisions are no text.
    let keys = utl(&["bbolt", "keys", file, "key"]).ok();
    assert_eq!(keys.lines().count(), 501);
    assert_eq!(
        keys.lines().next(),
        Some("00000000000000025f0000000000000000")
    );
    let first = [
        "--parse-format=hex",
        file,
        "key",
        "00000000000000025f0000000000000000",
    ];
    let value = utl(&[&["bbolt", "get"][..], &first].concat()).ok();
    assert!(value.trim_end().ends_with(&"76".repeat(100)), "{value}");

    let stats = utl(&["bbolt", "stats", file]).ok();
    assert!(stats.starts_with("Aggregate statistics for 8 buckets\n\nPage count statistics\n"));
    assert_eq!(figure(&stats, "\tNumber of keys/value pairs: "), 501 + 6);
    assert_eq!(figure(&stats, "\tTotal number of buckets: "), 8);
    let keys = utl(&["bbolt", "stats", file, "key"]).ok();
    let leaves = figure(&keys, "\tNumber of logical leaf pages: ");
    assert!(leaves > 10, "{keys}");
    assert_eq!(figure(&keys, "\tNumber of logical branch pages: "), 1);
    assert_eq!(figure(&keys, "\tNumber of levels in B+tree: "), 2);
    assert_eq!(
        figure(&keys, "\tBytes allocated for physical leaf pages: "),
        leaves * 4096
    );

    let meta = utl(&["bbolt", "page", file, "0"]).ok();
    assert!(
        meta.starts_with(
            "Page ID:    0\nPage Type:  meta\nTotal Size: 4096 bytes\nOverflow pages: 0\n\
             Version:    2\nPage Size:  4096 bytes\nFlags:      00000000\nRoot:       <pgid="
        ),
        "{meta}"
    );
    // The newer root leads to the buckets.
    let both = utl(&["bbolt", "page", file, "0", "1"]).ok();
    assert!(both.contains("\n===============================================\nPage ID:    1\n"));
    let newest = both
        .split("==\n")
        .max_by_key(|page| figure(page, "Txn ID:     "))
        .expect("a root");
    let root = figure(newest, "Root:       <pgid=").to_string();
    let root = utl(&["bbolt", "page", file, &root]).ok();
    assert!(root.contains("Page Type:  leaf\n"), "{root}");
    assert!(
        root.contains("\nItem Count: 8\n\n\"alarm\": <pgid=0,seq=0>\n"),
        "{root}"
    );

    // All pages account for the whole file.
    let all = utl(&["bbolt", "page", "--all", file]).ok();
    let high_water = figure(newest, "HWM:        <pgid=");
    let pages = all
        .split("==\n")
        .map(|page| match page.strip_prefix("Page ID:") {
            Some(_) => 1 + figure(page, "Overflow pages: "),
            None => 1,
        });
    assert_eq!(pages.sum::<u64>(), high_water);
    assert_eq!(std::fs::read(file).expect("the file"), before);
}

#[test]
fn what_is_not_there_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    make_database(&path, 3, 10);
    let file = s(&path);
    for (arguments, wanted) in [
        (
            &["check", "/no/such/file"][..],
            "source database file \"/no/such/file\" doesn't exist",
        ),
        (&["keys", file, "nothing"], "bucket not found"),
        (&["keys", file, "meta", "nested"], "bucket not found"),
        (
            &["get", file, "meta", "foo"],
            "Error key not found for key: \"foo\" hex: \"666f6f\"",
        ),
        (
            &["get", file, "foo"],
            "requires at least 3 arg(s), only received 2",
        ),
        (&["check"], "accepts 1 arg(s), received 0"),
        (&["page", file], "page id required"),
        (
            &["page", "--all", file, "1"],
            "invalid args: either use '--all' or 'pageid...'",
        ),
        (
            &["page", file, "x"],
            "strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        (
            &["keys", "-f", "base64", file, "meta"],
            "formatBytes: unsupported format: base64 (there are auto, ascii-encoded, hex, bytes or redacted)",
        ),
    ] {
        assert_eq!(utl(&[&["bbolt"][..], arguments].concat()).fails(1), wanted);
    }
    let far = utl(&["bbolt", "page", file, "99999"]).ok();
    assert!(far.starts_with("Printing page 99999 failed: "), "{far}");
    // Damage is named page by page.
    let mut bytes = std::fs::read(&path).expect("the file");
    let at = bytes.len() - 4096 + 12;
    let page = (bytes.len() / 4096 - 1).to_string();
    bytes[at] = 0xff;
    std::fs::write(&path, bytes).expect("write");
    let damaged = utl(&["bbolt", "page", file, &page]).ok();
    assert!(damaged.contains("overflow pages"), "{damaged}");
}

#[test]
fn the_originals_files_are_looked_into() {
    let Some(oracle) = oracle() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let peer = format!("http://127.0.0.1:{}", free_port());
    let server = Server::start(&oracle.join("etcd"), &oracle, &data, &peer);
    // First, so that it is in the file long before the end.
    server.ctl(&["put", "large", &"v".repeat(9000)]);
    for n in 0..60 {
        server.ctl(&["put", &format!("k{}", n % 20), &"v".repeat(1000)]);
    }
    server.ctl(&["compact", "40"]);
    drop(server);
    let file = data.join("member/snap/db");
    looked_into(&file);
}

fn looked_into(file: &Path) {
    let all = pairs(file);
    let file = s(file);
    assert_eq!(utl(&["bbolt", "check", file]).ok(), "OK\n");
    for bucket in utl(&["bbolt", "buckets", file]).ok().lines() {
        let keys = utl(&["bbolt", "keys", "--format=hex", file, bucket]).ok();
        let own: Vec<_> = all.iter().filter(|(name, ..)| name == bucket).collect();
        assert_eq!(keys.lines().count(), own.len(), "{bucket}");
        for (key, (_, bytes, value)) in keys.lines().zip(own).take(20) {
            let hex =
                |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
            assert_eq!(key, hex(bytes));
            let get = ["--format=hex", "--parse-format=hex", file, bucket, key];
            let shown = utl(&[&["bbolt", "get"][..], &get].concat()).ok();
            assert_eq!(shown.trim_end(), hex(value));
        }
    }
    let stats = utl(&["bbolt", "stats", file]).ok();
    let counted = figure(&stats, "\tNumber of keys/value pairs: ");
    assert_eq!(counted, all.len() as u64);
    assert!(figure(&stats, "\tNumber of physical leaf overflow pages: ") >= 2);
}
