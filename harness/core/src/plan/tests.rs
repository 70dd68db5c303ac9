// SPDX-License-Identifier: Apache-2.0 OR MIT
use super::{Filter, Words, cases};
use crate::matrix::Pin;
use crate::scenario::Scenario;
use longpin_proto::filesystem::FileSystem;
use std::sync::Arc;

fn scenario(name: &str, group: &str) -> Arc<Scenario> {
    let text = format!(
        "schema = 1\nname = \"{name}\"\ntitle = \"t\"\nmechanism = \"m\"\ngroups = [\"{group}\"]\n\
         matrix.fs = [\"ext4\", \"ext4:data=journal\", \"tmpfs\"]\nmatrix.pin = [\"pin\", \"get\"]\n\
         matrix.release = [\"clean\"]\nmatrix.variant = [\"x\", \"y\"]\n\
         matrix.exclude = [{{ pin = \"get\", variant = \"y\" }}]\n\
         [[expect]]\nobserve = \"intact\"\nreason = \"r\"\n"
    );
    Arc::new(Scenario::parse(&format!("{name}.toml"), &text).expect("valid"))
}

fn library() -> Vec<Arc<Scenario>> {
    vec![scenario("one", "quick"), scenario("two", "slow")]
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

fn filter(scenarios: &[&str], groups: &[&str], fs: &[&str], pin: &[&str]) -> Result<Filter, String> {
    let [scenarios, groups, fs, pin] = [scenarios, groups, fs, pin].map(words);
    let words = Words { scenarios: &scenarios, groups: &groups, fs: &fs, pin: &pin, ..Words::default() };
    parse(words)
}

fn parse(words: Words<'_>) -> Result<Filter, String> {
    Filter::parse(&library(), words).map_err(|error| error.to_string())
}

fn ids(filter: &Filter) -> Vec<String> {
    cases(&library(), filter, 1).into_iter().map(|case| case.id).collect()
}

#[test]
fn the_matrix_is_expanded_in_the_order_of_the_file() {
    let ids = ids(&filter(&["one"], &[], &["tmpfs"], &[]).expect("valid"));
    assert_eq!(ids, ["one/tmpfs/pin/clean/x", "one/tmpfs/pin/clean/y", "one/tmpfs/get/clean/x"]);
}

#[test]
fn a_file_system_names_all_its_flavours_and_a_flavour_itself() {
    assert_eq!(ids(&filter(&["one"], &[], &["ext4"], &[]).expect("valid")).len(), 6);
    let journal = ids(&filter(&["one"], &[], &["ext4:data=journal"], &["get"]).expect("valid"));
    assert_eq!(journal, ["one/ext4:data=journal/get/clean/x"]);
}

#[test]
fn a_case_can_be_asked_for_by_its_id_or_the_start_of_it() {
    assert_eq!(
        ids(&filter(&["one/ext4/pin/clean/y"], &[], &[], &[]).expect("valid")),
        ["one/ext4/pin/clean/y"]
    );
    assert_eq!(ids(&filter(&["one/ext4/pin"], &[], &[], &[]).expect("valid")).len(), 2);
    assert_eq!(ids(&filter(&[], &["slow"], &["tmpfs"], &["get"]).expect("valid")), ["two/tmpfs/get/clean/x"]);
}

#[test]
fn patterns_variants_and_exclusions_choose_cases() {
    let chosen = |scenarios: &[&str], exclude: &[&str], variant: &[&str]| {
        let [scenarios, exclude, variant] = [scenarios, exclude, variant].map(words);
        let words = Words { scenarios: &scenarios, exclude: &exclude, variant: &variant, ..Words::default() };
        parse(words).map(|filter| ids(&filter))
    };
    assert_eq!(chosen(&["t*"], &[], &[]).expect("valid").len(), 9);
    assert_eq!(
        chosen(&["*/tmpfs/get/*"], &[], &[]).expect("valid"),
        ["one/tmpfs/get/clean/x", "two/tmpfs/get/clean/x"]
    );
    assert_eq!(
        chosen(&["one"], &["*/pin/*", "one/ext4"], &[]).expect("valid"),
        ["one/ext4:data=journal/get/clean/x", "one/tmpfs/get/clean/x"]
    );
    assert_eq!(chosen(&["one/tmpfs"], &[], &["y"]).expect("valid"), ["one/tmpfs/pin/clean/y"]);
    let error = |got: Result<Vec<String>, String>| got.expect_err("an error");
    assert_eq!(
        error(chosen(&["x*"], &[], &[])),
        "`x*` matches no scenario and no case; use a name or a pattern of one, two"
    );
    assert_eq!(error(chosen(&[], &["three"], &[])), "scenario `three` is unknown; use one of one, two");
    assert_eq!(error(chosen(&[], &[], &["z"])), "variant `z` is unknown; use one of x, y");
    assert_eq!(
        error(chosen(&["one"], &["o*"], &[])),
        "no case matches; `longpin list` shows the matrix of each scenario"
    );
}

#[test]
fn words_that_name_nothing_are_errors() {
    let error = |got: Result<Filter, String>| got.expect_err("an error");
    assert_eq!(error(filter(&["three"], &[], &[], &[])), "scenario `three` is unknown; use one of one, two");
    assert_eq!(
        error(filter(&[], &["fast"], &[], &[])),
        "group `fast` has no scenario; use one of quick, slow"
    );
    assert_eq!(
        error(filter(&[], &[], &["ntfs"], &[])),
        format!("file system `ntfs` is unknown; use one of {}", FileSystem::list())
    );
    assert_eq!(
        error(filter(&[], &[], &[], &["rw"])),
        format!("pin mode `rw` is unknown; use one of {}", Pin::list())
    );
    assert_eq!(
        error(filter(&["one"], &[], &["xfs"], &[])),
        "no case matches; `longpin list` shows the matrix of each scenario"
    );
}

#[test]
fn repeats_are_whole_attempts_with_the_same_ids() {
    let all = cases(&library(), &Filter::default(), 3);
    assert_eq!(all.len(), 3 * 18);
    assert_eq!(
        (all[0].label(), all[18].label()),
        ("one/ext4/pin/clean/x".into(), "one/ext4/pin/clean/x#2".into())
    );
    assert_eq!(all[0].id, all[36].id);
}

#[test]
fn a_file_system_on_request_runs_only_when_it_is_asked_for() {
    let text = "schema = 1\nname = \"one\"\ntitle = \"t\"\nmechanism = \"m\"\nmatrix.fs = [\"tmpfs\"]\n\
                matrix.fs_on_request = [\"xfs\", \"ext4:data=journal\"]\n\
                [[expect]]\nfs = [\"xfs\", \"ext4\"]\nobserve = \"lost\"\nreason = \"r\"\n\
                [[expect]]\nobserve = \"intact\"\nreason = \"r\"\n";
    let library = [Arc::new(Scenario::parse("one.toml", text).expect("valid"))];
    let ids = |scenarios: &[&str], exclude: &[&str], fs: &[&str]| {
        let [scenarios, exclude, fs] = [scenarios, exclude, fs].map(words);
        let words = Words { scenarios: &scenarios, exclude: &exclude, fs: &fs, ..Words::default() };
        let filter = Filter::parse(&library, words).expect("valid");
        cases(&library, &filter, 1).into_iter().map(|case| case.id).collect::<Vec<_>>()
    };
    let (xfs, ext4) = ("one/xfs/none/none", "one/ext4:data=journal/none/none");
    for scenarios in [&[][..], &["one"], &["o*"], &["*/none"]] {
        assert_eq!(ids(scenarios, &[], &[]), ["one/tmpfs/none/none"], "{scenarios:?}");
    }
    assert_eq!(ids(&[], &[], &["xfs"]), [xfs]);
    assert_eq!(ids(&[], &[], &["ext4"]), [ext4], "as any file system names its flavours");
    assert_eq!(ids(&["one"], &[], &["xfs", "tmpfs"]).len(), 2);
    for word in [xfs, "one/xfs", "*/xfs/*"] {
        assert_eq!(ids(&[word], &[], &[]), [xfs], "{word}");
    }
    assert_eq!(ids(&[], &["one/ext4:data=journal"], &["xfs", "ext4"]), [xfs]);
}

#[test]
fn a_pin_mode_on_request_runs_only_when_it_is_asked_for() {
    let text = "schema = 1\nname = \"one\"\ntitle = \"t\"\nmechanism = \"m\"\nmatrix.fs = [\"ext4\"]\n\
                matrix.pin = [\"pin\"]\nmatrix.pin_on_request = [\"exec\"]\nmatrix.release = [\"clean\"]\n\
                step = [\"mkfs\", \"mount\", \"create\", \"map\", \"pin\", \"release\", \"compare\"]\n\
                [[expect]]\nobserve = \"intact\"\nreason = \"r\"\n";
    let library = [Arc::new(Scenario::parse("one.toml", text).unwrap())];
    let ids = |words: Words<'_>| -> Vec<String> {
        let filter = Filter::parse(&library, words).unwrap();
        cases(&library, &filter, 1).into_iter().map(|case| case.id).collect()
    };
    let words = |list: &[&str]| -> Vec<String> { list.iter().map(|word| (*word).to_owned()).collect() };
    assert_eq!(ids(Words::default()), ["one/ext4/pin/clean"]);
    assert_eq!(ids(Words { pin: &words(&["exec"]), ..Words::default() }), ["one/ext4/exec/clean"]);
    let both = words(&["pin", "exec"]);
    assert_eq!(ids(Words { pin: &both, ..Words::default() }).len(), 2);
    let named = words(&["one/ext4/exec/clean"]);
    assert_eq!(ids(Words { scenarios: &named, ..Words::default() }), ["one/ext4/exec/clean"]);
}

#[test]
fn all_file_systems_may_be_on_request() {
    let text = "schema = 1\nname = \"one\"\ntitle = \"t\"\nmechanism = \"m\"\nmatrix.fs_on_request = [\"xfs\"]\n\
                [[expect]]\nobserve = \"intact\"\nreason = \"r\"\n";
    let library = [Arc::new(Scenario::parse("one.toml", text).expect("valid"))];
    assert_eq!(cases(&library, &Filter::default(), 1).len(), 0);
    let error = Filter::parse(&library, Words::default()).expect_err("nothing to run").to_string();
    assert_eq!(error, "the cases that match run on request; add --fs with one or more of xfs");
    let fs = words(&["ext4"]);
    let error = Filter::parse(&library, Words { fs: &fs, ..Words::default() }).expect_err("none").to_string();
    assert!(error.starts_with("no case matches"), "{error}");
}
