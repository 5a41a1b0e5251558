//! Large blobs in parts: into an object of their own first, because completing an upload in parts overwrites. The blob
//! gets its name by a copy that refuses to.

use async_trait::async_trait;
use block::sync::atomic::Ordering;
use block::{Result, check_blob_name};
use bytes::Bytes;
use object_store::path::Path;
use object_store::retry::{RetryContext, RetryFailure, RetryPolicy};
use object_store::{CopyMode, CopyOptions, ObjectStoreExt, PutMultipartOptions, WriteMultipart};

use super::core::{Core, Mark};
use super::retry::Patience;

/// Blobs longer than this are put in parts.
pub(super) const PARTS_FROM: usize = 64 << 20;
/// Bytes of a part: what is sent again when a connection breaks.
const PART: usize = 16 << 20;
/// Parts on their way at a time.
const AT_ONCE: usize = 4;
/// Where parts go. No blob's name has a segment that begins with a dot.
const INCOMING: &str = ".incoming";

#[async_trait]
impl RetryPolicy for Patience {
    async fn retry(&self, context: RetryContext) -> bool {
        let passes = match context.failure {
            RetryFailure::Status(status) => status.is_server_error() || matches!(status.as_u16(), 408 | 429),
            RetryFailure::Transport(_) => true,
            _ => false,
        };
        passes && self.again(u32::try_from(context.attempt).unwrap_or(u32::MAX)).await
    }
}

impl std::fmt::Debug for Patience {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Patience")
    }
}

impl Core {
    /// Stores a large object whole and once.
    pub(super) async fn put_parts(&self, name: &str, bytes: Bytes) -> Result<()> {
        check_blob_name(name)?;
        self.must_be_free(name).await?;
        let mark = self.mark()?;
        let incoming = self.path(&format!("{INCOMING}/{}", mark.0));
        let sent = match self.patience.try_until(|| self.send(&incoming, &bytes)).await {
            Ok(()) => self.take_name(name, &incoming, &mark, &bytes).await,
            Err(failed) => Err(self.failed(name)(failed)),
        };
        // what stays costs space and stands in nobody's way; the first error says more
        self.patience.try_until(|| self.store.delete(&incoming)).await.ok();
        sent
    }

    async fn send(&self, to: &Path, bytes: &Bytes) -> object_store::Result<()> {
        let options =
            PutMultipartOptions::default().with_retry_policy(std::sync::Arc::new(self.patience.clone()));
        let mut upload =
            WriteMultipart::new_with_chunk_size(self.store.put_multipart_opts(to, options).await?, PART);
        for at in (0..bytes.len()).step_by(PART) {
            if let Err(error) = upload.wait_for_capacity(AT_ONCE - 1).await {
                // the first error says more than one met in cleaning up
                upload.abort().await.ok();
                return Err(error);
            }
            upload.put(bytes.slice(at..bytes.len().min(at + PART)));
        }
        upload.finish().await.map(|_| ())
    }

    async fn take_name(&self, name: &str, incoming: &Path, mark: &Mark, bytes: &Bytes) -> Result<()> {
        let mode = if self.creates.load(Ordering::Acquire) { CopyMode::Create } else { CopyMode::Overwrite };
        let copy = || async {
            let options = CopyOptions { mode, ..CopyOptions::default() };
            self.store.copy_opts(incoming, &self.path(name), options).await
        };
        let taken = self.create(name, mark, copy).await;
        // a copy does not carry the mark everywhere: if ours succeeded and its answer was lost, the bytes tell
        if taken.as_ref().is_err_and(|error| error.kind() == block::Kind::Conflict)
            && self.holds(name, bytes).await
        {
            return Ok(());
        }
        taken
    }

    /// Whether the object has exactly these bytes. They are sealed with a key of their own, so nobody else wrote them.
    async fn holds(&self, name: &str, bytes: &Bytes) -> bool {
        for at in (0..bytes.len()).step_by(PART) {
            let end = bytes.len().min(at + PART);
            let range = block::ByteRange::between(at as u64, end as u64);
            if !self.get(name, range).await.is_ok_and(|found| found[..] == bytes[at..end]) {
                return false;
            }
        }
        self.head(name).await.is_ok_and(|size| size.get() == bytes.len() as u64)
    }
}
