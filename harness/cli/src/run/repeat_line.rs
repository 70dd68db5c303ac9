// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line that repeats a run: the same words, the seed made explicit, the result directory left out.

use crate::quote;

/// `args` are the words after the program's name.
pub fn repeat_line(args: impl IntoIterator<Item = String>, seed: u32) -> String {
    let mut words = vec!["longpin".to_owned()];
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--out" | "--seed" => drop(args.next()),
            arg if arg.starts_with("--out=") || arg.starts_with("--seed=") => {}
            arg => words.push(quote::word(arg)),
        }
    }
    words.extend(["--seed".to_owned(), seed.to_string()]);
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &[&str]) -> String {
        repeat_line(args.iter().map(|arg| (*arg).to_owned()), 7)
    }

    #[test]
    fn the_seed_is_explicit_and_the_directory_left_out() {
        assert_eq!(
            line(&["run", "lost-update", "--out", "/tmp/x", "--fs", "ext4"]),
            "longpin run lost-update --fs ext4 --seed 7"
        );
        assert_eq!(line(&["run", "--seed", "3", "--out=/x", "--strict"]), "longpin run --strict --seed 7");
        assert_eq!(line(&["run", "--seed=3", "./my file.toml"]), "longpin run './my file.toml' --seed 7");
    }
}
