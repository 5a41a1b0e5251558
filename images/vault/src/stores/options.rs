//! How to reach an object store: endpoint, credentials, limits. Specified in `docs/object-store.md`.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use super::Cloud;
use crate::{Error, Result};

/// Longest text read; a service account's key is about 2.5 KiB.
const MAX_TEXT: usize = 64 << 10;

/// Options that mean the same for every cloud.
pub(super) const ENDPOINT: &str = "endpoint";
pub(super) const ALLOW_HTTP: &str = "allow-http";
pub(super) const CA_FILE: &str = "ca-file";
pub(super) const LIMIT: &str = "limit-bytes-per-second";
const COMMON: [&str; 4] = [ENDPOINT, ALLOW_HTTP, CA_FILE, LIMIT];

/// Each cloud's own options, and what the library calls them.
pub(super) fn own(cloud: Cloud) -> &'static [(&'static str, &'static str)] {
    match cloud {
        Cloud::S3 => &[
            ("region", "region"),
            ("access-key-id", "access_key_id"),
            ("secret-access-key", "secret_access_key"),
            ("session-token", "session_token"),
            ("virtual-hosted", "virtual_hosted_style_request"),
        ],
        Cloud::Azure => &[
            ("account", "account_name"),
            ("access-key", "access_key"),
            ("sas-token", "sas_token"),
            ("client-id", "client_id"),
            ("client-secret", "client_secret"),
            ("tenant-id", "tenant_id"),
        ],
        Cloud::Gcs => {
            &[("service-account-file", "service_account"), ("service-account-key", "service_account_key")]
        }
    }
}

/// Options as a person wrote them. What is not said is taken from the environment of the process.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreOptions(BTreeMap<String, Zeroizing<String>>);

/// Shows which options there are, and nothing of what they say.
impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl StoreOptions {
    /// Reads lines `name = value`. Empty lines and lines beginning with `#` say nothing; quotes around a value are taken
    /// off.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the line, never showing a value.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > MAX_TEXT {
            return Err(wrong(format!("are {} bytes long, at most {MAX_TEXT} are valid", text.len())));
        }
        let mut options = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) =
                line.split_once('=').ok_or_else(|| wrong(format!("line {number} is not `name = value`")))?;
            let (name, value) = (name.trim(), unquoted(value.trim()));
            if options.insert(name.to_owned(), Zeroizing::new(value.to_owned())).is_some() {
                return Err(wrong(format!("line {number} says {name:?} again")));
            }
        }
        Ok(Self(options))
    }

    /// The text [`parse`](Self::parse) reads.
    pub fn to_text(&self) -> Zeroizing<String> {
        let lines = self.0.iter().map(|(name, value)| format!("{name} = {}\n", value.as_str()));
        Zeroizing::new(lines.collect())
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What an option says.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.as_str())
    }

    /// What a number says.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>> {
        let read = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(wrong(format!("{name:?} is not a number of bytes above 0"))),
            Ok(number) => Ok(number),
        };
        self.get(name).map(read).transpose()
    }

    /// What a switch says.
    pub(super) fn switch(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(wrong(format!("{name:?} is neither true nor false"))),
        }
    }

    /// Refuses options the cloud does not know.
    pub(super) fn check_names(&self, cloud: Cloud) -> Result<()> {
        let known: Vec<&str> = own(cloud).iter().map(|(name, _)| *name).chain(COMMON).collect();
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(stranger) => {
                let shown: String = stranger.chars().take(64).collect();
                Err(wrong(format!("do not know {shown:?}: {}:// has {}", cloud.scheme(), known.join(", "))))
            }
            None => Ok(()),
        }
    }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

fn wrong(why: String) -> Error {
    Error::invalid("the options of the store", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_lines_and_never_shown() {
        let text = "# of the old site\n\n endpoint = \"http://127.0.0.1:9000\"\nsecret-access-key=a=b\n";
        let options = StoreOptions::parse(text).unwrap();
        assert_eq!(options.get(ENDPOINT), Some("http://127.0.0.1:9000"));
        assert_eq!(options.get("secret-access-key"), Some("a=b"));
        assert_eq!(StoreOptions::parse(&options.to_text()).unwrap(), options);
        assert!(!format!("{options:?}").contains("a=b"));
        options.check_names(Cloud::S3).unwrap();
        let error = options.check_names(Cloud::Gcs).unwrap_err().to_string();
        assert!(error.contains("secret-access-key") && !error.contains("a=b"), "{error}");
    }

    #[test]
    fn mistakes_are_named_without_the_value() {
        for text in ["s3cr3t", "endpoint = x\nendpoint = s3cr3t"] {
            let error = StoreOptions::parse(text).unwrap_err().to_string();
            assert!(error.contains("line ") && !error.contains("s3cr3t"), "{error}");
        }
        let odd = StoreOptions::parse("limit-bytes-per-second = 0\nallow-http = yes").unwrap();
        assert!(odd.number(LIMIT).is_err() && odd.switch(ALLOW_HTTP).is_err());
        assert!(StoreOptions::parse(&"#".repeat(MAX_TEXT + 1)).is_err());
    }
}
