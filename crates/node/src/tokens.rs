//! Simple tokens: letters that stand for a user on this member, as long as they are used.
//!
//! Every member that applies the same request gives the same token to the same user, but each keeps
//! its own account of when it was used last. Nothing of it is on disk.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ferrite_apply::TokenChange;
use ferrite_mutate::mutation;
use parking_lot::Mutex;

/// How often tokens are looked through for those that are over.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Token {
    user: String,
    index: u64,
    ends: Instant,
}

#[derive(Debug, Default)]
struct State {
    /// By their letters.
    tokens: BTreeMap<String, Token>,
    sweep_at: Option<Instant>,
}

/// What has to be known before anybody can say whose a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    /// Index applied on this member.
    pub applied: u64,
    /// Index committed, as far as this member knows.
    pub committed: u64,
    /// All that was committed when the token was shown is applied here.
    pub asked: bool,
}

/// Whose a token is, or what to do before that is asked again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// This user's.
    User(String),
    /// Nobody's, or nobody's any more.
    Nobody,
    /// Wait until the token's index is applied: it is on its way, with a leader or without.
    Apply,
    /// Wait as a linearizable read does.
    Quorum,
}

/// The tokens of this member.
#[derive(Debug)]
pub struct Tokens {
    /// How long a token lives without being used.
    ttl: Duration,
    state: Mutex<State>,
}

impl Tokens {
    /// No tokens yet.
    pub fn new(ttl: Duration) -> Self {
        Tokens {
            ttl,
            state: Mutex::default(),
        }
    }

    /// Follows what has been applied.
    pub fn follow(&self, changes: Vec<TokenChange>, now: Instant) {
        let mut state = self.state.lock();
        if state.sweep_at.is_none_or(|at| at <= now) {
            state.sweep_at = Some(now + SWEEP_INTERVAL);
            state.tokens.retain(|_, token| token.ends > now);
        }
        for change in changes {
            match change {
                // With tokens of another kind nobody chooses letters.
                TokenChange::Assigned { prefix, .. } if prefix.is_empty() => {}
                TokenChange::Assigned {
                    user,
                    prefix,
                    index,
                } => {
                    let ends = now + self.ttl;
                    state.tokens.insert(prefix, Token { user, index, ends });
                }
                TokenChange::DroppedUser(_) if mutation!("tokens-outlive-users") => {}
                TokenChange::DroppedUser(user) => {
                    state.tokens.retain(|_, token| token.user != user);
                }
                TokenChange::DroppedAll => state.tokens.clear(),
            }
        }
    }

    /// Looks a token up. It may have been given out by a member that is further than this one, so that its index has
    /// to be applied here first. Whoever was given it knows that its entry is committed: an index beyond all that the
    /// leader has committed by now was given to nobody, where the original waits until the caller gives up.
    pub fn look(&self, prefix: &str, index: u64, here: Here, now: Instant) -> Look {
        if here.applied < index && !here.asked && !mutation!("tokens-do-not-wait") {
            return if index <= here.committed {
                Look::Apply
            } else {
                Look::Quorum
            };
        }
        match self.user_of(prefix, index, now) {
            Some(user) => Look::User(user),
            // Members that count as etcd since 3.5.3 name the index before: the entry itself may still be on
            // its way, and is here once all that is committed is.
            None if here.applied == index && !here.asked => Look::Quorum,
            None => Look::Nobody,
        }
    }

    /// Whose token this is; being asked for, it lives on.
    ///
    /// The index beside the letters is that of the entry which gave the token out, or the one before:
    /// versions of the original differ, and members of several may be at work.
    pub fn user_of(&self, prefix: &str, index: u64, now: Instant) -> Option<String> {
        let mut state = self.state.lock();
        let token = state.tokens.get_mut(prefix)?;
        let over = token.ends <= now && !mutation!("tokens-live-for-ever");
        if over || index.abs_diff(token.index) > 1 {
            return None;
        }
        token.ends = now + self.ttl;
        Some(token.user.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(300);

    fn assigned(user: &str, prefix: &str) -> TokenChange {
        TokenChange::Assigned {
            user: user.into(),
            prefix: prefix.into(),
            index: 7,
        }
    }

    #[test]
    fn a_token_lives_as_long_as_it_is_used() {
        let start = Instant::now();
        let tokens = Tokens::new(TTL);
        tokens.follow(vec![assigned("u", "abc")], start);
        let almost = start + TTL - Duration::from_millis(1);
        assert_eq!(tokens.user_of("abc", 7, almost).as_deref(), Some("u"));
        assert_eq!(
            tokens
                .user_of("abc", 6, almost + Duration::from_secs(1))
                .as_deref(),
            Some("u")
        );
        assert_eq!(tokens.user_of("abc", 9, almost), None, "another index");
        assert_eq!(tokens.user_of("abd", 7, almost), None);
        let over = almost + Duration::from_secs(1) + TTL;
        assert_eq!(tokens.user_of("abc", 7, over), None);
        // Those that are over go when the next one comes.
        tokens.follow(vec![assigned("v", "xyz")], over);
        assert_eq!(tokens.state.lock().tokens.len(), 1);
    }

    #[test]
    fn tokens_end_with_their_user_and_with_authentication() {
        let now = Instant::now();
        let tokens = Tokens::new(TTL);
        tokens.follow(
            vec![assigned("u", "a"), assigned("v", "b"), assigned("w", "")],
            now,
        );
        tokens.follow(vec![TokenChange::DroppedUser("u".into())], now);
        assert_eq!(tokens.user_of("a", 7, now), None);
        assert_eq!(tokens.user_of("b", 7, now).as_deref(), Some("v"));
        assert_eq!(tokens.user_of("", 7, now), None, "no letters, no token");
        tokens.follow(vec![TokenChange::DroppedAll], now);
        assert_eq!(tokens.user_of("b", 7, now), None);
    }
}
