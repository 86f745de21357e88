//! All pages of a search, one after the other, each read while the one before it is used.

use std::time::Duration;
use std::time::Instant;

use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use crate::ca::LedgerFault;
use crate::ca::Page;
use crate::ca::SearchFilter;
use crate::ca::export::Exported;
use crate::ca::searches::AsOf;
use crate::db::archive::EXPORTED;
use crate::db::archive::paging;
use crate::db::standby::Reading;

/// Certificates of the first page, and of any when matches are few and far between.
const PAGE_MIN: i64 = 1_000;
/// Certificates of a page, at most: some 8 MB.
const PAGE_MAX: i64 = 5_000;
/// Pages that are read before they are taken: one that takes longer than others delays nobody.
pub(super) const PAGES_AHEAD: usize = 2;
/// A page that came in this time may be followed by one of twice its length. A tenth of what a
/// statement may take: a page that finds less than the one before it is in time all the same.
const SOON: Duration = Duration::from_secs(1);

/// Reads until the last page, a fault, or the other end is dropped. There are never more than
/// [`PAGES_AHEAD`] that nobody has taken. No page is older than the first one: what is missing in it for being
/// later is missing in none for being earlier.
pub(super) async fn read_ahead(
    archive: Reading,
    filter: SearchFilter,
    (mut cursor, mut since): (Option<Uuid>, Option<Instant>),
    pages: Sender<Result<AsOf<Page<Exported>>, LedgerFault>>,
) {
    let (mut limit, mut first) = (PAGE_MIN, true);
    // The place first and then the page.
    while let Ok(place) = pages.reserve().await {
        let begin = Instant::now();
        let page = paging(&EXPORTED, filter.clone(), limit, cursor);
        let page = archive.read(since, page).await;
        cursor = page.as_ref().ok().and_then(|page| page.found.next);
        since = since.max(
            page.as_ref()
                .ok()
                .map(|page| page.moment.at)
                .filter(|_| first),
        );
        first = false;
        place.send(page);
        if cursor.is_none() {
            return;
        }
        limit = if begin.elapsed() < SOON {
            PAGE_MAX.min(2 * limit)
        } else {
            PAGE_MIN
        };
    }
}
