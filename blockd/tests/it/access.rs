//! Who may do what, and what is written down of it.

use crate::fixture::{Daemon, State, failure, noise};
use control::{
    AuditOutcome, AuditQuery, BackupRequest, Client, CreateToken, DeletePointQuery, JobState, Kind, Role,
    Tier,
};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

fn asked(name: &str, role: Role) -> CreateToken {
    // a key that is one, of which nobody has the other half here
    let key = (role == Role::Guard)
        .then(|| "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a".to_owned());
    CreateToken { name: name.into(), role, vaults: Vec::new(), items: Vec::new(), days: None, key }
}

/// A client at the unix socket that shows a fresh token.
fn client_of(daemon: &Daemon, request: &CreateToken) -> (Client, String) {
    let secret = daemon.client().create_token(request).expect("a token").secret;
    let client = Client::new(daemon.client().socket()).expect("a client").with_token(&secret);
    (client, secret)
}

/// Status and body of a request made by hand.
fn raw(daemon: &Daemon, method: &str, path: &str, secret: Option<&str>, body: &str) -> (u16, String) {
    let token = secret.map_or_else(String::new, |secret| format!("authorization: Bearer {secret}\r\n"));
    raw_with(daemon, method, path, &token, body)
}

/// The same with lines of a head.
fn raw_with(daemon: &Daemon, method: &str, path: &str, token: &str, body: &str) -> (u16, String) {
    let mut socket = UnixStream::connect(daemon.client().socket()).expect("a connection");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{token}content-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    match path {
        // a stream without an end
        "/v1/events" => {
            let mut begin = [0; 4096];
            let count = socket.read(&mut begin).expect("an answer");
            answer.push_str(&String::from_utf8_lossy(&begin[..count]));
        }
        _ => drop(socket.read_to_string(&mut answer).expect("an answer")),
    }
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

/// Every verb of the description, as (method, path, roles, unscoped).
fn verbs(document: &Value) -> Vec<(String, String, Vec<String>, bool)> {
    let mut verbs = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let roles = operation["x-roles"].as_array().expect("roles");
            let roles = roles.iter().map(|role| role.as_str().expect("a role").to_owned()).collect();
            let unscoped = operation["x-unscoped"].as_bool().expect("yes or no");
            verbs.push((method.to_uppercase(), path.clone(), roles, unscoped));
        }
    }
    verbs
}

/// A path with names that nothing has.
fn filled(path: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { "no-such-thing".to_owned() } else { part.to_owned() };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// Every role on every verb, as the description of the API says: who may is answered something else than a refusal of the
/// role, who may not is refused and nothing else.
#[test]
fn every_role_on_every_verb() {
    let state = State::new();
    let daemon = state.start();
    let document = daemon.client().openapi().expect("a description");
    let verbs = verbs(&document);
    assert!(verbs.len() > 50, "{}", verbs.len());
    let secrets: Vec<(Role, String)> =
        Role::ALL.map(|role| (role, client_of(&daemon, &asked(role.name(), role)).1)).into();
    let scoped =
        CreateToken { items: vec!["other".into()], vaults: vec!["other".into()], ..asked("s", Role::Admin) };
    let scoped = client_of(&daemon, &scoped).1;
    let mut tried = 0;
    for (method, path, roles, unscoped) in &verbs {
        for (role, secret) in &secrets {
            let (status, said) = raw(&daemon, method, &filled(path), Some(secret), "{}");
            let is_refused = status == 403 && said.contains("and this takes ");
            let may = roles.iter().any(|allowed| allowed == role.name());
            assert_eq!(is_refused, !may, "{} on {method} {path}: {status} {said}", role.name());
            assert!(status < 500 || said.contains("\"kind\""), "{method} {path}: {status} {said}");
            tried += 1;
        }
        // nobody gets anywhere with a token that is none
        let (status, said) = raw(&daemon, method, &filled(path), Some("blockd_admin_00"), "{}");
        assert!(status == 403 && said.contains("not known"), "{method} {path}: {status} {said}");
        if *unscoped || path.contains('{') && !path.contains("{job}") && !path.contains("{plan}") {
            let (status, said) = raw(&daemon, method, &filled(path), Some(&scoped), "{}");
            // a body or a query that is none is said to be so first: it is not known what it names
            let is_none = said.contains("request body") || said.contains("request query");
            let is_kept_out = status == 403 || (status == 400 && is_none);
            let may = roles.iter().any(|allowed| allowed == "admin");
            assert!(is_kept_out || !may, "out of scope on {method} {path}: {status} {said}");
        }
    }
    assert_eq!(tried, 5 * verbs.len());
    assert!(daemon.client().status().is_ok());
}

#[test]
fn a_scope_hides_what_lies_outside_of_it() {
    let state = State::new();
    let daemon = state.start();
    for name in ["web", "db"] {
        daemon.create(name, 1 << 20);
        daemon.write(name, 0, &noise(1, 4096));
        assert_eq!(daemon.backup(name).state, JobState::Done);
    }
    let request = CreateToken { items: vec!["web".into()], ..asked("web-only", Role::Operator) };
    let (client, _) = client_of(&daemon, &request);
    let names = |disks: Vec<control::Disk>| disks.into_iter().map(|disk| disk.name).collect::<Vec<_>>();
    assert_eq!(names(client.disks().expect("disks")), ["web"]);
    assert_eq!(names(client.status().expect("status").disks), ["web"]);
    let points = client.points(None).expect("points").points;
    assert!(points.len() == 1 && points[0].name == "web@1", "{points:?}");
    assert!(client.jobs().expect("jobs").iter().all(|job| job.item == "web"));
    assert_eq!(daemon.client().jobs().expect("jobs").len(), 2);
    assert!(client.snapshot(&["web".into()]).is_ok());
    let backup = |item: &str| BackupRequest { item: item.into(), ..BackupRequest::default() };
    let other =
        daemon.client().jobs().expect("jobs").into_iter().find(|job| job.item == "db").expect("a job");
    for (what, error) in [
        ("snapshot", client.snapshot(&["web".into(), "db".into()]).err()),
        ("disk", client.disk("db").err()),
        ("point", client.point("db@1").err()),
        ("points", client.points(Some("db")).err()),
        ("backup", client.backup(&backup("db")).err()),
        ("job", client.job(&other.id).err()),
        ("cancel", client.cancel_job(&other.id).err()),
        ("protect", client.protect("db", None).err()),
    ] {
        let error = error.unwrap_or_else(|| panic!("{what} was let through"));
        assert_eq!(error.kind(), Kind::Refused, "{what}: {error}");
    }
    let request = CreateToken { vaults: vec!["far".into()], ..asked("far-only", Role::Operator) };
    let (client, _) = client_of(&daemon, &request);
    assert_eq!(client.vaults().expect("vaults"), []);
    assert_eq!(failure(client.backup(&backup("web"))).0, Kind::Refused, "to the vault main");
    assert_eq!(failure(client.check_vault("main")).0, Kind::Refused);
    assert_eq!(failure(client.policy("default")).0, Kind::Refused);
    assert_eq!(failure(client.tokens()).0, Kind::Refused);
}

#[test]
fn what_was_done_is_written_down_before_it_is_acknowledged() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, &noise(1, 1 << 20));
    let (operator, _) = client_of(&daemon, &asked("ops", Role::Operator));
    let backup = BackupRequest { item: "web".into(), ..BackupRequest::default() };
    let job = operator.backup(&backup).expect("a job");
    daemon.finished(&job);
    assert_eq!(
        failure(operator.delete_point("web@1", &DeletePointQuery::from(Tier::Vault))).0,
        Kind::Refused
    );
    assert_eq!(failure(daemon.client().hold_point("web@9", "why")).0, Kind::NotFound);
    daemon.restore("web@1", "copy");
    let entries = daemon.client().audit(&AuditQuery::default()).expect("entries");
    let find = |who: &str, action: &str, outcome: AuditOutcome| {
        let is_it = |entry: &&control::AuditEntry| {
            entry.who == who && entry.action == action && entry.outcome == outcome
        };
        let found = entries.iter().find(is_it);
        found.unwrap_or_else(|| panic!("{who} {action} {outcome:?} is not in {entries:#?}")).clone()
    };
    let owner = format!("user {}", rustix::process::geteuid().as_raw());
    let begun = find("token ops", "POST /v1/backups", AuditOutcome::Asked);
    assert_eq!(begun.about["body"]["item"], "web");
    assert_eq!(find("token ops", "POST /v1/backups", AuditOutcome::Done).of, Some(begun.number));
    let ended = find("token ops", "job backup", AuditOutcome::Done);
    assert_eq!((ended.of, ended.about["point"].as_str()), (Some(begun.number), Some("web@1")));
    find("token ops", "DELETE /v1/points/{point}", AuditOutcome::Refused);
    find(&owner, "POST /v1/points/{point}/hold", AuditOutcome::Refused);
    find(&owner, "POST /v1/restores", AuditOutcome::Asked);
    assert_eq!(find(&owner, "job restore", AuditOutcome::Done).about["target"], "copy");
    assert!(find(&owner, "POST /v1/tokens", AuditOutcome::Asked).about["body"]["name"] == "ops");
    let text = serde_json::to_string(&entries).expect("JSON");
    assert!(!text.contains("blockd_ops"), "a secret is in the log");
    let looked = entries.iter().any(|entry| entry.action.starts_with("GET"));
    assert!(!looked, "who only looks is not written down");
    let head = daemon.client().verify_audit(None).expect("verified");
    assert!(head.ok, "{head:?}");
    // acknowledged means written: nothing of it is lost with the daemon
    daemon.client().snapshot(&["web".into()]).expect("a point");
    daemon.kill();
    let daemon = state.start();
    let last = daemon.client().audit(&AuditQuery { after: None, limit: Some(1) }).expect("entries").remove(0);
    assert_eq!((last.action.as_str(), last.outcome), ("POST /v1/snapshots", AuditOutcome::Done));
    let verified = daemon.client().verify_audit(Some(&head.head)).expect("verified");
    assert!(verified.ok && verified.entries > head.entries, "{verified:?}");
    assert!(daemon.stop().success());
    // a byte of one entry, while nobody looks
    let log = state.files("audit").into_iter().find(|path| path.extension().is_some_and(|end| end == "log"));
    let log = log.expect("a segment");
    let text = fs::read(&log).expect("read");
    let at = text.windows(4).position(|part| part == b"ops\"").expect("the token's name");
    let mut changed = text.clone();
    changed[at] ^= 1;
    fs::write(&log, changed).expect("written");
    let daemon = state.start();
    let verified = daemon.client().verify_audit(None).expect("verified");
    assert!(!verified.ok && verified.problems[0].contains("was changed"), "{verified:?}");
    assert!(daemon.client().status().expect("status").warnings.iter().any(|said| said.contains("audit log")));
    assert!(daemon.client().snapshot(&["web".into()]).is_ok(), "it goes on in another segment");
}

/// What is done without a person is laid at the door of its policy.
#[test]
fn policies_answer_for_what_they_do() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    for seed in 0..4 {
        daemon.write("web", 0, &noise(seed, 4096));
        assert_eq!(daemon.backup("web").state, JobState::Done);
    }
    let policy = "zone = \"UTC\"\n[schedule]\nat = [\"00:00\"]\n[retention]\nlatest = 2\n";
    daemon.client().apply_policy("two", policy).expect("a policy");
    daemon.client().protect("web", Some("two")).expect("protected");
    daemon.eventually("two points are pruned", |client| {
        let entries = client.audit(&AuditQuery::default()).expect("entries");
        let of_both = |points: &Value| points == "web@1, web@2";
        let asked = entries
            .iter()
            .find(|entry| entry.who == "policy main/two" && entry.about.get("points").is_some_and(of_both));
        let is_end =
            |entry: &&control::AuditEntry| entry.outcome == AuditOutcome::Done && entry.action == "prune";
        asked.is_some_and(|asked| entries.iter().filter(is_end).any(|end| end.of == Some(asked.number)))
    });
}

fn openssl(args: &[&str]) {
    let made = Command::new("openssl").args(args).output().expect("openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[test]
fn from_elsewhere_the_api_takes_tls_and_a_token() {
    let state = State::new();
    drop(state.start());
    let dir = state.file("tls");
    fs::create_dir(&dir).expect("a directory");
    let file = |name: &str| dir.join(name).display().to_string();
    let common =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let make = |more: &[&str]| openssl(&[&common[..], more].concat());
    make(&["-subj", "/CN=authority", "-keyout", &file("ca.key"), "-out", &file("ca.pem")]);
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
    let leaf = ["-subj", "/CN=server", "-addext", names, "-addext", "basicConstraints=critical,CA:FALSE"];
    let signed = ["-CA", &file("ca.pem"), "-CAkey", &file("ca.key")];
    make(&[&leaf[..], &signed, &["-keyout", &file("key.pem"), "-out", &file("cert.pem")]].concat());
    let refused = crate::fixture::refused(&state.path(), &["--api-listen", "127.0.0.1:0"]);
    assert_eq!(refused.status.code(), Some(5), "{}", String::from_utf8_lossy(&refused.stderr));
    let config = "[api-tls]\ncertificate = \"tls/cert.pem\"\nkey = \"tls/key.pem\"\n";
    fs::write(state.file("blockd.toml"), config).expect("written");
    let daemon = Daemon::start_with(&state.path(), &["--api-listen", "127.0.0.1:0"]).expect("a daemon");
    let log = daemon.log();
    let at = log.lines().find(|line| line.contains("answers the API")).expect("an address in the log");
    let port = at.rsplit(':').next().expect("a port").trim();
    let authority = fs::read(file("ca.pem")).expect("a certificate");
    let url = format!("https://127.0.0.1:{port}");
    let remote = |url: &str| Client::remote(url, &authority).expect("a client");
    let (kind, said) = failure(remote(&url).status());
    assert!(kind == Kind::Refused && said.contains("shows no token"), "{said}");
    let secret = daemon.client().create_token(&asked("far", Role::Operator)).expect("a token").secret;
    daemon.create("web", 1 << 20);
    let client = remote(&url).with_token(&secret);
    assert_eq!(client.disks().expect("disks").len(), 1);
    assert_eq!(client.snapshot(&["web".into()]).expect("a point").len(), 1);
    assert_eq!(failure(client.delete_disk("web")).0, Kind::Refused);
    daemon.client().delete_token("far").expect("removed");
    assert_eq!(failure(client.disks()).0, Kind::Refused);
    // by a name that is not in the certificate, by another authority, and without TLS, nobody gets so far
    let other = url.replace("127.0.0.1", "127.0.0.2");
    assert_eq!(failure(remote(&other).status()).0, Kind::Unavailable);
    make(&["-subj", "/CN=stranger", "-keyout", &file("other.key"), "-out", &file("other.pem")]);
    let stranger = Client::remote(&url, &fs::read(file("other.pem")).expect("read")).expect("a client");
    assert_eq!(failure(stranger.status()).0, Kind::Unavailable);
    let old = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-tls1_2", "-brief"])
        .stdin(std::process::Stdio::null())
        .output()
        .expect("openssl");
    assert!(!old.status.success(), "TLS 1.2 is spoken");
    let mut plain = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).expect("a connection");
    plain.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).ok();
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "answered without TLS");
    assert!(daemon.client().status().is_ok());
}

#[test]
fn a_request_with_a_key_is_carried_out_once() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, &noise(1, 4096));
    let body = r#"{"disks":["web"]}"#;
    let ask = |daemon: &Daemon, key: &str, body: &str| {
        raw_with(daemon, "POST", "/v1/snapshots", &format!("idempotency-key: {key}\r\n"), body)
    };
    let first = ask(&daemon, "k1", body);
    assert!(first.0 == 200 && first.1.contains("web@1"), "{first:?}");
    assert_eq!(ask(&daemon, "k1", body), first, "the same answer");
    daemon.kill();
    let daemon = state.start();
    assert_eq!(ask(&daemon, "k1", body), first, "also over a crash");
    assert_eq!(ask(&daemon, "k1", r#"{"disks":["db"]}"#).0, 409, "the key of another request");
    assert!(ask(&daemon, "k2", body).1.contains("web@2"), "another key");
    assert_eq!(ask(&daemon, "k3", r#"{"disks":["db"]}"#).0, 404);
    assert_eq!(ask(&daemon, "k3", r#"{"disks":["db"]}"#).0, 404, "what failed is tried again");
    assert_eq!(ask(&daemon, "", body).0, 400);
    assert_eq!(daemon.client().points(Some("web")).expect("points").points.len(), 2);
    daemon.snapshot("web");
    let page = daemon.client().points_page(Some("web"), None, 2).expect("a page");
    let names = |points: &control::Points| points.points.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
    assert_eq!((names(&page), page.next.as_deref()), (vec!["web@1".into(), "web@2".into()], Some("web@2")));
    let page = daemon.client().points_page(Some("web"), page.next.as_deref(), 2).expect("a page");
    assert_eq!((names(&page), page.next), (vec!["web@3".into()], None));
}

/// A restorer at the socket of the exports reads recovery points, and gets at nothing that a guest has.
#[test]
fn users_of_the_host_have_the_exports_their_role_lets_them() {
    use std::os::unix::fs::PermissionsExt;
    let state = State::new();
    drop(state.start());
    let config =
        "[[local-user]]\nuid = 65534\nrole = \"restorer\"\n[[local-user]]\nuid = 65533\nrole = \"reader\"\n";
    fs::write(state.file("blockd.toml"), config).expect("written");
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    daemon.snapshot("web");
    let open = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    open(state.path().parent().expect("its place"), 0o755);
    open(&state.path(), 0o755);
    open(&state.file("nbd.sock"), 0o666);
    let looks = |user: &str, export: &str| {
        let uri = nbd::Uri::unix(state.file("nbd.sock"), export).to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user, "--clear-groups", "nbdinfo", "--size", &uri]);
        command.output().expect("setpriv and nbdinfo").status.success()
    };
    assert!(looks("65534", "web@1") && !looks("65534", "web"));
    assert!(!looks("65533", "web@1") && !looks("65533", "web"));
    assert!(looks("65532", "web@1"), "one of whom nothing is said passed the mode of the socket");
    let entries = daemon.client().audit(&AuditQuery::default()).expect("entries");
    let read =
        |entry: &&control::AuditEntry| entry.action == "read over NBD" && entry.about["point"] == "web@1";
    assert!(entries.iter().find(read).is_some_and(|entry| entry.who.contains("65534")), "{entries:#?}");
}
