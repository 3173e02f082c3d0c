//! The packages: what is in them, and a Debian that installs one, runs a member from it and removes it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ferrite_dev::{docker, image};
use xtask::package::{self, Kind, Options};

use crate::programs;

/// A Debian without anything else; made by one test, while others wait.
static BASE: LazyLock<String> = LazyLock::new(|| {
    image::base(&xtask::root(), None).unwrap_or_else(|why| panic!("no base image: {why}"))
});

/// For one command in a container, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn make(kind: Kind, out: &Path) -> PathBuf {
    let options = Options {
        linked_whole: false,
        bin_dir: Some(programs()),
        out: Some(out.to_owned()),
        tag: None,
    };
    let made = package::make(&[kind], &options);
    let mut made = made.unwrap_or_else(|why| panic!("{kind:?}: {why}"));
    made.remove(0)
}

fn output(command: &mut Command) -> String {
    let ended = command.stdin(Stdio::null()).output();
    let ended = ended.unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        ended.status.success(),
        "{command:?}: {}: {}{}",
        ended.status,
        text(&ended.stdout),
        text(&ended.stderr)
    );
    text(&ended.stdout)
}

fn has(program: &str) -> bool {
    let there = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !there {
        eprintln!("SKIPPED: {program} is not here");
    }
    there
}

/// Every file below a folder that is text.
fn texts(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            texts(&path, found);
        } else if path.extension().is_some_and(|end| end == "gz") {
            let text = output(Command::new("gzip").arg("-dc").arg(&path));
            found.push((path, text));
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            found.push((path, text));
        }
    }
}

#[test]
fn the_debian_package_has_what_it_should_and_is_the_same_each_time() {
    if !has("dpkg-deb") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let first = make(Kind::Deb, &dir.path().join("first"));
    let second = make(Kind::Deb, &dir.path().join("second"));
    let same =
        std::fs::read(&first).expect("it is there") == std::fs::read(&second).expect("it is there");
    assert!(same, "two packages of the same programs differ");

    let field = |name: &str| {
        let text = output(
            Command::new("dpkg-deb")
                .arg("--field")
                .arg(&first)
                .arg(name),
        );
        text.trim().to_owned()
    };
    assert_eq!(field("Package"), "ferrite-etcd");
    assert_eq!(field("Version"), format!("{}-1", env!("CARGO_PKG_VERSION")));
    for name in ["Provides", "Conflicts", "Replaces"] {
        assert_eq!(field(name), "etcd, etcd-client, etcd-server", "{name}");
    }
    assert!(
        field("Depends").contains("libc6 (>= 2."),
        "{}",
        field("Depends")
    );

    let list = output(Command::new("dpkg-deb").arg("--contents").arg(&first));
    let rights = |path: &str| {
        let end = format!(" ./{path}");
        let line = list.lines().find(|line| line.ends_with(&end));
        let line = line.unwrap_or_else(|| panic!("no {path} in\n{list}"));
        line.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    for program in ["etcd", "etcdctl", "etcdutl"] {
        assert_eq!(rights(&format!("usr/bin/{program}")), "-rwxr-xr-x");
        rights(&format!("usr/share/man/man1/{program}.1.gz"));
    }
    for path in [
        "etc/default/etcd",
        "lib/systemd/system/etcd.service",
        "lib/systemd/system/etcd-backup.service",
        "lib/systemd/system/etcd-backup.timer",
        "usr/share/bash-completion/completions/etcdctl",
        "usr/share/doc/ferrite-etcd/copyright",
        "usr/share/doc/ferrite-etcd/changelog.Debian.gz",
        "usr/share/doc/ferrite-etcd/third-party.txt.gz",
        "usr/share/doc/ferrite-etcd/docs/takeover.md",
        "usr/share/zsh/vendor-completions/_etcdctl",
    ] {
        assert_eq!(rights(path), "-rw-r--r--", "{path}");
    }
    for line in list.lines() {
        let owner = line.split_whitespace().nth(1);
        assert!(matches!(owner, Some("root/root" | "0/0")), "{line}");
    }

    let data = dir.path().join("data");
    output(
        Command::new("dpkg-deb")
            .arg("--raw-extract")
            .arg(&first)
            .arg(&data),
    );
    let conffiles = std::fs::read_to_string(data.join("DEBIAN/conffiles")).expect("conffiles");
    assert_eq!(conffiles, "/etc/default/etcd\n");
    let sums = data.join("DEBIAN/md5sums");
    output(
        Command::new("md5sum")
            .args(["--check", "--quiet"])
            .arg(sums)
            .current_dir(&data),
    );
    let mut found = Vec::new();
    texts(&data, &mut found);
    assert!(found.len() > 30, "{}", found.len());
    let here = xtask::root().display().to_string();
    for (path, text) in &found {
        assert!(!text.contains(&here), "{} names {here}", path.display());
    }
    let page = |name: &str| {
        let end = format!("man1/{name}.1.gz");
        let found = found.iter().find(|(path, _)| path.ends_with(&end));
        &found.expect("a page").1
    };
    assert!(page("etcd").contains("ETCD_QUOTA_BACKEND_BYTES"));
    assert!(page("etcdctl").contains(".SS etcdctl endpoint status"));
    assert!(page("etcdutl").contains("\\-\\-bump\\-revision"));
    // What `man` itself complains of, where it is there.
    if Command::new("man")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok()
    {
        for program in ["etcd", "etcdctl", "etcdutl"] {
            let page = data.join(format!("usr/share/man/man1/{program}.1.gz"));
            let mut man = Command::new("man");
            man.args(["--warnings", "--encoding=UTF-8", "--local-file"])
                .arg(page);
            let ended = man.env("MANWIDTH", "200").output().expect("man runs");
            let complaints = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert_eq!(complaints, "", "{program}");
        }
    }
    if Command::new("systemd-analyze")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok()
    {
        units_are_good(&data);
    }
}

/// The units with their programs where this machine has them, as systemd reads them.
fn units_are_good(data: &Path) {
    let units = data.join("lib/systemd/system");
    let mut files = Vec::new();
    for name in ["etcd.service", "etcd-backup.service", "etcd-backup.timer"] {
        let file = units.join(name);
        let text = std::fs::read_to_string(&file).expect("a unit");
        let bin = data.join("usr/bin/");
        let text = text.replace("/usr/bin/", &bin.display().to_string());
        // The page is not installed here.
        let text = text.replace("Documentation=man:etcd(1) ", "Documentation=");
        std::fs::write(&file, text).expect("a unit");
        files.push(file);
    }
    let mut verify = Command::new("systemd-analyze");
    let ended = verify.arg("verify").args(&files).output().expect("it runs");
    let complaints = String::from_utf8_lossy(&ended.stderr);
    // Other units of this machine may be wrong, too.
    let ours: Vec<&str> = complaints
        .lines()
        .filter(|line| line.contains("etcd"))
        .collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

#[test]
fn the_tar_unpacks_into_one_folder_that_says_how_to_install_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = make(Kind::Tar, dir.path());
    output(
        Command::new("tar")
            .arg("-xf")
            .arg(&file)
            .arg("-C")
            .arg(dir.path()),
    );
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a name");
    let folder = dir.path().join(name.trim_end_matches(".tar.gz"));
    let install = std::fs::read_to_string(folder.join("INSTALL")).expect("INSTALL");
    assert!(install.contains("glibc 2."), "{install}");
    for path in [
        "LICENSE",
        "systemd/etcd.service",
        "systemd/etcd.default",
        "share/man/man1/etcd.1.gz",
    ] {
        assert!(folder.join(path).is_file(), "{path}");
    }
    let version = output(Command::new(folder.join("bin/etcd")).arg("--version"));
    assert!(version.contains("etcd Version: 3.7.1"), "{version}");
}

/// A Debian in a container, gone with this.
struct Debian(String);

impl Debian {
    fn start() -> Option<Self> {
        if let Err(why) = docker::engine() {
            eprintln!("SKIPPED: installing the package in a container: {why}");
            return None;
        }
        let base = BASE.as_str();
        let mut run = Command::new("docker");
        run.args([
            "run",
            "--detach",
            "--rm",
            "--network=none",
            base,
            "sleep",
            "600",
        ]);
        Some(Self(output(&mut run).trim().to_owned()))
    }

    fn sh(&self, script: &str) -> String {
        output(Command::new("docker").args(["exec", &self.0, "/bin/sh", "-ec", script]))
    }

    /// The script again and again until it succeeds.
    fn wait(&self, script: &str) -> String {
        let start = Instant::now();
        loop {
            let mut exec = Command::new("docker");
            exec.args(["exec", &self.0, "/bin/sh", "-ec", script]);
            let ended = exec.output().expect("docker runs");
            if ended.status.success() {
                return String::from_utf8_lossy(&ended.stdout).into_owned();
            }
            let why = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert!(start.elapsed() < LIMIT, "{script}: {why}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        let mut remove = Command::new("docker");
        let _ = remove
            .args(["rm", "--force", &self.0])
            .stdout(Stdio::null())
            .status();
    }
}

/// What the unit starts, as its user, with its variables: systemd does not run in a container.
const START: &str = r#"
unit=/lib/systemd/system/etcd.service
export $(sed -n 's/^Environment=//p' $unit | sed "s/%H/$(hostname)/")
set -a; . /etc/default/etcd; set +a
cd /var/lib/etcd
eval "exec setpriv --reuid=etcd --regid=etcd --init-groups --no-new-privs $(sed -n 's/^ExecStart=//p' $unit)" > /var/log/etcd.log 2>&1
"#;

#[test]
fn a_debian_installs_it_runs_a_member_and_keeps_its_data() {
    let Some(debian) = Debian::start() else {
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let file = make(Kind::Deb, dir.path());
    let mut copy = Command::new("docker");
    output(
        copy.arg("cp")
            .arg(&file)
            .arg(format!("{}:/package.deb", debian.0)),
    );
    let said = debian.sh("dpkg --install /package.deb 2>&1");
    assert!(!said.contains("warning"), "{said}");
    let made = debian.sh("stat -c '%U %G %a' /var/lib/etcd; getent passwd etcd | cut -d: -f6,7");
    assert_eq!(made, "etcd etcd 700\n/var/lib/etcd:/usr/sbin/nologin\n");
    assert!(debian.sh("dpkg --verify ferrite-etcd").is_empty());

    let start = || {
        let mut exec = Command::new("docker");
        output(exec.args(["exec", "--detach", &debian.0, "/bin/sh", "-ec", START]));
    };
    start();
    assert_eq!(debian.wait("etcdctl put k v"), "OK\n");
    let seen = debian
        .sh("ps=$(pidof etcd); stat -c '%U' /proc/$ps; stat -c '%U %a' /var/lib/etcd/default");
    assert_eq!(seen, "etcd\netcd 700\n");

    // The same version again is an upgrade to dpkg: what was changed in the settings stays.
    debian.sh("echo 'ETCD_QUOTA_BACKEND_BYTES=33554432' >> /etc/default/etcd");
    debian.sh("dpkg --install /package.deb 2>&1");
    assert_eq!(debian.sh("etcdctl get k --print-value-only"), "v\n");
    debian.sh("kill $(pidof etcd)");
    debian.wait("! pidof etcd");
    start();
    assert_eq!(debian.wait("etcdctl get k --print-value-only"), "v\n");
    let said = debian.sh("grep -c 33554432 /var/log/etcd.log");
    assert_ne!(said, "0\n");
    debian.sh("kill $(pidof etcd)");
    debian.wait("! pidof etcd");

    let said = debian.sh("dpkg --purge ferrite-etcd 2>&1");
    assert!(said.contains("/var/lib/etcd is kept"), "{said}");
    let left = debian.sh("ls /var/lib/etcd; ls /etc/default/etcd /usr/bin/etcd 2>&1 || true");
    assert!(left.starts_with("default\n"), "{left}");
    assert_eq!(left.matches("No such file").count(), 2, "{left}");
}

/// An image of the engine's as a file: every part is what its name says, and the parts are what the image says.
#[test]
fn an_image_becomes_a_file_whose_parts_bear_their_hashes() {
    if let Err(why) = docker::engine() {
        eprintln!("SKIPPED: an image as a file: {why}");
        return;
    }
    let base = BASE.as_str();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("image.tar");
    let work = dir.path().join("work");
    package::oci::export(base, "1.2.3", &work, &file).unwrap_or_else(|why| panic!("{why}"));
    assert!(!work.exists());
    let layout = dir.path().join("layout");
    std::fs::create_dir(&layout).expect("a folder");
    output(
        Command::new("tar")
            .arg("-xf")
            .arg(&file)
            .arg("-C")
            .arg(&layout),
    );

    let sum = |script: &str, path: &Path| {
        let mut shell = Command::new("sh");
        let said = output(shell.args(["-c", script]).arg("sh").arg(path));
        said.split(' ').next().unwrap_or_default().trim().to_owned()
    };
    let json = |path: &Path| -> serde_json::Value {
        let bytes = std::fs::read(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        serde_json::from_slice(&bytes).expect("JSON")
    };
    // The file that a descriptor names.
    let named = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().expect("a digest");
        let hash = digest.strip_prefix("sha256:").expect("SHA-256");
        let path = layout.join("blobs/sha256").join(hash);
        assert_eq!(sum("sha256sum < \"$1\"", &path), hash);
        let size = std::fs::metadata(&path).expect("it is there").len();
        assert_eq!(descriptor["size"], size);
        path
    };
    assert_eq!(
        json(&layout.join("oci-layout"))["imageLayoutVersion"],
        "1.0.0"
    );
    let index = json(&layout.join("index.json"));
    let entry = &index["manifests"][0];
    assert_eq!(
        entry["annotations"]["org.opencontainers.image.ref.name"],
        "1.2.3"
    );
    assert_eq!(entry["platform"]["os"], "linux");
    let manifest = json(&named(entry));
    let config = json(&named(&manifest["config"]));
    let inside = config["rootfs"]["diff_ids"].as_array().expect("layers");
    let layers = manifest["layers"].as_array().expect("layers");
    assert!(!layers.is_empty() && layers.len() == inside.len());
    for (layer, inside) in layers.iter().zip(inside) {
        let path = named(layer);
        let unpacked = format!("sha256:{}", sum("gzip -dc \"$1\" | sha256sum", &path));
        assert_eq!(inside, &unpacked);
    }
}
