// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin compare`: result directories, and kernels that it runs.

use longpin_e2e::Lab;
use longpin_images::{Store, report};
use serde_json::{Value, json};

const ID: &str = "lost-update/ext4/pin/clean";

/// The library's scenario, or one of the same name whose page is still dirty when the device writes.
fn lost_update(lab: &Lab, still_dirty: bool) -> String {
    let text = include_str!("../../scenarios/lost-update.toml");
    let text = match still_dirty {
        true => text.replace("    \"fsync\",\n", "").replace("    \"prove-clean\",\n", ""),
        false => text.to_owned(),
    };
    let path = lab.path("lost-update.toml");
    std::fs::write(&path, text).expect("the place is writable");
    path.to_str().expect("temporary paths are UTF-8").to_owned()
}

#[test]
fn two_result_directories_differ_where_their_verdicts_do() {
    let labs = [false, true].map(|still_dirty| {
        let lab = Lab::new();
        let scenario = lost_update(&lab, still_dirty);
        lab.run(&[&scenario, "--fs", "ext4,tmpfs", "--pin", "pin"]);
        lab
    });
    let [a, b] = labs.each_ref().map(|lab| lab.out().to_str().expect("UTF-8").to_owned());
    let lab = &labs[0];
    let page = lab.path("page.html");
    let html = format!("html={}", page.display());
    let ended = lab.start(&["compare", &a, &b, "--format", "json", "--format", &html]).end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let comparison: Value = serde_json::from_str(&ended.stdout).expect("a document");
    assert_eq!(comparison["summary"]["differs"], 1, "{comparison}");
    assert_eq!(comparison["summary"]["same"], 1, "{comparison}");
    let row = &comparison["rows"][0];
    assert_eq!((&row["id"], &row["relation"]), (&json!(ID), &json!("differs")));
    let seen: Vec<&Value> = (0..2).map(|n| &row["cells"][n]["verdicts"][0]["observations"]).collect();
    assert_eq!(seen, [&json!(["lost"]), &json!(["intact"])]);
    assert!(std::fs::read_to_string(page).expect("it was written").contains(ID));
    let same = lab.start(&["compare", &a, &a]).end();
    assert_eq!(same.code, Some(0), "{}", same.stderr);
    assert!(same.stdout.ends_with("0 of 2 cases differ, 2 the same\n"), "{}", same.stdout);
    lab.assert_tidy();
}

/// The stock kernel against itself without a driver: what needs none is the same, the rest cannot be compared.
#[test]
fn kernels_are_run_and_what_one_of_them_cannot_do_is_no_difference() {
    let lab = Lab::new();
    let store = Store::open_default().expect("the store was opened by the program too");
    let reporter = report::for_stderr();
    let root = store.tool_root(&*reporter).expect("the tool root is built");
    let kernel = store.kernel(&root, &*reporter).expect("the kernel is there");
    let bare = format!("{},modules={}", kernel.vmlinuz().display(), kernel.modules_dir().display());
    let cases = ["dio-buffer", "lost-update", "--fs", "ext4", "--pin", "dio,pin"];
    let ended = lab.start(&[&["compare", "stock", &bare, "--all", "--"], &cases[..]].concat()).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("0 of 2 cases differ, 1 the same, 1 not compared"), "{}", ended.stdout);
    assert_eq!(ended.stderr.matches("results: longpin-results/").count(), 2, "{}", ended.stderr);
    lab.assert_tidy();
}

#[test]
fn what_cannot_be_compared_is_said_before_anything_boots() {
    let lab = Lab::without_images();
    std::fs::create_dir(lab.path("empty")).expect("the place is writable");
    let result = lab.path("old");
    std::fs::create_dir(&result).expect("the place is writable");
    std::fs::write(result.join("result.json"), "{}").expect("the place is writable");
    for (args, words) in [
        (vec!["compare", "stock"], "2 values required"),
        (vec!["compare", "old", "old"], "has no field `schema`"),
        (vec!["compare", "old", "old", "--", "--pin", "pin"], "only result directories are named"),
        (vec!["compare", "stock", "stock", "--", "--out", "x"], "have no sense here"),
        (vec!["compare", "stock", "stock", "--", "--no-such"], "cannot be run as a kernel"),
        (vec!["compare", "stock", "stock", "--", "no-such-scenario"], "no-such-scenario"),
        (vec!["compare", "stock", "stock", "--format", "xml"], "use one of table, json, markdown, html"),
        (vec!["compare", "stock", "stock", "--format", "json,table"], "two formats go to standard output"),
    ] {
        let ended = lab.start(&args).end();
        assert_eq!(ended.code, Some(3), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{args:?}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{args:?}");
    }
}
