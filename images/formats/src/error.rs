//! Why an image is not read or not written.

use block::{Failure, Kind};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its bytes do not fit its format.
    #[error("{image} is damaged{}: {why}", place(*offset))]
    Damaged {
        /// The image file.
        image: String,
        /// Where in the file, if known.
        offset: Option<u64>,
        /// What does not fit.
        why: String,
    },
    /// It uses something of its format that is not read here.
    #[error("{image}: {what} is not supported")]
    Unsupported {
        /// The image file.
        image: String,
        /// What it uses, by the name the format's document gives it.
        what: String,
        /// What to do instead.
        help: Option<String>,
    },
    /// It could be read, but not without being told so.
    #[error("{image}: {why}")]
    Refused {
        /// The image file.
        image: String,
        /// Why not.
        why: String,
        /// How to say so.
        help: Option<String>,
    },
    /// The host or the source below failed.
    #[error(transparent)]
    Below(#[from] block::Error),
}

fn place(offset: Option<u64>) -> String {
    offset.map(|offset| format!(" at offset {offset}")).unwrap_or_default()
}

impl Error {
    pub(crate) fn damaged(image: &str, offset: impl Into<Option<u64>>, why: impl Into<String>) -> Self {
        Self::Damaged { image: image.to_owned(), offset: offset.into(), why: why.into() }
    }

    pub(crate) fn unsupported(image: &str, what: impl Into<String>) -> Self {
        Self::Unsupported { image: image.to_owned(), what: what.into(), help: None }
    }

    pub(crate) fn refused(image: &str, why: impl Into<String>) -> Self {
        Self::Refused { image: image.to_owned(), why: why.into(), help: None }
    }

    pub(crate) fn with_help(mut self, advice: impl Into<String>) -> Self {
        if let Self::Unsupported { help, .. } | Self::Refused { help, .. } = &mut self {
            *help = Some(advice.into());
        }
        self
    }

    /// What to do next, if there is something.
    pub fn help(&self) -> Option<&str> {
        match self {
            Self::Unsupported { help, .. } | Self::Refused { help, .. } => help.as_deref(),
            _ => None,
        }
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Damaged { .. } => Kind::Corrupt,
            Self::Unsupported { .. } => Kind::Unsupported,
            Self::Refused { .. } => Kind::Invalid,
            Self::Below(error) => error.kind(),
        }
    }
}

/// Images are sources of blocks, so their errors pass through that seam.
impl From<Error> for block::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Below(below) => below,
            own => Self::other(own),
        }
    }
}
