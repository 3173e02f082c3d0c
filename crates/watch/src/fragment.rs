//! Cutting a response that is too large for one message.

use ferrite_proto::etcdserverpb::WatchResponse;
use prost::Message;

/// Cuts a response of at least `limit` encoded bytes into pieces below it. Every piece but the last
/// says that more follows; a piece has at least one event, however large that is.
pub fn fragments(mut response: WatchResponse, limit: usize) -> Vec<WatchResponse> {
    if response.events.len() < 2 || response.encoded_len() < limit {
        return vec![response];
    }
    let events = std::mem::take(&mut response.events);
    response.fragment = true;
    let empty = response.encoded_len();
    let mut pieces = Vec::new();
    let mut piece = response.clone();
    let mut size = empty;
    for event in events {
        let len = event.encoded_len();
        let field = 1 + prost::length_delimiter_len(len) + len;
        if !piece.events.is_empty() && size + field >= limit {
            pieces.push(std::mem::replace(&mut piece, response.clone()));
            size = empty;
        }
        size += field;
        piece.events.push(event);
    }
    piece.fragment = false;
    pieces.push(piece);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_proto::mvccpb::{Event, KeyValue};

    fn response(sizes: &[usize]) -> WatchResponse {
        let events = sizes.iter().map(|size| Event {
            kv: Some(KeyValue {
                key: "k".into(),
                value: vec![b'v'; *size].into(),
                ..KeyValue::default()
            }),
            ..Event::default()
        });
        WatchResponse {
            watch_id: 3,
            events: events.collect(),
            ..WatchResponse::default()
        }
    }

    #[test]
    fn pieces_stay_below_the_limit_and_keep_every_event() {
        let whole = response(&[400; 10]);
        let pieces = fragments(whole.clone(), 1000);
        assert_eq!(pieces.len(), 5);
        assert!(
            pieces
                .iter()
                .all(|piece| piece.encoded_len() < 1000 && piece.watch_id == 3)
        );
        let flags: Vec<bool> = pieces.iter().map(|piece| piece.fragment).collect();
        assert_eq!(flags, [true, true, true, true, false]);
        let events: Vec<Event> = pieces.into_iter().flat_map(|piece| piece.events).collect();
        assert_eq!(events, whole.events);
    }

    #[test]
    fn small_ones_and_single_events_go_whole() {
        assert_eq!(fragments(response(&[10, 10]), 1000).len(), 1);
        assert_eq!(fragments(response(&[5000]), 1000).len(), 1);
        let pieces = fragments(response(&[5000, 5000, 1]), 1000);
        assert_eq!(
            pieces
                .iter()
                .map(|piece| piece.events.len())
                .collect::<Vec<_>>(),
            [1, 1, 1]
        );
    }
}
