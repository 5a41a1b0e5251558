//! Metadata contexts: what a block status reply can tell.

use crate::contexts::{Contexts, Status};
use crate::limits::MAX_CONTEXTS;
use crate::wire::BASE_ALLOCATION;
use block::{Error, Kind};
use std::fmt;
use std::sync::Arc;

/// A metadata context that a client selected.
#[derive(Clone)]
pub enum Context {
    /// `base:allocation`: which ranges are holes, and which read as zeros.
    Allocation,
    /// One that the export offers.
    Offered {
        /// Its full name.
        name: String,
        /// Its number on this connection.
        id: u32,
        /// What answers.
        status: Arc<dyn Status>,
    },
}

impl Context {
    /// The number of `base:allocation`; those an export offers follow.
    const ALLOCATION_ID: u32 = 1;

    /// Its full name.
    pub fn name(&self) -> &str {
        match self {
            Self::Allocation => BASE_ALLOCATION,
            Self::Offered { name, .. } => name,
        }
    }

    /// Its number on this connection.
    pub fn id(&self) -> u32 {
        match self {
            Self::Allocation => Self::ALLOCATION_ID,
            Self::Offered { id, .. } => *id,
        }
    }

    /// The contexts that `queries` name, opened. A query that names none is left out.
    ///
    /// # Errors
    /// `Invalid` for more than [`MAX_CONTEXTS`]; what the export reports.
    pub(super) fn select(queries: &[&str], offered: Option<&dyn Contexts>) -> Result<Vec<Self>, Error> {
        let mut selected: Vec<Self> = Vec::new();
        for &query in queries {
            if selected.iter().any(|context| context.name() == query) {
                continue;
            }
            let found = match offered {
                _ if query == BASE_ALLOCATION => Some(Self::Allocation),
                // a namespace alone selects nothing
                Some(offered) if query.contains(':') && !query.ends_with(':') => {
                    let id = Self::ALLOCATION_ID + 1 + selected.len() as u32;
                    offered.open(query)?.map(|status| Self::Offered { name: query.to_owned(), id, status })
                }
                _ => None,
            };
            selected.extend(found);
            if selected.len() > MAX_CONTEXTS {
                let why = format!("at most {MAX_CONTEXTS} on one connection");
                return Err(Error::refused(Kind::Invalid, "metadata contexts", why));
            }
        }
        Ok(selected)
    }

    /// The names that `queries` ask about. A query that ends with a colon names everything that begins with it, and
    /// no query names all.
    pub(super) fn listed(queries: &[&str], offered: Option<&dyn Contexts>) -> Vec<String> {
        let all = std::iter::once(BASE_ALLOCATION.to_owned());
        let mut names: Vec<String> = all.chain(offered.map(Contexts::names).into_iter().flatten()).collect();
        let fits = |name: &str, query: &str| name == query || query.ends_with(':') && name.starts_with(query);
        names.retain(|name| queries.is_empty() || queries.iter().any(|query| fits(name, query)));
        names
    }
}

impl PartialEq for Context {
    fn eq(&self, other: &Self) -> bool {
        (self.id(), self.name()) == (other.id(), other.name())
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.id(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contexts::VisitStatus;
    use block::ByteRange;

    /// Offers two contexts; one of them cannot be opened.
    struct Offers;

    impl Contexts for Offers {
        fn names(&self) -> Vec<String> {
            ["qemu:dirty-bitmap:a", "qemu:dirty-bitmap:b"].map(str::to_owned).to_vec()
        }

        fn open(&self, name: &str) -> Result<Option<Arc<dyn Status>>, Error> {
            match name {
                "qemu:dirty-bitmap:a" => Ok(Some(Arc::new(Offers))),
                "qemu:dirty-bitmap:b" => Err(Error::corrupt(name, None, "damaged")),
                _ if name.starts_with("x-many:") => Ok(Some(Arc::new(Offers))),
                _ => Ok(None),
            }
        }
    }

    impl Status for Offers {
        fn status(&self, range: ByteRange, visit: &mut VisitStatus<'_>) -> Result<(), Error> {
            let _more = visit(range.count().get(), 0);
            Ok(())
        }
    }

    fn select(queries: &[&str]) -> Vec<String> {
        let selected = Context::select(queries, Some(&Offers)).expect("they open");
        selected.iter().map(|context| format!("{context:?}")).collect()
    }

    #[test]
    fn a_namespace_is_a_wildcard_for_list_only() {
        let all = ["base:allocation", "qemu:dirty-bitmap:a", "qemu:dirty-bitmap:b"];
        assert_eq!(Context::listed(&[], Some(&Offers)), all);
        assert_eq!(Context::listed(&[], None), all[..1]);
        assert_eq!(Context::listed(&["base:"], Some(&Offers)), all[..1]);
        assert_eq!(Context::listed(&["qemu:"], Some(&Offers)), all[1..]);
        assert_eq!(Context::listed(&["qemu:dirty-bitmap:", "base:allocation"], Some(&Offers)), all);
        assert_eq!(Context::listed(&["qemu:dirty-bitmap:b"], Some(&Offers)), all[2..]);
        for unknown in ["", "base", "base:alloc", "base:allocation2", "qemu:dirty-bitmap:c", ":", "x-a:"] {
            assert_eq!(Context::listed(&[unknown], Some(&Offers)), [""; 0], "{unknown:?}");
            assert_eq!(select(&[unknown]), [""; 0], "{unknown:?}");
        }
        assert_eq!(select(&[]), [""; 0]);
        assert_eq!(select(&["base:", "qemu:", "qemu:dirty-bitmap:"]), [""; 0]);
    }

    #[test]
    fn each_selected_context_has_a_number_of_its_own() {
        assert_eq!(
            select(&["qemu:dirty-bitmap:a", "base:allocation", "qemu:dirty-bitmap:a", "x-many:1"]),
            ["2 \"qemu:dirty-bitmap:a\"", "1 \"base:allocation\"", "4 \"x-many:1\""]
        );
    }

    #[test]
    fn one_that_does_not_open_refuses_the_selection_and_so_do_too_many() {
        let error = Context::select(&["qemu:dirty-bitmap:b"], Some(&Offers)).expect_err("damaged");
        assert_eq!(error.kind(), Kind::Corrupt);
        let names: Vec<String> = (0..=MAX_CONTEXTS).map(|number| format!("x-many:{number}")).collect();
        let queries: Vec<&str> = names.iter().map(String::as_str).collect();
        let error = Context::select(&queries, Some(&Offers)).expect_err("too many");
        assert_eq!(error.kind(), Kind::Invalid);
        assert_eq!(select(&queries[..MAX_CONTEXTS]).len(), MAX_CONTEXTS);
    }
}
