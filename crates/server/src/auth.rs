//! Who calls, and what stands for that: tokens, passwords, certificates.
//!
//! What a user may do is `ferrite-auth`'s; this module turns what came with a call into a user.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ferrite_auth::{AuthInfo, Error as AuthError, password};
use ferrite_node::tokens::{Here, Look};
use ferrite_node::{Error, Node};
use ferrite_token::jwt::Jwt;
use tokio::sync::Semaphore;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

/// Letters of a simple token.
const PREFIX_LEN: usize = 16;
const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
/// Passwords that wait to be hashed: at twenty a second and core the last one gives up first.
const PASSWORDS_MAX: usize = 1_024;

/// The name in the certificate that a client proved to own. Whoever accepts a connection with
/// `--client-cert-auth` puts it into the extensions of each of its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateName(pub Arc<str>);

/// What came with a call.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    token: Option<MetadataValue<Ascii>>,
    certificate: Option<CertificateName>,
    deadline: Option<Deadline>,
}

/// In the extensions of a request whose caller gave it a time limit.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(pub Instant);

impl Caller {
    /// What a request carries.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        let extensions = request.extensions();
        let mut caller = Self::from_parts(request.metadata(), extensions.get::<CertificateName>());
        caller.deadline = extensions.get::<Deadline>().copied();
        caller
    }

    /// How long the caller waits for an answer.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.map(|deadline| deadline.0)
    }

    /// A token goes before a certificate. The JSON gateway calls with the server's own certificate, so
    /// that says nothing about who is behind it.
    fn from_parts(metadata: &MetadataMap, certificate: Option<&CertificateName>) -> Self {
        let token = metadata
            .get("token")
            .or_else(|| metadata.get("authorization"));
        let gateway = metadata.contains_key("grpcgateway-accept");
        Caller {
            token: token.cloned(),
            certificate: certificate.filter(|_| !gateway).cloned(),
            deadline: None,
        }
    }

    /// The token without the word that some clients put before it.
    fn token(&self) -> Option<&str> {
        let bytes = self.token.as_ref()?.as_bytes();
        // What is no text is no token either.
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        Some(text.strip_prefix("Bearer ").unwrap_or(text))
    }
}

/// `--auth-token`.
pub enum Tokens {
    /// Nobody gets a token.
    Off,
    /// Letters that members keep in memory.
    Simple,
    /// Signed, and valid by themselves.
    Jwt(Box<Jwt>),
}

impl Tokens {
    /// Reads the flag.
    ///
    /// # Errors
    /// What is wrong with it, in the original's words.
    pub fn from_flag(value: &str) -> Result<Self, String> {
        let mut options = value.split(',');
        let kind = options.next().unwrap_or_default();
        if kind == "jwt" {
            let rest = value.split_once(',').map_or("", |(_, rest)| rest);
            let jwt = Jwt::from_options(rest).map_err(|error| {
                let text = error.to_string();
                let why = error.reason().unwrap_or(&text);
                tracing::error!(error = why, "problem loading JWT options");
                text
            })?;
            return Ok(Tokens::Jwt(Box::new(jwt)));
        }
        let mut names: Vec<&str> = Vec::new();
        for option in options {
            match option.split_once('=') {
                Some((name, value)) if !value.contains('=') && !names.contains(&name) => {
                    names.push(name);
                }
                _ => return Err("auth: invalid auth options".into()),
            }
        }
        match kind {
            "simple" => Ok(Tokens::Simple),
            "" => Ok(Tokens::Off),
            _ => Err("auth: invalid auth options".into()),
        }
    }
}

/// Recognises callers. One for the whole server.
pub struct Gate {
    tokens: Tokens,
    bcrypt_cost: u32,
    /// Passwords being hashed.
    hashing: Arc<Semaphore>,
    /// Passwords being hashed or waiting for it.
    seats: Arc<Semaphore>,
}

/// Why nobody gets in, or no password is hashed.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// As the node refuses.
    #[error(transparent)]
    Node(#[from] Error),
    /// The password is too long.
    #[error(transparent)]
    TooLong(#[from] password::TooLong),
    /// The token cannot be signed.
    #[error(transparent)]
    Token(#[from] ferrite_token::Error),
    /// The system gives no random bytes.
    #[error("no randomness: {0}")]
    Random(#[from] getrandom::Error),
}

impl From<AuthError> for GateError {
    fn from(error: AuthError) -> Self {
        Error::from(ferrite_apply::ApplyError::from(error)).into()
    }
}

impl Gate {
    /// `bcrypt_cost` has been checked.
    pub fn new(tokens: Tokens, bcrypt_cost: u32) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Gate {
            tokens,
            bcrypt_cost,
            hashing: Arc::new(Semaphore::new((cores / 2).max(1))),
            seats: Arc::new(Semaphore::new(PASSWORDS_MAX)),
        }
    }

    /// Who calls; nobody while authentication is off, and nobody without a token or certificate.
    ///
    /// # Errors
    /// A token that is not, or no longer, one.
    pub async fn who(&self, node: &Node, caller: &Caller) -> Result<Option<AuthInfo>, Error> {
        let auth = node.auth();
        if !auth.enabled() {
            return Ok(None);
        }
        let revision = auth.revision();
        if let Some(token) = caller.token() {
            let found = match &self.tokens {
                Tokens::Off => None,
                Tokens::Simple => simple(node, token).await?.map(|user| (user, revision)),
                Tokens::Jwt(jwt) => jwt.verify(token, unix_seconds()),
            };
            return match found {
                Some((username, revision)) => Ok(Some(AuthInfo { username, revision })),
                None => Err(refused(AuthError::InvalidToken)),
            };
        }
        Ok(caller.certificate.as_ref().map(|name| AuthInfo {
            username: name.0.to_string(),
            revision,
        }))
    }

    /// Letters for the next token; none where nobody chooses them.
    ///
    /// # Errors
    /// No random bytes.
    pub fn choose_prefix(&self) -> Result<String, GateError> {
        if !matches!(self.tokens, Tokens::Simple) {
            return Ok(String::new());
        }
        let mut prefix = String::with_capacity(PREFIX_LEN);
        while prefix.len() < PREFIX_LEN {
            let mut drawn = [0; 2 * PREFIX_LEN];
            getrandom::fill(&mut drawn)?;
            // Bytes past the last whole multiple of the letters would favour some of them.
            let fair = drawn
                .iter()
                .filter(|byte| usize::from(**byte) < 4 * LETTERS.len());
            for byte in fair.take(PREFIX_LEN - prefix.len()) {
                prefix.push(char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
            }
        }
        Ok(prefix)
    }

    /// The token for a user whose authentication was applied.
    ///
    /// # Errors
    /// Tokens are off, or cannot be signed here.
    pub fn token(
        &self,
        user: &str,
        revision: u64,
        prefix: &str,
        index: u64,
    ) -> Result<String, GateError> {
        match &self.tokens {
            Tokens::Off => Err(AuthError::AuthFailed.into()),
            Tokens::Simple => Ok(format!("{prefix}.{index}")),
            Tokens::Jwt(jwt) => Ok(jwt.sign(user, revision, unix_seconds())?),
        }
    }

    /// Hashes a password and returns it as requests carry it.
    ///
    /// # Errors
    /// A password that is too long; too many others that wait.
    pub async fn hash(&self, plain: String) -> Result<String, GateError> {
        let mut salt = [0; password::SALT_LEN];
        getrandom::fill(&mut salt)?;
        let cost = self.bcrypt_cost;
        let hashed = self
            .aside(move || password::hash(plain.as_bytes(), cost, salt))
            .await??;
        Ok(password::to_request(&hashed))
    }

    /// Whether a password is the one of a hash.
    ///
    /// # Errors
    /// Too many others wait.
    pub async fn matches(&self, hashed: bytes::Bytes, plain: &str) -> Result<bool, GateError> {
        let plain = plain.to_owned();
        Ok(self
            .aside(move || password::matches(&hashed, plain.as_bytes()))
            .await?)
    }

    /// Runs what takes long on a thread that serves nobody, a few at a time.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let seat = Arc::clone(&self.seats).try_acquire_owned();
        let seat = seat.map_err(|_| Error::TooManyRequests)?;
        let turn = Arc::clone(&self.hashing).acquire_owned().await;
        let turn = turn.map_err(|_| Error::Stopped)?;
        // Both are held by the thread: a caller that goes away does not make room for another.
        tokio::task::spawn_blocking(move || {
            let done = work();
            drop((seat, turn));
            done
        })
        .await
        .map_err(|_| Error::Stopped)
    }
}

fn refused(error: AuthError) -> Error {
    Error::Apply(error.into())
}

fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Letters and index of a simple token.
fn split_simple(token: &str) -> Option<(&str, u64)> {
    let (prefix, index) = token.split_once('.')?;
    let digits = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
    Some((prefix, index.parse().ok().filter(|_| digits)?))
}

/// Whose simple token this is, once this member can know.
async fn simple(node: &Node, token: &str) -> Result<Option<String>, Error> {
    let Some((prefix, index)) = split_simple(token) else {
        return Ok(None);
    };
    let mut asked = false;
    loop {
        let here = Here {
            applied: node.applied_index(),
            committed: node.status().committed(),
            asked,
        };
        match node.tokens().look(prefix, index, here, Instant::now()) {
            Look::User(user) => return Ok(Some(user)),
            Look::Nobody => return Ok(None),
            Look::Apply => node.wait_applied_index(index).await?,
            Look::Quorum => {
                node.linearizable().await?;
                asked = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(pairs: &[(&'static str, &'static str)], certificate: Option<&str>) -> Caller {
        let mut metadata = MetadataMap::new();
        for (key, value) in pairs {
            metadata.append(*key, MetadataValue::from_static(value));
        }
        let certificate = certificate.map(|name| CertificateName(name.into()));
        Caller::from_parts(&metadata, certificate.as_ref())
    }

    #[test]
    fn tokens_come_under_two_names_with_and_without_a_word_before() {
        assert_eq!(caller(&[], None).token(), None);
        assert_eq!(caller(&[("token", "a.1")], None).token(), Some("a.1"));
        assert_eq!(
            caller(&[("authorization", "a.1")], None).token(),
            Some("a.1")
        );
        assert_eq!(
            caller(&[("authorization", "Bearer a.1")], None).token(),
            Some("a.1")
        );
        assert_eq!(
            caller(&[("token", "Bearer a.1")], None).token(),
            Some("a.1")
        );
        assert_eq!(
            caller(&[("token", "bearer a.1")], None).token(),
            Some("bearer a.1")
        );
        let both = [("authorization", "b.2"), ("token", "a.1"), ("token", "c.3")];
        assert_eq!(caller(&both, None).token(), Some("a.1"));
    }

    #[test]
    fn a_certificate_counts_unless_the_gateway_calls() {
        let name = |caller: Caller| caller.certificate.map(|name| name.0.to_string());
        assert_eq!(name(caller(&[], Some("alice"))).as_deref(), Some("alice"));
        assert_eq!(
            name(caller(&[("grpcgateway-accept", "*/*")], Some("server"))),
            None
        );
        assert_eq!(name(caller(&[], None)), None);
    }

    #[test]
    fn simple_tokens_have_one_form() {
        assert_eq!(split_simple("abc.12"), Some(("abc", 12)));
        assert_eq!(split_simple(".12"), Some(("", 12)));
        for bad in [
            "",
            "abc",
            "abc.",
            "abc.+1",
            "abc.-1",
            "a.b.1",
            "abc.1 ",
            "abc.99999999999999999999",
        ] {
            assert_eq!(split_simple(bad), None, "{bad}");
        }
    }

    #[test]
    fn letters_are_drawn_anew_each_time() {
        let gate = Gate::new(Tokens::Simple, 4);
        let (one, two) = (gate.choose_prefix().unwrap(), gate.choose_prefix().unwrap());
        assert_ne!(one, two);
        assert!(one.len() == PREFIX_LEN && one.bytes().all(|byte| LETTERS.contains(&byte)));
        let off = Gate::new(Tokens::Off, 4);
        assert_eq!(off.choose_prefix().unwrap(), "");
        let refused = off.token("u", 1, "", 1).map_err(|error| error.to_string());
        assert_eq!(
            refused,
            Err("authentication failed, invalid user ID or password".to_owned())
        );
    }

    #[test]
    fn the_flag_is_read_as_the_original_reads_it() {
        assert!(matches!(Tokens::from_flag("simple"), Ok(Tokens::Simple)));
        assert!(matches!(
            Tokens::from_flag("simple,a=b"),
            Ok(Tokens::Simple)
        ));
        assert!(matches!(Tokens::from_flag(""), Ok(Tokens::Off)));
        for bad in [
            "other",
            "simple,a",
            "simple,a=b=c",
            "simple,a=b,a=c",
            "jwt",
            "jwt,sign-method=X",
        ] {
            let error = Tokens::from_flag(bad).err();
            assert_eq!(
                error.as_deref(),
                Some("auth: invalid auth options"),
                "{bad}"
            );
        }
    }

    #[tokio::test]
    async fn passwords_are_hashed_with_the_cost_asked_for() {
        let gate = Gate::new(Tokens::Simple, 4);
        let hashed = gate.hash("secret".into()).await.unwrap();
        assert!(
            hashed.starts_with("JDJhJDA0J"),
            "base64 of $2a$04$: {hashed}"
        );
        assert_ne!(
            gate.hash("secret".into()).await.unwrap(),
            hashed,
            "another salt"
        );
        let long = gate
            .hash("x".repeat(73))
            .await
            .map_err(|error| error.to_string());
        assert_eq!(
            long,
            Err("bcrypt: password length exceeds 72 bytes".to_owned())
        );
    }
}
