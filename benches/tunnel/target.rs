//! What is aimed at, as a ratio within the same run, and whether it is reached.
//!
//! A ratio of two contestants is the median of their ratios in each round: what slows a whole round down slows both.

use crate::contestant::Role;
use crate::report::{Row, median};

/// At most this much more than version 1 of the protocol or another commit costs, or less than it brings.
const OWN_TOLERANCE: f64 = 0.05;

/// What a figure of ours is to be: at least that where more is better, else at most.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    None,
    /// By ratio to the peer of this name.
    OfPeer(&'static str, f64),
    /// By ratio to the best of the peers.
    OfBestPeer(f64),
    /// By ratio to ours without encryption.
    OfOurs(f64),
    /// In the figure's own unit.
    Of(f64),
}

/// What ours reached.
pub(crate) struct Verdict {
    /// "≥ 1.25 × haproxy x2"
    pub(crate) target: String,
    pub(crate) reached: f64,
    pub(crate) met: bool,
}

/// None where there is no target, or nothing to judge.
pub(crate) fn judge(row: &Row) -> Option<Verdict> {
    let ours = row.subject()?;
    let sign = if row.figure.more_is_better { '≥' } else { '≤' };
    let (reached, limit, target) = match row.figure.target {
        Target::None => return None,
        Target::Of(limit) => (median(ours), limit, format!("{sign} {limit}")),
        Target::OfPeer(name, limit) => {
            (ratio(ours, row.rounds_named(name)?)?, limit, format!("{sign} {limit} × {name}"))
        }
        Target::OfOurs(limit) => {
            (ratio(ours, row.rounds_of(Role::Subject)?)?, limit, format!("{sign} {limit} × ours, not encrypted"))
        }
        Target::OfBestPeer(limit) => {
            let (name, peer) = best_peer(row)?;
            (ratio(ours, peer)?, limit, format!("{sign} {limit} × the best peer, {name}"))
        }
    };
    let met = if row.figure.more_is_better { reached >= limit } else { reached <= limit };
    Some(Verdict { target, reached, met })
}

/// Ours by ratio to ours of another role, and whether the two are equal or the newer is better. None where the other
/// stands still.
pub(crate) fn judge_beside(row: &Row, role: Role) -> Option<(f64, bool)> {
    let other = row.rounds_of(role).filter(|other| median(other).is_finite())?;
    let ratio = ratio(row.subject()?, other)?;
    let met = if row.figure.more_is_better { ratio >= 1.0 - OWN_TOLERANCE } else { ratio <= 1.0 + OWN_TOLERANCE };
    Some((ratio, met))
}

/// The target in the row's own unit.
pub(crate) fn bound(row: &Row) -> Option<f64> {
    match row.figure.target {
        Target::None => None,
        Target::Of(limit) => Some(limit),
        Target::OfPeer(name, limit) => Some(limit * median(row.rounds_named(name)?)),
        Target::OfOurs(limit) => Some(limit * median(row.rounds_of(Role::Subject)?)),
        Target::OfBestPeer(limit) => Some(limit * median(best_peer(row)?.1)),
    }
}

fn best_peer(row: &Row) -> Option<(&'static str, &[f64])> {
    let peers = row.cells.iter().filter(|cell| cell.role == Role::Peer);
    let measured = peers.filter_map(|cell| Some((cell.name, cell.rounds()?)));
    let by_median = |one: &(&str, &[f64]), other: &(&str, &[f64])| median(one.1).total_cmp(&median(other.1));
    if row.figure.more_is_better { measured.max_by(by_median) } else { measured.min_by(by_median) }
}

/// None where a contestant was not measured in every round.
fn ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    (ours.len() == theirs.len() && ratios.iter().all(|ratio| !ratio.is_nan())).then(|| median(&ratios))
}
