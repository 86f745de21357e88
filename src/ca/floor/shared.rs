//! One reading for all who look: made when somebody looks, at most every so often, and the last one is
//! kept for when the database does not answer.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::watch;

use crate::ca::LedgerFault;
use crate::ca::PortFuture;

/// How long whoever looks waits for a reading that is under way: no longer than a page may take.
const PATIENCE: Duration = Duration::from_millis(200);
/// The same of who has just changed what is read.
const PATIENCE_AFTER_CHANGE: Duration = Duration::from_secs(1);
/// A database that takes longer than this for a reading does not answer.
const SILENT_AFTER: Duration = Duration::from_secs(3);

/// What was read.
pub struct Shared<T> {
    every: Duration,
    seen: Arc<watch::Sender<Seen<T>>>,
    reading: Arc<AtomicBool>,
}

/// What there is to be seen.
pub struct Seen<T> {
    /// The last reading that worked.
    pub last: Option<Arc<T>>,
    /// Why there is none that is newer; `None`: it is as new as it should be, or is being read.
    pub fault: Option<String>,
    read: Option<Instant>,
    /// When a reading last ended; `None`: what was read before is out of date.
    tried: Option<Instant>,
    /// When the one that is under way began.
    began: Option<Instant>,
    /// Changes that somebody told of.
    changes: u64,
}

impl<T> Seen<T> {
    /// How old the last reading is that worked.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.read.map(|at| at.elapsed())
    }
}

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self {
            last: self.last.clone(),
            fault: self.fault.clone(),
            ..*self
        }
    }
}

impl<T: Send + Sync + 'static> Shared<T> {
    /// Nothing is read before somebody looks.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        let nothing = Seen {
            last: None,
            fault: None,
            read: None,
            tried: None,
            began: None,
            changes: 0,
        };
        Self {
            every,
            seen: Arc::new(watch::Sender::new(nothing)),
            reading: Arc::default(),
        }
    }

    /// What is to be seen, read anew by `reading` where it is older than it should be and nobody reads
    /// it already. Answers soon, whatever the database does.
    pub async fn look(&self, reading: PortFuture<'static, Result<T, LedgerFault>>) -> Seen<T> {
        let mut seen = self.seen.subscribe();
        let mut now = seen.borrow_and_update().clone();
        let fresh = |tried: Instant| tried.elapsed() < self.every;
        if now.tried.is_some_and(fresh) {
            return now;
        }
        let changed = now.tried.is_none() && now.changes > 0;
        let patience = if changed {
            PATIENCE_AFTER_CHANGE
        } else {
            PATIENCE
        };
        let end = tokio::time::Instant::now() + patience;
        let mut reading = Some(reading);
        loop {
            self.begin(&mut reading);
            let waited = tokio::time::timeout_at(end, seen.changed()).await;
            now = seen.borrow_and_update().clone();
            if waited.is_err() || now.tried.is_some() {
                break;
            }
            // What was read was out of date before it came.
        }
        let silent = now.began.is_some_and(|at| at.elapsed() > SILENT_AFTER);
        if silent && now.fault.is_none() {
            now.fault = Some(LedgerFault::Deadline.to_string());
        }
        now
    }

    /// What was read is out of date.
    pub fn forget(&self) {
        self.seen.send_if_modified(|seen| {
            seen.tried = None;
            seen.changes += 1;
            false
        });
    }

    /// Reads, unless somebody does.
    fn begin(&self, reading: &mut Option<PortFuture<'static, Result<T, LedgerFault>>>) {
        if reading.is_none() || self.reading.swap(true, Ordering::AcqRel) {
            return;
        }
        let Some(reading) = reading.take() else {
            return;
        };
        let mut changes = 0;
        self.seen.send_if_modified(|seen| {
            seen.began = Some(Instant::now());
            changes = seen.changes;
            false
        });
        let (sender, busy) = (Arc::clone(&self.seen), Arc::clone(&self.reading));
        tokio::spawn(async move {
            let read = reading.await;
            busy.store(false, Ordering::Release);
            sender.send_modify(|seen| {
                let now = Some(Instant::now());
                seen.began = None;
                seen.tried = now.filter(|_| seen.changes == changes);
                match read {
                    Ok(read) => {
                        (seen.last, seen.fault) = (Some(Arc::new(read)), None);
                        seen.read = now;
                    }
                    Err(fault) => seen.fault = Some(fault.to_string()),
                }
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn count(counter: &Arc<AtomicU32>) -> PortFuture<'static, Result<u32, LedgerFault>> {
        let counter = Arc::clone(counter);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(counter.fetch_add(1, Ordering::Relaxed) + 1)
        })
    }

    #[tokio::test]
    async fn many_who_look_at_once_cost_one_reading() {
        let (shared, read) = (Shared::new(Duration::from_mins(1)), Arc::default());
        let all = (0..50).map(|_| shared.look(count(&read)));
        for seen in futures_util::future::join_all(all).await {
            assert_eq!(seen.last.as_deref(), Some(&1));
            assert_eq!(seen.fault, None);
        }
        shared.forget();
        assert_eq!(shared.look(count(&read)).await.last.as_deref(), Some(&2));
    }

    #[tokio::test]
    async fn what_was_read_last_is_kept_beside_the_fault() {
        let shared = Shared::new(Duration::ZERO);
        let ask = |read: Result<u32, LedgerFault>| shared.look(Box::pin(async move { read }));
        assert_eq!(ask(Ok(7)).await.fault, None);
        let down = LedgerFault::Unavailable("gone".to_owned());
        let seen = ask(Err(down)).await;
        assert_eq!(seen.last.as_deref(), Some(&7));
        assert!(seen.fault.is_some_and(|fault| fault.contains("gone")));
        assert_eq!(ask(Ok(8)).await.fault, None);
    }

    #[tokio::test]
    async fn what_was_read_before_a_change_is_read_again() {
        let shared = Arc::new(Shared::new(Duration::from_mins(1)));
        let (sender, old) = tokio::sync::oneshot::channel::<u32>();
        let looks = Arc::clone(&shared);
        let first = tokio::spawn(async move {
            let reading = async move { Ok(old.await.unwrap_or_default()) };
            looks.look(Box::pin(reading)).await
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        shared.forget();
        let looks = Arc::clone(&shared);
        let second = tokio::spawn(async move { looks.look(Box::pin(async { Ok(2) })).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(sender.send(1).is_ok());
        first.await.unwrap();
        assert_eq!(second.await.unwrap().last.as_deref(), Some(&2));
    }

    #[tokio::test]
    async fn a_database_that_is_silent_keeps_nobody_waiting() {
        let shared = Shared::<u32>::new(Duration::ZERO);
        let start = Instant::now();
        let look = || shared.look(Box::pin(std::future::pending()));
        let seen = look().await;
        // It may only be slow.
        assert!(seen.last.is_none() && seen.fault.is_none());
        assert!(start.elapsed() < SILENT_AFTER);
        while look().await.fault.is_none() {
            assert!(start.elapsed() < 3 * SILENT_AFTER, "it never says so");
        }
    }
}
