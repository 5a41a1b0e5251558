//! Metadata contexts: what a block status reply can tell.

use crate::wire::BASE_ALLOCATION;

/// A metadata context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// `base:allocation`: which ranges are holes, and which read as zeros.
    Allocation,
}

impl Context {
    const ALL: [Self; 1] = [Self::Allocation];

    /// Its full name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allocation => BASE_ALLOCATION,
        }
    }

    /// Its number on this server's connections.
    pub fn id(self) -> u32 {
        match self {
            Self::Allocation => 1,
        }
    }

    /// The contexts that one of `queries` names. To LIST, a namespace alone names all in it and no query names all.
    pub(super) fn matching(queries: &[&str], list: bool) -> Vec<Self> {
        let names = |context: &Self, query: &str| {
            let name = context.name();
            // a namespace with its colon, and nothing after it
            query == name || (list && query.ends_with(':') && name.split_inclusive(':').next() == Some(query))
        };
        let fits = |context: &Self| {
            (list && queries.is_empty()) || queries.iter().any(|query| names(context, query))
        };
        Self::ALL.into_iter().filter(fits).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_a_wildcard_for_list_only() {
        let all = vec![Context::Allocation];
        assert_eq!(Context::matching(&[], true), all);
        assert_eq!(Context::matching(&[], false), vec![]);
        assert_eq!(Context::matching(&["base:"], true), all);
        assert_eq!(Context::matching(&["base:"], false), vec![]);
        assert_eq!(Context::matching(&["qemu:", "base:allocation", "base:allocation"], false), all);
        for unknown in ["", "base", "base:alloc", "base:allocation2", "qemu:dirty-bitmap:a", ":", "x-a:"] {
            assert_eq!(Context::matching(&[unknown], true), vec![], "{unknown:?}");
        }
    }
}
