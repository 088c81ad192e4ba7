//! Devices that come at once, of which one can have what they come for.

use super::*;

const ROUNDS: usize = 16;
const AT_ONCE: usize = 4;

/// Of the devices of one round: the key, and its tunnel.
type Rivals = Vec<(Arc<Key>, Handle)>;

impl Secure {
    /// One device of each round is let in, with the key that the registry has for its name; what the others are told.
    fn winners(&mut self, rounds: &[Rivals]) -> Vec<(String, &'static str)> {
        let all: Vec<&Handle> = rounds.iter().flatten().map(|(_, handle)| handle).collect();
        let is_decided = |handle: &&Handle| {
            let status = handle.status().expect("a status");
            status.state == State::Listening || status.last_error.is_some()
        };
        self.bench.run_until("all have an answer", |_| all.iter().all(is_decided));
        let mut refusals = Vec::new();
        for (round, rivals) in rounds.iter().enumerate() {
            let is_in = |handle: &Handle| handle.status().expect("a status").state == State::Listening;
            let (admitted, refused): (Vec<_>, Vec<_>) = rivals.iter().partition(|(_, handle)| is_in(handle));
            let [(key, handle)] = &admitted[..] else { panic!("{} of round {round} are in", admitted.len()) };
            let called = name(&format!("pump-{round}"));
            assert_eq!(handle.announcement().expect("in this process").expect("admitted").name, Some(called.clone()));
            let listed = self.registry.list();
            let principal = listed.iter().find(|listed| listed.principal.name.as_str() == called.as_str());
            let keys = &principal.expect("it has joined").principal.keys;
            assert!(matches!(&keys[..], [one] if one.pin == key.public().pin()), "{keys:?}");
            refusals.extend(
                refused
                    .iter()
                    .map(|(_, handle)| handle.status().expect("a status").last_error.expect("why it is not in")),
            );
        }
        assert_eq!((refusals.len(), self.bench.server.served), (ROUNDS * (AT_ONCE - 1), ROUNDS));
        refusals
    }

    fn rival(&self, join: &Join) -> (Arc<Key>, Handle) {
        let key = key();
        let handle = self.start(&key, Some(join.clone()));
        (key, handle)
    }
}

#[test]
fn of_keys_that_come_at_once_with_one_token_one_joins() {
    let mut secure = Secure::new();
    let rounds: Vec<Rivals> = (0..ROUNDS)
        .map(|round| {
            let join = secure.token(&format!("pump-{round}"), |_| {});
            (0..AT_ONCE).map(|_| secure.rival(&join)).collect()
        })
        .collect();
    for (text, code) in secure.winners(&rounds) {
        assert!(code == "token" && text.contains("the token is unknown, expired or used"), "{code}: {text}");
    }
    assert!(ask(|answer| secure.registry.open_tokens(0, answer)).is_empty());
}

#[test]
fn of_tokens_that_come_at_once_for_one_name_one_gives_it_and_the_others_stay_good() {
    let mut secure = Secure::new();
    let rounds: Vec<Rivals> = (0..ROUNDS)
        .map(|round| {
            let called = format!("pump-{round}");
            let joins: Vec<_> = (0..AT_ONCE).map(|_| secure.token(&called, |_| {})).collect();
            joins.iter().map(|join| secure.rival(join)).collect()
        })
        .collect();
    for (text, code) in secure.winners(&rounds) {
        assert!(code == "token" && text.contains("is taken; replace or remove its device first"), "{code}: {text}");
    }
    let open = ask(|answer| secure.registry.open_tokens(0, answer));
    assert!(open.len() == ROUNDS * (AT_ONCE - 1) && open.iter().all(|token| token.used == 0), "{open:?}");
}
