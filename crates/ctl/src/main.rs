//! `etcdctl`: etcd's command line client.
//!
//! From the command line to the exit code: [`run`] chooses the face (version 3, or version 2 where
//! `ETCDCTL_API=2`), finds the command in the table of [`commands`], reads flags and environment, lets
//! a module under [`cmd`] do the work, and turns a [`Failure`] into a line on standard error and a code.

mod child;
mod cmd;
mod commands;
mod concurrency;
mod diagnosis;
mod env;
mod examples;
mod exit;

use ferrite_cli::gofmt;
mod help;
mod metrics;
mod output;
mod prompt;
mod report;
mod session;
mod v2;

use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use commands::{Action, COMMANDS, Command, GLOBAL};
use exit::Failure;
use ferrite_cli::flags::{Flag, ParseError, Values};
use session::Session;

/// The version of etcd whose behaviour this is.
const ETCD_VERSION: &str = "3.7.1";
/// The version of its API.
const API_VERSION: &str = "3.7";

fn main() -> ExitCode {
    let arguments: Vec<Vec<u8>> = std::env::args_os()
        .skip(1)
        .map(OsStringExt::into_vec)
        .collect();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            report::err(&format!("Error: cannot start: {error}"));
            return ExitCode::from(exit::ERROR);
        }
    };
    let version2 = std::env::var_os(env::API).is_some_and(|v| v == "2");
    let result = runtime.block_on(async {
        if version2 {
            v2::run(&arguments).await
        } else {
            run(&arguments).await
        }
    });
    // A name lookup may still hang in another thread; nobody waits for it.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = &failure.message {
                report::err(&format!("Error: {message}"));
            }
            if let Some(hint) = &failure.hint {
                report::err(hint);
            }
            ExitCode::from(failure.code)
        }
    }
}

/// What `etcdctl version` prints.
fn version() -> String {
    format!(
        "etcdctl version: {ETCD_VERSION}\nAPI version: {API_VERSION}\nFerrite version: {}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// A command found on the command line.
struct Found {
    /// The commands from the top down to it.
    path: Vec<&'static Command>,
    /// The arguments without the commands' names.
    arguments: Vec<Vec<u8>>,
}

impl Found {
    fn command(&self) -> Option<&'static Command> {
        self.path.last().copied()
    }

    /// Flags that come from above: the global ones and those of the commands on the way.
    fn inherited(&self) -> Vec<&'static Flag> {
        let above = self.path.len().saturating_sub(1);
        let shared = self.path.iter().take(above).flat_map(|c| c.shared);
        GLOBAL.iter().chain(shared).collect()
    }

    /// All flags the command knows.
    fn known(&self) -> Vec<&'static Flag> {
        let own = self
            .path
            .last()
            .into_iter()
            .flat_map(|c| c.shared.iter().chain(c.flags));
        self.inherited().into_iter().chain(own).collect()
    }
}

/// Walks down the tree of commands; flags may stand before, between and after their names.
fn find(arguments: &[Vec<u8>]) -> Found {
    let mut found = Found {
        path: Vec::new(),
        arguments: arguments.to_vec(),
    };
    loop {
        let children = found.command().map_or(&COMMANDS[..], |c| c.children);
        let known = Values::new(found.known());
        let Some(index) = known.first_word(&found.arguments) else {
            return found;
        };
        let name = cmd::text(&found.arguments[index]);
        let Some(command) = commands::find(children, &name) else {
            return found;
        };
        found.arguments.remove(index);
        found.path.push(command);
    }
}

/// The version-3 face.
async fn run(arguments: &[Vec<u8>]) -> Result<(), Failure> {
    let found = find(arguments);
    let mut values = Values::new(found.known());
    let Some(command) = found.command() else {
        if let Some(index) = values.first_word(&found.arguments) {
            return Err(unknown_command(&cmd::text(&found.arguments[index])));
        }
        return match values.parse(&found.arguments) {
            Ok(_) | Err(ParseError::Help) => {
                report::out(help::root().as_bytes());
                Ok(())
            }
            Err(ParseError::Wrong { message, unknown }) => {
                Err(bad_flag(&found, &message, unknown.as_deref()))
            }
        };
    };
    let words = match values.parse(&found.arguments) {
        Ok(words) => words,
        Err(ParseError::Help) => {
            report::out(help::command(&found.path).as_bytes());
            return Ok(());
        }
        Err(ParseError::Wrong { message, unknown }) => {
            return Err(bad_flag(&found, &message, unknown.as_deref()));
        }
    };
    match command.action {
        Action::Help => {
            report::out(help::command(&found.path).as_bytes());
            if let Some(word) = words.first() {
                // The original prints help and succeeds; at least say what was not understood.
                let typed = cmd::text(word);
                report::err(&misnamed(&found.path, &typed));
                // A script of an older version that goes on would start an empty member.
                if commands::moved(&names(&found.path), &typed).is_some() {
                    return Err(Failure {
                        code: exit::ERROR,
                        message: None,
                        hint: None,
                    });
                }
            }
            Ok(())
        }
        Action::HelpTopic => help_topic(&words),
        Action::Options => {
            report::out(help::options().as_bytes());
            Ok(())
        }
        Action::Version => {
            report::out(version().as_bytes());
            Ok(())
        }
        action => dispatch(action, &found, values, &words).await,
    }
}

/// Runs a command that talks to members. Its arguments are judged before the environment and the
/// global flags, as in the original.
async fn dispatch(
    action: Action,
    found: &Found,
    mut values: Values,
    words: &cmd::Words,
) -> Result<(), Failure> {
    use cmd::{
        auth, check, completion, downgrade, drill, elect, endpoint, kv, lease, lock, maintenance,
        member, mirror, role, top, txn, user, watch,
    };
    let open = |mut values: Values| {
        env::apply(&mut values, &found.inherited(), std::env::vars_os())?;
        Session::new(values)
    };
    match action {
        Action::Put => {
            let request = kv::put_request(&values, words, &mut std::io::stdin().lock())?;
            kv::put(&open(values)?, request).await
        }
        Action::Get => {
            let request = kv::get_request(&values, words)?;
            kv::get(&open(values)?, request).await
        }
        Action::Del => {
            let request = kv::del_request(&values, words)?;
            kv::del(&open(values)?, request).await
        }
        Action::Txn => {
            txn::check(words)?;
            txn::run(&open(values)?).await
        }
        Action::Compaction => {
            let request = kv::compaction_request(&values, words)?;
            kv::compaction(&open(values)?, request).await
        }
        Action::LeaseGrant => {
            let request = lease::grant_request(words)?;
            lease::grant(&open(values)?, request).await
        }
        Action::LeaseRevoke => {
            let id = lease::revoke_id(words)?;
            lease::revoke(&open(values)?, id).await
        }
        Action::LeaseTimeToLive => {
            // The number is read last, as in the original.
            let id = lease::time_to_live_id(words);
            if words.len() != 1 {
                return id.map(drop);
            }
            let session = open(values)?;
            lease::time_to_live(&session, id?).await
        }
        Action::LeaseList => lease::list(&open(values)?).await,
        Action::LeaseKeepAlive => {
            let id = lease::keep_alive_id(words)?;
            lease::keep_alive(&open(values)?, id).await
        }
        Action::MemberAdd => {
            let (name, request) = member::add_request(&values, words)?;
            member::add(&open(values)?, name, request).await
        }
        Action::MemberRemove => {
            let request = member::remove_request(words)?;
            member::remove(&open(values)?, request).await
        }
        Action::MemberUpdate => {
            let request = member::update_request(&values, words)?;
            member::update(&open(values)?, request).await
        }
        Action::MemberList => {
            let request = member::list_request(&values)?;
            member::list(&open(values)?, request).await
        }
        Action::MemberPromote => {
            let request = member::promote_request(words)?;
            member::promote(&open(values)?, request).await
        }
        Action::EndpointHealth => endpoint::health(&open(values)?).await,
        Action::EndpointStatus => endpoint::status(&open(values)?).await,
        Action::EndpointHashKv => endpoint::hash_kv(&open(values)?).await,
        Action::MoveLeader => {
            let target = maintenance::move_leader_target(words)?;
            maintenance::move_leader(&open(values)?, target).await
        }
        Action::AlarmList => {
            maintenance::check_alarm(words, "list")?;
            maintenance::alarm_list(&open(values)?).await
        }
        Action::AlarmDisarm => {
            maintenance::check_alarm(words, "disarm")?;
            maintenance::alarm_disarm(&open(values)?).await
        }
        Action::Defrag => maintenance::defrag(&open(values)?).await,
        Action::SnapshotSave => {
            let path = maintenance::snapshot_path(words)?;
            let limited = values.changed("command-timeout");
            env::apply(&mut values, &found.inherited(), std::env::vars_os())?;
            maintenance::snapshot_save(&Session::new(values)?, &path, limited).await
        }
        Action::Watch => {
            let environment = watch::Environment::read()?;
            if values.bool("interactive") {
                return watch::interactive(&open(values)?, &environment).await;
            }
            let order = watch::order(&environment, found.known(), &found.arguments)?;
            watch::once(&open(values)?, order).await
        }
        Action::AuthEnable => {
            auth::check(words, "enable")?;
            auth::enable(&open(values)?).await
        }
        Action::AuthDisable => {
            auth::check(words, "disable")?;
            auth::disable(&open(values)?).await
        }
        Action::AuthStatus => {
            auth::check(words, "status")?;
            auth::status(&open(values)?).await
        }
        Action::UserAdd => {
            let request = user::add_request(&values, words)?;
            user::add(&open(values)?, request).await
        }
        Action::UserDelete => {
            let name = user::name(words, "delete")?;
            user::delete(&open(values)?, name).await
        }
        Action::UserGet => {
            let name = user::name(words, "get")?;
            user::get(&open(values)?, name).await
        }
        Action::UserList => {
            user::check_list(words)?;
            user::list(&open(values)?).await
        }
        Action::UserPasswd => {
            let request = user::passwd_request(&values, words)?;
            user::passwd(&open(values)?, request).await
        }
        Action::UserGrantRole => {
            let refusal = "user grant command requires user name and role name as its argument";
            let (user, role) = user::user_and_role(words, refusal)?;
            user::grant_role(&open(values)?, user, role).await
        }
        Action::UserRevokeRole => {
            let refusal = "user revoke-role requires user name and role name as its argument";
            let (user, role) = user::user_and_role(words, refusal)?;
            user::revoke_role(&open(values)?, user, role).await
        }
        Action::RoleAdd => {
            let name = role::name(words, "add")?;
            role::add(&open(values)?, name).await
        }
        Action::RoleDelete => {
            let name = role::name(words, "delete")?;
            role::delete(&open(values)?, name).await
        }
        Action::RoleGet => {
            let name = role::name(words, "get")?;
            role::get(&open(values)?, name).await
        }
        Action::RoleList => {
            role::check_list(words)?;
            role::list(&open(values)?).await
        }
        Action::RoleGrantPermission => {
            let request = role::grant_request(&values, words)?;
            role::grant(&open(values)?, request).await
        }
        Action::RoleRevokePermission => {
            let (request, key) = role::revoke_request(&values, words)?;
            role::revoke(&open(values)?, request, key).await
        }
        Action::DowngradeValidate => {
            let version = downgrade::version(words)?;
            downgrade::validate(&open(values)?, version).await
        }
        Action::DowngradeEnable => {
            let version = downgrade::version(words)?;
            downgrade::enable(&open(values)?, version).await
        }
        Action::DowngradeCancel => downgrade::cancel(&open(values)?).await,
        Action::Lock => {
            let (name, command) = lock::name(words)?;
            lock::run(&open(values)?, name, command).await
        }
        Action::Elect => match elect::arguments(&values, words)? {
            (name, Some(proposal)) => elect::campaign(&open(values)?, name, proposal).await,
            (name, None) => elect::listen(&open(values)?, name).await,
        },
        Action::CheckPerf => check::perf(&open(values)?).await,
        Action::CheckDatascale => check::datascale(&open(values)?).await,
        Action::MakeMirror => {
            let plan = mirror::plan(&values, words)?;
            mirror::run(&open(values)?, plan).await
        }
        Action::Top => {
            let plan = top::plan(&values, words)?;
            top::run(&open(values)?, plan).await
        }
        Action::Drill => {
            let plan = drill::plan(&values, words)?;
            drill::run(&open(values)?, plan).await
        }
        Action::Completion => completion::print(words),
        Action::Help | Action::HelpTopic | Action::Options | Action::Version => Ok(()),
    }
}

/// `etcdctl help …`.
fn help_topic(words: &cmd::Words) -> Result<(), Failure> {
    let mut path = Vec::new();
    let mut children = &COMMANDS[..];
    for word in words {
        let name = cmd::text(word);
        let Some(command) = commands::find(children, &name) else {
            // The original prints help and succeeds; at least say what was not understood.
            if path.is_empty() {
                let all: Vec<String> = words
                    .iter()
                    .map(|w| format!("`{}`", cmd::text(w)))
                    .collect();
                report::err(&format!("Unknown help topic [{}]", all.join(" ")));
                if let Some(hint) = suggestion(children, &name) {
                    report::err(hint.trim());
                }
                report::out(help::root().as_bytes());
            } else {
                report::err(&misnamed(&path, &name));
                report::out(help::command(&path).as_bytes());
            }
            return Ok(());
        };
        path.push(command);
        children = command.children;
    }
    report::out(help::command(&path).as_bytes());
    Ok(())
}

fn suggestion(children: &'static [Command], typed: &str) -> Option<String> {
    let names = ferrite_cli::similar(children.iter().map(|c| c.name), typed);
    if names.is_empty() {
        return None;
    }
    let mut text = "\nDid you mean this?\n".to_owned();
    for name in names {
        text.push_str(&format!("\t{name}\n"));
    }
    Some(text)
}

/// A line that says where something has gone, if it has.
fn pointer(command: &str, word: &str) -> String {
    commands::moved(command, word).map_or_else(String::new, |now| {
        format!("This works on files, and is done by another program: {now}\n")
    })
}

fn unknown_command(typed: &str) -> Failure {
    let mut hint = pointer("etcdctl", typed);
    hint += &suggestion(&COMMANDS, typed).map_or_else(String::new, |s| s + "\n");
    hint.push_str("Run 'etcdctl --help' for usage.");
    Failure {
        code: exit::ERROR,
        message: Some(format!(
            "unknown command {} for \"etcdctl\"",
            gofmt::quote(typed.as_bytes())
        )),
        hint: Some(hint),
    }
}

fn names(path: &[&'static Command]) -> String {
    let names: Vec<&str> = ["etcdctl"]
        .into_iter()
        .chain(path.iter().map(|c| c.name))
        .collect();
    names.join(" ")
}

fn misnamed(path: &[&'static Command], typed: &str) -> String {
    let children = path.last().map_or(&COMMANDS[..], |c| c.children);
    let names = names(path);
    let text = format!(
        "unknown command {} for \"{names}\"{}\n{}",
        gofmt::quote(typed.as_bytes()),
        suggestion(children, typed).unwrap_or_default().trim_end(),
        pointer(&names, typed)
    );
    text.trim_end().to_owned()
}

fn bad_flag(found: &Found, message: &str, unknown: Option<&str>) -> Failure {
    let known = found.known();
    let similar = unknown
        .map(|typed| ferrite_cli::similar(known.iter().map(|f| f.name), typed))
        .unwrap_or_default();
    let names = names(&found.path);
    let mut hint = pointer(&names, unknown.unwrap_or_default());
    if let Some(at) = Values::new(known).first_word(&found.arguments) {
        hint += &pointer(&names, &cmd::text(&found.arguments[at]));
    }
    if let (Some(name), true) = (similar.first(), hint.is_empty()) {
        hint.push_str(&format!("Did you mean --{name}?\n"));
    }
    hint.push_str(&format!("Run '{names} --help' for usage."));
    Failure {
        code: exit::ERROR,
        message: Some(message.to_owned()),
        hint: Some(hint),
    }
}
