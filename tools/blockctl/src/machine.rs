//! `blockctl vm …`: whole machines.

use crate::cli::{AttachOptions, MachineVerb, ModeName, NetworkName, RestoreMachineOptions};
use crate::failure::{Failure, Result};
use crate::job;
use crate::output::{Output, sheet, table};
use crate::size;
use control::{
    AttachDisk, Client, DiskAttached, Job, JobState, Machine, MachineDisk, MachineNetwork, MachineReplaced,
    MachinesQuery, MigrateIn, MigrateOut, ProtectMachine, ReplaceMachine, RestoreMachine,
};
use machines::{Reach, ServedDisk};

/// Runs the verb.
pub fn run(verb: MachineVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        MachineVerb::List { libvirt } => {
            let found = client.machines(&MachinesQuery { uri: libvirt.uri })?;
            found.warnings.iter().for_each(|warning| output.warn(warning));
            output.answer(&found.machines, |machines| list(machines))
        }
        MachineVerb::Show { machine } => output.answer(&client.machine(&machine)?, show),
        MachineVerb::Protect { domain, name, include, exclude, mode, libvirt } => {
            let name = match name {
                Some(name) => name,
                None => name_of(&domain)?,
            };
            let request = ProtectMachine {
                domain,
                uri: libvirt.uri,
                include,
                exclude,
                attached: mode == ModeName::Attached,
            };
            output.answer(&client.protect_machine(&name, &request)?, show)
        }
        MachineVerb::Unprotect { machine } => output
            .answer(&client.unprotect_machine(&machine)?, |machine| {
                format!("{} is no longer protected; its disks and recovery points stay", name(machine))
            }),
        MachineVerb::Attach(AttachOptions { domain, disk, target, at_next_start, libvirt }) => {
            let request = AttachDisk { domain, uri: libvirt.uri, disk, target, at_next_start };
            output.answer(&client.attach_disk(&request)?, attached)
        }
        MachineVerb::MigrateIn { machine, disks } => {
            let begun = client.migrate_in(&machine, &MigrateIn { disks })?;
            let done = job::follow(client, output, &begun)?;
            job::answer(output, &done, |job| {
                moved(job, "its disks are here; the files they were in are no longer written")
            })
        }
        MachineVerb::MigrateOut { machine, to, format, disks } => {
            let begun = client.migrate_out(&machine, &MigrateOut { to, format, disks })?;
            let done = job::follow(client, output, &begun)?;
            job::answer(output, &done, |job| {
                moved(job, "its disks are files of its host again; those here are no longer written")
            })
        }
        MachineVerb::CommandLine { disk, target } => {
            let disk = client.disk(&disk)?;
            let reach = Reach::Unix(client.status()?.daemon.nbd_socket.into());
            let served = ServedDisk { target, reach, export: disk.name, serial: None };
            let words = [("-blockdev", served.node()), ("-device", served.device(None))];
            let words: Vec<String> =
                words.into_iter().flat_map(|(word, value)| [word.to_owned(), value.to_string()]).collect();
            output.answer(&words, |words| words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "))
        }
        MachineVerb::Definition { point } => {
            output.answer(&client.definition(&point)?, |definition| definition.domain_xml.clone())
        }
    }
}

/// `blockctl restore vm …`.
pub fn restore(options: RestoreMachineOptions, client: &Client, output: &Output) -> Result<()> {
    let RestoreMachineOptions { point, target, disks, undo, verify, yes, .. } = options;
    let point = point.unwrap_or_default();
    if let Some(machine) = target.replace {
        let what = if undo { "what it held before" } else { &point };
        output.confirm(
            &format!("replace machine {machine} by {what}: what it holds now stays in a recovery point only"),
            yes,
        )?;
        let mut begun = client.replace_machine(&machine, &ReplaceMachine { point, undo, disks, verify })?;
        for one in &mut begun.jobs {
            *one = job::follow(client, output, one)?;
        }
        output.answer(&begun, |done| replaced(&machine, done))?;
        return match begun.jobs.iter().find(|job| job.state != JobState::Done) {
            Some(failed) => Err(job::failure(failed)),
            None => Ok(()),
        };
    }
    let network = match options.network {
        NetworkName::None => MachineNetwork::None,
        NetworkName::Same => MachineNetwork::Same,
    };
    let name = target.name.unwrap_or_default();
    let (uri, exports_at) = (options.uri, options.exports_at);
    let request = RestoreMachine { point, name, run: options.run, network, disks, uri, exports_at };
    let done = job::follow(client, output, &client.restore_machine(&request)?)?;
    job::answer(output, &done, |job| restored(job, request.run))
}

fn restored(job: &Job, runs: bool) -> String {
    let (point, target) = (job.point.as_deref().unwrap_or("?"), job.target.as_deref().unwrap_or("?"));
    let seconds = job.duration_ms as f64 / 1000.0;
    let mut text = match runs {
        true => format!("{point} runs as machine {target}, {seconds:.2} s"),
        false => format!(
            "{point} restored as machine {target}: {} written, {seconds:.2} s",
            size::show(job.bytes_done)
        ),
    };
    if let Some(note) = &job.note {
        text += &format!("\nnote: {note}");
    }
    text
}

fn moved(job: &Job, what: &str) -> String {
    let (bytes, seconds) = (size::show(job.bytes_done), job.duration_ms as f64 / 1000.0);
    let mut text = format!("machine {}: {what}. {bytes}, {seconds:.2} s", job.item);
    job.note.iter().for_each(|note| text += &format!("\nnote: {note}"));
    text
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    match word.starts_with('-') {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

fn replaced(machine: &str, done: &MachineReplaced) -> String {
    let (point, safety) = (&done.point, &done.safety_point);
    let disks = size::count(done.jobs.len() as u64, "disk");
    let mut text = format!(
        "{point} restored in the place of machine {machine}, {disks}\nwhat was there before: {safety}; `restore vm --replace {machine} --undo` \
         puts it back"
    );
    done.notes.iter().for_each(|note| text += &format!("\nnote: {note}"));
    text
}

fn attached(done: &DiskAttached) -> String {
    let when = if done.live { "now and from now on" } else { "from its next start on" };
    let how = if done.passed_on { ", past libvirt, which cannot tell qemu to reconnect" } else { "" };
    let mut text = format!("machine {} has disk {} as {}, {when}{how}", done.domain, done.disk, done.target);
    done.notes.iter().for_each(|note| text += &format!("\nnote: {note}"));
    text
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
