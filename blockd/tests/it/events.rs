//! Events, alerts, progress as it happens, and what Prometheus collects.

use crate::fixture::{Daemon, State, noise};
use control::{BackupRequest, EventKind, JobState};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A policy that is due and wants a point of the last hour.
const STRICT: &str =
    "zone = \"UTC\"\n[schedule]\nat = [\"00:00\"]\n[retention]\nlatest = 2\n[objectives]\nrpo-hours = 1\n";

/// Reads a GET until the connection ends or a line satisfies.
fn listen(daemon: &Daemon, path: &str, mut enough: impl FnMut(&str) -> bool) -> Vec<String> {
    let mut socket = UnixStream::connect(daemon.client().socket()).expect("a connection");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("sent");
    let mut lines = Vec::new();
    for line in BufReader::new(socket).lines() {
        let line = line.unwrap_or_else(|error| panic!("{error} after {lines:#?}"));
        let is_enough = enough(&line);
        lines.push(line);
        if is_enough {
            break;
        }
    }
    lines
}

#[test]
fn an_item_without_a_point_is_told_to_everybody_who_is_to_know() {
    let state = State::new();
    drop(state.start());
    let (told, letter) = (state.file("told"), state.file("letter"));
    let hook = TcpListener::bind("127.0.0.1:0").expect("an address");
    let url = format!("http://{}/alerts", hook.local_addr().expect("an address"));
    let config = format!(
        "mail-command = [\"sh\", \"-c\", \"cat > '{}'\"]\n\
         [[alert]]\ncommand = [\"sh\", \"-c\", \"cat >> '{}'\"]\n\
         [[alert]]\nmail = \"ops@example.org\"\nevents = [\"rpo-breach\"]\n\
         [[alert]]\nwebhook = \"{url}\"\nevents = [\"rpo-breach\"]\n",
        letter.display(),
        told.display()
    );
    fs::write(state.file("blockd.toml"), config).expect("written");
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, &noise(1, 4096));
    daemon.client().apply_policy("strict", STRICT).expect("a policy");
    let posted = std::thread::spawn(move || {
        let (mut stream, _) = hook.accept().expect("a post");
        let mut head = [0; 4096];
        let count = stream.read(&mut head).expect("its head");
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("answered");
        String::from_utf8_lossy(&head[..count]).into_owned()
    });
    daemon.client().protect("web", Some("strict")).expect("protected");
    let lines =
        listen(&daemon, "/v1/events", |line| line == "event: rpo-met" || line.starts_with("HTTP/1.1 4"));
    assert!(lines.iter().any(|line| line.contains("text/event-stream")), "{lines:#?}");
    let events = daemon.client().recent_events().expect("events");
    let kinds: Vec<_> = events.iter().map(|event| (event.kind, event.about.as_str())).collect();
    assert_eq!(kinds, [(EventKind::RpoBreach, "web"), (EventKind::RpoMet, "web")], "each once");
    assert!(posted.join().expect("posted").starts_with("POST /alerts "));
    daemon.eventually("the letter is there", |_| {
        let text = fs::read_to_string(&letter).unwrap_or_default();
        text.starts_with("To: ops@example.org\nSubject: blockd: rpo-breach: web\n\n")
    });
    daemon.eventually("the program was told both", |_| {
        let text = fs::read_to_string(&told).unwrap_or_default();
        text.contains("\"rpo-breach\"") && text.contains("\"rpo-met\"")
    });
    let missed = state.file("blockd.toml");
    assert!(daemon.stop().success());
    fs::write(missed, "[[alert]]\nwebhook = \"ftp://x\"\n").expect("written");
    let refused = crate::fixture::refused(&state.path(), &[]);
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
}

#[test]
fn a_job_is_followed_as_it_goes_on_and_counted_when_it_ended() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 8 << 20);
    daemon.write("web", 0, &noise(1, 8 << 20));
    let request = BackupRequest { item: "web".into(), ..BackupRequest::default() };
    let job = daemon.client().backup(&request).expect("a job");
    // ends by itself once the job has
    let lines = listen(&daemon, &format!("/v1/jobs/{}/events", job.id), |_| false);
    let states: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(states.last(), Some(&"done"), "{lines:#?}");
    let last = lines.iter().rev().find_map(|line| line.strip_prefix("data: ")).expect("data");
    let last: control::Job = serde_json::from_str(last).expect("a job");
    assert_eq!((last.state, last.bytes_done), (JobState::Done, last.bytes_total));
    let lines = listen(&daemon, "/v1/jobs/0123/events", |_| false);
    assert!(lines[0].starts_with("HTTP/1.1 404"), "{lines:#?}");
    daemon.client().protect("web", None).expect("protected");
    let metrics = listen(&daemon, "/metrics", |_| false);
    let value = |name: &str| {
        let line =
            metrics.iter().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        let line = line.unwrap_or_else(|| panic!("{name} is not in {metrics:#?}"));
        line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")
    };
    assert!((0.0..600.0).contains(&value("blockd_item_newest_point_age_seconds{item=\"web\"}")));
    assert_eq!(value("blockd_jobs_total{operation=\"backup\",result=\"done\"}"), 1.0);
    assert_eq!(value("blockd_backup_chunks_total{result=\"new\"}"), 2048.0);
    assert_eq!(value("blockd_vault_points{vault=\"main\"}"), 1.0);
    assert!(value("blockd_tier_bytes{tier=\"vault\",vault=\"main\"}") > (8 << 20) as f64);
    assert!(value("blockd_tier_bytes{tier=\"instant\",vault=\"\"}") > (8 << 20) as f64);
    assert!((0.5..1.0).contains(&value("blockd_vault_dedup_ratio{vault=\"main\"}")), "noise is stored once");
    assert_eq!(value("blockd_job_queue_age_seconds"), 0.0);
    assert_eq!(value("blockd_deletion_frozen"), 0.0);
}
