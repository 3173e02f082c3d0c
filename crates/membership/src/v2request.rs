//! Log entries of the version-2 API, which logs up to 3.5 hold: a bare request, or one inside an
//! `InternalRaftRequest`. Two of them say something about the cluster; the rest is passed over.

use prost::Message;
use serde::Deserialize;

use crate::id::parse_id;
use crate::member::null_as_default;
use crate::version::Version;

/// What an old entry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum V2Request {
    /// A member published its name and client URLs.
    SetAttributes {
        /// The member.
        id: u64,
        /// Its name.
        name: String,
        /// Its client URLs.
        client_urls: Vec<String>,
    },
    /// The cluster's version was set.
    SetVersion(Version),
    /// Anything else, described for the log: it concerned the version-2 key space.
    Ignored(String),
}

/// The fields of etcd 3.5's `etcdserverpb.Request` that decide what is applied.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(string, tag = "3")]
    path: String,
    #[prost(string, tag = "4")]
    val: String,
    #[prost(string, tag = "6")]
    prev_value: String,
    #[prost(uint64, tag = "7")]
    prev_index: u64,
    #[prost(bool, optional, tag = "8")]
    prev_exist: Option<bool>,
}

/// Field 2 of an `InternalRaftRequest`, which 3.6 took out of the schema.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(bytes = "vec", optional, tag = "2")]
    v2: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct Attributes {
    #[serde(default, deserialize_with = "null_as_default")]
    name: String,
    #[serde(rename = "clientURLs", default, deserialize_with = "null_as_default")]
    client_urls: Vec<String>,
}

const METHODS: [&str; 7] = ["PUT", "POST", "DELETE", "QGET", "GET", "HEAD", "SYNC"];

/// Reads the data of a normal entry as a version-2 request; nothing if it is none.
pub fn decode_v2_request(data: &[u8]) -> Option<V2Request> {
    let bare = Request::decode(data)
        .ok()
        .filter(|request| METHODS.contains(&request.method.as_str()));
    let request = match bare {
        Some(request) => request,
        None => {
            let inner = Envelope::decode(data).ok()?.v2?;
            match Request::decode(&*inner) {
                Ok(request) => request,
                Err(error) => {
                    return Some(V2Request::Ignored(format!("a malformed request: {error}")));
                }
            }
        }
    };
    Some(interpret(request))
}

fn interpret(request: Request) -> V2Request {
    let Request {
        method, path, val, ..
    } = &request;
    let plain_put = method == "PUT"
        && request.prev_exist.is_none()
        && request.prev_index == 0
        && request.prev_value.is_empty();
    if plain_put {
        let member = path
            .strip_prefix("/0/members/")
            .and_then(|rest| rest.strip_suffix("/attributes"));
        if let Some(id) = member.and_then(parse_id) {
            return match serde_json::from_str::<Attributes>(val) {
                Ok(Attributes { name, client_urls }) => V2Request::SetAttributes {
                    id,
                    name,
                    client_urls,
                },
                Err(error) => V2Request::Ignored(format!(
                    "{method} {path} with malformed attributes: {error}"
                )),
            };
        }
        if path == "/0/version" {
            return match val.parse() {
                Ok(version) => V2Request::SetVersion(version),
                Err(error) => V2Request::Ignored(format!("{method} {path}: {error}")),
            };
        }
    }
    V2Request::Ignored(format!("{method} {path}"))
}
