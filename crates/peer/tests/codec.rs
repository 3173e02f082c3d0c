//! The framing on streams, against bytes that etcd writes, and against damage.

use bytes::{Bytes, BytesMut};
use ferrite_peer::codec::{
    AppDecoder, AppEncoder, DecodeError, MESSAGE_LIMIT, MessageDecoder, decode_body,
    encode_message, is_link_heartbeat, link_heartbeat,
};
use ferrite_proto::raftpb::{Entry, Message, MessageType, Snapshot, SnapshotMetadata};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|b| !b.is_ascii_whitespace())
        .map(|b| (b as char).to_digit(16).expect("hex") as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn append(term: u64, log_term: u64, index: u64, data: &[&[u8]], commit: u64) -> Message {
    Message {
        msg_type: MessageType::MsgApp as i32,
        from: 2,
        to: 1,
        term,
        log_term,
        index,
        commit,
        entries: data
            .iter()
            .zip(index + 1..)
            .map(|(data, index)| Entry {
                term,
                index,
                data: Bytes::copy_from_slice(data),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

fn decode_app(bytes: &[u8]) -> Vec<Message> {
    let mut decoder = AppDecoder::new(1, 2);
    decoder.feed(bytes);
    let mut out = Vec::new();
    while let Some(msg) = decoder.next_message().expect("a sound stream") {
        out.push(msg);
    }
    out
}

#[test]
fn link_heartbeats_are_etcds_bytes() {
    let mut out = BytesMut::new();
    encode_message(&link_heartbeat(), &mut out);
    assert_eq!(&out[..], hex("00000000 00000002 0808"));
    let mut out = BytesMut::new();
    AppEncoder::default().encode(&link_heartbeat(), &mut out);
    assert_eq!(&out[..], [0]);
    assert!(is_link_heartbeat(&decode_app(&[0])[0]));

    // Members up to 3.6 write every field.
    let old = hex("0808 1000 1800 2000 2800 3000 4000 4a0a1208 0a022800 10001800 5000 5800 6800");
    let msg = decode_body(old.into()).expect("a message");
    assert!(is_link_heartbeat(&msg));
    assert_eq!(msg, link_heartbeat());
}

#[test]
fn an_empty_snapshot_field_is_none() {
    let body = hex("0803 1001 1802 2005 4a0a 1208 0a022800 1000 1800");
    assert_eq!(decode_body(body.into()).expect("a message").snapshot, None);
    let body = hex("0807 1001 1802 2005 4a0a 1208 0a022800 1009 1801");
    let snapshot = decode_body(body.into())
        .expect("a message")
        .snapshot
        .expect("kept");
    assert_eq!(snapshot.metadata.expect("metadata").index, 9);
}

#[test]
fn msgapp_literal_bytes_full_then_short() {
    let mut encoder = AppEncoder::default();
    let mut out = BytesMut::new();
    encoder.encode(&append(5, 4, 7, &[b"ab"], 6), &mut out);
    let full =
        hex("02 00000000 00000018 0803 1001 1802 2005 2804 3007 3a08 1005 1808 2202 6162 4006");
    assert_eq!(&out[..], full);

    out.clear();
    encoder.encode(&append(5, 5, 8, &[b"c", b""], 8), &mut out);
    let short = hex("01 00000000 00000002 00000000 00000007 1005 1809 2201 63 \
         00000000 00000004 1005 180a 00000000 00000008");
    assert_eq!(&out[..], short);

    out.clear();
    encoder.encode(&append(5, 5, 10, &[], 10), &mut out);
    assert_eq!(
        &out[..],
        hex("01 00000000 00000000 00000000 0000000a"),
        "commit only"
    );

    let got = decode_app(&[full, short].concat());
    assert_eq!(
        got,
        [
            append(5, 4, 7, &[b"ab"], 6),
            append(5, 5, 8, &[b"c", b""], 8)
        ]
    );
}

#[test]
fn the_long_form_always_is_read_too() {
    let msgs = [
        append(3, 3, 1, &[b"x"], 1),
        append(3, 3, 2, &[b"y"], 2),
        append(3, 3, 3, &[], 3),
    ];
    let mut out = BytesMut::new();
    for msg in &msgs {
        out.extend_from_slice(&[2]);
        encode_message(msg, &mut out);
    }
    let mut short = AppEncoder::default();
    short.encode(&msgs[0], &mut BytesMut::new());
    short.encode(&msgs[1], &mut BytesMut::new());
    short.encode(&msgs[2], &mut BytesMut::new());
    short.encode(&append(3, 3, 3, &[b"z"], 3), &mut out);
    let got = decode_app(&out);
    assert_eq!(&got[..3], msgs);
    assert_eq!(got[3], append(3, 3, 3, &[b"z"], 3));
}

/// A small generator with a seed, so that a failure can be repeated.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn random_messages(rng: &mut Rng) -> Vec<Message> {
    let (mut term, mut index) = (1 + rng.below(3), rng.below(5));
    (0..1 + rng.below(12))
        .map(|_| {
            let log_term = term;
            if rng.below(4) == 0 {
                term += 1;
            }
            if rng.below(5) == 0 {
                index = index.saturating_sub(rng.below(3));
            }
            let data: Vec<Vec<u8>> = (0..rng.below(4))
                .map(|_| vec![rng.next() as u8; rng.below(300) as usize])
                .collect();
            let refs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
            let msg = append(term, log_term, index, &refs, rng.below(100));
            index += refs.len() as u64;
            msg
        })
        .collect()
}

#[test]
fn round_trips_in_any_pieces() {
    for seed in 0..300 {
        let mut rng = Rng(seed);
        let msgs = random_messages(&mut rng);
        let (mut app, mut whole) = (BytesMut::new(), BytesMut::new());
        let mut encoder = AppEncoder::default();
        for msg in &msgs {
            encoder.encode(msg, &mut app);
            encode_message(msg, &mut whole);
        }
        let mut app_decoder = AppDecoder::new(1, 2);
        let mut decoder = MessageDecoder::new(MESSAGE_LIMIT);
        let (mut got_app, mut got) = (Vec::new(), Vec::new());
        while !app.is_empty() || !whole.is_empty() {
            let n = (1 + rng.below(50)) as usize;
            app_decoder.feed(&app.split_to(n.min(app.len())));
            decoder.feed(&whole.split_to(n.min(whole.len())));
            while let Some(msg) = app_decoder.next_message().expect("sound") {
                got_app.push(msg);
            }
            while let Some(msg) = decoder.next_message().expect("sound") {
                got.push(msg);
            }
        }
        assert_eq!(got_app, msgs, "seed {seed}");
        assert_eq!(got, msgs, "seed {seed}");
    }
}

#[test]
fn damaged_streams_end_in_errors_without_panic() {
    for seed in 0..3000 {
        let mut rng = Rng(seed);
        let mut app = BytesMut::new();
        let mut whole = BytesMut::new();
        let mut encoder = AppEncoder::default();
        for msg in random_messages(&mut rng) {
            encoder.encode(&msg, &mut app);
            encode_message(&msg, &mut whole);
        }
        for bytes in [&mut app, &mut whole] {
            for _ in 0..1 + rng.below(4) {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] = match rng.below(3) {
                    0 => rng.next() as u8,
                    1 => 0xff,
                    _ => bytes[at] ^ (1 << rng.below(8)),
                };
            }
        }
        let mut decoder = AppDecoder::new(1, 2);
        decoder.feed(&app);
        while let Ok(Some(_)) = decoder.next_message() {}
        let mut decoder = MessageDecoder::new(MESSAGE_LIMIT);
        decoder.feed(&whole);
        while let Ok(Some(_)) = decoder.next_message() {}
    }
}

#[test]
fn announced_lengths_are_limited_and_reserve_nothing() {
    let mut decoder = MessageDecoder::new(1000);
    decoder.feed(&1001u64.to_be_bytes());
    assert!(matches!(
        decoder.next_message(),
        Err(DecodeError::TooLarge {
            len: 1001,
            limit: 1000
        })
    ));

    // Half a gigabyte announced, three bytes sent: an error or a reservation would show as a failed test or in memory.
    let mut decoder = MessageDecoder::new(MESSAGE_LIMIT);
    decoder.feed(&MESSAGE_LIMIT.to_be_bytes());
    decoder.feed(b"abc");
    assert!(decoder.next_message().expect("still waiting").is_none());
    assert_eq!(decoder.into_rest(), &b"abc"[..]);

    let mut bytes = BytesMut::new();
    AppEncoder::default().encode(&append(1, 1, 1, &[], 1), &mut bytes);
    let mut decoder = AppDecoder::new(1, 2);
    decoder.feed(&bytes);
    decoder.next_message().expect("sound").expect("whole");
    decoder.feed(&[1]);
    decoder.feed(&u64::MAX.to_be_bytes());
    assert!(
        decoder
            .next_message()
            .expect("a count alone costs nothing")
            .is_none()
    );
    decoder.feed(&(MESSAGE_LIMIT + 1).to_be_bytes());
    assert!(matches!(
        decoder.next_message(),
        Err(DecodeError::TooLarge { .. })
    ));

    let mut decoder = AppDecoder::new(1, 2);
    decoder.feed(&[1]);
    assert!(matches!(
        decoder.next_message(),
        Err(DecodeError::NothingToContinue)
    ));
    let mut decoder = AppDecoder::new(1, 2);
    decoder.feed(&[3]);
    assert!(matches!(
        decoder.next_message(),
        Err(DecodeError::UnknownType(3))
    ));
}

#[test]
fn a_snapshot_head_leaves_the_database_behind() {
    let msg = Message {
        msg_type: MessageType::MsgSnap as i32,
        snapshot: Some(Snapshot {
            data: Bytes::from_static(b"{}"),
            metadata: Some(SnapshotMetadata {
                index: 5,
                term: 2,
                conf_state: None,
            }),
        }),
        ..Default::default()
    };
    let mut out = BytesMut::new();
    encode_message(&msg, &mut out);
    out.extend_from_slice(b"database");
    let mut decoder = MessageDecoder::new(1 << 20);
    decoder.feed(&out);
    assert_eq!(decoder.next_message().expect("sound"), Some(msg));
    assert_eq!(decoder.into_rest(), &b"database"[..]);
}
