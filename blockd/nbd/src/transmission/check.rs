//! What is wrong with a request, before anything is done about it.

use super::{Refused, Transmission};
use crate::wire::{self, Errno, ReplyStyle, Request};

impl Transmission {
    /// Everything that is wrong with a request whatever the device says, in the words and numbers of the protocol.
    pub(super) fn check(&self, request: &Request) -> Result<(), Refused> {
        let Request { command, flags, offset, length, .. } = *request;
        let invalid = |why: String| Err((Errno::INVALID, why));
        if self.stopping {
            return Err((Errno::SHUTDOWN, "the server is stopping".into()));
        }
        let Some(valid) = self.valid_flags(command) else {
            return invalid(format!("unknown command {command}"));
        };
        if flags & !valid != 0 {
            return invalid(format!("flags {flags:#x} on command {command}"));
        }
        let writes = matches!(command, wire::CMD_WRITE | wire::CMD_WRITE_ZEROES | wire::CMD_TRIM);
        if writes && self.access.device().is_none() {
            return Err((Errno::PERMISSION, "the export is read-only".into()));
        }
        let has_payload = flags & wire::CMD_FLAG_PAYLOAD_LEN != 0;
        // a block status with a payload says in it what it is about; `status` looks there
        if command == wire::CMD_BLOCK_STATUS && has_payload {
            return self.check_contexts();
        }
        if command == wire::CMD_FLUSH && (offset, length) != (0, 0) {
            return invalid("a flush has neither offset nor length".into());
        }
        self.check_end(command, offset, length)?;
        if command == wire::CMD_BLOCK_STATUS { self.check_contexts() } else { Ok(()) }
    }

    /// Refuses what passes the end of the export.
    pub(super) fn check_end(&self, command: u16, offset: u64, length: u64) -> Result<(), Refused> {
        if offset.checked_add(length).is_some_and(|end| end <= self.size) {
            return Ok(());
        }
        let grows = matches!(command, wire::CMD_WRITE | wire::CMD_WRITE_ZEROES);
        let errno = if grows { Errno::NO_SPACE } else { Errno::INVALID };
        Err((errno, format!("{length} bytes at offset {offset} pass the end, which is at {}", self.size)))
    }

    fn check_contexts(&self) -> Result<(), Refused> {
        if self.contexts.is_empty() {
            return Err((Errno::INVALID, "no metadata context was selected".into()));
        }
        Ok(())
    }

    /// The flags a command may carry. FUA is valid on all of them once it is advertised.
    fn valid_flags(&self, command: u16) -> Option<u16> {
        let extended = self.style == ReplyStyle::Extended;
        let own = match command {
            wire::CMD_READ if self.style > ReplyStyle::Simple => wire::CMD_FLAG_DF,
            wire::CMD_WRITE if extended => wire::CMD_FLAG_PAYLOAD_LEN,
            wire::CMD_READ | wire::CMD_WRITE | wire::CMD_FLUSH | wire::CMD_TRIM | wire::CMD_CACHE => 0,
            wire::CMD_WRITE_ZEROES => wire::CMD_FLAG_NO_HOLE | wire::CMD_FLAG_FAST_ZERO,
            wire::CMD_BLOCK_STATUS if extended => wire::CMD_FLAG_REQ_ONE | wire::CMD_FLAG_PAYLOAD_LEN,
            wire::CMD_BLOCK_STATUS => wire::CMD_FLAG_REQ_ONE,
            _ => return None,
        };
        Some(own | wire::CMD_FLAG_FUA)
    }
}
