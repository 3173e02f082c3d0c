//! What the JSON gateway is sent: bodies of calls, and frames of WebSockets.

use std::sync::LazyLock;

use ferrite_gateway::websocket::{self, Frames, Said};
use ferrite_gateway::{Form, Message, Route, Values, routes, to_json, to_message};

use crate::{Target, feature};

/// Bodies.
pub const JSON: Target = Target {
    name: "json",
    about: "a body for one of the gateway's routes: its values, their messages, and these as JSON again",
    run: json,
    seeds: json_seeds,
    len_max: 4096,
};

/// Frames.
pub const WEBSOCKET: Target = Target {
    name: "websocket",
    about: "what a WebSocket's client sends, in pieces",
    run: frames,
    seeds: frame_seeds,
    len_max: 4096,
};

/// Bytes of one value, or of one message.
const LIMIT: usize = 1024;

static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| routes().collect());

/// A message is one of what comes back from its own JSON, too.
fn comes_back(bytes: &[u8], message: &Message) {
    let Ok(text) = to_json(bytes, message, Form::Body) else {
        panic!("a message of ours has no JSON: {bytes:?}");
    };
    let Ok(again) = to_message(&text, message) else {
        panic!("our JSON is not read: {}", String::from_utf8_lossy(&text));
    };
    let second = to_json(&again, message, Form::Body);
    assert!(second.is_ok_and(|second| second == text), "{bytes:?}");
}

fn json(bytes: &[u8]) {
    let [which, piece, body @ ..] = bytes else {
        return;
    };
    let route = &ROUTES[usize::from(*which) % ROUTES.len()];
    // Bytes that no message is made of are no message's JSON either, and nothing worse.
    if to_json(body, route.method.output, Form::Line).is_ok() {
        feature(route.path);
    }
    let mut values = Values::new(LIMIT);
    let mut found = Vec::new();
    for piece in body.chunks(usize::from(*piece).max(1)) {
        values.push(piece);
        loop {
            match values.next_value() {
                Ok(Some(value)) => found.push(value),
                Ok(None) => break,
                Err(error) => return feature(&error.to_string()),
            }
        }
    }
    match values.end() {
        Ok(last) => found.extend(last),
        Err(error) => feature(&error.to_string()),
    }
    for value in found {
        match to_message(&value, route.method.input) {
            Ok(message) => {
                feature("a message");
                comes_back(&message, route.method.input);
            }
            Err(error) => feature(&error.to_string()),
        }
    }
}

fn frames(bytes: &[u8]) {
    let [piece, bytes @ ..] = bytes else {
        return;
    };
    let mut frames = Frames::new(LIMIT);
    for piece in bytes.chunks(usize::from(*piece).max(1)) {
        frames.push(piece);
        loop {
            match frames.next_said() {
                Ok(Some(Said::Message(message))) => {
                    assert!(message.len() <= LIMIT, "{} bytes", message.len());
                    feature("a message");
                }
                Ok(Some(said)) => feature(&format!("{said:?}")),
                Ok(None) => break,
                Err(error) => return feature(&error.to_string()),
            }
        }
    }
}

fn json_seeds() -> Vec<Vec<u8>> {
    let bodies = [
        r#"{"key":"Zm9v","range_end":"Zm9w","limit":"10","sortOrder":"DESCEND","sort_target":3}"#,
        r#"{"compare":[{"result":"EQUAL","target":"VALUE","key":"YQ==","value":"YQ"}],"success":[{"requestPut":{"key":"YQ==","value":"_-8="}},{"request_txn":{"failure":[{"requestDeleteRange":{"key":"YQ=="}}]}}]}"#,
        r#"{"create_request":{"key":"AA==","startRevision":"9223372036854775807","filters":["NOPUT",1]}}{"cancelRequest":{"watchId":-1}}"#,
        r#"{"ID":"7","TTL":1e2}"#,
        r#"{"name":"\u0434\ud83d\ude00","password":null,"options":{"no_password":true}}"#,
        r#"{"peerURLs":["http://127.0.0.1:2380"],"isLearner":true}"#,
        r#"{"perm":{"permType":"READWRITE","key":"","rangeEnd":"AA=="},"unknown":[{"a":1.5e-3}]}"#,
        "{}",
    ];
    let all = 0..u8::try_from(ROUTES.len()).unwrap_or(u8::MAX);
    all.zip(bodies.iter().cycle())
        .map(|(which, body)| [&[which, 255], body.as_bytes()].concat())
        .collect()
}

/// As a client sends it: masked.
fn masked(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let length = u8::try_from(payload.len()).map_or(0, |length| length.min(125));
    let hidden = payload.iter().zip(mask.iter().cycle());
    [kind, 0x80 | length]
        .into_iter()
        .chain(mask)
        .chain(hidden.map(|(byte, mask)| byte ^ mask))
        .collect()
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let whole = [
        masked(0x81, b"{\"key\":\"YQ==\"}"),
        masked(0x01, b"in two "),
        masked(0x80, b"pieces"),
        masked(0x89, b"there?"),
        masked(0x8a, b"there"),
        masked(0x88, &[3, 232]),
    ];
    let mut seeds: Vec<Vec<u8>> = whole
        .iter()
        .map(|frame| [&[7], &frame[..]].concat())
        .collect();
    seeds.push([&[255], &whole.concat()[..]].concat());
    seeds.push([&[3], &websocket::text(b"as a server")[..]].concat());
    seeds
}
