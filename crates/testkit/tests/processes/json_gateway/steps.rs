//! A conversation with the gateway, step by step: most of what can be asked, right and wrong.

use ferrite_testkit::Kind;

use super::{asked, json};

/// Below `/v3/`: what a request without a body is answered, by status and a part of the body; none for what
/// is answered differently the second time.
pub const ROUTES: &[(&str, &str, &str)] = &[
    ("kv/range", "400", "etcdserver: key is not provided"),
    ("kv/put", "400", "etcdserver: key is not provided"),
    ("kv/deleterange", "400", "etcdserver: key is not provided"),
    ("kv/txn", "200", "\"raft_term\""),
    ("kv/compaction", "", ""),
    ("watch", "504", "context deadline exceeded"),
    ("lease/grant", "200", "\"TTL\""),
    (
        "lease/revoke",
        "404",
        "etcdserver: requested lease not found",
    ),
    (
        "kv/lease/revoke",
        "404",
        "etcdserver: requested lease not found",
    ),
    ("lease/keepalive", "200", ""),
    ("lease/timetolive", "200", "\"TTL\":\"-1\""),
    ("kv/lease/timetolive", "200", "\"TTL\":\"-1\""),
    ("lease/leases", "200", "\"header\""),
    ("kv/lease/leases", "200", "\"header\""),
    (
        "cluster/member/add",
        "400",
        "etcdserver: given member URLs are invalid",
    ),
    (
        "cluster/member/remove",
        "404",
        "etcdserver: member not found",
    ),
    (
        "cluster/member/update",
        "404",
        "etcdserver: member not found",
    ),
    ("cluster/member/list", "200", "\"peerURLs\""),
    (
        "cluster/member/promote",
        "404",
        "etcdserver: member not found",
    ),
    ("maintenance/alarm", "200", "\"header\""),
    ("maintenance/status", "200", "\"dbSizeInUse\""),
    ("maintenance/defragment", "200", "{}"),
    ("maintenance/hash", "200", "\"hash\""),
    ("maintenance/hashkv", "200", "\"hash\""),
    ("maintenance/snapshot", "200", "\"blob\""),
    (
        "maintenance/transfer-leadership",
        "400",
        "etcdserver: bad leader transferee",
    ),
    (
        "maintenance/downgrade",
        "400",
        "etcdserver: wrong downgrade target version format",
    ),
    ("auth/enable", "400", "etcdserver: root user does not exist"),
    ("auth/disable", "200", "\"header\""),
    ("auth/status", "200", "\"header\""),
    (
        "auth/authenticate",
        "400",
        "etcdserver: authentication is not enabled",
    ),
    ("auth/user/add", "400", "etcdserver: user name is empty"),
    ("auth/user/get", "400", "etcdserver: user name not found"),
    ("auth/user/list", "200", "\"header\""),
    ("auth/user/delete", "400", "etcdserver: user name not found"),
    (
        "auth/user/changepw",
        "400",
        "etcdserver: user name not found",
    ),
    ("auth/user/grant", "400", "etcdserver: user name not found"),
    ("auth/user/revoke", "400", "etcdserver: user name not found"),
    ("auth/role/add", "400", "etcdserver: role name is empty"),
    ("auth/role/get", "400", "etcdserver: role name not found"),
    ("auth/role/list", "200", "\"header\""),
    ("auth/role/delete", "400", "etcdserver: role name not found"),
    ("auth/role/grant", "400", "etcdserver: permission not given"),
    ("auth/role/revoke", "400", "etcdserver: role name not found"),
    ("lock/lock", "", ""),
    ("lock/unlock", "500", "etcdserver: key is not provided"),
    ("election/campaign", "", ""),
    (
        "election/proclaim",
        "500",
        "\\\"leader\\\" field must be provided",
    ),
    ("election/leader", "200", "\"kv\""),
    ("election/observe", "200", "\"result\""),
    (
        "election/resign",
        "500",
        "\\\"leader\\\" field must be provided",
    ),
];

/// What 3.7.1 answers where 3.5.1 answers something else: the status, and the body.
type Newer = Option<(&'static str, &'static str)>;

struct Step {
    method: &'static str,
    path: &'static str,
    headers: &'static str,
    body: &'static str,
    newer: Newer,
}

const fn step(path: &'static str, body: &'static str) -> Step {
    Step {
        method: "POST",
        path,
        headers: "",
        body,
        newer: None,
    }
}

const fn with(headers: &'static str, path: &'static str, body: &'static str) -> Step {
    Step {
        headers,
        ..step(path, body)
    }
}

const fn by(method: &'static str, path: &'static str, newer: Newer) -> Step {
    Step {
        method,
        newer,
        ..step(path, "")
    }
}

const fn newer(
    path: &'static str,
    body: &'static str,
    status: &'static str,
    answer: &'static str,
) -> Step {
    Step {
        newer: Some((status, answer)),
        ..step(path, body)
    }
}

/// GW-11: whoever is not found, or asks by another method, is answered in JSON, and the latter by 501.
const NOT_FOUND: Newer = Some(("404 Not Found", r#"{"code":5,"message":"Not Found"}"#));
const NOT_ALLOWED: Newer = Some((
    "501 Not Implemented",
    r#"{"code":12,"message":"Method Not Allowed"}"#,
));
const BAD: &str = "400 Bad Request";
const OK: &str = "200 OK";

const STEPS: &[Step] = &[
    // Routes.
    by("GET", "/v3/kv/range", NOT_ALLOWED),
    by("PUT", "/v3beta/kv/range", NOT_ALLOWED),
    by("POST", "/v3/", NOT_FOUND),
    by("POST", "/v3/kv", NOT_FOUND),
    by("GET", "/v3/kv/range/", NOT_FOUND),
    by("GET", "/v3", None),
    by("POST", "/v3", None),
    by("GET", "/v3beta", None),
    by("OPTIONS", "/v3/kv/range", None),
    by("POST", "/v3/kv//range", None),
    step("/v3/kv%2Frange", r#"{"key":"YQ=="}"#),
    // KV.
    step("/v3/kv/put", r#"{"key":"YQ==","value":"MQ=="}"#),
    step(
        "/v3/kv/put",
        r#"{"key":"YQ==","value":"Mg==","prev_kv":true}"#,
    ),
    step(
        "/v3beta/kv/put",
        r#"{"key":"YQ==","value":"Mw==","prevKv":true}"#,
    ),
    step(
        "/v3/kv/put",
        r#"{"key":"YQ==","ignoreValue":true,"prev_kv":true}"#,
    ),
    step(
        "/v3/kv/put",
        r#"{"key":"YQ==","value":"MQ==","ignore_value":true}"#,
    ),
    step("/v3/kv/put", r#"{"key":"Yg==","value":"/+8=","lease":0}"#),
    step("/v3/kv/put", r#"{"key":"Yw==","value":"/+8=","lease":"0"}"#),
    step("/v3/kv/put", r#"{"value":"MQ=="}"#),
    step(
        "/v3/kv/put",
        r#"{"key":"YQ==","value":"MQ==","lease":"99"}"#,
    ),
    step("/v3/kv/range", r#"{"key":"YQ=="}"#),
    step("/v3/kv/range", r#"{"key":"YQ==","range_end":"ZA=="}"#),
    step(
        "/v3/kv/range",
        r#"{"key":"AA==","rangeEnd":"AA==","limit":"2"}"#,
    ),
    step(
        "/v3/kv/range",
        r#"{"key":"AA==","rangeEnd":"AA==","limit":2,"countOnly":true}"#,
    ),
    step(
        "/v3/kv/range",
        r#"{"key":"AA==","range_end":"AA==","sort_order":"DESCEND","sort_target":"MOD"}"#,
    ),
    step(
        "/v3/kv/range",
        r#"{"key":"AA==","range_end":"AA==","sortOrder":2,"sortTarget":4,"keys_only":true}"#,
    ),
    step(
        "/v3/kv/range",
        r#"{"key":"AA==","range_end":"AA==","min_mod_revision":"4","maxCreateRevision":5}"#,
    ),
    step("/v3/kv/range", r#"{"key":"YQ==","revision":"2"}"#),
    step("/v3/kv/range", r#"{"key":"YQ==","revision":1000}"#),
    step(
        "/v3/kv/range",
        r#"{"key":"YQ==","serializable":true,"nobody":{"knows":["this"]},"limit":null}"#,
    ),
    step("/v3/kv/range", "{\"key\":\"YQ\\u003d=\"}"),
    step("/v3/kv/range", "{\"key\":\"YQ==\\n\\n\\n\\n\"} and more"),
    step("/v3/kv/range", ""),
    step("/v3/kv/range", " \n"),
    step("/v3/kv/range", "{}"),
    step("/v3/kv/deleterange", r#"{"key":"Yw==","prev_kv":true}"#),
    step("/v3/kv/deleterange", r#"{"key":"Yw=="}"#),
    step("/v3/kv/txn", "{}"),
    step(
        "/v3/kv/txn",
        r#"{"compare":[{"key":"YQ==","target":"VALUE","value":"Mw=="},{"key":"YQ==","target":0,"version":4},
            {"key":"YQ==","target":"CREATE","create_revision":"2","result":"EQUAL"},
            {"key":"YQ==","target":"MOD","modRevision":"2","result":"GREATER"},
            {"key":"YQ==","target":"LEASE","lease":0}],
            "success":[{"requestRange":{"key":"YQ=="}},{"request_put":{"key":"dA==","value":"MQ=="}},
            {"request_delete_range":{"key":"Yw=="}},
            {"requestTxn":{"success":[{"request_range":{"key":"Yg=="}}]}}],
            "failure":[{"request_range":{"key":"Yg=="}}]}"#,
    ),
    step(
        "/v3/kv/txn",
        r#"{"compare":[{"key":"YQ==","target":"VERSION","result":"LESS","version":"1"}],
            "failure":[{"request_delete_range":{"key":"dA==","prev_kv":true}}]}"#,
    ),
    step("/v3/kv/txn", r#"{"success":[{"request_put":{}}]}"#),
    step(
        "/v3/kv/txn",
        r#"{"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"YQ=="}}]}"#,
    ),
    step("/v3/kv/compaction", r#"{"revision":"4","physical":true}"#),
    step("/v3/kv/compaction", r#"{"revision":"4"}"#),
    step("/v3/kv/compaction", r#"{"revision":"400"}"#),
    step("/v3/kv/range", r#"{"key":"YQ==","revision":"3"}"#),
    // What cannot be read. GW-11: the words are those of another library.
    step("/v3/kv/range", "x"),
    step("/v3/kv/range", "{"),
    step("/v3/kv/range", "{\"key\""),
    step("/v3/kv/range", "{\"key\":\"YQ==\",}"),
    newer(
        "/v3/kv/range",
        "[]",
        BAD,
        r#"{"code":3,"message":"proto: syntax error (line 1:1): unexpected token ["}"#,
    ),
    newer(
        "/v3/kv/range",
        "null",
        BAD,
        r#"{"code":3,"message":"proto: syntax error (line 1:1): unexpected token null"}"#,
    ),
    newer(
        "/v3/kv/range",
        "{\n \"key\": 1}",
        BAD,
        r#"{"code":3,"message":"proto: (line 2:9): invalid value for bytes field key: 1"}"#,
    ),
    newer(
        "/v3/kv/range",
        r#"{"key":"!"}"#,
        BAD,
        r#"{"code":3,"message":"proto: (line 1:8): invalid value for bytes field key: \"!\""}"#,
    ),
    newer(
        "/v3/kv/range",
        r#"{"range_end":true}"#,
        BAD,
        r#"{"code":3,"message":"proto: (line 1:14): invalid value for bytes field rangeEnd: true"}"#,
    ),
    newer(
        "/v3/kv/range",
        r#"{"limit":1.5}"#,
        BAD,
        r#"{"code":3,"message":"proto: (line 1:10): invalid value for int64 field limit: 1.5"}"#,
    ),
    newer(
        "/v3/kv/range",
        r#"{"limit":"9223372036854775808"}"#,
        BAD,
        r#"{"code":3,"message":"proto: (line 1:10): invalid value for int64 field limit: \"9223372036854775808\""}"#,
    ),
    newer(
        "/v3/kv/range",
        r#"{"keys_only":"true"}"#,
        BAD,
        r#"{"code":3,"message":"proto: (line 1:14): invalid value for bool field keysOnly: \"true\""}"#,
    ),
    newer(
        "/v3/kv/range",
        r#"{"key":"YQ==","key":"Yg=="}"#,
        BAD,
        r#"{"code":3,"message":"proto: (line 1:15): duplicate field \"key\""}"#,
    ),
    newer(
        "/v3/kv/txn",
        r#"{"success":{}}"#,
        BAD,
        r#"{"code":3,"message":"proto: syntax error (line 1:12): unexpected token {"}"#,
    ),
    newer(
        "/v3/kv/txn",
        r#"{"success":[{"request_put":{},"requestRange":{}}]}"#,
        BAD,
        r#"{"code":3,"message":"proto: (line 1:31): error parsing \"requestRange\", oneof etcdserverpb.RequestOp.request is already set"}"#,
    ),
    newer(
        "/v3/auth/user/get",
        "{\"name\":\"\\ud800\"}",
        BAD,
        r#"{"code":3,"message":"proto: unexpected EOF"}"#,
    ),
    // GW-09: names of values that nobody knows are passed over, and base64 needs no padding.
    newer(
        "/v3/kv/range",
        r#"{"key":"YQ","count_only":true,"sort_order":"NOBODY","limit":1e1}"#,
        OK,
        r#"{"header":{"cluster_id":"?","member_id":"?","revision":"10","raft_term":"2"},"count":"1"}"#,
    ),
    newer(
        "/v3/kv/range",
        r#"{"key":"YQ==","range_end":"_-8=","count_only":true}"#,
        OK,
        r#"{"header":{"cluster_id":"?","member_id":"?","revision":"10","raft_term":"2"},"count":"2"}"#,
    ),
    // Headers.
    with("Grpc-Timeout: 1x\r\n", "/v3/kv/range", r#"{"key":"YQ=="}"#),
    with("Grpc-Timeout: 1n\r\n", "/v3/kv/range", r#"{"key":"YQ=="}"#),
    with("Grpc-Timeout: 0S\r\n", "/v3/kv/range", r#"{"key":"YQ=="}"#),
    with(
        "Grpc-Metadata-X-Bin: x!\r\n",
        "/v3/kv/range",
        r#"{"key":"YQ=="}"#,
    ),
    with(
        "Grpc-Metadata-Hasleader: true\r\n",
        "/v3/kv/range",
        r#"{"key":"YQ=="}"#,
    ),
    with(
        "Content-Type: text/nonsense\r\nAccept: x/y\r\n",
        "/v3/kv/range",
        r#"{"key":"YQ=="}"#,
    ),
    with("TE: trailers\r\n", "/v3/kv/range", "{}"),
    with(
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "/v3/kv/range",
        r#"{"key":"YQ=="}"#,
    ),
    with(
        "Content-Type: application/x-www-form-urlencoded\r\nX-HTTP-Method-Override: post\r\n",
        "/v3/kv/range",
        r#"{"key":"YQ=="}"#,
    ),
    // Leases.
    step("/v3/lease/grant", r#"{"ID":7,"TTL":"100000"}"#),
    step("/v3/lease/grant", r#"{"ID":"7","TTL":100000}"#),
    step("/v3/lease/grant", r#"{"TTL":"9000000001"}"#),
    step("/v3/kv/put", r#"{"key":"bA==","lease":"7"}"#),
    step("/v3/kv/range", r#"{"key":"bA=="}"#),
    step("/v3/lease/timetolive", r#"{"ID":"7","keys":true}"#),
    step("/v3/kv/lease/timetolive", r#"{"ID":8}"#),
    step("/v3/lease/leases", ""),
    step("/v3/kv/lease/leases", "{}"),
    step("/v3/lease/keepalive", r#"{"ID":"7"}{"ID":8}"#),
    step("/v3/kv/lease/revoke", r#"{"ID":"7"}"#),
    step("/v3/lease/revoke", r#"{"ID":"7"}"#),
    // Locks and elections.
    step("/v3/lease/grant", r#"{"ID":"11","TTL":"100000"}"#),
    step("/v3/lock/lock", r#"{"name":"bg==","lease":"11"}"#),
    step("/v3/lock/lock", r#"{"name":"bg==","lease":"12"}"#),
    step("/v3/lock/unlock", r#"{"key":"bi9i"}"#),
    step("/v3/election/leader", r#"{"name":"ZQ=="}"#),
    step(
        "/v3/election/campaign",
        r#"{"name":"ZQ==","lease":"11","value":"MQ=="}"#,
    ),
    step("/v3/election/leader", r#"{"name":"ZQ=="}"#),
    step(
        "/v3/election/proclaim",
        r#"{"leader":{"name":"ZQ==","key":"ZS9i","rev":"1","lease":"11"},"value":"Mg=="}"#,
    ),
    step("/v3/election/proclaim", r#"{"value":"Mg=="}"#),
    step(
        "/v3/election/resign",
        r#"{"leader":{"name":"ZQ==","key":"ZS9i","rev":"1","lease":"11"}}"#,
    ),
    // The cluster.
    step("/v3/cluster/member/list", ""),
    step("/v3/cluster/member/list", r#"{"linearizable":true}"#),
    step("/v3/cluster/member/add", r#"{"peerURLs":["nonsense"]}"#),
    // After each a write: 3.5.1 loses a change that follows another at once.
    step("/v3/kv/put", r#"{"key":"cQ=="}"#),
    step(
        "/v3/cluster/member/update",
        r#"{"ID":"1","peerURLs":["http://127.0.0.1:1"]}"#,
    ),
    step("/v3/kv/put", r#"{"key":"cQ=="}"#),
    step("/v3/cluster/member/remove", r#"{"ID":1}"#),
    step("/v3/kv/put", r#"{"key":"cQ=="}"#),
    step("/v3/cluster/member/promote", r#"{"ID":"1"}"#),
    step("/v3/kv/put", r#"{"key":"cQ=="}"#),
    step(
        "/v3/cluster/member/add",
        r#"{"peerURLs":["http://127.0.0.1:1"],"isLearner":true}"#,
    ),
    // Maintenance.
    step("/v3/maintenance/alarm", ""),
    step(
        "/v3/maintenance/alarm",
        r#"{"action":"ACTIVATE","alarm":"NOSPACE","memberID":"5"}"#,
    ),
    step("/v3/maintenance/alarm", r#"{"action":"GET"}"#),
    step("/v3/kv/put", r#"{"key":"YQ=="}"#),
    step(
        "/v3/maintenance/alarm",
        r#"{"action":2,"alarm":1,"memberID":5}"#,
    ),
    step("/v3/maintenance/defragment", ""),
    step("/v3/maintenance/transfer-leadership", r#"{"targetID":"1"}"#),
    // Users.
    step("/v3/auth/status", ""),
    step("/v3/auth/enable", ""),
    step("/v3/auth/authenticate", r#"{"name":"root","password":"p"}"#),
    step("/v3/auth/user/add", r#"{"name":"root","password":"p"}"#),
    step("/v3/auth/user/add", r#"{"name":"root","password":"p"}"#),
    step(
        "/v3/auth/user/add",
        r#"{"name":"a","password":"p","options":{"no_password":false}}"#,
    ),
    step(
        "/v3/auth/user/add",
        r#"{"name":"b","options":{"noPassword":true}}"#,
    ),
    step("/v3/auth/role/add", r#"{"name":"root"}"#),
    step("/v3/auth/role/add", r#"{"name":"r"}"#),
    step("/v3/auth/role/add", r#"{"name":"r"}"#),
    step(
        "/v3/auth/role/grant",
        r#"{"name":"r","perm":{"permType":"READWRITE","key":"eA==","range_end":"eQ=="}}"#,
    ),
    step(
        "/v3/auth/role/grant",
        r#"{"name":"r","perm":{"permType":0,"key":"eg=="}}"#,
    ),
    step("/v3/auth/role/get", r#"{"role":"r"}"#),
    step("/v3/auth/role/revoke", r#"{"role":"r","key":"eg=="}"#),
    step("/v3/auth/role/revoke", r#"{"role":"r","key":"eg=="}"#),
    step("/v3/auth/role/list", ""),
    step("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
    step("/v3/auth/user/grant", r#"{"user":"a","role":"r"}"#),
    step("/v3/auth/user/grant", r#"{"user":"nobody","role":"r"}"#),
    step("/v3/auth/user/get", r#"{"name":"a"}"#),
    step("/v3/auth/user/list", ""),
    step("/v3/auth/user/changepw", r#"{"name":"a","password":"q"}"#),
    step("/v3/auth/enable", ""),
    step("/v3/kv/range", r#"{"key":"eA=="}"#),
    with(
        "Authorization: nobody.1\r\n",
        "/v3/kv/range",
        r#"{"key":"eA=="}"#,
    ),
    step("/v3/auth/authenticate", r#"{"name":"a","password":"p"}"#),
    step("/v3/auth/authenticate", r#"{"name":"root","password":"p"}"#),
    with("Authorization: {token}\r\n", "/v3/auth/status", ""),
    with(
        "Authorization: {token}\r\n",
        "/v3/auth/user/revoke",
        r#"{"name":"a","role":"nothing"}"#,
    ),
    step("/v3/auth/authenticate", r#"{"name":"a","password":"q"}"#),
    with(
        "Authorization: {token}\r\n",
        "/v3/kv/put",
        r#"{"key":"eA==","value":"MQ=="}"#,
    ),
    with(
        "Grpc-Metadata-Token: {token}\r\n",
        "/v3/kv/range",
        r#"{"key":"eA=="}"#,
    ),
    with(
        "Authorization: {token}\r\n",
        "/v3/kv/range",
        r#"{"key":"YQ=="}"#,
    ),
    with("Authorization: {token}\r\n", "/v3/auth/user/list", ""),
    with(
        "Authorization: {token}\r\n",
        "/v3/kv/txn",
        r#"{"success":[{"request_range":{"key":"YQ=="}}]}"#,
    ),
    Step {
        headers: "Authorization: Bearer {token}\r\n",
        // GR-11: the word before a token is new.
        newer: Some((
            OK,
            r#"{"header":{"cluster_id":"?","member_id":"?","revision":"20","raft_term":"2"},"count":"1"}"#,
        )),
        ..step("/v3/kv/range", r#"{"key":"eA==","count_only":true}"#)
    },
    step("/v3/auth/authenticate", r#"{"name":"root","password":"p"}"#),
    with("Authorization: {token}\r\n", "/v3/auth/disable", ""),
    step("/v3/auth/role/delete", r#"{"role":"r"}"#),
    step("/v3/auth/user/delete", r#"{"name":"a"}"#),
    step("/v3/auth/user/delete", r#"{"name":"a"}"#),
];

/// What was asked, and what matters of the answer.
pub type Told = (String, String, Vec<Option<String>>, String);

/// Takes all steps at one member.
pub async fn taken(kind: Kind, endpoint: &str) -> Vec<Told> {
    let mut told = Vec::new();
    let mut token = String::new();
    for step in STEPS {
        let headers = step.headers.replace("{token}", &token);
        let answer = asked(endpoint, step.method, step.path, &headers, step.body).await;
        if step.path.ends_with("/authenticate") && answer.status == "HTTP/1.1 200 OK" {
            json(&answer.body)["token"]
                .as_str()
                .expect("a token")
                .clone_into(&mut token);
        }
        let shown = format!(
            "{} {} {}{}",
            step.method, step.path, step.headers, step.body
        );
        let status = answer.status.trim_start_matches("HTTP/1.1 ").to_owned();
        let mut body = masked(kind, &answer.body);
        if step.path.ends_with("/member/add") {
            // All members follow, in the order of IDs that nobody foresees.
            body.truncate(body.find(",\"members\"").unwrap_or(body.len()));
        }
        match (step.newer, kind) {
            (None, _) => {
                let names = [
                    "content-type",
                    "grpc-metadata-content-type",
                    "www-authenticate",
                    "access-control-allow-origin",
                    "location",
                    "trailer",
                ];
                let mut headers = names.map(|name| answer.header(name).map(str::to_owned));
                if kind != Kind::Ferrite && status.starts_with("401 ") {
                    // Newer gateways say why here too.
                    let why = json(&answer.body)["message"].as_str().map(str::to_owned);
                    headers[2] = why;
                }
                told.push((shown, status, headers.to_vec(), body));
            }
            (Some((wanted, text)), Kind::Ferrite) => {
                assert_eq!((status.as_str(), body.as_str()), (wanted, text), "{shown}");
                let json = answer.header("content-type");
                assert_eq!(json, Some("application/json"), "{shown}");
            }
            // Whoever asks 3.5.1 finds out that the step is listed for nothing.
            (Some((wanted, text)), _) => {
                assert_ne!((status.as_str(), body.as_str()), (wanted, text), "{shown}");
            }
        }
    }
    told
}

/// A body without what differs from member to member, and without what only 3.5 says.
pub fn masked(kind: Kind, body: &str) -> String {
    let mut body = body.to_owned();
    // GW-15: the text stood there twice.
    if kind != Kind::Ferrite
        && body.starts_with("{\"error\":")
        && let Some((_, rest)) = body.split_once(",\"code\":")
    {
        body = format!("{{\"code\":{rest}");
    }
    for name in [
        "cluster_id",
        "member_id",
        "ID",
        "token",
        "peerURLs",
        "clientURLs",
        "TTL",
    ] {
        let marks = [format!("\"{name}\":\""), format!("\"{name}\":[\"")];
        for mark in marks {
            let mut from = 0;
            while let Some(at) = body[from..].find(&mark) {
                let start = from + at + mark.len();
                let length = body[start..].find('"').unwrap_or_default();
                let old = &body[start..start + length];
                // Small numbers are those of the conversation.
                let ours = old.len() < 6 && old.bytes().all(|b| b.is_ascii_digit() || b == b'-');
                let length = if ours {
                    length
                } else {
                    body.replace_range(start..start + length, "?");
                    1
                };
                from = start + length;
            }
        }
    }
    body
}
