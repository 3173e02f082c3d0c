//! Membership as the version-2 store's JSON, which `.snap` files and raft snapshot messages carry.
//!
//! Up to 3.5 that store is where a member finds its cluster at start; 3.6 still refuses a snapshot
//! without it; 3.7 writes it and does not read it. Here it is written from a [`Cluster`] alone, as 3.7
//! does, and read in every form since 3.4, user keys of the version-2 API aside.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::error::Error;
use crate::gojson;
use crate::id::parse_id;
use crate::member::{Member, is_false, list_or_null, null_as_default};

/// Go's zero time: the node never expires.
const NEVER: &str = "0001-01-01T00:00:00Z";
/// Slots of the event history; the store keeps its last events there for watchers.
const HISTORY_SLOTS: usize = 1000;

#[derive(Serialize, Deserialize)]
struct Node {
    #[serde(rename = "Path")]
    path: String,
    #[serde(rename = "CreatedIndex", default)]
    created_index: u64,
    #[serde(rename = "ModifiedIndex", default)]
    modified_index: u64,
    #[serde(rename = "ExpireTime", default)]
    expire_time: String,
    #[serde(rename = "Value", default, deserialize_with = "null_as_default")]
    value: String,
    /// Nothing in a leaf.
    #[serde(rename = "Children", default)]
    children: Option<BTreeMap<String, Node>>,
}

#[derive(Serialize)]
struct Document {
    #[serde(rename = "Root")]
    root: Node,
    #[serde(rename = "WatcherHub")]
    watcher_hub: WatcherHub,
    #[serde(rename = "CurrentIndex")]
    current_index: u64,
    #[serde(rename = "Stats")]
    stats: Stats,
    #[serde(rename = "CurrentVersion")]
    current_version: u64,
}

#[derive(Serialize)]
struct WatcherHub {
    #[serde(rename = "EventHistory")]
    event_history: EventHistory,
}

#[derive(Serialize)]
struct EventHistory {
    #[serde(rename = "Queue")]
    queue: Queue,
    #[serde(rename = "StartIndex")]
    start_index: u64,
    #[serde(rename = "LastIndex")]
    last_index: u64,
}

#[derive(Serialize)]
struct Queue {
    #[serde(rename = "Events")]
    events: Vec<Option<Event>>,
    #[serde(rename = "Size")]
    size: usize,
    #[serde(rename = "Front")]
    front: usize,
    #[serde(rename = "Back")]
    back: usize,
    #[serde(rename = "Capacity")]
    capacity: usize,
}

#[derive(Serialize)]
struct Event {
    action: &'static str,
    node: EventNode,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventNode {
    key: String,
    value: String,
    modified_index: u64,
    created_index: u64,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Stats {
    gets_success: u64,
    gets_fail: u64,
    sets_success: u64,
    sets_fail: u64,
    delete_success: u64,
    delete_fail: u64,
    update_success: u64,
    update_fail: u64,
    create_success: u64,
    create_fail: u64,
    compare_and_swap_success: u64,
    compare_and_swap_fail: u64,
    compare_and_delete_success: u64,
    compare_and_delete_fail: u64,
    expire_count: u64,
    watchers: u64,
}

#[derive(Serialize, Deserialize)]
struct RaftAttributes {
    #[serde(
        rename = "peerURLs",
        default,
        serialize_with = "list_or_null",
        deserialize_with = "null_as_default"
    )]
    peer_urls: Vec<String>,
    #[serde(
        rename = "isLearner",
        default,
        skip_serializing_if = "is_false",
        deserialize_with = "null_as_default"
    )]
    is_learner: bool,
}

#[derive(Serialize, Deserialize)]
struct Attributes {
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_as_default"
    )]
    name: String,
    #[serde(
        rename = "clientURLs",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    client_urls: Vec<String>,
}

/// Builds the tree as the store would: one index a write, directories born with their first child.
struct Writer {
    root: Node,
    events: Vec<Event>,
}

impl Writer {
    fn put(&mut self, action: &'static str, path: &str, value: String) {
        let index = self.events.len() as u64 + 1;
        let mut node = &mut self.root;
        let mut at = String::new();
        for name in path.trim_start_matches('/').split('/') {
            at.push('/');
            at.push_str(name);
            node = node
                .children
                .get_or_insert_default()
                .entry(name.to_owned())
                .or_insert_with(|| node_at(&at, index));
        }
        node.value.clone_from(&value);
        let node = EventNode {
            key: at,
            value,
            modified_index: index,
            created_index: index,
        };
        self.events.push(Event { action, node });
    }

    fn count(&self, action: &str) -> u64 {
        self.events
            .iter()
            .filter(|event| event.action == action)
            .count() as u64
    }
}

fn node_at(path: &str, index: u64) -> Node {
    Node {
        path: path.into(),
        created_index: index,
        modified_index: index,
        expire_time: NEVER.into(),
        value: String::new(),
        children: None,
    }
}

const CREATE: &str = "create";
const SET: &str = "set";

/// What etcd's second store counts when the document of a cluster is put together in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writes {
    /// Nodes created: members, and those removed.
    pub created: u64,
    /// Nodes set: what members say of themselves, and the cluster's version.
    pub set: u64,
}

/// Counts what [`encode`] writes.
pub fn writes(cluster: &Cluster) -> Writes {
    let members = cluster.members.values();
    let published = members.filter(|member| !member.client_urls.is_empty());
    Writes {
        created: (cluster.members.len() + cluster.removed.len()) as u64,
        set: (published.count() + usize::from(cluster.version.is_some())) as u64,
    }
}

/// The document of a cluster, as a store that was just filled with it would write it.
pub fn encode(cluster: &Cluster) -> Vec<u8> {
    let directory = |path: &str| Node {
        children: Some(BTreeMap::new()),
        ..node_at(path, 0)
    };
    let mut root = directory("/");
    root.children = Some(
        ["0", "1"]
            .map(|name| (name.to_owned(), directory(&format!("/{name}"))))
            .into(),
    );
    let mut writer = Writer {
        root,
        events: Vec::new(),
    };
    for member in cluster.members.values() {
        let place = format!("/0/members/{:x}", member.id);
        let raft = RaftAttributes {
            peer_urls: member.peer_urls.clone(),
            is_learner: member.is_learner,
        };
        writer.put(
            CREATE,
            &format!("{place}/raftAttributes"),
            gojson::to_string(&raft),
        );
        if !member.client_urls.is_empty() {
            let own = Attributes {
                name: member.name.clone(),
                client_urls: member.client_urls.clone(),
            };
            writer.put(SET, &format!("{place}/attributes"), gojson::to_string(&own));
        }
    }
    for id in &cluster.removed {
        writer.put(CREATE, &format!("/0/removed_members/{id:x}"), String::new());
    }
    if let Some(version) = cluster.version {
        writer.put(SET, "/0/version", version.to_string());
    }

    let written = writer.events.len() as u64;
    let stats = Stats {
        // The look into the empty store, before it is filled.
        gets_fail: 1,
        create_success: writer.count(CREATE),
        sets_success: writer.count(SET),
        ..Stats::default()
    };
    let event_history = history(writer.events);
    let document = Document {
        root: writer.root,
        watcher_hub: WatcherHub { event_history },
        current_index: written,
        stats,
        current_version: 2,
    };
    gojson::to_string(&document).into_bytes()
}

/// The ring of the last events: `front` is the oldest, `back` the slot written next.
fn history(events: Vec<Event>) -> EventHistory {
    let written = events.len();
    let size = written.min(HISTORY_SLOTS);
    let dropped = written - size;
    let mut slots: Vec<Option<Event>> = Vec::new();
    slots.resize_with(HISTORY_SLOTS, || None);
    for (number, event) in events.into_iter().enumerate().skip(dropped) {
        slots[number % HISTORY_SLOTS] = Some(event);
    }
    let back = written % HISTORY_SLOTS;
    let front = if size < HISTORY_SLOTS { 0 } else { back };
    let start_index = if written == 0 { 0 } else { dropped as u64 + 1 };
    let queue = Queue {
        events: slots,
        size,
        front,
        back,
        capacity: HISTORY_SLOTS,
    };
    EventHistory {
        queue,
        start_index,
        last_index: written as u64,
    }
}

/// Reads members, removed IDs and version from a document; the cluster's ID is not in it and stays 0.
pub fn decode(document: &[u8]) -> Result<Cluster, Error> {
    #[derive(Deserialize)]
    struct RootOnly {
        #[serde(rename = "Root")]
        root: Node,
    }
    let malformed = |place: &str, detail: &dyn std::fmt::Display| Error::Malformed {
        place: format!("v2 store, {place}"),
        detail: detail.to_string(),
    };
    let RootOnly { root } =
        serde_json::from_slice(document).map_err(|error| malformed("document", &error))?;
    let mut cluster = Cluster::default();
    let Some(state) = child(&root, "0") else {
        return Ok(cluster);
    };
    for (name, node) in children(state, "members") {
        let place = format!("/0/members/{name}");
        let id = parse_id(name).ok_or_else(|| malformed(&place, &"the name is no member ID"))?;
        let raft = child(node, "raftAttributes")
            .ok_or_else(|| malformed(&place, &"raftAttributes key doesn't exist"))?;
        let raft: RaftAttributes =
            serde_json::from_str(&raft.value).map_err(|error| malformed(&place, &error))?;
        let mut member = Member {
            id,
            peer_urls: raft.peer_urls,
            is_learner: raft.is_learner,
            ..Member::default()
        };
        if let Some(own) = child(node, "attributes") {
            let own: Attributes =
                serde_json::from_str(&own.value).map_err(|error| malformed(&place, &error))?;
            member.name = own.name;
            member.client_urls = own.client_urls;
        }
        cluster.members.insert(id, member);
    }
    for (name, _) in children(state, "removed_members") {
        let id = parse_id(name).ok_or_else(|| {
            malformed(
                &format!("/0/removed_members/{name}"),
                &"the name is no member ID",
            )
        })?;
        cluster.removed.insert(id);
    }
    if let Some(version) = child(state, "version") {
        cluster.version = Some(
            version
                .value
                .parse()
                .map_err(|error| malformed("/0/version", &error))?,
        );
    }
    Ok(cluster)
}

/// Whether the store holds nothing but membership: from 3.6 on, a member with user keys of the
/// version-2 API refuses to start.
pub fn is_meta_only(document: &[u8]) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct RootOnly {
        #[serde(rename = "Root")]
        root: Node,
    }
    let RootOnly { root } = serde_json::from_slice(document).map_err(|error| Error::Malformed {
        place: "v2 store, document".into(),
        detail: error.to_string(),
    })?;
    let filled = |node: &Node| {
        node.children
            .as_ref()
            .is_some_and(|children| !children.is_empty())
    };
    Ok(root
        .children
        .iter()
        .flatten()
        .all(|(name, node)| match name.as_str() {
            "0" => true,
            // Auth data: empty directories of roles and users stay behind for ever.
            "2" => !node.children.iter().flatten().any(|(_, node)| filled(node)),
            _ => !filled(node),
        }))
}

fn child<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    node.children.as_ref()?.get(name)
}

fn children<'a>(node: &'a Node, name: &str) -> impl Iterator<Item = (&'a String, &'a Node)> {
    child(node, name)
        .and_then(|node| node.children.as_ref())
        .into_iter()
        .flatten()
}
