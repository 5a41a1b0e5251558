//! Everything below a directory, depth first, without recursion: a guest says how deep its directories nest.

use super::{Child, Files};
use crate::Error;
use crate::guest::{Node, NodeKind};
use std::collections::HashSet;
use std::vec::IntoIter;

/// Directories within one another; no path that Linux takes is deeper than 2048.
pub const MAX_DEPTH: usize = 2048;

/// A file on the way.
#[derive(Debug, Clone)]
pub struct Found {
    /// From the start of the walk, which itself is empty; bytes separated by slashes.
    pub path: Vec<u8>,
    /// What is there.
    pub node: Node,
}

impl Found {
    /// The last part of its path.
    pub fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// How many directories below the start.
    pub fn depth(&self) -> usize {
        match self.path.is_empty() {
            true => 0,
            false => 1 + self.path.iter().filter(|byte| **byte == b'/').count(),
        }
    }
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// A file; of a directory before what is in it.
    At(Found),
    /// A directory, after all that is in it.
    Left(Found),
    /// Something cannot be read, and the walk goes on behind it.
    Failed {
        /// The file, or the directory whose list ends there.
        path: Vec<u8>,
        /// Why.
        error: Error,
    },
}

/// A walk through a tree. Of a directory that was just met [`leave_out`](Self::leave_out) leaves out what is in it.
pub struct Walk<'a> {
    files: &'a Files,
    start: Option<Node>,
    open: Vec<Open>,
    entering: Option<Found>,
    // a directory has one place; whoever says otherwise would be walked through for ever
    seen: HashSet<u64>,
}

struct Open {
    found: Found,
    page: IntoIter<Child>,
    next: Option<u64>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(files: &'a Files, start: &Node) -> Self {
        let start = Some(start.clone());
        Self { files, start, open: Vec::new(), entering: None, seen: HashSet::new() }
    }

    /// Leaves out what is in the directory just met; it is not [left](Step::Left) either.
    pub fn leave_out(&mut self) {
        self.entering = None;
    }

    fn meet(&mut self, path: Vec<u8>, node: Node) -> Step {
        if node.kind == NodeKind::Directory {
            if !self.seen.insert(node.ino) {
                let error = Error::corrupt("this directory", "it is in a second place as well");
                return Step::Failed { path, error };
            }
            if self.open.len() >= MAX_DEPTH {
                let error = Error::unsupported("this directory", format!("{MAX_DEPTH} others are around it"));
                return Step::Failed { path, error };
            }
            self.entering = Some(Found { path: path.clone(), node: node.clone() });
        }
        Step::At(Found { path, node })
    }

    /// The next page of the innermost directory; what cannot be read ends it.
    fn turn(&mut self) -> Option<Step> {
        let open = self.open.last_mut()?;
        let Some(cookie) = open.next.take() else {
            return self.open.pop().map(|open| Step::Left(open.found));
        };
        match self.files.page(&open.found.node, cookie) {
            Ok((page, next)) => {
                open.page = page.into_iter();
                open.next = next;
                None
            }
            Err(error) => Some(Step::Failed { path: open.found.path.clone(), error }),
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if let Some(start) = self.start.take() {
            return Some(self.meet(Vec::new(), start));
        }
        if let Some(found) = self.entering.take() {
            self.open.push(Open { found, page: Vec::new().into_iter(), next: Some(0) });
        }
        loop {
            let open = self.open.last_mut()?;
            let Some(child) = open.page.next() else {
                match self.turn() {
                    Some(step) => return Some(step),
                    None => continue,
                }
            };
            let path = match open.found.path.as_slice() {
                [] => child.name,
                above => [above, b"/", &child.name].concat(),
            };
            return Some(match child.node {
                Ok(node) => self.meet(path, node),
                Err(error) => Step::Failed { path, error },
            });
        }
    }
}
