//! The walkthrough's cluster as the containers of `docker-compose.yml`, handled by the commands of the user's document.
//!
//! It runs under a Compose project name of its own, so that the volumes of a cluster that the user has are never
//! touched; the container names are fixed by the document, so two clusters cannot stand at once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::bed::{Bed, Ending, Stop};
use crate::error::{Error, Result};
use crate::process::{Journal, Process};
use crate::report::Report;
use crate::run;
use crate::spec::{MEMBERS, MemberSpec};

/// The Compose project of the walkthrough; everything that carries it is ours to remove.
const PROJECT: &str = "ferrite-walkthrough";

/// A command of the engine; generous, since it only bounds a hang.
const LIMIT: Duration = Duration::from_secs(60);

/// Where the image keeps the programs.
const CTL: &str = "/usr/local/bin/etcdctl";

/// Three containers.
pub struct Docker {
    root: PathBuf,
    compose: Vec<String>,
    image: String,
    specs: [MemberSpec; MEMBERS],
    followers: [Option<Process>; MEMBERS],
    journals: [Journal; MEMBERS],
    force: bool,
    /// Something may exist that [`Bed::clean_up`] has to remove.
    made: bool,
}

impl Docker {
    /// Prepares the cluster; nothing runs yet. `compose`: the Compose command to use, else the one found.
    /// `force`: remove containers that stand in the way.
    ///
    /// # Errors
    /// No Docker engine answers, or there is no Compose.
    pub fn new(root: &Path, image: &str, compose: Option<&str>, force: bool) -> Result<Self> {
        engine()?;
        Ok(Self {
            root: root.to_owned(),
            compose: find_compose(compose)?,
            image: image.to_owned(),
            specs: MemberSpec::compose(),
            followers: Default::default(),
            journals: Default::default(),
            force,
            made: false,
        })
    }

    fn compose(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.compose[0]);
        command
            .args(&self.compose[1..])
            .current_dir(&self.root)
            .env("FERRITE_IMAGE", &self.image)
            .args(["--project-name", PROJECT])
            .args(words);
        command
    }

    fn container(&self, member: usize) -> String {
        format!("etcd-{}-1", self.specs[member].name)
    }

    fn exec(&self, member: usize) -> Command {
        let mut command = Command::new("docker");
        command.arg("exec").arg(self.container(member));
        command
    }

    fn docker(&self, words: &[&str]) -> Result<String> {
        run::must(Command::new("docker").args(words), LIMIT)
    }

    /// Follows a container's log from `since` on, until the container ends.
    fn follow(&mut self, member: usize, since: SystemTime) -> Result<()> {
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut command = Command::new("docker");
        command
            .args(["logs", "--follow", "--since"])
            .arg(format!("{}.{:09}", since.as_secs(), since.subsec_nanos()))
            .arg(self.container(member));
        self.followers[member] = Some(Process::spawn(&mut command, &self.journals[member].sink())?);
        Ok(())
    }

    fn compose_up(&mut self) -> Result<()> {
        let since = SystemTime::now();
        self.made = true;
        run::must(&mut self.compose(&["up", "-d"]), Duration::from_secs(120))?;
        (0..MEMBERS).try_for_each(|member| self.follow(member, since))
    }

    /// Makes sure that the fixed container names are free, or were left by a run of ours.
    fn clear_the_way(&mut self) -> Result<()> {
        for member in 0..MEMBERS {
            let name = self.container(member);
            let label = "{{index .Config.Labels \"com.docker.compose.project\"}}";
            let owner = run::run(
                Command::new("docker").args(["container", "inspect", "--format", label, &name]),
                LIMIT,
            )?;
            if !owner.ok || owner.out.trim() == PROJECT {
                continue;
            }
            if !self.force {
                return Err(Error::told(format!(
                    "the container {name} exists already (Compose project {:?}), and the document fixes that name. \
                     End that cluster with `docker compose down` (its data stay in its volumes), or say --force \
                     to have its containers removed",
                    owner.out.trim()
                )));
            }
            self.docker(&["rm", "--force", &name])?;
        }
        // What a killed run of ours may have left.
        self.made = true;
        run::must(
            &mut self.compose(&["down", "-v", "--remove-orphans"]),
            LIMIT,
        )?;
        Ok(())
    }
}

/// Checks that a Docker engine answers.
///
/// # Errors
/// It does not; the message says what to do.
pub fn engine() -> Result<()> {
    match run::run(
        Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]),
        LIMIT,
    ) {
        Ok(ended) if ended.ok => Ok(()),
        Ok(ended) => Err(Error::told(format!(
            "no Docker engine answers ({}). Start it, or use the commands for loopback, which need none",
            ended.brief()
        ))),
        Err(why) => Err(Error::told(format!(
            "the program docker cannot be run ({why}). Install Docker, or use the commands for loopback, which need none"
        ))),
    }
}

fn find_compose(wanted: Option<&str>) -> Result<Vec<String>> {
    if let Some(wanted) = wanted {
        let words: Vec<String> = wanted.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() {
            return Err(Error::told("--compose names no command"));
        }
        return Ok(words);
    }
    if run::answers("docker", &["compose", "version"]) {
        return Ok(vec!["docker".to_owned(), "compose".to_owned()]);
    }
    if run::answers("docker-compose", &["version"]) {
        return Ok(vec!["docker-compose".to_owned()]);
    }
    Err(Error::told(
        "neither `docker compose` nor `docker-compose` is there: install Docker's Compose plugin",
    ))
}

impl Bed for Docker {
    fn specs(&self) -> &[MemberSpec; MEMBERS] {
        &self.specs
    }

    fn up(&mut self) -> Result<()> {
        self.clear_the_way()?;
        self.compose_up()
    }

    fn look(&mut self, report: &mut Report) -> Result<()> {
        let mut version = Command::new(&self.compose[0]);
        version
            .args(&self.compose[1..])
            .args(["version", "--short"]);
        let version = run::run(&mut version, LIMIT)?.out;
        report.note(&format!(
            "run with {} {}",
            self.compose.join(" "),
            version.trim()
        ));

        let table = self.docker(&["ps", "--format", "{{.Names}}\t{{.Command}}\t{{.Ports}}"])?;
        for (member, spec) in self.specs.iter().enumerate() {
            let want = format!(
                "{}\t\"etcd --name={}…\"\t2379-2380/tcp",
                self.container(member),
                spec.name
            );
            let found = table.lines().any(|line| line == want);
            let shown = if found {
                want.replace('\t', "  ")
            } else {
                format!("{table:?}")
            };
            report.check(found, &format!("docker ps shows {}", spec.name), &shown);
        }
        let script = "echo $ETCDCTL_API; cat /proc/1/comm; for p in etcd etcdctl etcdutl; do command -v $p; done; \
                      stat -c %a /var/lib/etcd/data";
        let seen = run::must(self.exec(0).args(["/bin/sh", "-c", script]), LIMIT)?;
        let want =
            "2\netcd\n/usr/local/bin/etcd\n/usr/local/bin/etcdctl\n/usr/local/bin/etcdutl\n700\n";
        report.check(
            seen == want,
            "the image: ETCDCTL_API=2, etcd is process 1, programs in /usr/local/bin, data directory 0700",
            if seen == want { "" } else { &seen },
        );
        let image = self.image.clone();
        let ports = self.docker(&[
            "image",
            "inspect",
            "--format",
            "{{json .Config.ExposedPorts}}",
            &image,
        ])?;
        report.check(
            ports.trim() == r#"{"2379/tcp":{},"2380/tcp":{}}"#,
            "the image exposes 2379 and 2380",
            ports.trim(),
        );
        let user = self.docker(&[
            "image",
            "inspect",
            "--format",
            "{{.Config.User}} {{index .Config.Labels \"org.opencontainers.image.version\"}}",
            &image,
        ])?;
        let want = concat!("65532:65532 ", env!("CARGO_PKG_VERSION"));
        report.check(
            user.trim() == want,
            "the image: its user is not root, its label names the version",
            user.trim(),
        );
        let name = self.container(0);
        let health = ["inspect", "--format", "{{.State.Health.Status}}", &name];
        let begun = Instant::now();
        let mut state = self.docker(&health)?;
        // Asked every ten seconds, each answer may take some.
        while state.trim() != "healthy" && begun.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(500));
            state = self.docker(&health)?;
        }
        report.check(
            state.trim() == "healthy",
            "the engine finds the member healthy",
            state.trim(),
        );
        let anyone = [
            "run",
            "--rm",
            "--user",
            "12345:54321",
            &image,
            "/bin/sh",
            "-c",
        ];
        let script = "etcd --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
                      >/tmp/log 2>&1 & n=0; \
                      until ETCDCTL_API=3 etcdctl put as anyone; do n=$((n+1)); [ $n -lt 30 ] || exit 1; sleep 0.2; done \
                      2>/dev/null; kill $!; wait $!; stat -c '%u %a' /var/lib/etcd/default.etcd";
        let ended = run::run(Command::new("docker").args(anyone).arg(script), LIMIT)?;
        let want = "OK\n12345 700\n";
        report.check(
            ended.out == want,
            "the image serves as any user (--user 12345:54321)",
            &ended.brief(),
        );
        Ok(())
    }

    fn down_and_up(&mut self) -> Result<()> {
        run::must(&mut self.compose(&["down"]), LIMIT)?;
        self.compose_up()
    }

    fn stop(&mut self, member: usize, how: Stop) -> Result<Ending> {
        let name = self.container(member);
        let (word, clean) = match how {
            Stop::Term => ("stop", "0"),
            Stop::Kill => ("kill", "137"),
        };
        self.docker(&[word, &name])?;
        let code = self.docker(&["container", "wait", &name])?;
        Ok(Ending {
            clean: code.trim() == clean,
            words: format!("exit status {}", code.trim()),
        })
    }

    fn start(&mut self, member: usize) -> Result<()> {
        let since = SystemTime::now();
        let name = self.container(member);
        self.docker(&["start", &name])?;
        self.follow(member, since)
    }

    fn etcdctl(&self, member: usize, words: &[&str]) -> Command {
        let mut command = self.exec(member);
        let line = format!("export ETCDCTL_API=3 && {CTL} {}", words.join(" "));
        command.args(["/bin/sh", "-c", &line]);
        command
    }

    fn member_list(&self, member: usize) -> Command {
        let mut command = self.exec(member);
        command.args(["etcdctl", "member", "list"]);
        command
    }

    fn shell(&self, member: usize) -> Command {
        let mut command = Command::new("docker");
        command
            .args(["exec", "--interactive", "--env", "ETCDCTL_API=3", "--env"])
            .arg(format!("CTL={CTL}"))
            .arg(self.container(member))
            .arg("/bin/sh");
        command
    }

    fn journal(&self, member: usize) -> &Journal {
        &self.journals[member]
    }

    fn clean_up(&mut self) {
        if std::mem::take(&mut self.made) {
            let down = run::must(
                &mut self.compose(&["down", "-v", "--remove-orphans"]),
                LIMIT,
            );
            if let Err(why) = down {
                crate::report::say(&format!("cleaning up: {why}"));
            }
        }
        self.followers = Default::default();
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.clean_up();
    }
}
