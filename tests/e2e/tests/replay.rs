// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A case of an earlier run, run again as it was.

use longpin_e2e::{Lab, only_case, read_json};
use serde_json::json;
use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

#[test]
fn a_replayed_case_is_what_it_was_and_is_refused_where_the_guest_would_be_another() {
    let lab = Lab::new();
    let tree = lab.path("tree");
    std::fs::create_dir_all(tree.join("opt")).expect("the place is new");
    std::fs::write(tree.join("opt/file"), "x").expect("the place is writable");
    // Two attempts, so that the second has a label of its own.
    let args = ["lost-update/ext4/pin/clean", "--repeat", "2", "--overlay", text(&tree), "--seed", "7"];
    let ended = lab.run(&args);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let out = lab.out();
    let record = out.join("cases/lost-update.ext4.pin.clean#2.json");
    let was = read_json(&record);

    let (again, refused, differing) = (lab.path("again"), lab.path("refused"), lab.path("differing"));
    let ended = lab.start(&["replay", text(&record), "--out", text(&again)]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("replay:  as it was: xfail: lost\n"), "{}", ended.stderr);
    let is = read_json(&again.join("cases/lost-update.ext4.pin.clean.json"));
    assert_eq!((&is["run"], &is["id"]), (&was["run"], &was["id"]));
    let result = read_json(&again.join("result.json"));
    assert_eq!(
        (&only_case(&result)["outcome"], &result["environment"]["seed"]),
        (&json!("xfail"), &json!(7))
    );

    std::fs::write(tree.join("opt/file"), "y").expect("the place is writable");
    let replay = ["replay", text(&out), "lost-update/ext4/pin/clean", "--out"];
    let ended = lab.start(&[&replay[..], &[text(&refused)]].concat()).end();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("cannot be replayed: overlay was "), "{}", ended.stderr);
    assert!(!refused.exists(), "nothing ran");
    let ended = lab.start(&[&replay[..], &[text(&differing), "--differing"]].concat()).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("replay: overlay was "), "{}", ended.stderr);
    lab.assert_tidy();
}
