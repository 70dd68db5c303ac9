// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A case without what it does not need.

use longpin_e2e::{Lab, only_case, scenario};
use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A page is overwritten on the disk behind the file system, as the controls do it. Half of the steps have
/// nothing to do with that.
const STEPS: [&str; 11] = [
    "\"mkfs\"",
    "\"mount\"",
    "\"create\"",
    "{ do = \"create\", file = \"c\", generation = 2 }",
    "{ do = \"write\", file = \"c\", generation = 3, job = \"w\" }",
    "{ do = \"write\", generation = 4 }",
    "{ do = \"join\", job = \"w\" }",
    "{ do = \"poke-device\", page = 2 }",
    "\"mount\"",
    "\"compare\"",
    "{ do = \"compare\", file = \"c\" }",
];

#[test]
fn what_is_left_shows_the_same_and_nothing_more_can_go() {
    let lab = Lab::new();
    let mut steps = STEPS.to_vec();
    steps.insert(7, "\"umount\"");
    let padded = scenario::write_on(&lab.path(""), "padded", "ext4", "", &steps, "torn");
    let small = lab.path("small.toml");
    let ended = lab.start(&["minimise", &padded, "--out", text(&small)]).end();
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    let written = std::fs::read_to_string(&small).expect("it was written");
    // File c, its job, and the second write are not needed.
    assert!(!written.contains("\"c\"") && !written.contains("job"), "{written}");
    // The controls of the boot left a file system, so that mkfs may go.
    for needed in ["mount", "create", "umount", "poke-device", "compare"] {
        assert!(written.contains(needed), "{needed} is gone: {written}");
    }
    let ended = lab.run(&[text(&small)]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(only_case(&lab.result())["outcome"], "xfail");
    lab.assert_tidy();
}

#[test]
fn what_cannot_be_minimised_is_said_and_nothing_is_written() {
    let lab = Lab::without_images();
    let out = lab.path("small.toml");
    for (args, why) in [
        (&["lost-update/ext4"][..], "these words name 4 cases; name one"),
        (&["lost-update/ext4/pin/clean", "--shows", "gone"], "use one of intact"),
        (&["lost-update/ext4/pin/clean", "--", "--dry-run"], "--dry-run of `run` has no sense here"),
        (&["lost-update/ext4/pin/clean", "--", "--no-such"], "--no-such"),
    ] {
        let ended = lab.start(&[&["minimise", "--out", text(&out)], args].concat()).end();
        assert_eq!(ended.code, Some(3), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(why), "{args:?}: {}", ended.stderr);
        assert!(!out.exists());
    }
    let ended = lab.start(&["minimise", "lost-update/ext4/pin/clean", "--out", "lost-update.toml"]).end();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("the new scenario has the name of its file"), "{}", ended.stderr);
}
