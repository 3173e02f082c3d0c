//! `top` on a terminal and without one, of a whole cluster and of one in trouble.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::{Terminal, cluster_of, eventually, oracle, ours, run, servers};

#[test]
fn a_cluster_is_seen_at_a_glance() {
    let Some(dir) = oracle() else { return };
    let server = servers(&dir).pop().unwrap();
    let (_data, mut members) = cluster_of(&server, 3, &[]);
    let endpoints: Vec<&str> = members.iter().map(|m| &m.endpoint[..]).collect();
    let endpoints = endpoints.join(",");
    let top = |more: &[&str]| {
        let args = ["--endpoints", &endpoints, "top", "--interval=100ms"];
        run(&ours(), &[], &[&args[..], more].concat(), b"")
    };
    let text = top(&["--once"]);
    assert_eq!((text.code, &text.stderr[..]), (Some(0), ""), "{text:?}");
    let lines: Vec<&str> = text.stdout.lines().collect();
    assert!(
        lines[0].contains("   3 of 3 members answer   leader m"),
        "{text:?}"
    );
    assert!(lines[1].starts_with("writes "), "{text:?}");
    assert!(lines[3].starts_with("NAME  ID "), "{text:?}");
    for (name, line) in ["m0", "m1", "m2"].iter().zip(&lines[4..]) {
        assert!(
            line.starts_with(name) && line.ends_with("3.7.1"),
            "{text:?}"
        );
    }
    assert_eq!(text.stdout.matches("  leader    ").count(), 1, "{text:?}");
    assert_eq!(text.stdout.matches("  follower  ").count(), 2, "{text:?}");
    assert_eq!(lines.len(), 7, "a healthy cluster needs no word: {text:?}");

    members[2].kill();
    // If that one led, another has to first.
    eventually("what is left of the cluster", || {
        let json = top(&["--once", "-w", "json"]);
        assert_eq!(json.code, Some(0), "{json:?}");
        json.stdout.contains("\"name\":\"m2\",\"id\":")
            && json.stdout.contains("\"answers\":false,\"error\":\"")
            && json.stdout.matches("\"role\":\"leader\"").count() == 1
            && json.stdout.contains("the next loss stops all writes")
            && json.stdout.lines().count() == 1
    });
    let text = top(&["--once"]).stdout;
    assert!(text.contains("   2 of 3 members answer   "), "{text}");
    assert!(
        text.contains("Note: 1 of 3 members did not answer"),
        "{text}"
    );
}

#[test]
fn a_terminal_is_drawn_on_and_given_back() {
    let Some(dir) = oracle() else { return };
    let server = servers(&dir).pop().unwrap();
    let (_data, members) = cluster_of(&server, 1, &[]);
    let mut terminal = Terminal::open();
    let before = rustix::termios::tcgetattr(terminal.slave()).unwrap();
    for key in [b"q", b"\x03"] {
        let mut child = Command::new(ours())
            .args([
                "--endpoints",
                &members[0].endpoint,
                "top",
                "--interval=100ms",
            ])
            .stdin(terminal.slave())
            .stdout(terminal.slave())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut screen = String::new();
        // Drawn twice.
        terminal.until(&mut screen, "\x1b[J");
        terminal.until(&mut screen, "\x1b[J");
        assert!(screen.starts_with("\x1b[?1049h\x1b[?25l"), "{screen:?}");
        assert!(
            screen.contains("etcdctl top   every 100ms   q ends it"),
            "{screen:?}"
        );
        assert!(
            screen.contains("1 of 1 members answer   leader m0"),
            "{screen:?}"
        );
        if key == b"\x03" {
            // The terminal is not the test's own, so that it turns no key into a signal.
            let pid = child.id().to_string();
            let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
            assert!(sent.success());
        } else {
            terminal.master.write_all(key).unwrap();
        }
        terminal.until(&mut screen, "\x1b[?25h\x1b[?1049l");
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let after = rustix::termios::tcgetattr(terminal.slave()).unwrap();
        assert_eq!(after.local_modes, before.local_modes);
    }
}

#[test]
fn what_top_cannot_do_is_said() {
    for (args, code, error) in [
        (&["x"][..], 128, "top command accepts no arguments"),
        (
            &["--interval=1ms"],
            128,
            "--interval must be 100ms at least",
        ),
        (
            &["-w", "fields"],
            4,
            "fields not supported as output format",
        ),
        (
            &["--endpoints=127.0.0.1:1", "--interval=100ms", "--once"],
            1,
            "no member answers",
        ),
    ] {
        let run = run(&ours(), &[], &[&["top"][..], args].concat(), b"");
        assert_eq!(
            (run.code, run.stderr),
            (Some(code), format!("Error: {error}\n")),
            "{args:?}"
        );
    }
}
