//! Everything a member serves, read in pages pinned to one revision.

use ferrite_client::{Client, Status, pb};
use ferrite_proto::mvccpb::KeyValue;

/// A page stays well below any message limit.
const PAGE_BYTES: usize = 4 << 20;

/// The whole key space, or a prefix of it, at a revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    /// The revision read at.
    pub revision: i64,
    /// Every pair, by key.
    pub pairs: Vec<KeyValue>,
}

/// Everything at a revision (0: the newest); `largest` is the size of the largest value to expect.
///
/// # Errors
/// The first failed call.
pub async fn dump(
    client: &Client,
    mut revision: i64,
    serializable: bool,
    largest: usize,
) -> Result<Contents, Status> {
    let limit = i64::try_from((PAGE_BYTES / (largest + 128)).clamp(1, 5_000)).unwrap_or(1);
    let mut pairs: Vec<KeyValue> = Vec::new();
    let mut from = vec![0];
    loop {
        let request = pb::RangeRequest {
            key: from.into(),
            range_end: vec![0].into(),
            limit,
            revision,
            serializable,
            ..Default::default()
        };
        let page = client.kv().range(request).await?.into_inner();
        if revision == 0 {
            revision = page.header.map_or(0, |header| header.revision);
        }
        let last = page.kvs.last().map(|pair| pair.key.to_vec());
        pairs.extend(page.kvs);
        match last {
            Some(mut next) if page.more => {
                next.push(0);
                from = next;
            }
            _ => return Ok(Contents { revision, pairs }),
        }
    }
}
