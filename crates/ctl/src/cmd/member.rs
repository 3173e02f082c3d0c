//! `member …`.

use ferrite_client::{check_peer_urls, pb};

use super::{Words, serializable, text};
use crate::exit::{self, Failure};
use crate::gofmt::{parse_uint, quote};
use crate::output::Form;
use crate::report;
use crate::session::Session;
use ferrite_cli::flags::Values;

fn id(words: &Words) -> Result<u64, Failure> {
    let [word] = words else {
        return Err(Failure::args("member ID is not provided"));
    };
    parse_uint(&text(word), 16)
        .map_err(|e| Failure::args(format!("bad member ID arg ({e}), expecting ID in Hex")))
}

fn peer_urls(values: &Values) -> Result<Vec<String>, Failure> {
    let urls = values.text("peer-urls");
    if urls.is_empty() {
        return Err(Failure::args("member peer urls not provided"));
    }
    Ok(urls.split(',').map(str::to_owned).collect())
}

/// Nothing is sent that a member could not read.
fn readable(urls: &[String]) -> Result<(), Failure> {
    check_peer_urls(urls).map_err(|why| Failure::new(exit::ERROR, why))
}

/// What `member add` needs: the name, and the request.
pub fn add_request(
    values: &Values,
    words: &Words,
) -> Result<(String, pb::MemberAddRequest), Failure> {
    let [name] = words else {
        if words.is_empty() {
            return Err(Failure::args("member name not provided"));
        }
        let mut message = "too many arguments".to_owned();
        for word in words.iter().map(|w| text(w)) {
            if word.to_lowercase().starts_with("http") {
                message.push_str(&format!(", did you mean --peer-urls={word}"));
            }
        }
        return Err(Failure::args(message));
    };
    let request = pb::MemberAddRequest {
        peer_urls: peer_urls(values)?,
        is_learner: values.bool("learner"),
    };
    Ok((text(name), request))
}

/// `member add`.
pub async fn add(
    session: &Session,
    name: String,
    request: pb::MemberAddRequest,
) -> Result<(), Failure> {
    let client = session.client().await?;
    readable(&request.peer_urls)?;
    let response = client.cluster().member_add(request).await?.into_inner();
    session.printer.member_add(&response)?;
    if session.printer.form != Form::Simple {
        return Ok(());
    }
    let new = response.member.as_ref().map_or(0, |m| m.id);
    let cluster: Vec<String> = response
        .members
        .iter()
        .flat_map(|member| {
            let name = if member.id == new {
                &name
            } else {
                &member.name
            };
            member
                .peer_urls
                .iter()
                .map(move |url| format!("{name}={url}"))
        })
        .collect();
    let quoted = |text: &str| quote(text.as_bytes());
    report::out(
        format!(
            "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
            quoted(&name),
            quoted(&cluster.join(",")),
            quoted(&session.values.text("peer-urls")),
        )
        .as_bytes(),
    );
    Ok(())
}

/// The request of `member remove`.
pub fn remove_request(words: &Words) -> Result<pb::MemberRemoveRequest, Failure> {
    Ok(pb::MemberRemoveRequest { id: id(words)? })
}

/// `member remove`.
pub async fn remove(session: &Session, request: pb::MemberRemoveRequest) -> Result<(), Failure> {
    let client = session.client().await?;
    let r = client.cluster().member_remove(request).await?.into_inner();
    session.printer.member_change(
        "removed from",
        request.id,
        r.header.as_ref(),
        &r.members,
        &r,
    )
}

/// The request of `member update`.
pub fn update_request(values: &Values, words: &Words) -> Result<pb::MemberUpdateRequest, Failure> {
    Ok(pb::MemberUpdateRequest {
        id: id(words)?,
        peer_urls: peer_urls(values)?,
    })
}

/// `member update`.
pub async fn update(session: &Session, request: pb::MemberUpdateRequest) -> Result<(), Failure> {
    let client = session.client().await?;
    readable(&request.peer_urls)?;
    let id = request.id;
    let r = client.cluster().member_update(request).await?.into_inner();
    session
        .printer
        .member_change("updated in", id, r.header.as_ref(), &r.members, &r)
}

/// The request of `member promote`.
pub fn promote_request(words: &Words) -> Result<pb::MemberPromoteRequest, Failure> {
    Ok(pb::MemberPromoteRequest { id: id(words)? })
}

/// `member promote`.
pub async fn promote(session: &Session, request: pb::MemberPromoteRequest) -> Result<(), Failure> {
    let client = session.client().await?;
    let r = client.cluster().member_promote(request).await?.into_inner();
    session
        .printer
        .member_change("promoted in", request.id, r.header.as_ref(), &r.members, &r)
}

/// The request of `member list`.
pub fn list_request(values: &Values) -> Result<pb::MemberListRequest, Failure> {
    Ok(pb::MemberListRequest {
        linearizable: !serializable(&values.text("consistency"))?,
    })
}

/// `member list`.
pub async fn list(session: &Session, request: pb::MemberListRequest) -> Result<(), Failure> {
    let client = session.client().await?;
    let response = client.cluster().member_list(request).await?;
    session.printer.member_list(response.get_ref())
}
