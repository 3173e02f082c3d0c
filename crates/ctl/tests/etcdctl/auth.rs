//! Users, roles and authentication: the same steps with the original's program on one server and with
//! ours on another, compared step by step; and passwords typed at a terminal.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{
    Member, Run, Running, Terminal, at_each, cluster, cluster_of, cluster_with, oracle, ours, run,
    servers,
};

/// IDs of members, clusters and leases differ between two servers.
fn without_ids(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    let names = ["_id\":", "ClusterID\" : ", "MemberID\" : "];
    while let Some((at, name)) = names
        .iter()
        .filter_map(|n| rest.find(n).map(|at| (at, n)))
        .min()
    {
        let (before, after) = rest.split_at(at + name.len());
        out.push_str(before);
        out.push('#');
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out + rest
}

struct Pair<'a> {
    dir: &'a Path,
    theirs: &'a Member,
    ours: &'a Member,
}

impl Pair<'_> {
    #[track_caller]
    fn step(&self, args: &[&str], stdin: &str) -> Run {
        let on = |program: &Path, endpoint: &str| {
            let all = [&["--endpoints", endpoint][..], args].concat();
            run(program, &[], &all, stdin.as_bytes())
        };
        // Both at once: it is the starting of programs that takes its time here.
        let (theirs, ours) = std::thread::scope(|scope| {
            let (program, endpoint) = (self.dir.join("etcdctl"), &self.theirs.endpoint[..]);
            let theirs = scope.spawn(move || on(&program, endpoint));
            let ours = on(&ours(), &self.ours.endpoint);
            (theirs.join().unwrap(), ours)
        });
        let mut expected = without_ids(&theirs.stdout);
        let mut shown = without_ids(&ours.stdout);
        if args.contains(&"fields") {
            // 3.7 leaves out a revision of zero.
            expected = expected.replace("\"Revision\" : 0\n", "");
        }
        if args.contains(&"protobuf") {
            // Only its length can be compared: the header holds the IDs, in ten bytes or nine.
            (expected, shown) = (String::new(), String::new());
        }
        // The original runs stty, which complains where there is no terminal.
        let errors: String = theirs
            .stderr
            .lines()
            .filter(|l| !l.starts_with("stty"))
            .map(|l| format!("{l}\n"))
            .collect();
        assert_eq!(
            (ours.code, &shown, &ours.stderr),
            (theirs.code, &expected, &errors),
            "{args:?}"
        );
        ours
    }
}

#[test]
fn users_and_roles_are_managed_as_with_the_originals() {
    let Some(dir) = oracle() else { return };
    for etcd in servers(&dir) {
        users_and_roles(&dir, &etcd);
    }
}

fn users_and_roles(dir: &Path, etcd: &Path) {
    let flags = ["--bcrypt-cost=4"];
    let (_a, one) = cluster_with(dir, 1, &flags);
    let (_b, two) = cluster_of(etcd, 1, &flags);
    let pair = Pair {
        dir,
        theirs: &one[0],
        ours: &two[0],
    };
    // Forms are made by the programs: what one server's answers come to in each is enough.
    let forms: &[&str] = if etcd.starts_with(dir) {
        &["simple"]
    } else {
        &["simple", "json", "fields", "table", "protobuf"]
    };
    for form in forms {
        let (user, role) = (format!("u-{form}"), format!("r-{form}"));
        let (user, role) = (user.as_str(), role.as_str());
        let with_password = format!("{user}:pw");
        let steps: &[&[&str]] = &[
            &["user", "add", &with_password],
            &["role", "add", role],
            &["role", "grant-permission", role, "read", "a"],
            &["role", "grant-permission", role, "readwrite", "b", "c"],
            &["role", "grant-permission", role, "write", "p", "--prefix"],
            &["role", "grant-permission", role, "WRITE", "q", "--from-key"],
            &["role", "grant-permission", role, "read", "", "--prefix"],
            &["role", "get", role],
            &["role", "list"],
            &["user", "grant-role", user, role],
            &["user", "get", user],
            &["user", "get", user, "--detail"],
            &["user", "list"],
            &["user", "revoke-role", user, role],
            &["role", "revoke-permission", role, "a"],
            &["user", "passwd", user, "--interactive=false"],
            &["auth", "status"],
            &["user", "delete", user],
            &["role", "delete", role],
        ];
        for step in steps {
            // What a range looks like concerns only how it is granted and how a role is shown.
            let again =
                step[1] == "grant-permission" && step[3] != "readwrite" && *form != "simple";
            if !again || step.contains(&"--from-key") {
                pair.step(&[step, &["-w", form][..]].concat(), "new\n");
            }
        }
    }
    for step in [
        &["role", "add", "r"][..],
        &["role", "add", "r"],
        &["role", "get", "r"],
        &["role", "grant-permission", "r", "readwrite", "b", "c"],
        &["role", "grant-permission", "r", "write", "p", "--prefix"],
        &["role", "grant-permission", "r", "write", "q", "--from-key"],
        &["role", "revoke-permission", "r", "b", "c"],
        &["role", "revoke-permission", "r", "p", "--prefix"],
        &["role", "revoke-permission", "r", "q", "--from-key"],
        &["role", "revoke-permission", "r", "q"],
        &["user", "add", "u:pw"],
        &["user", "add", "u:pw"],
        &["user", "grant-role", "u", "nosuch"],
        &["user", "revoke-role", "u", "r"],
        &["user", "get", "nobody"],
        &["role", "get", "nothing"],
        &["user", "delete", "nobody"],
        &["role", "delete", "nothing"],
        &["user", "add", "flag", "--new-user-password=x:y"],
        &["user", "add", "none", "--no-password"],
        &["user", "add", "piped", "--interactive=false"],
    ] {
        pair.step(step, "pw\n");
    }
    for stdin in ["", "a\n", "a\nb\n", "a b\na b\n", "x\nx"] {
        pair.step(&["user", "add", "typed"], stdin);
    }
    pair.step(&["user", "passwd", "typed"], "n\nn\n");
    for mistake in [
        &["user", "add"][..],
        &["user", "add", ":x"],
        &["user", "get"],
        &["user", "list", "x"],
        &["user", "delete"],
        &["user", "passwd"],
        &["user", "grant-role", "x"],
        &["user", "revoke-role", "x"],
        &["role", "add"],
        &["role", "get"],
        &["role", "delete", "a", "b"],
        &["role", "list", "x"],
        &["role", "grant-permission", "r", "read"],
        &["role", "grant-permission", "r", "nope", "k"],
        &[
            "role",
            "grant-permission",
            "r",
            "read",
            "a",
            "b",
            "--prefix",
        ],
        &[
            "role",
            "grant-permission",
            "r",
            "read",
            "a",
            "b",
            "--from-key",
        ],
        &[
            "role",
            "grant-permission",
            "r",
            "read",
            "a",
            "--prefix",
            "--from-key",
        ],
        &[
            "role",
            "grant-permission",
            "r",
            "read",
            "",
            "--prefix",
            "--from-key",
        ],
        &["role", "revoke-permission", "r"],
        &["auth", "status", "x"],
        &["auth", "enable", "x"],
        &["auth", "disable", "x"],
        &["auth", "enable"],
        &["auth", "disable"],
    ] {
        pair.step(mistake, "");
    }
}

#[test]
fn who_is_logged_in_may_do_what_is_granted() {
    let Some(dir) = oracle() else { return };
    for etcd in servers(&dir) {
        logins(&dir, &etcd);
    }
}

fn logins(dir: &Path, etcd: &Path) {
    let flags = ["--bcrypt-cost=4"];
    let (_a, one) = cluster_with(dir, 1, &flags);
    let (_b, two) = cluster_of(etcd, 1, &flags);
    let pair = Pair {
        dir,
        theirs: &one[0],
        ours: &two[0],
    };
    let root = "--user=root:pw";
    let user = ["--user", "u", "--password", "a:b"];
    for step in [
        // Without authentication a login is asked for in vain, and nobody minds.
        &[root, "put", "k", "v"][..],
        &["user", "add", "root:pw"],
        &["user", "add", "u", "--new-user-password=a:b"],
        &["role", "add", "r"],
        &["role", "grant-permission", "r", "readwrite", "k"],
        &["user", "grant-role", "u", "r"],
        // The role of root is made and granted on the way.
        &["auth", "enable"],
        &["get", "k"],
        &[root, "auth", "status"],
        &[root, "get", "k"],
        &["--user=root:wrong", "get", "k"],
        &["--user=nobody:pw", "get", "k"],
        &["--user=root", "--password=pw", "get", "k"],
        &["--user", "u", "--password", "a:b", "put", "k", "w"],
        &["--user", "u", "--password", "a:b", "get", "other"],
        &["--user", "u", "--password", "a:b", "del", "k", "--prefix"],
        &["--user", "u", "--password", "a:b", "user", "list"],
        &["--user", "u", "--password", "a:b", "watch", "other"],
        &[
            "--user",
            "u",
            "--password",
            "a:b",
            "watch",
            "k",
            "--rev=2",
            "--",
            "sh",
            "-c",
            "exit 3",
        ],
        &[
            root, "watch", "k", "--prefix", "--rev=2", "--", "sh", "-c", "exit 3",
        ],
        &["auth", "disable"],
        &[root, "user", "passwd", "u", "--interactive=false"],
    ] {
        pair.step(step, "new\n");
    }
    // What root's role permits is told since 3.6, also of a server that does not say so.
    let args = ["--endpoints", &two[0].endpoint, root, "role", "get", "root"];
    assert_eq!(
        run(&ours(), &[], &args, b"").stdout,
        "Role root\nKV Read:\n\t[, <open ended>\nKV Write:\n\t[, <open ended>\n"
    );
    pair.step(&["--user=root", "get", "k"], "pw\n");
    pair.step(&["--user=u", "get", "k", "-w", "json"], "new\n");
    pair.step(&["--user=u", "get", "k"], "");
    pair.step(&[&user[..], &["get", "k"]].concat(), "");
    pair.step(&[root, "auth", "disable"], "");
    pair.step(&["get", "k"], "");
}

#[test]
fn a_token_that_ran_out_is_fetched_anew() {
    let Some(dir) = oracle() else { return };
    at_each(&servers(&dir), a_long_command);
}

fn a_long_command(etcd: &Path) {
    let (_data, members) = cluster_of(etcd, 1, &["--bcrypt-cost=4", "--auth-token-ttl=1"]);
    let endpoint = members[0].endpoint.as_str();
    let our = |args: &[&str]| {
        let all = [&["--endpoints", endpoint][..], args].concat();
        let run = run(&ours(), &[], &all, b"");
        assert_eq!(run.code, Some(0), "{args:?} {run:?}");
        run.stdout
    };
    our(&["user", "add", "root:pw"]);
    our(&["auth", "enable"]);
    let user = "--user=root:pw";
    let args = ["--endpoints", endpoint, user, "lock", "l", "--ttl=60", "--"];
    // Longer than a token lives: the key is deleted with another one.
    let sleep = ["sh", "-c", "echo held; sleep 3"];
    let mut lock = Running::start(&ours(), &[&args[..], &sleep].concat());
    assert_eq!(lock.line(), "held");
    assert_eq!(lock.end(), Some(0));
    assert_eq!(our(&[user, "get", "l/", "--prefix", "--keys-only"]), "");
}

#[test]
fn a_terminal_does_not_show_passwords() {
    let Some(dir) = oracle() else { return };
    let (_data, members) = cluster(&dir, 1);
    let endpoint = members[0].endpoint.as_str();
    let mut terminal = Terminal::open();
    let spawn = |terminal: &Terminal, args: &[&str]| {
        Command::new(ours())
            .args(["--endpoints", endpoint])
            .args(args)
            .stdin(terminal.slave())
            .stdout(terminal.slave())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let before = rustix::termios::tcgetattr(terminal.slave()).unwrap();
    let mut child = spawn(&terminal, &["user", "add", "u"]);
    let mut screen = String::new();
    terminal.until(&mut screen, "Password of u: ");
    // A slip, and back.
    terminal.master.write_all(b"secreX\x7ft\n").unwrap();
    terminal.until(&mut screen, "Type password of u again for confirmation: ");
    terminal.master.write_all(b"secret\n").unwrap();
    terminal.until(&mut screen, "User u created\r\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(
        screen,
        "Password of u: \r\nType password of u again for confirmation: \r\nUser u created\r\n"
    );
    // Ctrl-C gives the terminal back as it was.
    let mut child = spawn(&terminal, &["user", "add", "v"]);
    terminal.until(&mut screen, "Password of v: ");
    terminal.master.write_all(b"se\x03").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let after = rustix::termios::tcgetattr(terminal.slave()).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
}
