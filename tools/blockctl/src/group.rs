//! `blockctl group …`.

use crate::cli::GroupVerb;
use crate::failure::Result;
use crate::output::{Output, sheet, table};
use control::{Client, Group};

/// Runs the verb.
pub fn run(verb: GroupVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        GroupVerb::List => output.answer(&client.groups()?, |groups| list(groups)),
        GroupVerb::Show { name } => output.answer(&client.group(&name)?, show),
        GroupVerb::Set { name, members } => output.answer(&client.set_group(&name, &members)?, show),
        GroupVerb::Delete { name, yes } => {
            let found = client.group(&name)?;
            output.confirm(&format!("delete {}, whose members stay", found.name), yes)?;
            output.answer(&client.delete_group(&name)?, |group| format!("deleted {}", group.name))
        }
    }
}

fn state(group: &Group) -> String {
    group.error.as_ref().map_or_else(|| "ready".to_owned(), |error| error.message.clone())
}

fn list(groups: &[Group]) -> String {
    let row = |group: &Group| {
        vec![
            group.name.clone(),
            group.members.join(" "),
            group.policy.clone().unwrap_or_default(),
            state(group),
        ]
    };
    table(&["group", "members", "policy", "state"], groups.iter().map(row).collect())
}

fn show(group: &Group) -> String {
    sheet(&[
        ("name", group.name.clone()),
        ("members", group.members.join(" ")),
        ("disks", group.disks.join(" ")),
        ("policy", group.policy.clone().unwrap_or_else(|| "-".to_owned())),
        ("state", state(group)),
    ])
}
