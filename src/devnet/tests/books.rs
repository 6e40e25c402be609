//! A chain that is kept: what was so before the end is so after the next start.

use std::path::Path;

use super::*;
use crate::devnet::Journal;

fn open(path: &Path, at: u64) -> Result<TestNode, String> {
    let clock = ManualClock::new(UnixMillis::from_secs(at));
    let journal = Journal::open(path).map_err(|error| error.to_string())?;
    let chain = Chain::new(Arc::new(clock.clone()), Some(journal)).map_err(|error| error.to_string())?;
    Ok(TestNode { node: Node::new(chain), clock })
}

#[test]
fn a_kept_chain_goes_on_with_the_same_blocks_receipts_and_state() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chain.jsonl");
    let node = open(&path, START).unwrap();
    node.node.with(|chain| chain.fund(ANYBODY, U256::from(5))).unwrap();
    node.clock.advance(std::time::Duration::from_secs(3));
    node.node.with(Chain::tick);
    let hash = json!(node.node.with(|chain| chain.fund(ANYBODY, U256::from(6))).unwrap());
    let (receipt, number) = (node.receipt(&hash), node.number());
    drop(node);

    let node = open(&path, START + 100).unwrap();
    assert_eq!((node.receipt(&hash), node.number()), (receipt, number));
    assert_eq!(node.tokens(ANYBODY, json!("0x2")), U256::from(5));
    assert_eq!(node.tokens(ANYBODY, json!("latest")), U256::from(11));
    node.node.with(|chain| chain.fund(ANYBODY, U256::from(1))).unwrap();
    drop(node);
    assert_eq!(open(&path, START + 200).unwrap().tokens(ANYBODY, json!("latest")), U256::from(12));
}

#[test]
fn a_line_cut_short_is_dropped_and_any_other_damage_is_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chain.jsonl");
    open(&path, START).unwrap().node.with(|chain| chain.fund(ANYBODY, U256::from(5))).unwrap();
    let whole = std::fs::read_to_string(&path).unwrap();
    let cut = &whole[..whole.len() - 10];
    std::fs::write(&path, cut).unwrap();
    let node = open(&path, START).unwrap();
    assert_eq!((node.number(), node.tokens(ANYBODY, json!("latest"))), (1, U256::ZERO));
    drop(node);
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);

    for (damaged, place) in [
        (whole.replacen("\"number\":2", "\"number\":1", 1), ":2: "),
        (whole.replacen(&format!("\"timestamp\":{START}"), "\"timestamp\":5", 1), ":1: "),
        (format!("garbage\n{whole}"), ":1: "),
    ] {
        assert_ne!(damaged, whole);
        std::fs::write(&path, damaged).unwrap();
        let Err(error) = open(&path, START) else { panic!("opened") };
        assert!(error.contains(place), "{error}");
    }
}
