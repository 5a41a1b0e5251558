//! What each option does.

use super::{Context, End, Handshake, Step, facts};
use crate::limits::{MAX_PAYLOAD_ADVERTISED, MAX_TEXT_LEN, MIN_BLOCK, PREFERRED_BLOCK};
use crate::wire::{
    self, BlockSizes, GoRequest, MetaRequest, OptionReply, Refusal, put_info_block_size, put_info_export,
    put_info_text, put_meta_context, put_server,
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
        let structured = self.structured;
        let facts = match self.open(name) {
            Ok(export) => facts(export, structured),
            Err(error) => return close(End::Refused(error.to_string())),
        };
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
        for export in self.exports.list() {
            put_server(out, option, &export.name, &export.description);
        }
        OptionReply::ack(out, option);
    }

    pub(super) fn structured_reply(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let option = wire::OPT_STRUCTURED_REPLY;
        if !data.is_empty() {
            return OptionReply::refuse(out, option, Refusal::Invalid, "STRUCTURED_REPLY has no data");
        }
        self.structured = true;
        OptionReply::ack(out, option);
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
        let structured = self.structured;
        let (facts, description) = match self.open(go.name) {
            Ok(export) => (facts(export, structured), export.description.clone()),
            Err(error) => {
                OptionReply::refuse(out, option, refusal(&error), &error.to_string());
                return false;
            }
        };
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
        if !self.structured {
            return OptionReply::refuse(out, option, Refusal::Invalid, "structured replies come first");
        }
        let request = match MetaRequest::decode(data) {
            Ok(request) => request,
            Err(why) => return OptionReply::refuse(out, option, Refusal::Invalid, &why.why),
        };
        if let Err(error) = self.open(request.name) {
            return OptionReply::refuse(out, option, refusal(&error), &error.to_string());
        }
        let contexts = Context::matching(&request.queries, list);
        for context in &contexts {
            // the numbers of a list mean nothing
            put_meta_context(out, option, if list { 0 } else { context.id() }, context.name());
        }
        OptionReply::ack(out, option);
        if !list {
            self.selected = Some((request.name.to_owned(), contexts));
        }
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
