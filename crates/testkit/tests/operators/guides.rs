//! The guides in `docs/`, typed as they stand. A block of commands goes to one shell, its output is held against the block
//! that follows it. Machines are folders, reached by stand-ins for `ssh`, `scp` and `systemctl`; members are real.
//!
//! What is replaced in the text: addresses by ones of loopback, ports by free ones, the quota by a small one. In what is
//! printed IDs, times and sizes may be others, and `…` is anything. A block for `sh retry` is typed again until it prints
//! what it should; one for `sh fails` may fail. What stands in a comment `<!-- test` is typed, too, and never shown.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use ferrite_testkit::{Ports, oracle};

use crate::programs;

/// For one block, on a busy machine.
const LIMIT: Duration = Duration::from_secs(150);
/// What the shell prints when a block is over, and when one of its commands failed.
const END: &str = "@end of block@";
const FAILED: &str = "@failed@";

/// Something to type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Block {
    /// The headline above it.
    section: String,
    line: usize,
    commands: String,
    /// What is printed, where the guide says it.
    printed: Option<String>,
    retry: bool,
    fails: bool,
}

/// What a guide has to be typed, in order.
fn blocks(guide: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut section = String::new();
    let mut lines = guide.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(headline) = line.strip_prefix("## ") {
            headline.clone_into(&mut section);
        }
        let (kind, end) = match line.strip_prefix("```") {
            Some(kind) => (kind, "```"),
            None if line == "<!-- test" => ("sh", "-->"),
            None => continue,
        };
        let mut text = String::new();
        for (_, line) in lines.by_ref() {
            if line == end {
                break;
            }
            text.push_str(line);
            text.push('\n');
        }
        let mut words = kind.split(' ');
        match words.next() {
            Some("sh") => {
                let words: Vec<&str> = words.collect();
                found.push(Block {
                    section: section.clone(),
                    line: number + 1,
                    commands: text,
                    printed: None,
                    retry: words.contains(&"retry"),
                    fails: words.contains(&"fails"),
                });
            }
            Some("text") => {
                let block = found.last_mut().expect("output stands below commands");
                assert_eq!(block.printed, None, "line {number}: two outputs");
                block.printed = Some(text);
            }
            _ => {}
        }
    }
    found
}

/// A text whose IDs, times and widths of columns are all alike.
fn alike(text: &str) -> String {
    let mut result = String::new();
    let mut word = String::new();
    let in_word = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == 'µ';
    for c in text.chars().chain(['\0']) {
        if in_word(c) {
            word.push(c);
            continue;
        }
        let hex = word.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = word.len() > unit.len();
        let plain = match () {
            () if hex && (13..=16).contains(&word.len()) => "<id>",
            () if number && ["s", "ms", "µs"].contains(&unit) => "<time>",
            () => word.as_str(),
        };
        result.push_str(plain);
        word.clear();
        let wide = [' ', '─'].contains(&c) && result.ends_with(c);
        if c != '\0' && !wide {
            result.push(c);
        }
    }
    result
}

/// Whether a line is as the guide has it; `…` stands for anything.
fn line_is(line: &str, wanted: &str) -> bool {
    let mut parts = wanted.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    for (at, part) in parts.iter().enumerate() {
        let found = match at + 1 == parts.len() {
            true => rest
                .len()
                .checked_sub(part.len())
                .filter(|_| rest.ends_with(part)),
            false => rest.find(part),
        };
        let Some(found) = found else {
            return false;
        };
        rest = &rest[found + part.len()..];
    }
    rest.is_empty()
}

/// Whether lines are as the guide has them; one of `…` alone stands for any number of them.
fn lines_are(lines: &[String], wanted: &[String]) -> bool {
    match (wanted.split_first(), lines.split_first()) {
        (None, first) => first.is_none(),
        (Some((any, rest)), first) if any == "…" => {
            lines_are(lines, rest) || first.is_some_and(|(_, lines)| lines_are(lines, wanted))
        }
        (Some((line, rest)), Some((first, lines))) => {
            line_is(first, line) && lines_are(lines, rest)
        }
        (Some(_), None) => false,
    }
}

/// Why an output is not as the guide has it. Order counts for nothing among lines that begin with an address (the fastest
/// is the first) or an ID.
fn difference(printed: &str, wanted: &str) -> Option<String> {
    let lines = |text: &str| {
        let mut lines: Vec<String> = alike(text)
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect();
        lines.retain(|line| !line.is_empty());
        let listed = |line: &String| line.starts_with("http") || line.starts_with("<id>,");
        for list in lines.chunk_by_mut(|before, after| listed(before) && listed(after)) {
            list.sort();
        }
        lines
    };
    // What etcdctl logs of attempts that were followed by others comes on a busy machine only.
    let attempts = |line: &String| !line.starts_with(r#"{"level":"warn""#);
    let (mut seen, wanted_lines) = (lines(printed), lines(wanted));
    seen.retain(attempts);
    let same = lines_are(&seen, &wanted_lines);
    (!same).then(|| format!("printed:\n{printed}\nin the guide:\n{wanted}"))
}

/// A shell, the folders of the machines, and what is put in the place of addresses.
struct Desk {
    dir: tempfile::TempDir,
    shell: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    ports: [u16; 3],
    _held: Ports,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("ferrite-guide-")
            .tempdir()
            .expect("a folder");
        let machines = dir.path().join("machines");
        let bin = dir.path().join("bin");
        let theirs = machines.join("bin");
        for folder in [&bin, &theirs, &dir.path().join("desk")] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        for (folder, name, text) in [
            (&bin, "ssh", include_str!("machines/ssh")),
            (&bin, "scp", include_str!("machines/scp")),
            (&theirs, "systemctl", include_str!("machines/systemctl")),
            (&theirs, "apt-get", include_str!("machines/apt-get")),
            (&theirs, "chown", include_str!("machines/nothing")),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("a script");
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("its mode");
        }
        let desk = dir.path().join("desk");
        // What the guides call it has the version in it.
        let package = concat!("ferrite-etcd_", env!("CARGO_PKG_VERSION"), "-1_amd64.deb");
        std::fs::write(desk.join(package), "").expect("a file");

        let mut held = Ports::default();
        let ports = [(); 3].map(|()| free(&mut held));
        let mut command = Command::new("bash");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD") {
                command.env_remove(name);
            }
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = command
            .current_dir(&desk)
            .env(
                "PATH",
                format!("{}:{}:{path}", bin.display(), programs().display()),
            )
            .env("MACHINES", &machines)
            .env(
                "ORACLE",
                std::env::var_os("ETCD_ORACLE_DIR").unwrap_or_default(),
            )
            .env("UNITS", xtask::root().join("deploy/systemd"))
            // Five seconds are for a cluster that has its machines to itself.
            .env("ETCDCTL_COMMAND_TIMEOUT", "20s")
            .env("ETCDCTL_DIAL_TIMEOUT", "10s")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash is here");
        let input = shell.stdin.take().expect("its input");
        let output = BufReader::new(shell.stdout.take().expect("its output"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                if sender
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    return;
                }
            }
        });
        let mut desk = Self {
            dir,
            shell,
            input,
            lines,
            ports,
            _held: held,
        };
        desk.send(&format!(
            "exec 2>&1\nset -o errtrace\ntrap 'echo \"{FAILED} $? $BASH_COMMAND\"' ERR\n"
        ));
        desk
    }

    fn send(&mut self, text: &str) {
        self.input
            .write_all(text.as_bytes())
            .expect("the shell reads");
        self.input.flush().expect("the shell reads");
    }

    /// The text with addresses that are here.
    fn here(&self, text: &str) -> String {
        let [clients, members, metrics] = self.ports;
        text.replace("10.0.0.", "127.0.0.")
            .replace(":2379", &format!(":{clients}"))
            .replace(":2380", &format!(":{members}"))
            .replace(":2381", &format!(":{metrics}"))
            .replace("8589934592", "16777216")
    }

    /// Types one block; what it printed, and which command failed.
    fn type_in(&mut self, block: &Block) -> (String, Option<String>) {
        let file = self.dir.path().join("block");
        std::fs::write(&file, self.here(&block.commands)).expect("a file");
        self.send(&format!("source '{}'\necho '{END}'\n", file.display()));
        let start = Instant::now();
        let (mut printed, mut failed) = (String::new(), None);
        loop {
            match self
                .lines
                .recv_timeout(LIMIT.saturating_sub(start.elapsed()))
            {
                Ok(line) if line.ends_with(END) => {
                    printed.push_str(line.trim_end_matches(END));
                    return (printed, failed);
                }
                Ok(line) if line.starts_with(FAILED) => failed = failed.or(Some(line)),
                Ok(line) => {
                    printed.push_str(&line);
                    printed.push('\n');
                }
                Err(RecvTimeoutError::Timeout) => panic!(
                    "{}, line {}: not done after {LIMIT:?}:\n{}\nprinted so far:\n{printed}\n{}",
                    block.section,
                    block.line,
                    block.commands,
                    self.logs()
                ),
                Err(RecvTimeoutError::Disconnected) => panic!(
                    "{}, line {}: the shell ended:\n{printed}",
                    block.section, block.line
                ),
            }
        }
    }

    /// Does what a block says, and holds what comes of it against the guide.
    fn follow(&mut self, block: &Block) {
        let start = Instant::now();
        let mut first = None;
        loop {
            let (printed, failed) = self.type_in(block);
            let wrong = match (&failed, &block.printed) {
                (Some(failed), _) if !block.fails => Some(format!("{failed}\n{printed}")),
                (_, Some(wanted)) => difference(&printed, &self.here(wanted)),
                _ => None,
            };
            let Some(wrong) = wrong else {
                return;
            };
            let again = block.retry && start.elapsed() < LIMIT;
            assert!(
                again,
                "{}, line {}:\n{}\n{wrong}\n{}\nwhat was wrong first: {first:?}",
                block.section,
                block.line,
                block.commands,
                self.logs()
            );
            first.get_or_insert(wrong);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The ends of the members' logs, for whoever reads a failure.
    fn logs(&self) -> String {
        let mut all = String::new();
        for machine in self.machines() {
            let Ok(log) = std::fs::read_to_string(machine.join("log")) else {
                continue;
            };
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(8)..];
            all += &format!("--- {}\n{}\n", machine.display(), last.join("\n"));
        }
        all
    }

    fn machines(&self) -> Vec<PathBuf> {
        let found = std::fs::read_dir(self.dir.path().join("machines"));
        found
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        for machine in self.machines() {
            if let Ok(pid) = std::fs::read_to_string(machine.join("pid")) {
                let mut kill = Command::new("kill");
                let _ = kill.args(["-9", pid.trim()]).stderr(Stdio::null()).status();
            }
        }
    }
}

/// A port that is free on the address of every machine.
fn free(held: &mut Ports) -> u16 {
    loop {
        let port = held.take();
        let everywhere =
            (2..=6).all(|host| TcpListener::bind((Ipv4Addr::new(127, 0, 0, host), port)).is_ok());
        if everywhere {
            return port;
        }
    }
}

fn guide(name: &str) -> Vec<Block> {
    let path = xtask::root().join("docs").join(name);
    let text =
        std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let found = blocks(&text);
    assert!(found.len() > 5, "{name} has {} blocks", found.len());
    found
}

/// What the guides take for granted is here.
fn tools() -> bool {
    for (program, word) in [
        ("bash", "--version"),
        ("openssl", "version"),
        ("curl", "--version"),
    ] {
        let answer = Command::new(program)
            .arg(word)
            .stdout(Stdio::null())
            .status();
        if !answer.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: {program} is not here");
            return false;
        }
    }
    Path::new("/bin/sh").exists()
}

#[test]
fn operations_as_the_guide_says() {
    if !tools() {
        return;
    }
    let mut desk = Desk::new();
    for block in guide("operations.md") {
        desk.follow(&block);
    }
}

/// The cluster is that of the other guide, before one of its members is replaced.
#[test]
fn disasters_as_the_guide_says() {
    if !tools() {
        return;
    }
    let mut desk = Desk::new();
    let before = guide("operations.md");
    for block in before
        .iter()
        .take_while(|block| !block.section.starts_with("8."))
    {
        desk.follow(block);
    }
    for block in guide("disaster-recovery.md") {
        desk.follow(&block);
    }
}

/// The cluster is that of the other guide, of the original's members.
#[test]
fn an_upgrade_and_back_as_the_guide_says() {
    if !tools() || oracle().is_none() {
        return;
    }
    let mut desk = Desk::new();
    let founding = guide("operations.md");
    let (before, rest) = founding.split_at(1);
    desk.follow(&before[0]);
    desk.follow(&Block {
        commands: "for m in m1 m2 m3; do ssh $m apt-get install etcd-server; done\n".to_owned(),
        ..Block::default()
    });
    for block in rest
        .iter()
        .take_while(|block| !block.section.starts_with("5."))
    {
        desk.follow(block);
    }
    for block in guide("upgrade.md") {
        desk.follow(&block);
    }
}

#[test]
fn guides_are_read_as_they_are_meant() {
    let text = "## One\n\n```sh retry\necho a\n```\n\nwords\n\n```text\na…\n```\n## Two\n<!-- test\nhidden\n-->\n\n    not typed\n";
    let found = blocks(text);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].printed.as_deref(), Some("a…\n"));
    assert!(found[0].retry && !found[0].fails);
    assert_eq!(
        (found[1].section.as_str(), found[1].commands.as_str()),
        ("Two", "hidden\n")
    );
    let healthy = "http://b is well: took = 3.1ms\nhttp://a is well: took = 12µs\n";
    let wanted = "http://a is well: took = 1s\nhttp://b is well: took = 1ms\n";
    assert_eq!(difference(healthy, wanted), None);
    assert_eq!(
        difference(
            "Member 8f21ff9cd6f9c2bb added\n",
            "Member 9021ff9cd6f9c2b added\n"
        ),
        None
    );
    assert!(difference("a\n", "b\n").is_some());
    assert_eq!(difference("a\nc\n", "a\n…\nc\n"), None);
    assert_eq!(difference("a\nb\nb\nc\n", "a\n…\nc\n"), None);
    assert!(difference("a\nb\n", "a\n…\nc\n").is_some());
    assert!(line_is("a, b, c", "a…b…c") && !line_is("a, b", "a…b…c") && line_is("x", "…"));
}
