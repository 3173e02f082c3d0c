//! `member add`, `member remove` and `member update`, as version 2 printed them.

use ferrite_client::{Client, check_peer_urls, describe, pb};

use super::{Options, connect, members};
use crate::exit::{self, Failure};
use crate::gofmt::{parse_uint, quote};
use crate::report;

/// Version 2 prints what is wrong without a word before it.
fn bare(message: impl Into<String>) -> Failure {
    Failure {
        code: exit::ERROR,
        message: None,
        hint: Some(message.into()),
    }
}

fn refused(status: &ferrite_client::Status) -> Failure {
    bare(match status.message() {
        "etcdserver: Peer URLs already exists" => "membership: peerURL exists".to_owned(),
        _ => describe(status),
    })
}

/// `member add <name> <peerURL>`.
pub async fn add(options: &Options, arguments: &[&str]) -> Result<(), Failure> {
    let [name, url] = arguments else {
        return Err(bare("Provide a name and a single member peerURL"));
    };
    let client = connect(options).await?;
    let request = pb::MemberAddRequest {
        peer_urls: vec![(*url).to_owned()],
        is_learner: false,
    };
    check_peer_urls(&request.peer_urls).map_err(bare)?;
    let response = client.cluster().member_add(request).await;
    let response = response.map_err(|status| refused(&status))?.into_inner();
    let id = response.member.map_or(0, |m| m.id);
    report::line(&format!(
        "Added member named {name} with ID {id:x} to cluster"
    ));
    let mut list = response.members;
    list.sort_by_key(|m| m.id);
    let cluster: Vec<String> = list
        .iter()
        .flat_map(|member| {
            let name = if member.id == id {
                name
            } else {
                &member.name[..]
            };
            let urls = member.peer_urls.iter();
            urls.map(move |url| format!("{name}={url}"))
        })
        .collect();
    report::line(&format!(
        "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"",
        quote(name.as_bytes()),
        quote(cluster.join(",").as_bytes())
    ));
    Ok(())
}

/// `member remove <ID>`.
pub async fn remove(options: &Options, arguments: &[&str]) -> Result<(), Failure> {
    let [given] = arguments else {
        return Err(bare("Provide a single member ID"));
    };
    let client = connect(options).await?;
    let members = members(options, &client).await?;
    for member in members.list.iter().filter(|m| m.name == *given) {
        report::err(&format!(
            "Found a member named {given}; if this is correct, please use its ID, eg:\n\tetcdctl member remove {:x}\n",
            member.id
        ));
    }
    let found = members
        .list
        .iter()
        .find(|m| format!("{:x}", m.id) == *given);
    let Some(member) = found else {
        return Err(bare(format!(
            "Couldn't find a member in the cluster with an ID of {given}."
        )));
    };
    let request = pb::MemberRemoveRequest { id: member.id };
    if let Err(status) = client.cluster().member_remove(request).await {
        return Err(bare(format!(
            "Received an error trying to remove member {given}: {}",
            describe(&status)
        )));
    }
    report::line(&format!("Removed member {given} from cluster"));
    Ok(())
}

/// `member update <ID> <peerURL>,…`.
pub async fn update(options: &Options, arguments: &[&str]) -> Result<(), Failure> {
    let [given, urls] = arguments else {
        return Err(bare(
            "Provide an ID and a list of comma separated peerURL (0xabcd http://example.com,http://example1.com)",
        ));
    };
    let unknown = || bare(format!("No such member: {given}"));
    let digits = given.strip_prefix("0x").unwrap_or(given);
    let id = parse_uint(digits, 16).map_err(|_| unknown())?;
    let client: Client = connect(options).await?;
    let request = pb::MemberUpdateRequest {
        id,
        peer_urls: urls.split(',').map(str::to_owned).collect(),
    };
    check_peer_urls(&request.peer_urls).map_err(bare)?;
    let response = client.cluster().member_update(request).await;
    response.map_err(|status| match status.message() {
        "etcdserver: member not found" => unknown(),
        _ => refused(&status),
    })?;
    report::line(&format!("Updated member with ID {given} in cluster"));
    Ok(())
}
