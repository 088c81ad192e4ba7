//! Links that are not in use any more: they drain, or are lost and only deliver last bytes. Each may hold as much as one
//! in use, and a peer can make one after the other, so that there are bounds for all of them together.

use crate::connection::Connection;
use crate::io::session::Session;

/// Links that may finish beside the one in use.
pub(crate) const MAX_DRAINING: usize = 8;
/// Links that are gone and whose last bytes may still be delivered.
pub(crate) const MAX_LOST: usize = 4;
/// Streams that all of them together may have.
const MAX_STREAMS: usize = 256;

/// Of these links, each behind its age, the one to be cut: the oldest, if they have more streams than that together, or
/// hold more bytes than the budget of one link. The newest stays, whose own bounds suffice.
pub(crate) fn excess<'a, A: Ord, C: Connection + 'a>(
    links: impl Iterator<Item = (A, usize, &'a Session<C>)>,
    budget: u64,
) -> Option<usize> {
    let (mut count, mut streams, mut held) = (0, 0, 0);
    let mut oldest = None;
    for (since, number, session) in links {
        let connection = session.connection();
        if connection.streams() == 0 && session.held() == 0 {
            continue;
        }
        count += 1;
        streams += connection.streams();
        held += session.held();
        if oldest.as_ref().is_none_or(|(oldest, _)| since < *oldest) {
            oldest = Some((since, number));
        }
    }
    let fits = streams <= MAX_STREAMS && held <= budget;
    oldest.filter(|_| count > 1 && !fits).map(|(_, number)| number)
}
