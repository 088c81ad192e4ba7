use std::time::Duration;

use super::*;

/// An entry that is due at its deadline, and wants so many visits more at once.
#[derive(Debug, Default)]
struct Entry {
    timeout: Option<Instant>,
    wants: usize,
}

fn table(count: usize) -> Table<Entry> {
    let mut table = Table::default();
    for _ in 0..count {
        let number = table.reserve();
        table.insert(number, Entry::default());
    }
    table
}

/// A round; those that it visited, in their order.
fn round(table: &mut Table<Entry>, now: Instant) -> Vec<usize> {
    let mut visited = Vec::new();
    for _ in 0..table.begin_round(now) {
        let Some(number) = table.next_visit() else { continue };
        visited.push(number);
        let entry = table.get_mut(number).expect("an entry");
        entry.timeout = entry.timeout.filter(|&at| at > now);
        let again = entry.wants > 0;
        entry.wants = entry.wants.saturating_sub(1);
        let timeout = entry.timeout;
        table.end_visit(number, again, timeout);
    }
    assert!(table.is_armed(|entry| entry.timeout));
    visited
}

#[test]
fn an_entry_is_visited_when_it_is_new_touched_or_due_and_else_not() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut table = table(3);
    assert_eq!(round(&mut table, start), [0, 1, 2]);
    assert!(!table.has_ready() && round(&mut table, at(1)).is_empty());
    table.get_mut(2).expect("an entry").timeout = Some(at(9));
    table.get_mut(0).expect("an entry").timeout = Some(at(5));
    assert!(table.get(1).is_some());
    assert_eq!(round(&mut table, at(1)), [2, 0]);
    assert_eq!((table.has_ready(), table.poll_timeout()), (false, Some(at(5))));
    assert_eq!(round(&mut table, at(4)), [0; 0]);
    assert_eq!(round(&mut table, at(6)), [0]);
    assert_eq!(table.poll_timeout(), Some(at(9)));
}

#[test]
fn a_deadline_that_comes_nearer_counts_at_once_and_one_that_moves_away_costs_one_visit() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut table = table(1);
    for (deadline, next) in [(9, 9), (3, 3), (7, 3)] {
        table.get_mut(0).expect("an entry").timeout = Some(at(deadline));
        assert_eq!(round(&mut table, start), [0]);
        assert_eq!(table.poll_timeout(), Some(at(next)));
    }
    assert_eq!(round(&mut table, at(3)), [0], "it is not due yet");
    assert_eq!(table.poll_timeout(), Some(at(7)));
    assert_eq!(round(&mut table, at(7)), [0]);
    assert_eq!(table.poll_timeout(), None);
}

#[test]
fn a_deadline_that_was_moved_without_a_visit_is_noticed() {
    let start = Instant::now();
    let mut table = table(2);
    round(&mut table, start);
    assert!(table.is_armed(|_| None));
    assert!(!table.is_armed(|_| Some(start)), "nothing would wake for it");
    table.get_mut(0);
    table.get_mut(1);
    assert!(table.is_armed(|_| Some(start)), "they are visited first");
}

#[test]
fn nobody_starves_beside_entries_that_always_have_more_to_do() {
    let now = Instant::now();
    let mut table = table(4);
    round(&mut table, now);
    for busy in [0, 1] {
        table.get_mut(busy).expect("an entry").wants = usize::MAX;
    }
    assert_eq!(round(&mut table, now), [0, 1]);
    table.get_mut(3);
    assert_eq!(round(&mut table, now), [0, 1, 3], "each in its turn, once in a round");
    assert_eq!(round(&mut table, now), [0, 1]);
    table.get_mut(2);
    table.get_mut(2);
    assert_eq!(round(&mut table, now), [0, 1, 2]);
}

#[test]
fn what_is_touched_while_others_are_visited_is_visited_in_the_next_round() {
    let now = Instant::now();
    let mut table = table(2);
    assert_eq!(table.begin_round(now), 2);
    let number = table.next_visit().expect("the first");
    table.get_mut(number).expect("an entry");
    table.end_visit(number, false, None);
    let other = table.next_visit().expect("the second");
    table.get_mut(number).expect("an entry");
    table.end_visit(other, false, None);
    assert_eq!(round(&mut table, now), [number]);
}

#[test]
fn an_entry_that_is_gone_is_not_visited_and_its_number_is_for_the_next() {
    let start = Instant::now();
    let mut table = table(3);
    table.get_mut(1).expect("an entry").timeout = Some(start + Duration::from_secs(1));
    round(&mut table, start);
    table.get_mut(1).expect("an entry");
    assert!(table.remove(1).is_some());
    assert!(table.get_mut(1).is_none() && table.remove(7).is_none());
    assert_eq!(table.poll_timeout(), None, "nor is it due");
    assert_eq!(table.reserve(), 1);
    table.insert(1, Entry::default());
    assert_eq!(round(&mut table, start), [1], "once");
    // It ends while it is visited, and so does its number's next owner.
    for again in [false, true] {
        table.get_mut(1).expect("an entry");
        table.begin_round(start);
        assert_eq!(table.next_visit(), Some(1));
        table.remove(1);
        table.end_visit(1, again, Some(start));
        assert_eq!((table.has_ready(), table.poll_timeout()), (false, None));
        assert_eq!(table.reserve(), 1);
        table.insert(1, Entry::default());
        assert_eq!(round(&mut table, start), [1]);
    }
}

#[test]
fn a_table_whose_entries_come_and_go_grows_no_further() {
    let start = Instant::now();
    let mut table = table(3);
    for turn in 0..1000 {
        let now = start + Duration::from_millis(turn);
        table.get_mut(2).expect("an entry").timeout = Some(now + Duration::from_secs(60));
        table.remove(0);
        let number = table.reserve();
        table.insert(number, Entry { timeout: Some(now + Duration::from_secs(1)), wants: 0 });
        if turn % 7 == 0 {
            round(&mut table, now);
        }
    }
    assert!(table.slots.len() == 3 && table.free.is_empty() && table.ready.len() <= 3);
    assert_eq!(table.numbers(), [0, 1, 2]);
}
