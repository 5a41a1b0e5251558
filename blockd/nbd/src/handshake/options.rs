//! What each option does.

use super::{Context, End, Handshake, Step, Tls, facts};
use crate::limits::{MAX_PAYLOAD_ADVERTISED, MAX_TEXT_LEN, MIN_BLOCK, PREFERRED_BLOCK};
use crate::transmission::with_causes;
use crate::wire::{
    self, BlockSizes, GoRequest, MetaRequest, OptionReply, Refusal, ReplyStyle, put_info_block_size,
    put_info_export, put_info_text, put_meta_context, put_server,
};
use block::Kind;

/// The sizes of requests this server serves.
const SIZES: BlockSizes =
    BlockSizes { minimum: MIN_BLOCK, preferred: PREFERRED_BLOCK, maximum: MAX_PAYLOAD_ADVERTISED };

impl Handshake<'_> {
    /// The old way to choose an export: refusing is closing.
    pub(super) fn export_name(&mut self, data: &[u8], out: &mut Vec<u8>) -> Step {
        let close = |end| Step::Close(end);
        if self.stopping {
            return close(End::Refused("the server is stopping".into()));
        }
        let name = match std::str::from_utf8(data) {
            Ok(name) if name.len() <= MAX_TEXT_LEN => name,
            _ => {
                return close(End::Broken(
                    "the name of an export is not a text of at most 4096 bytes".into(),
                ));
            }
        };
        if self.style == ReplyStyle::Extended {
            return close(End::Broken("EXPORT_NAME after extended headers".into()));
        }
        let (style, has_contexts) = (self.style, self.has_contexts(name));
        let facts = match self.open(name) {
            Ok(export) => facts(export, style, has_contexts),
            Err(error) => return close(End::Refused(error.to_string())),
        };
        if let Err(error) = self.enter() {
            return close(End::Refused(error.to_string()));
        }
        out.extend_from_slice(&facts.encode());
        if !self.no_zeroes() {
            out.extend_from_slice(&[0; 124]);
        }
        self.transmission()
    }

    pub(super) fn list(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let option = wire::OPT_LIST;
        if !data.is_empty() {
            return OptionReply::refuse(out, option, Refusal::Invalid, "LIST has no data");
        }
        for export in self.exports.list(self.peer) {
            put_server(out, option, &export.name, &export.description);
        }
        OptionReply::ack(out, option);
    }

    pub(super) fn structured_reply(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let option = wire::OPT_STRUCTURED_REPLY;
        if !data.is_empty() {
            return OptionReply::refuse(out, option, Refusal::Invalid, "STRUCTURED_REPLY has no data");
        }
        if self.style == ReplyStyle::Extended {
            let why = "extended headers were negotiated already";
            return OptionReply::refuse(out, option, Refusal::ExtendedHeaders, why);
        }
        self.style = ReplyStyle::Structured;
        OptionReply::ack(out, option);
    }

    pub(super) fn extended_headers(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let option = wire::OPT_EXTENDED_HEADERS;
        if !data.is_empty() {
            return OptionReply::refuse(out, option, Refusal::Invalid, "EXTENDED_HEADERS has no data");
        }
        self.style = ReplyStyle::Extended;
        OptionReply::ack(out, option);
    }

    pub(super) fn start_tls(&mut self, data: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        let option = wire::OPT_STARTTLS;
        let refusal = match self.tls {
            Tls::Unsupported => Some((Refusal::Unsupported, "this server has no TLS here")),
            Tls::Active => Some((Refusal::Invalid, "TLS is spoken already")),
            Tls::Required if !data.is_empty() => Some((Refusal::Invalid, "STARTTLS has no data")),
            Tls::Required => None,
        };
        if let Some((refusal, why)) = refusal {
            OptionReply::refuse(out, option, refusal, why);
            return None;
        }
        OptionReply::ack(out, option);
        Some(Step::StartTls)
    }

    /// Whether metadata contexts are selected for this export.
    fn has_contexts(&self, name: &str) -> bool {
        self.selected.as_ref().is_some_and(|(of, contexts)| of == name && !contexts.is_empty())
    }

    /// INFO and GO. Says whether the export is open and the client knows all of it.
    pub(super) fn info(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> bool {
        let go = match GoRequest::decode(data) {
            Ok(go) => go,
            Err(why) => {
                OptionReply::refuse(out, option, Refusal::Invalid, &why.why);
                return false;
            }
        };
        let (style, has_contexts) = (self.style, self.has_contexts(go.name));
        let (facts, description) = match self.open(go.name) {
            Ok(export) => (facts(export, style, has_contexts), export.description.clone()),
            Err(error) => {
                OptionReply::refuse(out, option, refusal(&error), &with_causes(&error));
                return false;
            }
        };
        if option == wire::OPT_GO
            && let Err(error) = self.enter()
        {
            OptionReply::refuse(out, option, refusal(&error), &with_causes(&error));
            return false;
        }
        put_info_export(out, option, facts);
        if go.wants_name {
            put_info_text(out, option, wire::INFO_NAME, go.name);
        }
        if go.wants_description && !description.is_empty() {
            put_info_text(out, option, wire::INFO_DESCRIPTION, &description);
        }
        if go.wants_block_size {
            put_info_block_size(out, option, SIZES);
        }
        OptionReply::ack(out, option);
        true
    }

    /// LIST and SET of metadata contexts.
    pub(super) fn meta_context(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) {
        let list = option == wire::OPT_LIST_META_CONTEXT;
        if !list {
            // replaced even by a request that fails
            self.selected = None;
        }
        if self.style == ReplyStyle::Simple {
            return OptionReply::refuse(out, option, Refusal::Invalid, "structured replies come first");
        }
        let request = match MetaRequest::decode(data) {
            Ok(request) => request,
            Err(why) => return OptionReply::refuse(out, option, Refusal::Invalid, &why.why),
        };
        let offered = match self.open(request.name) {
            Ok(export) => export.contexts.as_deref(),
            Err(error) => return OptionReply::refuse(out, option, refusal(&error), &with_causes(&error)),
        };
        if list {
            for name in Context::listed(&request.queries, offered) {
                // the numbers of a list mean nothing
                put_meta_context(out, option, 0, &name);
            }
            return OptionReply::ack(out, option);
        }
        let contexts = match Context::select(&request.queries, offered) {
            Ok(contexts) => contexts,
            Err(error) => return OptionReply::refuse(out, option, refusal(&error), &with_causes(&error)),
        };
        for context in &contexts {
            put_meta_context(out, option, context.id(), context.name());
        }
        OptionReply::ack(out, option);
        self.selected = Some((request.name.to_owned(), contexts));
    }
}

/// How an export that does not open is refused.
fn refusal(error: &block::Error) -> Refusal {
    match error.kind() {
        Kind::NotFound => Refusal::Unknown,
        Kind::Invalid => Refusal::Invalid,
        Kind::Cancelled => Refusal::Shutdown,
        _ => Refusal::Policy,
    }
}
