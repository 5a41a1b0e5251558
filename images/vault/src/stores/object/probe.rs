//! Whether a server really refuses to create what exists. Some answer 200 and overwrite; nothing else tells.

use block::Result;
use bytes::Bytes;
use futures_util::future::join_all;
use object_store::PutMode;

use super::core::Core;
use super::retry::Failed;

/// Where probes go. No blob's name has a segment that begins with a dot.
const PROBE: &str = ".probe";
/// Clients that race for one name. One that looks before it writes lets several win.
const RACERS: u8 = 8;

impl Core {
    /// Creates one small object and tries to create it again, then lets several clients race for another.
    ///
    /// # Errors
    /// What keeps the probe from coming to an answer: no such bucket, no right to write, no server.
    pub(super) async fn probe(&self) -> Result<bool> {
        let (first, raced) = (format!("{PROBE}/{}", self.mark()?.0), format!("{PROBE}/{}", self.mark()?.0));
        let refuses = self.refuses(&first, &raced).await?;
        for name in [first, raced] {
            let path = self.path(&name);
            let delete = || object_store::ObjectStoreExt::delete(&*self.store, &path);
            match self.patience.try_until(delete).await {
                Ok(()) => {}
                Err(failed) if failed.is_not_found() => {}
                Err(failed) => return Err(self.failed(&name)(failed)),
            }
        }
        Ok(refuses)
    }

    async fn refuses(&self, first: &str, raced: &str) -> Result<bool> {
        let (one, two) = (Bytes::from_static(b"1"), Bytes::from_static(b"2"));
        let mark = self.mark()?;
        let create = || self.put_once(first, &one, &mark, PutMode::Create);
        match self.patience.try_until(create).await {
            Ok(()) => {}
            // an attempt whose answer was lost, at a server that refuses
            Err(failed) if failed.is_exists() => {}
            // a server that does not know the condition at all
            Err(Failed::Final(_, 400 | 501)) => return Ok(false),
            Err(failed) => return Err(self.failed(first)(failed)),
        }
        match self.patience.try_until(|| self.put_once(first, &two, &mark, PutMode::Create)).await {
            Ok(()) => return Ok(false),
            Err(failed) if failed.is_exists() => {}
            Err(failed) => return Err(self.failed(first)(failed)),
        }
        let racers = (0..RACERS).map(|racer| {
            let (bytes, mark) = (Bytes::copy_from_slice(&[racer]), &mark);
            async move { self.patience.once(self.put_once(raced, &bytes, mark, PutMode::Create)).await }
        });
        let won = join_all(racers).await.into_iter().filter(Result::is_ok).count();
        Ok(won == 1)
    }
}
