//! One member, and the JSON it is written as everywhere: buckets, log entries, `/members`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::gojson;

/// A member of the cluster. Field order and omissions are those of Go's JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The member's ID.
    #[serde(default)]
    pub id: u64,
    /// Where other members reach it.
    #[serde(
        rename = "peerURLs",
        default,
        serialize_with = "list_or_null",
        deserialize_with = "null_as_default"
    )]
    pub peer_urls: Vec<String>,
    /// Whether it only listens, without a vote.
    #[serde(
        rename = "isLearner",
        default,
        skip_serializing_if = "is_false",
        deserialize_with = "null_as_default"
    )]
    pub is_learner: bool,
    /// Its name; empty until it has started and published it.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub name: String,
    /// Where clients reach it; empty until published.
    #[serde(
        rename = "clientURLs",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub client_urls: Vec<String>,
}

impl Member {
    /// etcd's JSON of the member.
    pub fn to_json(&self) -> String {
        gojson::to_string(self)
    }

    /// Reads etcd's JSON of a member.
    pub fn from_json(json: &[u8]) -> Result<Member, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// Whether the member has published its name.
    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }
}

/// The JSON array that `/members` answers with, without the final newline.
pub fn members_json<'a>(members: impl IntoIterator<Item = &'a Member>) -> String {
    gojson::to_string(&members.into_iter().collect::<Vec<_>>())
}

/// What a membership change carries: the member, and whether this is a learner's promotion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ConfChangeContext {
    /// The member to add or to change. In a promotion only its ID is set.
    #[serde(flatten)]
    pub member: Member,
    /// Whether a learner is promoted; the change's type is that of an added voter then too.
    #[serde(rename = "isPromote", default)]
    pub is_promote: bool,
}

impl ConfChangeContext {
    /// The context of an added or updated member: its JSON and nothing else.
    pub fn for_member(member: &Member) -> String {
        member.to_json()
    }

    /// The context of a learner's promotion.
    pub fn for_promotion(id: u64) -> String {
        #[derive(Serialize)]
        struct Promotion {
            id: u64,
            #[serde(rename = "peerURLs")]
            peer_urls: (),
            #[serde(rename = "isPromote")]
            is_promote: bool,
        }
        gojson::to_string(&Promotion {
            id,
            peer_urls: (),
            is_promote: true,
        })
    }

    /// Reads the context of a change.
    pub fn from_json(json: &[u8]) -> Result<ConfChangeContext, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
pub(crate) fn is_false(value: &bool) -> bool {
    !*value
}

/// Go writes a list that was never set as null.
pub(crate) fn list_or_null<S: Serializer>(
    list: &[String],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if list.is_empty() {
        serializer.serialize_none()
    } else {
        list.serialize(serializer)
    }
}

pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_gos() {
        let mut member = Member {
            id: 7_383_792_418_829_112_008,
            peer_urls: vec!["http://10.0.0.1:2380".into()],
            ..Member::default()
        };
        assert_eq!(
            member.to_json(),
            r#"{"id":7383792418829112008,"peerURLs":["http://10.0.0.1:2380"]}"#
        );
        member.is_learner = true;
        member.name = "n<1".into();
        member.client_urls = vec!["http://10.0.0.1:2379".into()];
        let json = r#"{"id":7383792418829112008,"peerURLs":["http://10.0.0.1:2380"],"isLearner":true,"name":"n\u003c1","clientURLs":["http://10.0.0.1:2379"]}"#;
        assert_eq!(member.to_json(), json);
        assert_eq!(Member::from_json(json.as_bytes()).expect("decodes"), member);
        assert_eq!(
            members_json([&Member::default()]),
            r#"[{"id":0,"peerURLs":null}]"#
        );
    }

    #[test]
    fn contexts_are_gos() {
        assert_eq!(
            ConfChangeContext::for_promotion(5),
            r#"{"id":5,"peerURLs":null,"isPromote":true}"#
        );
        let context = ConfChangeContext::from_json(br#"{"id":5,"peerURLs":null,"isPromote":true}"#)
            .expect("decodes");
        assert!(
            context.is_promote && context.member.id == 5 && context.member.peer_urls.is_empty()
        );
        let context = ConfChangeContext::from_json(
            br#"{"id":6,"peerURLs":["http://a:1"],"isLearner":true,"new":1}"#,
        )
        .expect("decodes");
        assert!(!context.is_promote && context.member.is_learner);
        assert!(ConfChangeContext::from_json(b"{").is_err());
    }
}
