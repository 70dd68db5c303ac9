// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a scenario needs of its virtual machine.

use super::{EXPECT, HEAD, MATRIX, faults, only};
use crate::scenario::{MachineNeeds, Scenario};

fn needs(machine: &str) -> MachineNeeds {
    let text = format!("{HEAD}{machine}\n{MATRIX}{EXPECT}");
    Scenario::parse("story.toml", &text).expect("valid").machine
}

#[test]
fn the_same_needs_are_equal_whatever_their_order() {
    let one = needs("machine.programs = [\"fio\", \"mdadm\"]\nmachine.kernel_args = [\"a=1\", \"b\"]");
    let other =
        needs("machine.kernel_args = [\"a=1\", \"b\"]\nmachine.programs = [\"mdadm\", \"fio\", \"fio\"]");
    assert_eq!(one, other);
    assert_eq!(one.kernel_args, ["a=1", "b"]);
    assert!(needs("") < one, "who needs nothing comes first");
    assert_eq!(needs(""), MachineNeeds::default());
    assert_ne!(
        needs("machine.kernel_args = [\"a=1\", \"a=2\"]"),
        needs("machine.kernel_args = [\"a=2\", \"a=1\"]")
    );
}

#[test]
fn names_and_words_are_single() {
    let faulty = |machine: &str| faults(&format!("{HEAD}{machine}\n{MATRIX}{EXPECT}"));
    only(
        &faulty("machine.programs = \"/usr/bin/fio\""),
        "story.toml:5: program `/usr/bin/fio` is not a name; write it without folder and arguments: \"fio\"",
    );
    only(
        &faulty("machine.kernel_args = [\"a=1 b=2\"]"),
        "story.toml:5: kernel argument `a=1 b=2` is not one word; write one string for each argument",
    );
    only(
        &faulty("machine.memory = 3"),
        "story.toml:5: machine has no key `memory`; it takes kernel_args, programs",
    );
}
