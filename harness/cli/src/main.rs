// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin`: the laboratory's command line. Finds out what to do, does it, and tells the shell by exit code; all I/O
//! of the harness is in this crate, all judgement in `longpin-core`.
#![deny(unsafe_code)]

mod args;
mod bisect;
mod child;
mod clock;
mod commands;
mod deadline;
mod device;
mod disk;
mod earlier;
mod error;
mod forced_end;
mod formats;
mod fsck;
mod guest;
mod images;
mod interrupt;
mod kernel_choice;
mod ledger;
mod library;
mod link;
mod module_choice;
mod output;
mod patience;
mod quote;
mod run;
mod scratch;
mod selftest;
mod symbols;
mod terminal;
mod vm;
mod whole_file;

use args::{Cli, Command, PinnerCommand};
use error::Error;
use longpin_core::exit_code::ExitCode;

/// Exit code of `shell -- CMD` where CMD was not run to its end, or not at all. `git bisect run` skips such a commit.
const NO_COMMAND: u8 = 125;

fn main() -> std::process::ExitCode {
    let code = match Cli::read(std::env::args_os()) {
        Ok(cli) => dispatch(cli.command),
        Err(error) => {
            // To standard error for mistakes, to standard output for --help and --version.
            let _ = error.print();
            let step = std::env::args_os().nth(1).is_some_and(|word| word == bisect::step::NAME);
            if error.use_stderr() && step {
                bisect::step::USAGE
            } else if error.use_stderr() {
                ExitCode::Usage.code()
            } else {
                ExitCode::Good.code()
            }
        }
    };
    code.into()
}

fn dispatch(command: Command) -> u8 {
    let result = match command {
        Command::Bisect(args) => bisect::drive::bisect(&args),
        // Its codes are those of `git bisect run`.
        Command::BisectStep(args) => return bisect::step::step(&args),
        Command::Compare(args) => commands::compare::compare(&args),
        Command::Doctor => commands::doctor::doctor(),
        Command::Findings(args) => commands::findings::findings(&args),
        Command::Image { command } => commands::image::image(command),
        Command::Kconfig(args) => commands::kconfig::kconfig(&args),
        Command::List(args) => commands::list::list(&args),
        Command::Minimise(args) => commands::minimise::minimise(&args),
        Command::Pinner { command: PinnerCommand::Check { program } } => {
            commands::pinner::check(&program).map(|good| if good { ExitCode::Good } else { ExitCode::Bad })
        }
        Command::Replay(args) => run::replay(&args),
        Command::Report(args) => commands::report::report(&args),
        Command::Run(args) => run::run(&args),
        Command::Selftest(args) => selftest::selftest(&args),
        Command::Soak(args) => run::soak::soak(&args),
        Command::Shell(args) if args.command.is_empty() => commands::shell::shell(&args),
        // All codes may be the command's own; ours must not be taken for one of them.
        Command::Shell(args) => {
            return commands::shell::command(&args).unwrap_or_else(|error| {
                report(&error);
                NO_COMMAND
            });
        }
    };
    result.unwrap_or_else(|error| report(&error)).code()
}

fn report(error: &Error) -> ExitCode {
    output::note(&format!("longpin: {error}"));
    match error {
        Error::Usage(_) => ExitCode::Usage,
        Error::Interrupted | Error::Infra(_) => ExitCode::Error,
    }
}
