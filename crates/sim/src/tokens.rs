//! Simple tokens: clients log in at one member and show their tokens at all of them. Whoever takes one must be right,
//! by the log and by the clock of the member; whoever refuses one must have a reason.

use ferrite_apply::{AuthAnswer, Response};
use ferrite_node::Answer;
use ferrite_node::tokens::{Here, Look};
use ferrite_proto::etcdserverpb::{InternalAuthenticateRequest, InternalRaftRequest};

use crate::clients::{Owner, Reading};
use crate::member::name;
use crate::world::World;

/// Tokens that are shown again.
const KEPT: usize = 12;

/// A token that a client was given.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    user: String,
    prefix: String,
    /// What stands in it.
    index: u64,
    /// The entry that gave it out.
    entry: u64,
}

impl World {
    /// A client logs in, with a password that was the right one.
    pub(crate) fn logs_in(&mut self, place: usize, owner: Owner) {
        let name = ["root", "u0", "u1"][self.rng.below(3)];
        let request = InternalRaftRequest {
            authenticate: Some(InternalAuthenticateRequest {
                name: name.into(),
                simple_token: format!("t{}", self.next_id),
                ..InternalAuthenticateRequest::default()
            }),
            ..InternalRaftRequest::default()
        };
        self.stats.count("logins asked for");
        self.propose_as(place, owner, request, None);
    }

    /// Keeps what a login was answered with.
    pub(crate) fn keeps_token(&mut self, answer: &Answer, entry: u64) {
        let Ok(Response::Auth { answer, .. }) = answer else {
            return;
        };
        let AuthAnswer::Authenticated {
            user,
            prefix,
            index,
            ..
        } = answer
        else {
            return;
        };
        self.stats.count("tokens given out");
        if *index != entry && *index + 1 != entry {
            self.fail(format!("entry {entry} gave out a token of index {index}"));
        }
        if self.tokens.len() >= KEPT {
            self.tokens.remove(0);
        }
        self.tokens.push(Token {
            user: user.clone(),
            prefix: prefix.clone(),
            index: *index,
            entry,
        });
    }

    /// A client shows one of its tokens at a member.
    pub(crate) fn shows_token(&mut self, place: usize) {
        if self.tokens.is_empty() {
            return;
        }
        let token = self.tokens[self.rng.below(self.tokens.len())].clone();
        let life = self.members[place].life;
        self.looks_up(place, life, token, false);
    }

    /// As the server does for every call, waiting included.
    pub(crate) fn looks_up(&mut self, place: usize, life: u64, token: Token, asked: bool) {
        if !self.lives(place, life) {
            return;
        }
        let now = self.instant(place);
        let Some(running) = &self.members[place].running else {
            return;
        };
        let view = running.stages.apply.applier().auth().view().clone();
        if !view.enabled() {
            return;
        }
        let here = Here {
            applied: running.stages.apply.applier().progress().index,
            committed: running.status.committed(),
            asked,
        };
        let (prefix, index) = (&token.prefix, token.index);
        match running.tokens.look(prefix, index, here, now) {
            Look::User(user) => self.judge_token(place, &token, Some(user)),
            Look::Nobody => self.judge_token(place, &token, None),
            Look::Apply => {
                let id = self.request_id(place);
                let reading = Reading::Token {
                    life,
                    token,
                    asked: false,
                };
                self.reading.insert(id, reading);
                let Some(running) = &self.members[place].running else {
                    return;
                };
                if running.applied.wait(index, id).is_some() {
                    self.read(place, id);
                }
            }
            Look::Quorum => {
                let id = self.request_id(place);
                let reading = Reading::Token {
                    life,
                    token,
                    asked: true,
                };
                self.reading.insert(id, reading);
                self.linearizable(place, id);
            }
        }
    }

    fn judge_token(&mut self, place: usize, token: &Token, found: Option<String>) {
        let now = self.instant(place);
        let ttl = self.members[place].config.token_ttl;
        let Some(running) = self.members[place].running.as_mut() else {
            return;
        };
        let applied = running.stages.apply.applier().progress().index;
        let ended = self
            .model
            .auth()
            .token_ended(&token.user, token.entry, applied);
        let seen = running.tokens_seen.get(&token.prefix).copied();
        let over = seen.is_none_or(|(last, _)| now.saturating_duration_since(last) >= ttl);
        let moved = match seen {
            Some((_, moved)) => moved,
            None => token.entry <= running.from_database,
        };
        let wrong = match found {
            Some(user) if user != token.user => Some(format!("is taken for one of {user}")),
            Some(_) if ended => Some("is taken after its end in the log".into()),
            Some(_) if over => Some("is taken after its time, or was never given out here".into()),
            None if !ended && !moved && (seen.is_none() || !over) => Some("is refused".into()),
            Some(_) => {
                running
                    .tokens_seen
                    .insert(token.prefix.clone(), (now, moved));
                self.stats.count("tokens taken");
                None
            }
            None => {
                self.stats.count("tokens refused");
                None
            }
        };
        if let Some(wrong) = wrong {
            self.fail(format!(
                "{}: {token:?} {wrong} at applied index {applied}",
                name(place)
            ));
        }
    }
}
