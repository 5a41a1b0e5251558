//! Tokens: the file `tokens.toml` in the state directory. A secret has 256 bits of the kernel's randomness and is kept as its
//! hash, so that whoever reads the file can show none.

use super::Caller;
use crate::audit_log::hash;
use crate::error::{Doing, Error, Result};
use crate::gate::stamp;
use crate::names;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use block::sync::{Mutex, lock};
use block::{Clock, Entropy, Media};
use control::{CreateToken, Kind, Role, Token, TokenCreated};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

const FILE: &str = "tokens.toml";
/// A thousand tokens with long scopes.
const LIMIT_BYTES: u64 = 1 << 20;
/// Tokens there may be.
const MOST: usize = 1000;
/// Names that a scope may have.
const MOST_NAMES: usize = 100;
/// What every secret begins with, so that one that was published is found.
const BEGIN: &str = "blockd_";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    role: Role,
    // SHA-256 of the secret, in hex
    secret: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    vaults: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    items: Vec<String>,
    created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    tokens: BTreeMap<String, Known>,
}

/// All tokens.
pub struct Tokens {
    media: Arc<dyn Media>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    table: Mutex<BTreeMap<String, Known>>,
}

impl Tokens {
    /// Reads them.
    ///
    /// # Errors
    /// `Corrupt` if the file is none: who may do what must not be guessed.
    pub fn open(media: Arc<dyn Media>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Result<Self> {
        let table = match media.read_whole(FILE, LIMIT_BYTES) {
            Ok(bytes) => parse(&bytes)?,
            Err(error) if error.kind() == block::Kind::NotFound => BTreeMap::new(),
            Err(error) => return Err(Error::below(format!("read {FILE}"), error)),
        };
        Ok(Self { media, clock, entropy, table: Mutex::new(table) })
    }

    /// Every token, by name.
    pub fn list(&self) -> Vec<Token> {
        lock(&self.table).iter().map(|(name, known)| show(name, known)).collect()
    }

    /// Whether there is a guard: from then on some requests need its approval.
    pub fn has_guard(&self) -> bool {
        lock(&self.table).values().any(|known| known.role == Role::Guard)
    }

    /// Whether this is the name of a guard.
    pub fn is_guard(&self, name: &str) -> bool {
        lock(&self.table).get(name).is_some_and(|known| known.role == Role::Guard)
    }

    /// Makes a token; its secret is in the answer and nowhere else.
    ///
    /// # Errors
    /// `Conflict` if the name is taken, `Invalid` for what makes no sense; what the host reports.
    pub fn create(&self, request: &CreateToken) -> Result<TokenCreated> {
        check(request)?;
        let mut secret = [0; 32];
        self.entropy.fill(&mut secret).doing(|| "draw a secret".to_owned())?;
        let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let secret = format!("{BEGIN}{}_{digits}", request.name);
        let now = stamp(self.clock.now());
        let ends = |days: u32| {
            now.saturating_add(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(Timestamp::MAX)
        };
        let known = Known {
            role: request.role,
            secret: hash(secret.as_bytes()),
            vaults: request.vaults.clone(),
            items: request.items.clone(),
            created: now,
            expires: request.days.map(ends),
            key: request.key.as_ref().map(|key| key.to_ascii_lowercase()),
        };
        let mut table = lock(&self.table);
        if table.contains_key(&request.name) {
            return Err(Error::said(Kind::Conflict, format!("token {}", request.name), "exists already")
                .with_help("`blockctl token list` shows the tokens; choose another name"));
        }
        if table.len() >= MOST {
            return Err(Error::said(Kind::Conflict, "tokens", format!("there are {MOST} already"))
                .with_help("`blockctl token delete` removes those that nobody uses"));
        }
        let mut changed = table.clone();
        changed.insert(request.name.clone(), known.clone());
        self.write(&mut table, changed)?;
        Ok(TokenCreated { token: show(&request.name, &known), secret })
    }

    /// Removes a token: who shows it is nobody from then on. It is given as it was.
    ///
    /// # Errors
    /// `NotFound`; what the host reports.
    pub fn remove(&self, name: &str) -> Result<Token> {
        let mut table = lock(&self.table);
        let mut changed = table.clone();
        let Some(known) = changed.remove(name) else {
            return Err(Error::not_found(format!("token {}", names::shown(name)))
                .with_help("`blockctl token list` shows the tokens"));
        };
        self.write(&mut table, changed)?;
        Ok(show(name, &known))
    }

    /// Whoever shows this secret.
    ///
    /// # Errors
    /// `Refused` if it is none, or its time is over.
    pub fn caller(&self, secret: &str) -> Result<Caller> {
        let refused = |why: &str| {
            Err(Error::said(Kind::Refused, "the token", why)
                .with_help("an admin makes tokens: `blockctl token create`"))
        };
        let name = secret.strip_prefix(BEGIN).and_then(|rest| Some(rest.rsplit_once('_')?.0));
        let table = lock(&self.table);
        let Some((name, known)) = name.and_then(|name| table.get_key_value(name)) else {
            return refused("is not known here");
        };
        if verify_slices_are_equal(known.secret.as_bytes(), hash(secret.as_bytes()).as_bytes()).is_err() {
            return refused("is not known here");
        }
        if known.expires.is_some_and(|ends| ends <= stamp(self.clock.now())) {
            return refused("has expired");
        }
        Ok(Caller {
            who: format!("token {name}"),
            role: known.role,
            vaults: known.vaults.clone(),
            items: known.items.clone(),
            key: known.key.clone(),
        })
    }

    fn write(&self, table: &mut BTreeMap<String, Known>, changed: BTreeMap<String, Known>) -> Result<()> {
        let doing = || "write down the tokens".to_owned();
        let file = File { tokens: changed };
        let text =
            toml::to_string(&file).map_err(|error| Error::said(Kind::Io, doing(), error.to_string()))?;
        self.media.replace(FILE, text.as_bytes()).doing(doing)?;
        *table = file.tokens;
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Known>> {
    let damaged = |why: String| {
        Error::said(Kind::Corrupt, FILE, why).with_help(
            "put it back from a copy, or remove it: then the owner of the local socket alone is known",
        )
    };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("is not UTF-8".to_owned()))?;
    let file: File = toml::from_str(text).map_err(|error| damaged(error.message().to_owned()))?;
    Ok(file.tokens)
}

fn show(name: &str, known: &Known) -> Token {
    Token {
        name: name.to_owned(),
        role: known.role,
        vaults: known.vaults.clone(),
        items: known.items.clone(),
        created: known.created.to_string(),
        expires: known.expires.map(|ends| ends.to_string()),
        key: known.key.clone(),
    }
}

fn check(request: &CreateToken) -> Result<()> {
    let invalid =
        |why: String| Err(Error::said(Kind::Invalid, format!("token {}", names::shown(&request.name)), why));
    if !names::is_word(&request.name) {
        return invalid("a name has a-z 0-9 . _ -, and begins with a letter or digit".to_owned());
    }
    if request.vaults.len().max(request.items.len()) > MOST_NAMES {
        return invalid(format!("a scope has at most {MOST_NAMES} names"));
    }
    if let Some(vault) = request.vaults.iter().find(|vault| !names::is_word(vault)) {
        return invalid(format!("{} is no name of a vault", names::shown(vault)));
    }
    let is_item = |item: &&String| {
        let front = item.strip_suffix('*').unwrap_or(item);
        item.len() <= 200
            && front
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/".contains(&byte))
    };
    if let Some(item) = request.items.iter().find(|item| item.is_empty() || !is_item(item)) {
        return invalid(format!("{} is no name of a disk or machine", names::shown(item)));
    }
    if let Some(group) = request.items.iter().find(|item| names::is_group(item)) {
        return invalid(format!("{group} is a group, whose members can change; name them instead"));
    }
    if request.days == Some(0) {
        return invalid("is good for at least a day".to_owned());
    }
    let is_key = |key: &String| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    match (request.role, &request.key) {
        (Role::Guard, None) => {
            invalid("a guard has a key of its own: `blockctl approval keygen FILE` makes one".to_owned())
        }
        (Role::Guard, Some(key)) if !is_key(key) => invalid("its key is not 64 hex digits".to_owned()),
        (Role::Guard, Some(_)) if !(request.vaults.is_empty() && request.items.is_empty()) => {
            invalid("a guard has no scope: it has to see what it approves".to_owned())
        }
        (Role::Guard, Some(_)) | (_, None) => Ok(()),
        (_, Some(_)) => invalid("only a guard has a key".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::linux::{KernelEntropy, LinuxMedia, SystemClock};

    fn tokens(dir: &std::path::Path) -> Result<Tokens> {
        let media = Arc::new(LinuxMedia::new(dir, dir).expect("media"));
        Tokens::open(media, Arc::new(SystemClock), Arc::new(KernelEntropy))
    }

    fn asked(name: &str, role: Role) -> CreateToken {
        CreateToken {
            name: name.to_owned(),
            role,
            vaults: Vec::new(),
            items: Vec::new(),
            days: None,
            key: None,
        }
    }

    #[test]
    fn a_token_is_known_by_its_secret_alone_and_until_it_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = tokens(dir.path()).expect("none yet");
        let created = made.create(&asked("ci_1", Role::Operator)).expect("a token");
        assert_eq!(
            made.create(&asked("ci_1", Role::Reader)).err().map(|error| error.kind()),
            Some(Kind::Conflict)
        );
        let file = std::fs::read_to_string(dir.path().join(FILE)).expect("a file");
        assert!(!file.contains(created.secret.rsplit('_').next().expect("digits")), "{file}");
        let again = tokens(dir.path()).expect("one");
        let caller = again.caller(&created.secret).expect("known");
        assert_eq!((caller.who.as_str(), caller.role), ("token ci_1", Role::Operator));
        let mut other = created.secret.clone();
        other.pop();
        for wrong in ["", "blockd_", "blockd_ci_1_", "blockd_ci_1", &other, &format!("{other}x"), &file] {
            assert!(again.caller(wrong).is_err(), "{wrong}");
        }
        again.remove("ci_1").expect("removed");
        assert!(again.caller(&created.secret).is_err());
        assert!(tokens(dir.path()).expect("none").caller(&created.secret).is_err());
    }

    #[test]
    fn one_that_ran_out_and_a_file_that_rots_let_nobody_in() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = tokens(dir.path()).expect("none yet");
        let created =
            made.create(&CreateToken { days: Some(1), ..asked("short", Role::Reader) }).expect("one");
        assert!(made.caller(&created.secret).is_ok());
        lock(&made.table).get_mut("short").expect("it").expires = Some(Timestamp::UNIX_EPOCH);
        assert!(made.caller(&created.secret).is_err());
        std::fs::write(dir.path().join(FILE), "[tokens.x]\nrole = \"owner\"\n").expect("damaged");
        assert_eq!(tokens(dir.path()).err().map(|error| error.kind()), Some(Kind::Corrupt));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = tokens(dir.path()).expect("none yet");
        let strings = |text: &str| vec![text.to_owned()];
        for wrong in [
            asked("A b", Role::Reader),
            asked("g", Role::Guard),
            CreateToken { key: Some("ab".repeat(32)), ..asked("r", Role::Reader) },
            CreateToken { key: Some("xy".repeat(32)), ..asked("g", Role::Guard) },
            CreateToken { key: Some("ab".repeat(32)), items: strings("web"), ..asked("g", Role::Guard) },
            CreateToken { items: strings(""), ..asked("r", Role::Reader) },
            CreateToken { items: strings("web@3"), ..asked("r", Role::Reader) },
            CreateToken { vaults: strings("../x"), ..asked("r", Role::Reader) },
            CreateToken { days: Some(0), ..asked("r", Role::Reader) },
        ] {
            assert_eq!(made.create(&wrong).err().map(|error| error.kind()), Some(Kind::Invalid), "{wrong:?}");
        }
        let guard = CreateToken { key: Some("AB".repeat(32)), ..asked("g", Role::Guard) };
        assert_eq!(made.create(&guard).expect("a guard").token.key, Some("ab".repeat(32)));
        assert!(made.has_guard() && made.is_guard("g") && !made.is_guard("r"));
    }
}
