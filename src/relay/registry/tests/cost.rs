//! What ten thousand devices cost. `cargo test --release --lib ten_thousand_devices_cost -- --ignored --nocapture`

use std::io::Write;
use std::time::Instant;

use super::*;

#[test]
#[ignore = "it measures"]
fn ten_thousand_devices_cost() {
    const DEVICES: u32 = 10_000;
    let mut bench = Bench::new();
    let table: String =
        (0..DEVICES).map(|key| format!("pump-{key},{},site=berlin line=7\n", public_key(key))).collect();
    let say = |text: String| writeln!(std::io::stderr(), "{text}").expect("printed");

    let began = Instant::now();
    bench.import(&table).expect("imported");
    say(format!("imported in {:.1?}", began.elapsed()));

    bench.registry = None;
    let before = resident_kib();
    let began = Instant::now();
    let registry = SqliteRegistry::open(&bench.state()).expect("a registry");
    say(format!("opened in {:.1?}; {} KiB of memory", began.elapsed(), resident_kib() - before));
    bench.registry = Some(registry);

    let snapshot = bench.registry().snapshot();
    let changed: Vec<Principal> = snapshot.principals().take(1).map(|principal| (**principal).clone()).collect();
    let rounds = 100;
    let began = Instant::now();
    let mut next = Arc::clone(&snapshot);
    for _ in 0..rounds {
        next = Arc::new(next.next(changed.clone()));
    }
    say(format!("the next snapshot in {:.1?}", began.elapsed() / rounds));

    let began = Instant::now();
    for key in 0..rounds {
        bench.label(&format!("pump-{key}"), &["site=paris"], &[]).expect("labelled");
    }
    say(format!("a change in {:.1?}", began.elapsed() / rounds));

    let began = Instant::now();
    for key in 0..DEVICES {
        assert!(name_of(&bench.come(key)).is_some());
    }
    say(format!("a known key in {:.1?}", began.elapsed() / DEVICES));
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    rss.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}
