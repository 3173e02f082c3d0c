//! `put`, `get`, `del` and `compaction`; the first three also build the requests of a transaction.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use ferrite_client::pb;
use ferrite_client::pb::range_request::{SortOrder, SortTarget};

use super::{Words, serializable, text};
use crate::exit::{self, Failure};
use crate::gofmt::{parse_int, quote};
use crate::output::Form;
use crate::report;
use crate::session::Session;
use ferrite_cli::flags::Values;

/// How long a range delete may still be interrupted.
const DELETE_WARNING: Duration = Duration::from_secs(2);
const PUT_NEEDS: &str = "put command needs 1 argument and input from stdin or 2 arguments";
const GET_NEEDS: &str =
    "get command needs one argument as key and an optional argument as range_end";
const DEL_NEEDS: &str =
    "del command needs one argument as key and an optional argument as range_end";
const PREFIX_OR_FROM: &str =
    "`--prefix` and `--from-key` cannot be set at the same time, choose one";
const TOO_MANY: &str =
    "too many arguments, only accept one argument when `--prefix` or `--from-key` is set";

/// The end of the range of all keys that begin with a prefix.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    // Only 0xff bytes: every key from here on.
    Bytes::from_static(b"\0")
}

/// The range that a key, `--prefix`, `--from-key` and an end mean together.
fn range(values: &Values, key: &[u8], end: Option<&Vec<u8>>) -> Result<(Bytes, Bytes), Failure> {
    let (prefix, from_key) = (values.bool("prefix"), values.bool("from-key"));
    if let Some(end) = end {
        if prefix || from_key {
            return Err(Failure::args(TOO_MANY));
        }
        return Ok((Bytes::copy_from_slice(key), Bytes::copy_from_slice(end)));
    }
    if !prefix && !from_key {
        return Ok((Bytes::copy_from_slice(key), Bytes::new()));
    }
    if key.is_empty() {
        return Ok((Bytes::from_static(b"\0"), Bytes::from_static(b"\0")));
    }
    let end = if prefix {
        prefix_end(key)
    } else {
        Bytes::from_static(b"\0")
    };
    Ok((Bytes::copy_from_slice(key), end))
}

/// The request of a `put`; `stdin` gives the value where the words do not.
pub fn put_request(
    values: &Values,
    words: &Words,
    stdin: &mut dyn Read,
) -> Result<pb::PutRequest, Failure> {
    let Some(key) = words.first() else {
        return Err(Failure::args(PUT_NEEDS));
    };
    let ignore_value = values.bool("ignore-value");
    if ignore_value && words.len() > 1 {
        return Err(Failure::args(
            "put command needs only 1 argument when 'ignore-value' is set",
        ));
    }
    let value = match words.get(1) {
        _ if ignore_value => Vec::new(),
        Some(value) => value.clone(),
        None => {
            let mut value = Vec::new();
            match stdin.read_to_end(&mut value) {
                Ok(count) if count > 0 => value,
                _ => return Err(Failure::args(PUT_NEEDS)),
            }
        }
    };
    let lease = parse_int(&values.text("lease"), 16)
        .map_err(|e| Failure::args(format!("bad lease ID ({e}), expecting ID in Hex")))?;
    Ok(pb::PutRequest {
        key: key.clone().into(),
        value: value.into(),
        lease,
        prev_kv: values.bool("prev-kv"),
        ignore_value,
        ignore_lease: values.bool("ignore-lease"),
    })
}

/// `put`.
pub async fn put(session: &Session, request: pb::PutRequest) -> Result<(), Failure> {
    let client = session.client().await?;
    let response = client.kv().put(request).await?;
    session.printer.put(response.get_ref())
}

/// The request of a `get`.
pub fn get_request(values: &Values, words: &Words) -> Result<pb::RangeRequest, Failure> {
    let Some(key) = words.first() else {
        return Err(Failure::args(GET_NEEDS));
    };
    if values.bool("prefix") && values.bool("from-key") {
        return Err(Failure::args(PREFIX_OR_FROM));
    }
    let (keys_only, count_only) = (values.bool("keys-only"), values.bool("count-only"));
    if keys_only && count_only {
        return Err(Failure::args(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
        ));
    }
    let serializable = serializable(&values.text("consistency"))?;
    let (key, range_end) = range(values, key, words.get(1))?;
    let order = values.text("order");
    let mut sort_order = match order.to_uppercase().as_str() {
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        "" => SortOrder::None,
        _ => {
            return Err(Failure::new(
                exit::BAD_FEATURE,
                format!("bad sort order {order}"),
            ));
        }
    };
    let target = values.text("sort-by");
    let sort_target = match target.to_uppercase().as_str() {
        "CREATE" => SortTarget::Create,
        "KEY" | "" => SortTarget::Key,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => {
            return Err(Failure::new(
                exit::BAD_FEATURE,
                format!("bad sort target {target}"),
            ));
        }
    };
    if sort_target == SortTarget::Key && sort_order == SortOrder::Ascend {
        // The natural order; asking for it would make a server sort the whole range.
        sort_order = SortOrder::None;
    }
    let positive = |name: &str| values.int(name).max(0);
    for (low, high, names) in [
        ("min-create-rev", "max-create-rev", "CreateRev"),
        ("min-mod-rev", "max-mod-rev", "ModRev"),
    ] {
        let (low, high) = (values.int(low), values.int(high));
        if high > 0 && low > high {
            return Err(Failure::new(
                exit::BAD_FEATURE,
                format!("getMin{names}(={low}) > getMax{names}(={high})"),
            ));
        }
    }
    Ok(pb::RangeRequest {
        key,
        range_end,
        limit: values.int("limit"),
        revision: positive("rev"),
        sort_order: sort_order.into(),
        sort_target: sort_target.into(),
        serializable,
        keys_only,
        count_only,
        min_mod_revision: positive("min-mod-rev"),
        max_mod_revision: positive("max-mod-rev"),
        min_create_revision: positive("min-create-rev"),
        max_create_revision: positive("max-create-rev"),
    })
}

/// `get`.
pub async fn get(session: &Session, request: pb::RangeRequest) -> Result<(), Failure> {
    let client = session.client().await?;
    let response = if session.values.bool("stream") {
        get_stream(session, &client, request).await?
    } else {
        client.kv().range(request).await?.into_inner()
    };
    let form = session.printer.form;
    if session.values.bool("count-only") && form != Form::Fields {
        return Err(Failure::args(
            "--count-only is only for `--write-out=fields`",
        ));
    }
    let mut printer = session.printer;
    if session.values.bool("print-value-only") {
        if form != Form::Simple {
            return Err(Failure::args(
                "print-value-only is only for `--write-out=simple`",
            ));
        }
        printer.value_only = true;
    }
    printer.get(&response)
}

/// A range received in pieces, put together.
async fn get_stream(
    session: &Session,
    client: &ferrite_client::Client,
    request: pb::RangeRequest,
) -> Result<pb::RangeResponse, Failure> {
    let receive = async {
        let mut whole = pb::RangeResponse::default();
        let mut stream = client.kv().range_stream(request).await?.into_inner();
        while let Some(piece) = stream.message().await? {
            if let Some(piece) = piece.range_response {
                whole.kvs.extend(piece.kvs);
                whole.header = piece.header.or(whole.header);
                whole.more |= piece.more;
                if piece.count != 0 {
                    whole.count = piece.count;
                }
            }
        }
        Ok::<_, ferrite_client::Status>(whole)
    };
    match tokio::time::timeout(session.command_timeout(), receive).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failure::new(exit::ERROR, "context deadline exceeded")),
    }
}

/// The request of a `del`. A range that was not asked for by name is warned of, and waited on.
pub fn del_request(values: &Values, words: &Words) -> Result<pb::DeleteRangeRequest, Failure> {
    let (key, end) = match words {
        [key] => (key, None),
        [key, end] => (key, Some(end)),
        _ => return Err(Failure::args(DEL_NEEDS)),
    };
    if values.bool("prefix") && values.bool("from-key") {
        return Err(Failure::args(PREFIX_OR_FROM));
    }
    let (first, range_end) = range(values, key, end)?;
    if let Some(end) = end
        && !values.bool("range")
    {
        report::err(&format!(
            "Warning: Keys between {} and {} will be deleted. Please interrupt the command within next 2 seconds to cancel. You can provide `--range` flag to avoid the delay.",
            quote(key),
            quote(end)
        ));
        std::thread::sleep(DELETE_WARNING);
    }
    Ok(pb::DeleteRangeRequest {
        key: first,
        range_end,
        prev_kv: values.bool("prev-kv"),
    })
}

/// `del`.
pub async fn del(session: &Session, request: pb::DeleteRangeRequest) -> Result<(), Failure> {
    let client = session.client().await?;
    let response = client.kv().delete_range(request).await?;
    session.printer.del(response.get_ref())
}

/// The request of a `compaction`.
pub fn compaction_request(
    values: &Values,
    words: &Words,
) -> Result<pb::CompactionRequest, Failure> {
    let [revision] = words else {
        return Err(Failure::args("compaction command needs 1 argument"));
    };
    let revision = parse_int(&text(revision), 10).map_err(|e| Failure::new(exit::ERROR, e))?;
    Ok(pb::CompactionRequest {
        revision,
        physical: values.bool("physical"),
    })
}

/// `compaction`.
pub async fn compaction(session: &Session, request: pb::CompactionRequest) -> Result<(), Failure> {
    let client = session.client().await?;
    client.kv().compact(request).await?;
    report::line(&format!("compacted revision {}", request.revision));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::prefix_end;

    #[test]
    fn ends_of_prefixes() {
        assert_eq!(&prefix_end(b"a")[..], b"b");
        assert_eq!(&prefix_end(b"a\xff")[..], b"b");
        assert_eq!(&prefix_end(b"\xff\xff")[..], b"\0");
    }
}
