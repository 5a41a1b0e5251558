//! `blockctl vm …`: whole machines.

use crate::cli::MachineVerb;
use crate::failure::{Failure, Result};
use crate::output::{Output, sheet, table};
use control::{Client, Machine, MachineDisk, MachinesQuery, ProtectMachine};

/// Runs the verb.
pub fn run(verb: MachineVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        MachineVerb::List { libvirt } => {
            let found = client.machines(&MachinesQuery { uri: libvirt.uri })?;
            found.warnings.iter().for_each(|warning| output.warn(warning));
            output.answer(&found.machines, |machines| list(machines))
        }
        MachineVerb::Show { machine } => output.answer(&client.machine(&machine)?, show),
        MachineVerb::Protect { domain, name, include, exclude, libvirt } => {
            let name = match name {
                Some(name) => name,
                None => name_of(&domain)?,
            };
            let request = ProtectMachine { domain, uri: libvirt.uri, include, exclude };
            output.answer(&client.protect_machine(&name, &request)?, show)
        }
        MachineVerb::Unprotect { machine } => output
            .answer(&client.unprotect_machine(&machine)?, |machine| {
                format!("{} is no longer protected; its disks and recovery points stay", name(machine))
            }),
        MachineVerb::Definition { point } => {
            output.answer(&client.definition(&point)?, |definition| definition.domain_xml.clone())
        }
    }
}

/// The name of a machine that libvirt calls so.
fn name_of(domain: &str) -> Result<String> {
    crate::cli::machine(&domain.to_ascii_lowercase()).map_err(|why| {
        Failure::usage(format!("machine {domain:?}: {why}")).with_help("name it with --name vm/NAME")
    })
}

fn name(machine: &Machine) -> &str {
    machine.name.as_deref().unwrap_or("-")
}

fn list(machines: &[Machine]) -> String {
    let rows = machines.iter().map(|machine| {
        let ours = machine.disks.iter().filter(|disk| disk.disk.is_some()).count();
        vec![
            name(machine).to_owned(),
            machine.domain.clone(),
            machine.state.clone().unwrap_or_else(|| "?".to_owned()),
            format!("{ours} of {}", machine.disks.len()),
            machine.warnings.join("; "),
        ]
    });
    table(&["name", "domain", "state", "disks here", "warning"], rows.collect())
}

fn show(machine: &Machine) -> String {
    let mut text = sheet(&[
        ("name", name(machine).to_owned()),
        ("domain", format!("{} at {}", machine.domain, machine.uri)),
        ("uuid", machine.uuid.clone().unwrap_or_else(|| "-".to_owned())),
        ("state", machine.state.clone().unwrap_or_else(|| "not known".to_owned())),
    ]);
    text += &table(&["target", "serial", "source", "protected"], machine.disks.iter().map(disk).collect());
    machine.warnings.iter().for_each(|warning| text += &format!("warning: {warning}\n"));
    text
}

fn disk(disk: &MachineDisk) -> Vec<String> {
    let source = disk.disk.as_ref().map_or_else(|| disk.source.clone(), |name| format!("disk {name}"));
    let protected = disk.left_out.as_ref().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}"));
    vec![disk.target.clone(), disk.serial.clone().unwrap_or_else(|| "-".to_owned()), source, protected]
}
