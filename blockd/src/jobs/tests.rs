use super::*;
use block::linux::{KernelEntropy, SystemClock};

/// A job in some state, for tests.
pub fn job(id: &str, state: JobState) -> Job {
    let body = format!(
        r#"{{"id":"{id}","operation":"backup","item":"web","point":null,"vault":null,"target":null,"kind":null,
        "base":null,"state":"queued","error":null,"created":"2026-11-20T12:00:00.000Z","ended":null,
        "bytes_total":0,"bytes_done":0,"bytes_changed":0,"bytes_read":0,"chunks_new":0,"chunks_reused":0,
        "bytes_stored":0,"duration_ms":0}}"#
    );
    Job { state, ..serde_json::from_str(&body).expect("a job") }
}

fn open(dir: &std::path::Path) -> Arc<Jobs> {
    let (catalog, _) = Catalog::open(dir).expect("a catalog");
    Jobs::open(
        Arc::new(catalog),
        crate::audit_log::of_a_test(dir),
        Arc::new(Events::new(Arc::new(SystemClock))),
        Arc::new(SystemClock),
        Arc::new(KernelEntropy),
        (2, Limits::new(Arc::new(SystemClock), None, &[]).expect("none")),
        &|job| job.id == "cc",
    )
    .expect("jobs")
}

fn new(key: &str) -> NewJob {
    NewJob { operation: "backup", item: "web".into(), keys: vec![key.into()], ..NewJob::default() }
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn jobs_of_one_key_run_one_after_the_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let jobs = open(dir.path());
    let busy = Arc::new(AtomicBool::new(false));
    let ids: Vec<String> = (0..6)
        .map(|_| {
            let busy = busy.clone();
            let work = move |_: &Run| {
                assert!(!busy.swap(true, Ordering::SeqCst), "two at a time");
                std::thread::sleep(Duration::from_millis(5));
                busy.store(false, Ordering::SeqCst);
                Ok(())
            };
            jobs.start(new("disk"), work).expect("started").id
        })
        .collect();
    for id in ids {
        assert_eq!(jobs.wait_for(&id, LONG).expect("known").state, JobState::Done);
    }
    assert_eq!(jobs.active(), 0);
}

#[test]
fn the_most_urgent_job_is_next_and_a_key_keeps_its_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let jobs = open(dir.path());
    let (go, hold) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let begin = |name: &'static str, key: &str, urgency| {
        let (go, order) = (go.clone(), hold.clone());
        let work = move |_: &Run| {
            lock(&order).push(name);
            while !go.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        };
        jobs.start(NewJob { urgency, ..new(key) }, work).expect("started").id
    };
    // both places are taken; what comes then waits
    let mut ids = vec![begin("one", "a", Urgency::Upkeep), begin("two", "b", Urgency::Upkeep)];
    while lock(&hold).len() < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    ids.push(begin("check", "c", Urgency::Upkeep));
    ids.push(begin("late", "d", Urgency::Due(5)));
    ids.push(begin("later", "e", Urgency::Due(500)));
    ids.push(begin("restore", "f", Urgency::Restore));
    // urgent, but of a disk that another has waited for longer
    ids.push(begin("second of c", "c", Urgency::Restore));
    go.store(true, Ordering::SeqCst);
    for id in ids {
        assert_eq!(jobs.wait_for(&id, LONG).expect("known").state, JobState::Done);
    }
    let order = lock(&hold).clone();
    let at = |name| order.iter().position(|one| *one == name).expect("it ran");
    assert!(at("restore") < at("later") && at("late") < at("check"), "{order:?}");
    assert!(at("check") < at("second of c"), "{order:?}");
}

#[test]
fn a_job_that_ends_by_a_defect_ends_for_those_who_follow_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let jobs = open(dir.path());
    let job = jobs.start(new("disk"), |_| panic!("a defect")).expect("started");
    let ended = jobs.wait_for(&job.id, LONG).expect("known");
    assert_eq!(ended.state, JobState::Failed, "{ended:?}");
    let next = jobs.start(new("disk"), |_| Ok(())).expect("started");
    assert_eq!(jobs.wait_for(&next.id, LONG).expect("known").state, JobState::Done);
}

#[test]
fn a_cancelled_job_says_so_and_a_waiting_one_never_begins() {
    let dir = tempfile::tempdir().expect("a directory");
    let jobs = open(dir.path());
    let work = |run: &Run| loop {
        run.go_on()?;
        std::thread::sleep(Duration::from_millis(1));
    };
    let first = jobs.start(new("disk"), work).expect("started");
    let second = jobs.start(new("disk"), |_| panic!("must not begin")).expect("started");
    jobs.cancel(&second.id).expect("asked");
    assert_eq!(jobs.wait_for(&second.id, LONG).expect("known").state, JobState::Cancelled);
    jobs.cancel(&first.id).expect("asked");
    assert_eq!(jobs.wait_for(&first.id, LONG).expect("known").state, JobState::Cancelled);
    assert_eq!(jobs.cancel(&first.id).map_err(|error| error.kind()).err(), Some(Kind::Conflict));
}

#[test]
fn a_job_that_ran_at_a_crash_is_interrupted() {
    let dir = tempfile::tempdir().expect("a directory");
    {
        let (catalog, _) = Catalog::open(dir.path()).expect("a catalog");
        for (id, state) in [("aa", JobState::Running), ("cc", JobState::Running), ("dd", JobState::Queued)] {
            catalog.put_job(&job(id, state)).expect("written");
        }
    }
    let jobs = open(dir.path());
    let seen = jobs.get("aa").expect("known");
    assert_eq!(seen.state, JobState::Failed);
    assert_eq!(seen.error.map(|error| error.message), Some("interrupted".to_owned()));
    assert_eq!(jobs.get("dd").expect("known").state, JobState::Failed);
    let done = jobs.get("cc").expect("known");
    assert_eq!((done.state, done.error), (JobState::Done, None), "it had done its work");
    assert_eq!(jobs.get("bb").map_err(|error| error.kind()).err(), Some(Kind::NotFound));
}

#[test]
fn stopping_ends_what_runs_and_refuses_what_comes() {
    let dir = tempfile::tempdir().expect("a directory");
    let jobs = open(dir.path());
    let work = |run: &Run| loop {
        run.go_on()?;
        std::thread::sleep(Duration::from_millis(1));
    };
    jobs.start(new("disk"), work).expect("started");
    jobs.stop();
    assert_eq!(jobs.active(), 0);
    let late = jobs.start(new("disk"), |_| Ok(()));
    assert_eq!(late.map_err(|error| error.kind()).err(), Some(Kind::Unavailable));
}
