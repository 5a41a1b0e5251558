//! `blockctl token …`, `blockctl audit …` and `blockctl events`.

use crate::cli::{AuditVerb, NewToken, RoleName, TokenVerb};
use crate::failure::{Failure, Result};
use crate::output::{Output, table};
use crate::secret;
use control::{AuditEntry, AuditQuery, AuditVerified, Client, CreateToken, Event, Kind, Role, Token};

/// Runs the verb.
pub fn token(verb: TokenVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        TokenVerb::List => output.answer(&client.tokens()?, |tokens| tokens_table(tokens)),
        TokenVerb::Create(new) => create(new, client, output),
        TokenVerb::Delete { name, yes } => {
            output.confirm(&format!("remove token {name}: whoever shows it is nobody from then on"), yes)?;
            output.answer(&client.delete_token(&name)?, |token| format!("removed token {}", token.name))
        }
    }
}

fn create(new: NewToken, client: &Client, output: &Output) -> Result<()> {
    let key = new.key.as_deref().map(|file| secret::text("public key", file)).transpose()?;
    let request = CreateToken {
        name: new.name,
        role: role(new.role),
        vaults: new.vault,
        items: new.item,
        days: new.days,
        key: key.map(|text| text.trim().to_owned()),
    };
    // first, so that no token is made whose secret has nowhere to go
    new.output.as_deref().map_or(Ok(()), secret::must_be_new)?;
    let created = client.create_token(&request)?;
    let Some(path) = new.output else { return output.answer(&created, |created| created.secret.clone()) };
    secret::write_new(&path, &format!("{}\n", created.secret))?;
    output
        .answer(&created.token, |token| format!("token {}: its secret is in {}", token.name, path.display()))
}

const fn role(name: RoleName) -> Role {
    match name {
        RoleName::Reader => Role::Reader,
        RoleName::Operator => Role::Operator,
        RoleName::Restorer => Role::Restorer,
        RoleName::Admin => Role::Admin,
        RoleName::Guard => Role::Guard,
    }
}

fn tokens_table(tokens: &[Token]) -> String {
    let all = |names: &[String]| if names.is_empty() { "all".to_owned() } else { names.join(" ") };
    let row = |token: &Token| {
        vec![
            token.name.clone(),
            token.role.name().to_owned(),
            all(&token.vaults),
            all(&token.items),
            token.created.clone(),
            token.expires.clone().unwrap_or_else(|| "never".to_owned()),
        ]
    };
    table(&["token", "role", "vaults", "items", "created", "expires"], tokens.iter().map(row).collect())
}

/// Runs the verb.
pub fn audit(verb: AuditVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        AuditVerb::List { after, limit } => {
            let query = AuditQuery { after, limit: Some(limit) };
            output.answer(&client.audit(&query)?, |entries| entries_table(entries))
        }
        AuditVerb::Verify { head } => {
            let verified = client.verify_audit(head.as_deref())?;
            output.answer(&verified, verified_text)?;
            if verified.ok {
                return Ok(());
            }
            Err(Failure::new(Kind::Corrupt, "the audit log is not what was written")
                .with_help("look at the files in audit/ of the state directory, and at what its head was noted as elsewhere"))
        }
    }
}

fn verified_text(verified: &AuditVerified) -> String {
    let mut lines = verified.problems.clone();
    let is =
        if verified.ok { "each in its place and unchanged" } else { "not all of them as they were written" };
    lines.push(format!("{} entries, {is}", verified.entries));
    lines.push(format!(
        "head {}; note it elsewhere, and hold the log against it later with --head",
        verified.head
    ));
    lines.join("\n")
}

fn entries_table(entries: &[AuditEntry]) -> String {
    let row = |entry: &AuditEntry| {
        let outcome = match entry.of {
            Some(of) => format!("{} ({of})", entry.outcome.name()),
            None => entry.outcome.name().to_owned(),
        };
        vec![
            entry.number.to_string(),
            entry.time.clone(),
            entry.who.clone(),
            entry.action.clone(),
            outcome,
            entry.error.clone().unwrap_or_else(|| about(entry)),
        ]
    };
    table(&[">entry", "time", "who", "action", "outcome", "about"], entries.iter().map(row).collect())
}

fn about(entry: &AuditEntry) -> String {
    let part = |(key, value): (&String, &serde_json::Value)| match value.as_str() {
        Some(text) => format!("{key} {text}"),
        None => format!("{key} {value}"),
    };
    entry.about.iter().map(part).collect::<Vec<_>>().join(", ")
}

/// `blockctl events`.
pub fn events(client: &Client, output: &Output) -> Result<()> {
    output.answer(&client.recent_events()?, |events| {
        let row = |event: &Event| {
            vec![event.time.clone(), event.kind.name().to_owned(), event.about.clone(), event.message.clone()]
        };
        table(&["time", "event", "about", "what"], events.iter().map(row).collect())
    })
}
