// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin kconfig`: what a kernel must be configured with, as a fragment, or what a configuration lacks.

use crate::args::KconfigArgs;
use crate::error::{Error, Result};
use crate::output;
use anyhow::Context as _;
use longpin_core::exit_code::ExitCode;
use longpin_images::{KernelOption, Need, kernel_options};
use std::fmt::Write as _;

/// Print one or the other. Exit code of a check: 0, or 1 if something is missing.
pub fn kconfig(args: &KconfigArgs) -> Result<ExitCode> {
    let options = kernel_options().context("the list of options")?;
    let Some(path) = &args.check else {
        output::text(&fragment(&options))?;
        return Ok(ExitCode::Good);
    };
    // A build directory is as good.
    let file = if path.is_dir() { path.join(".config") } else { path.clone() };
    let config = std::fs::read(&file)
        .map_err(|error| Error::Usage(format!("configuration {}: {error}", file.display())))?;
    let config = String::from_utf8_lossy(&config);
    if !config.lines().any(|line| line.starts_with("CONFIG_")) {
        let problem = "it sets no option; give the .config of a kernel, or /boot/config-RELEASE";
        return Err(Error::Usage(format!("configuration {}: {problem}", file.display())));
    }
    let (text, all) = report(&options, &config);
    output::text(&text)?;
    Ok(if all { ExitCode::Good } else { ExitCode::Bad })
}

/// What stands above the options of a need.
fn heading(need: Need) -> &'static str {
    match need {
        Need::Boot => "nothing runs without",
        Need::Library => "cases are skipped or say less without",
        Need::Driver => "without, only cases that need no driver run (--pin dio,none)",
    }
}

/// The options by what they are needed for, each with its reason.
fn fragment(options: &[KernelOption]) -> String {
    let mut text = "# For longpin: append this to .config, then make olddefconfig\n".to_owned();
    for need in [Need::Boot, Need::Library, Need::Driver] {
        let _ = write!(text, "\n# {}\n", heading(need));
        for option in options.iter().filter(|option| option.need == need) {
            let _ = writeln!(text, "# {}\n{}", option.why, option.line());
            if let Some(name) = &option.formerly {
                let _ = writeln!(text, "CONFIG_{name}=y");
            }
        }
    }
    text
}

/// What is missing, and whether that is nothing.
fn report(options: &[KernelOption], config: &str) -> (String, bool) {
    let mut text = String::new();
    let missing: Vec<&KernelOption> = options.iter().filter(|option| !option.is_set(config)).collect();
    for need in [Need::Boot, Need::Library, Need::Driver] {
        let of_need: Vec<_> = missing.iter().filter(|option| option.need == need).collect();
        if !of_need.is_empty() {
            let _ = writeln!(text, "{}:", heading(need));
        }
        for option in of_need {
            let module = if option.module { " (or =m)" } else { "" };
            let _ = writeln!(text, "    {}{module}: {}", option.line(), option.why);
        }
    }
    match missing.len() {
        0 => text.push_str("nothing is missing\n"),
        n => {
            let _ = writeln!(text, "{n} of {} options are missing", options.len());
        }
    }
    (text, missing.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fragment_lacks_nothing_by_its_own_check() {
        let options = kernel_options().unwrap();
        let text = fragment(&options);
        assert_eq!(report(&options, &text), ("nothing is missing\n".to_owned(), true));
        assert!(text.contains("\n# the guest lives in an initramfs\nCONFIG_BLK_DEV_INITRD=y\n"), "{text}");
        assert!(text.contains("CONFIG_SYSCTL=y\nCONFIG_PROC_SYSCTL=y\n"), "older kernels have another name");
        assert!(
            text.lines().all(|line| line.is_empty() || line.starts_with("# ") || line.starts_with("CONFIG_"))
        );
    }

    #[test]
    fn what_is_missing_is_told_by_what_it_is_needed_for_and_why() {
        let options = kernel_options().unwrap();
        let config: String = fragment(&options)
            .lines()
            .filter(|line| !["CONFIG_RUST=y", "CONFIG_XFS_FS=y", "CONFIG_TTY=y"].contains(line))
            .map(|line| format!("{line}\n"))
            .collect();
        let (text, all) = report(&options, &config);
        assert!(!all);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "nothing runs without:");
        assert!(lines[1].starts_with("    CONFIG_TTY=y: the console"), "{text}");
        assert_eq!(lines[3], "    CONFIG_XFS_FS=y (or =m): cases on xfs");
        assert!(lines[5].starts_with("    CONFIG_RUST=y: longpin.ko is written in Rust"), "{text}");
        assert_eq!(lines[6], format!("3 of {} options are missing", options.len()));
    }
}
