//! What windows may take beyond what every stream has from its start: of what their link has, and of what all links of a
//! process have together. DATA that waits for a link takes of the latter, too.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use portable_atomic::AtomicU64;

/// DATA that may wait for each link whatever others have.
const OWN_QUEUE: u64 = 32 * 1024;

/// Bytes by which the windows of several links may grow, and what waits for these links, all together. Each clone is the
/// same one.
///
/// The links that have some of it may have equal parts, and one more is counted, so that there is some for the next. A link
/// that has more than its part, since others have come, is given less credit from there on; what it was given is never taken
/// back.
#[derive(Clone, Debug)]
pub struct WindowPool(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    total: u64,
    left: AtomicU64,
    /// Links that have some of it.
    links: AtomicU64,
}

impl WindowPool {
    /// So many bytes.
    pub fn new(total: u64) -> Self {
        Self(Arc::new(Pool { total, left: AtomicU64::new(total), links: AtomicU64::new(0) }))
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.0.left.load(Relaxed)
    }

    /// What each link may have.
    fn part(&self) -> u64 {
        self.0.total / (self.0.links.load(Relaxed) + 1)
    }

    /// Up to so many bytes, for a link that has `borrowed` already, and no more than half of what is left.
    fn take(&self, bytes: u64, borrowed: u64) -> u64 {
        let bytes = bytes.min(self.part().saturating_sub(borrowed));
        let mut granted = 0;
        // Links of one loop never meet here; those of two might.
        let _ = self.0.left.fetch_update(Relaxed, Relaxed, |left| {
            granted = bytes.min(left / 2);
            Some(left - granted)
        });
        if borrowed == 0 && granted > 0 {
            self.0.links.fetch_add(1, Relaxed);
        }
        granted
    }

    /// Gives these bytes back, and `borrowed` is what the link has still.
    fn put(&self, bytes: u64, borrowed: u64) {
        self.0.left.fetch_add(bytes, Relaxed);
        if borrowed == 0 && bytes > 0 {
            self.0.links.fetch_sub(1, Relaxed);
        }
    }
}

/// What a link may hold for all its streams: credit that was given and not yet consumed.
#[derive(Debug)]
pub(super) struct Budget {
    /// The window that every stream has from its start; the budget holds one for each stream that may be open.
    pub(super) initial: u64,
    /// What is left of the rest, for windows to grow.
    spare: u64,
    /// What windows have taken.
    borrowed: u64,
    /// What DATA that waits for the link has taken of the pool.
    queued: u64,
    /// Where both are also taken from.
    pool: Option<WindowPool>,
}

impl Budget {
    /// `total` bytes, of which every one of `streams` streams has its `initial` window for certain.
    pub(super) fn new(total: u64, streams: u32, initial: u64) -> Self {
        Self { initial, spare: total.saturating_sub(u64::from(streams) * initial), borrowed: 0, queued: 0, pool: None }
    }

    /// From here on windows share what others may take, too.
    #[cfg(feature = "relay")]
    pub(super) fn share(&mut self, pool: &WindowPool) {
        debug_assert_eq!(self.borrowed, 0, "no window has grown yet");
        self.pool = Some(pool.clone());
    }

    /// Up to so many bytes. No stream takes more than half of what is left, so that there is always something for the
    /// next.
    pub(super) fn take(&mut self, bytes: u64) -> u64 {
        let bytes = bytes.min(self.spare / 2);
        let granted = self.pool.as_ref().map_or(bytes, |pool| pool.take(bytes, self.borrowed + self.queued));
        self.spare -= granted;
        self.borrowed += granted;
        granted
    }

    /// Gives back what was taken.
    pub(super) fn put(&mut self, bytes: u64) {
        self.spare += bytes;
        self.borrowed -= bytes;
        if let Some(pool) = &self.pool {
            pool.put(bytes, self.borrowed + self.queued);
        }
    }

    /// How much DATA may wait for the link: some for certain, and what others leave.
    pub(super) fn queue_room(&self) -> u64 {
        let Some(pool) = &self.pool else { return u64::MAX };
        let more = pool.part().saturating_sub(self.borrowed + self.queued).min(pool.left() / 2);
        OWN_QUEUE + self.queued + more
    }

    /// So much DATA waits for the link now.
    pub(super) fn note_queue(&mut self, waits: u64) {
        let Some(pool) = &self.pool else { return };
        let queued = waits.saturating_sub(OWN_QUEUE);
        if queued > self.queued {
            self.queued += pool.take(queued - self.queued, self.borrowed + self.queued);
        } else if queued < self.queued {
            let less = self.queued - queued;
            self.queued = queued;
            pool.put(less, self.borrowed + queued);
        }
    }

    /// Whether the link has more than its part, since others have come.
    pub(super) fn is_over_share(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| self.borrowed > pool.part())
    }

    /// What is left, and what was taken.
    #[cfg(test)]
    pub(super) fn parts(&self) -> (u64, u64) {
        (self.spare, self.borrowed)
    }
}

/// The link is over, whatever its streams were doing.
impl Drop for Budget {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.put(self.borrowed + self.queued, 0);
        }
    }
}

#[cfg(all(test, feature = "relay"))]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn sharing(pool: &WindowPool) -> Budget {
        let mut budget = Budget::new(32 * MIB, 256, 32 * 1024);
        budget.share(pool);
        budget
    }

    /// Takes as much as there is.
    fn fill(budget: &mut Budget) -> u64 {
        while budget.take(u64::MAX) > 0 {}
        budget.borrowed
    }

    #[test]
    fn few_links_have_all_that_is_theirs() {
        let pool = WindowPool::new(512 * MIB);
        let mut links: Vec<Budget> = (0..10).map(|_| sharing(&pool)).collect();
        assert!(links.iter_mut().all(|budget| fill(budget) == 24 * MIB - 1));
        assert!(!links.iter().any(Budget::is_over_share));
        drop(links);
        assert_eq!((pool.left(), pool.part()), (512 * MIB, 512 * MIB), "nobody has any");
    }

    #[test]
    fn many_links_that_give_back_what_is_too_much_have_equal_parts_and_the_next_one_has_some() {
        let pool = WindowPool::new(512 * MIB);
        let mut links: Vec<Budget> = (0..1000).map(|_| sharing(&pool)).collect();
        for _ in 0..200 {
            for budget in &mut links {
                if budget.is_over_share() {
                    budget.put(budget.borrowed / 2);
                } else {
                    fill(budget);
                }
            }
        }
        let (least, most) = links
            .iter()
            .fold((u64::MAX, 0), |(least, most), Budget { borrowed, .. }| (least.min(*borrowed), most.max(*borrowed)));
        let part = 512 * MIB / 1001;
        assert!(most <= part && least > part * 9 / 10, "{least} to {most} of {part}");
        assert!(fill(&mut sharing(&pool)) > part * 9 / 10, "{} are left", pool.left());
        let held: u64 = links.iter().map(|budget| budget.borrowed).sum();
        assert_eq!(held + pool.left(), 512 * MIB);
    }

    #[test]
    fn what_waits_for_links_is_of_what_all_have_and_each_has_some_for_certain() {
        const KIB: u64 = 1024;
        let pool = WindowPool::new(8 * MIB);
        let mut links: Vec<Budget> = (0..1000).map(|_| sharing(&pool)).collect();
        let fill = |budget: &mut Budget| {
            let waits = budget.queue_room().min(256 * KIB);
            budget.note_queue(waits);
            waits
        };
        let waits: Vec<u64> = links.iter_mut().map(fill).collect();
        assert_eq!(waits[..4], [256 * KIB; 4], "a few have all that a link may have");
        assert!(waits.iter().all(|&waits| waits >= OWN_QUEUE));
        assert!(waits.iter().sum::<u64>() <= 8 * MIB + 1000 * OWN_QUEUE);
        assert_eq!(pool.left(), 8 * MIB - waits.iter().map(|waits| waits - OWN_QUEUE).sum::<u64>());
        // Windows of the same link have so much less.
        assert!(self::fill(&mut links[0]) < 8 * MIB / 100);
        for budget in &mut links {
            budget.note_queue(OWN_QUEUE / 2);
        }
        drop(links);
        assert_eq!((pool.left(), pool.part()), (8 * MIB, 8 * MIB));
        let mut alone = Budget::new(32 * MIB, 256, 32 * KIB);
        alone.note_queue(MIB);
        assert_eq!((alone.queue_room(), alone.queued), (u64::MAX, 0), "a link that shares with nobody");
    }

    #[test]
    fn where_nothing_is_left_nothing_is_taken() {
        let pool = WindowPool::new(0);
        let mut budget = sharing(&pool);
        assert_eq!((budget.take(1), budget.is_over_share()), (0, false));
    }
}
