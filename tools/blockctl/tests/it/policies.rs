//! The verbs of policies: forms, fields, exit codes.

use crate::fixture::Stage;
use std::fs;

#[test]
fn a_policy_is_planned_applied_and_shown() {
    let stage = Stage::set();
    assert!(stage.text(&["policy", "list"]).contains("main/default"));
    let file = stage.path("short.toml");
    fs::write(&file, "[schedule]\nat = [\"02:00\"]\n[retention]\nlatest = 1\n").expect("written");
    let long = stage.path("long.toml");
    fs::write(&long, "[schedule]\nat = [\"02:00\"]\n[retention]\nlatest = 9\n").expect("written");
    stage.text(&["disk", "create", "web", "--size", "1M"]);
    stage.text(&["backup", "web", "--keep", "30d"]);
    stage.text(&["backup", "web"]);
    stage.text(&["backup", "web"]);
    stage.text(&["policy", "apply", &long, "--name", "short"]);
    let item = stage.json(&["protect", "web", "--policy", "short"]);
    assert_eq!((&item["item"], &item["policy"]), (&"web".into(), &"main/short".into()));
    assert_eq!(stage.text(&["policy", "export", "short"]), fs::read_to_string(&long).expect("a file"));
    let (code, said) = stage.failure(&["policy", "apply", &file]);
    assert!(code == Some(5) && said.contains("1 recovery points"), "{said}");
    let plan = stage.json(&["policy", "plan", &file]);
    assert_eq!(plan["lost"].as_array().map(Vec::len), Some(1), "{plan}");
    assert_eq!(plan["lost"][0]["point"], "web@2");
    let id = plan["id"].as_str().expect("an id");
    assert!(stage.text(&["policy", "plan", &file]).contains("web@2"));
    stage.text(&["policy", "apply", "--plan", id]);
    let point = stage.json(&["point", "show", "web@1"]);
    assert_eq!(point["kept"][0]["reason"], "asked", "{point}");
    assert!(stage.text(&["policy", "items"]).contains("main/short"));
    let held = stage.json(&["point", "hold", "web@3", "--reason", "audit"]);
    assert_eq!(held["hold"], "audit");
    assert_eq!(stage.failure(&["point", "delete", "web@3", "--yes"]).0, Some(5));
    stage.text(&["point", "release", "web@3"]);
    assert!(stage.text(&["point", "delete", "web@3", "--tier", "vault", "--yes"]).contains("undelete web@3"));
    assert!(stage.text(&["point", "list", "--deleted"]).contains("web@3"));
    stage.text(&["point", "undelete", "web@3"]);
    assert_eq!(stage.failure(&["unprotect", "web"]).0, Some(2));
    assert_eq!(
        stage.failure(&["unprotect", "web", "--delete-data"]).0,
        Some(2),
        "nobody is there to confirm it"
    );
    stage.text(&["unprotect", "web", "--retain-data"]);
    stage.text(&["policy", "delete", "short", "--yes"]);
    assert_eq!(stage.failure(&["policy", "show", "short"]).0, Some(3));
    assert_eq!(stage.failure(&["policy", "delete", "default", "--yes"]).0, Some(4));
    fs::write(&file, "[schedule]\nat = [\"02:00\"]\n[retention]\nlatest = 1\nlatets = 2\n").expect("written");
    let (code, said) = stage.failure(&["policy", "apply", &file]);
    assert!(code == Some(2) && said.contains("latets"), "{said}");
}
