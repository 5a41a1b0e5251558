//! The list of what the protocol text demands names tests; here each is looked for.

const LIST: &str = include_str!("../../docs/musts.md");
const SOURCES: [&str; 5] = [
    include_str!("must_handshake.rs"),
    include_str!("must_transmission.rs"),
    include_str!("must_tls.rs"),
    include_str!("raw.rs"),
    include_str!("../../src/handshake/tests.rs"),
];

/// The names in the last column.
fn named() -> Vec<&'static str> {
    let rows = LIST.lines().filter(|line| line.starts_with("| ")).skip(1);
    let last = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    last.flat_map(|cell| cell.split(", "))
        .filter_map(|name| name.strip_prefix('`')?.strip_suffix('`'))
        .collect()
}

#[test]
fn every_test_that_the_list_of_musts_names_exists() {
    let named = named();
    assert!(named.len() > 50, "the table was not understood: {named:?}");
    for name in &named {
        let head = format!("#[test]\nfn {name}() {{");
        assert!(SOURCES.iter().any(|source| source.contains(&head)), "no test is called {name}");
    }
}

#[test]
fn every_test_of_a_must_is_in_the_list() {
    let named = named();
    for source in &SOURCES[..3] {
        for name in source.split("#[test]\nfn ").skip(1).filter_map(|rest| rest.split('(').next()) {
            // beside the rules, `must_tls` has the tools of others
            assert!(
                named.contains(&name) || name.starts_with("tools_of_others"),
                "{name} is not in the list"
            );
        }
    }
}
