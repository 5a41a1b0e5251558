//! Checks on prose: no paths of one person's machine, no unfinished marks, and links that lead somewhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::root;

/// Paths that mean something on one machine only; written apart so that this file passes its own check.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/")];
/// Marks of unfinished work; what is unfinished belongs into the issues.
const UNFINISHED: &[&str] = &[concat!("to", "do"), concat!("fix", "me")];
/// The line that forbids unfinished marks names one.
const LINT: &str = concat!("to", "do = \"deny\"");
/// Names that say nothing of what a file is for.
const EMPTY_NAMES: &[&str] = &["common", "helper", "helpers", "manager", "misc", "util", "utils"];
/// Built or stored, not written by people.
const SKIPPED: &[&str] = &["target", ".git", "corpus", "artifacts", "coverage", "Cargo.lock"];

/// Checks every text file of the workspace.
///
/// # Errors
/// Names file, line and fault of everything found.
pub fn check() -> Result<()> {
    let root = root();
    let mut files = Vec::new();
    walk(&root, &mut files)?;
    let mut faults = Vec::new();
    let count = files.len();
    for path in files {
        faults.extend(fault_of_name(&root, &path));
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        if let Ok(text) = std::str::from_utf8(&bytes) {
            faults.extend(faults_of(&root, &path, text));
        }
    }
    if !faults.is_empty() {
        bail!("the prose needs a hand:\n  {}", faults.join("\n  "));
    }
    println!("{count} files read, prose clean");
    Ok(())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn fault_of_name(root: &Path, path: &Path) -> Option<String> {
    let name = path.strip_prefix(root).unwrap_or(path);
    // cargo's own idiom for the module that integration tests share
    let bare = PathBuf::from(name.with_extension("").to_string_lossy().replace("tests/common", "tests"));
    let empty = bare.iter().filter_map(|part| part.to_str()).find(|part| EMPTY_NAMES.contains(part))?;
    Some(format!("{}: {empty} says nothing of what it is for", name.display()))
}

fn faults_of(root: &Path, path: &Path, text: &str) -> Vec<String> {
    let name = path.strip_prefix(root).unwrap_or(path).display();
    let is_markdown = path.extension().is_some_and(|extension| extension == "md");
    let mut fenced = false;
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        faults.extend(words_of(line).map(|fault| format!("{name}:{number}: {fault}")));
        let named = documents(line).filter(|document| !is_found(root, path, document));
        faults.extend(named.map(|document| format!("{name}:{number}: {document} does not exist")));
        fenced ^= line.trim_start().starts_with("```");
        if is_markdown && !fenced {
            let lost = links(line).filter(|target| !leads_somewhere(path, target));
            faults.extend(lost.map(|target| format!("{name}:{number}: link to {target} leads nowhere")));
        }
    }
    faults
}

fn words_of(line: &str) -> impl Iterator<Item = String> {
    let lower = line.to_lowercase();
    let paths = MACHINE_PATHS.iter().filter(|path| starts_a_path(line, path));
    let marks = UNFINISHED.iter().filter(|mark| line.trim() != LINT && is_word(&lower, mark));
    let paths: Vec<String> = paths.map(|path| format!("{path} is a path of one machine")).collect();
    let marks: Vec<String> = marks.map(|mark| format!("{mark} marks unfinished work")).collect();
    paths.into_iter().chain(marks)
}

/// Whether `path` stands in `line` as the beginning of a path, not within one.
fn starts_a_path(line: &str, path: &str) -> bool {
    let within = |c: char| c.is_alphanumeric() || "-_.})*$>~".contains(c);
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(within))
}

fn is_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = line.match_indices(word);
    found.any(|(at, _)| !line[..at].ends_with(part) && !line[at + word.len()..].starts_with(part))
}

/// The documents a line names by a path through a `docs` folder; those of other sites are not ours to check.
fn documents(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|c: char| !c.is_alphanumeric() && !"/._-".contains(c));
    words.filter(|word| word.ends_with(".md") && word.contains("docs/") && !word.starts_with("//"))
}

/// Whether a document exists: seen from the file, from a folder above it (its crate's, mostly) or from the top.
fn is_found(root: &Path, file: &Path, document: &str) -> bool {
    let folders = file.ancestors().skip(1).take_while(|folder| folder.starts_with(root));
    folders.into_iter().any(|folder| folder.join(document).is_file())
}

/// The targets of the Markdown links in a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next())
}

fn leads_somewhere(file: &Path, target: &str) -> bool {
    let elsewhere = target.contains("://") || target.starts_with("mailto:") || target.starts_with('#');
    let local = target.split('#').next().unwrap_or_default();
    elsewhere || file.parent().is_some_and(|folder| folder.join(local).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(file: &str, text: &str) -> Vec<String> {
        let root = root();
        faults_of(&root, &root.join(file), text)
    }

    #[test]
    fn the_workspace_is_clean() {
        super::check().unwrap();
    }

    #[test]
    fn machine_paths_are_found_and_paths_through_such_folders_are_not() {
        let path = concat!("see /wo", "rk/x and `/ro", "ot/y`");
        assert_eq!(faults("a.rs", path).len(), 2);
        assert!(faults("a.rs", concat!("web/ro", "ot/etc {dir}/wo", "rk/x")).is_empty());
    }

    #[test]
    fn unfinished_marks_are_found_and_words_containing_them_are_not() {
        assert_eq!(faults("a.md", concat!("fine\n// TO", "DO: later")).len(), 1);
        assert_eq!(faults("a.md", concat!("fine\n// TO", "DO: later"))[0].split(':').nth(1), Some("2"));
        assert!(faults("a.md", "mastodon").is_empty());
    }

    #[test]
    fn an_empty_name_is_found_in_file_and_folder() {
        let root = root();
        assert!(fault_of_name(&root, &root.join("images/util.rs")).is_some());
        assert!(fault_of_name(&root, &root.join("common/mod.rs")).is_some());
        assert!(fault_of_name(&root, &root.join("images/utility.rs")).is_none());
        assert!(fault_of_name(&root, &root.join("images/tests/common/mod.rs")).is_none());
    }

    #[test]
    fn a_lost_link_is_found_and_a_good_one_is_not() {
        assert_eq!(faults("a.md", "[x](no/such#part)"), ["a.md:1: link to no/such#part leads nowhere"]);
        assert!(faults("a.md", "[x](Cargo.toml) [y](https://example.org/z) [z](#part)").is_empty());
        assert!(faults("a.md", "```\n[x](no/such)\n```").is_empty());
    }

    #[test]
    fn a_document_named_in_code_exists_in_the_crate_or_at_the_top() {
        let name = |word: &str| format!("//! see {word}{}, Checksums", "/header.md");
        assert!(faults("images/block/src/header.rs", &name("docs")).is_empty());
        assert!(faults("images/block/src/header.rs", &name("images/block/docs")).is_empty());
        assert!(faults("images/block/src/header.rs", &name("https://example.org")).is_empty());
        assert_eq!(faults("images/sim/src/lib.rs", &name("docs")).len(), 1);
    }
}
